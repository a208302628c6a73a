"""Run folders of somebody else, through every command that reads one: nothing in them is executed."""

from __future__ import annotations

import copy
import os
import pickle

import pytest
import yaml
from omegaconf import OmegaConf

from insight_rl.cli.main import main
from insight_rl.config import compose_config

COMMANDS = {
    "audit-rewards": ["audit-rewards", "run_dir={run}"],
    "evaluate": ["evaluate", "run_dir={run}"],
    "train": ["train", "run_dir={run}", "trainer.num_steps=1", "trainer.prompts_per_step=2", "evaluation.every=0"],
    "plot": ["plot", "{run}"],
    "explain": ["explain", "run_dir={run}"],
    "report": ["report", "run_dir={run}"],
    "export": ["export", "run_dir={run}", "output_dir={run}/out"],
    "push": ["push", "run_dir={run}", "repo=user/name", "dry_run=true", "checkpoint=latest"],
    "simulate": ["simulate", "replay={run}", "output_dir={run}/out"],
}
PARTS = ("task", "reward", "selector", "gate", "rollout", "monitor", "learner")


class Gadget:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.fixture
def hostile(tmp_path):
    """``hostile(node)``: a run folder in whose config.yaml every part is ``node``; and what a gadget would make."""
    made = tmp_path / "executed"
    (tmp_path / "x.pkl").write_bytes(pickle.dumps(Gadget(made)))

    def write(node):
        run = tmp_path / "run"
        run.mkdir()
        config = OmegaConf.to_container(compose_config([])) | {part: copy.deepcopy(node) for part in PARTS}
        (run / "config.yaml").write_text(yaml.safe_dump(config).replace("GADGET", str(tmp_path / "x.pkl")))
        (run / "metrics.jsonl").write_text('{"step": 0, "eval/accuracy": 0.5}\n')
        (run / "samples.jsonl").write_text('{"prompt_id": "a", "completion": "b", "answer": 1}\n')
        return run

    yield write
    assert not made.exists()


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "node",
    [
        {"_target_": "numpy.load", "file": "GADGET", "allow_pickle": True},
        {"_target_": "torch.load", "f": "GADGET", "weights_only": False},
        {"_target_": "builtins.eval", "_args_": ["__import__('os').mkdir('executed')"]},
        {
            "_target_": "insight_rl.gate.mixed_outcomes.MixedOutcomes",
            "max_rounds": {"_target_": "numpy.load", "file": "GADGET", "allow_pickle": True},
        },
        {"_target_": "insight_rl.allowed_code.allowed.allow", "packages": ["numpy"]},
    ],
    ids=["numpy.load", "torch.load", "eval", "nested", "widen the list"],
)
def test_no_command_runs_what_a_run_folder_names(command, node, hostile, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = hostile(node)
    code = main([word.format(run=run) for word in COMMANDS[command]])
    printed = capsys.readouterr()
    assert code == (0 if command in ("plot", "report") else 2), printed.err
    assert len(printed.err.splitlines()) <= 3
    if command == "audit-rewards":
        assert "_target_" in printed.err or "_args_" in printed.err


def test_vllm_gets_no_argument_from_a_run_that_makes_it_run_code(tmp_path, capsys):
    tree = OmegaConf.to_container(compose_config(["rollout=vllm"]))
    for name, value in (("trust_remote_code", True), ("worker_extension_cls", "os.system")):
        tree["rollout"]["engine_args"] = {"max_num_seqs": 8, name: value}
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
        assert main(["evaluate", f"run_dir={tmp_path}"]) == 2
        assert f"rollout.engine_args.{name}" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["audit-rewards", "evaluate"])
def test_no_text_and_no_key_goes_to_an_address_that_a_run_names(command, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("SECRET", "a-key")
    tree = OmegaConf.to_container(compose_config(["reward=llm_judge", "reward.model=m"]))
    tree["reward"] |= {"base_url": "http://127.0.0.1:9/v1", "api_key_env": "SECRET"}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main([command, f"run_dir={tmp_path}"]) == 2
    assert "reward.base_url='http://127.0.0.1:9/v1' is not taken from a run" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["audit-rewards", "evaluate model=tiny"])
def test_no_environment_that_a_run_names_is_imported(command, tmp_path, capsys, monkeypatch):
    (tmp_path / "evil_env.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    tree = OmegaConf.to_container(compose_config(["task=verifiers", "task.env=evil-env"]))
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(tree))
    assert main([*command.split(), f"run_dir={tmp_path}"]) == 2
    assert "env='evil-env': " in capsys.readouterr().err
    assert not (tmp_path / "executed").exists()
