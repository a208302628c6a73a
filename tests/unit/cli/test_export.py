"""A checkpoint comes out as the model that the run itself would save."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from insight_rl.checkpoint import CheckpointStore
from insight_rl.cli.main import main
from tests.contract.test_learner_contract import started, step

LORA = {"rank": 4, "alpha": 6.0}


@pytest.fixture(scope="module")
def run_of(tied_model, tmp_path_factory):
    """Called as ``run_of(lora)``: a run folder with two checkpoints, and ``model`` as saved at the second of them."""
    runs: dict[bool, Path] = {}

    def make(lora: bool) -> Path:
        if lora not in runs:
            run_dir = runs[lora] = tmp_path_factory.mktemp("run")
            model = {"path": str(tied_model), "dtype": "float32", "max_length": 64, "prompt_style": "bare"}
            (run_dir / "config.yaml").write_text(yaml.safe_dump({"model": model}))
            store = CheckpointStore(run_dir / "checkpoints", keep_last=2)
            learner = started("accelerate", tied_model, **({"lora": LORA} if lora else {}))
            for number, accuracy in ((1, 0.9), (2, 0.4)):
                step(learner, number)
                store.save(number, {"learner": learner.save_checkpoint}, accuracy=accuracy)
                store.wait()
            learner.save_model(run_dir / "model")
            learner.close()
        return runs[lora]

    return make


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for file in folder.glob("*.safetensors") for name, tensor in load_file(file).items()}


def assert_same(one: Path, other: Path) -> None:
    ours, theirs = tensors_in(one), tensors_in(other)
    assert ours.keys() == theirs.keys() and ours
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("lora", [False, True])
def test_the_newest_checkpoint_is_the_model_that_the_run_saves(run_of, lora, tmp_path, capsys) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run_dir, output = run_of(lora), tmp_path / "exported"
    assert main(["export", f"run_dir={run_dir}", f"output_dir={output}"]) == 0
    assert "the model of step_000002" in capsys.readouterr().out
    assert_same(output, run_dir / "model")
    assert AutoModelForCausalLM.from_pretrained(output).config.tie_word_embeddings
    assert AutoTokenizer.from_pretrained(output)("1+2")["input_ids"]


def test_the_adapter_alone_is_what_the_run_saves_beside_its_model(run_of, tmp_path) -> None:
    output = tmp_path / "exported"
    assert main(["export", f"run_dir={run_of(True)}", f"output_dir={output}", "adapter=separate"]) == 0
    assert_same(output, run_of(True) / "adapter")
    configs = [
        json.loads((folder / "adapter_config.json").read_text()) for folder in (output, run_of(True) / "adapter")
    ]
    assert configs[0] == configs[1]


def test_the_best_and_any_named_one_can_be_asked_for(run_of, tmp_path) -> None:
    for name in ("best", "step_000001"):
        assert main(["export", f"run_dir={run_of(False)}", f"output_dir={tmp_path / name}", f"checkpoint={name}"]) == 0
    assert_same(tmp_path / "best", tmp_path / "step_000001")
    assert not torch.equal(
        *(next(iter(tensors_in(folder).values())) for folder in (tmp_path / "best", run_of(False) / "model"))
    )


@pytest.mark.parametrize("lora", [False, True])
def test_push_sends_what_export_writes(run_of, lora, tied_model, tmp_path, capsys) -> None:
    run = tmp_path / "run"
    shutil.copytree(run_of(lora), run)
    config = yaml.safe_load((run / "config.yaml").read_text()) | {"learner": {"lora": {"rank": 4 if lora else None}}}
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    (run / "metrics.jsonl").write_text('{"step": 1, "eval/accuracy": 0.9}\n{"step": 2, "eval/accuracy": 0.4}\n')
    words = ["push", f"run_dir={run}", "repo=user/name", "dry_run=true"]
    assert main([*words, "checkpoint=best"]) == 0
    assert main(["export", f"run_dir={run}", f"output_dir={tmp_path / 'best'}", "checkpoint=best"]) == 0
    assert_same(run / "hub" / "model", tmp_path / "best")
    assert (run / "hub" / "model" / "adapter" / "adapter_model.safetensors").exists() == lora
    card = (run / "hub" / "model" / "README.md").read_text()
    assert "the checkpoint after step 1, chosen as the best" in card.replace("\\", "") and "- steps: 1\n" in card
    assert main(words) == 0  # without a checkpoint: what the run itself saved at its end
    assert_same(run / "hub" / "model", run / "model")
    adapter = run / "hub" / "model" / "adapter"
    assert adapter.exists() == lora
    if lora:
        assert_same(adapter, run / "adapter")
        settings = json.loads((adapter / "adapter_config.json").read_text())
        assert settings["base_model_name_or_path"] == tied_model.name
    assert not list(run.glob(".push_*"))


WRONG = {
    "no run_dir": (["output_dir=x"], "run_dir=None: give a folder"),
    "another key": (["steps=3"], "steps='3': there is no such key; there are run_dir, output_dir, checkpoint, adapter"),
    "adapter": (["adapter=both"], "adapter='both': must be one of merged, separate"),
    "no adapter": (["adapter=separate"], "adapter='separate': this run has no adapter"),
    "no such checkpoint": (["checkpoint=step_000009"], "checkpoint='step_000009': there is no such checkpoint in "),
    "out of the folder": (["checkpoint=../checkpoints/step_000001"], "there is no such checkpoint in "),
    "another model": (["model.path={tmp}/nowhere"], "model.path='{tmp}/nowhere': no such folder"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_line(run_of, case, tmp_path, capsys) -> None:
    words, message = WRONG[case]
    given = [] if case == "no run_dir" else [f"run_dir={run_of(False)}", f"output_dir={tmp_path / 'out'}"]
    capsys.readouterr()  # what the first run of this file says
    assert main(["export", *given, *(word.format(tmp=tmp_path) for word in words)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message.format(tmp=tmp_path) in line
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_and_a_folder_in_use_are_refused(run_of, tmp_path, capsys) -> None:
    shutil.copytree(run_of(False), tmp_path / "run")
    shard = tmp_path / "run" / "checkpoints" / "step_000002" / "learner" / "rank_00000.safetensors"
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    words = ["export", f"run_dir={tmp_path / 'run'}", f"output_dir={tmp_path / 'out'}"]
    assert main(words) == 2
    assert "is damaged (learner/rank_00000.safetensors is not as it was written)" in capsys.readouterr().err
    assert main(["export", f"run_dir={run_of(False)}", f"output_dir={run_of(False)}"]) == 2
    assert "is there already and not empty" in capsys.readouterr().err


def test_an_adapter_beside_another_model_is_refused(run_of, untied_model, tmp_path, capsys) -> None:
    words = ["export", f"run_dir={run_of(True)}", f"output_dir={tmp_path / 'out'}", f"model.path={untied_model}"]
    assert main(words) == 2
    assert "is another model than the one that this adapter was trained beside" in capsys.readouterr().err
