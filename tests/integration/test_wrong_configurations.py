"""Every mistake a newcomer makes ends with code 2 and one message that names key, value and remedy; no traceback."""

import json
import os
import subprocess
import sys

import pytest

from insight_rl.cli.main import main

SMALL = ["trainer.num_steps=1", "trainer.prompts_per_step=4", "trainer.rollouts_per_prompt=2", "evaluation.every=0"]

WRONG = {
    "unknown key": (["trainer.num_step=5"], ["trainer.num_step=5", "did you mean trainer.num_steps"]),
    "unknown key of a part": (["selector.muu=0.2"], ["selector.muu=0.2", "did you mean selector.mu?"]),
    "setting of another option": (
        ["selector=random", "selector.mu=0.4"],
        ["selector.mu=0.4: selector=random has no setting mu; its settings are", "forgetting"],
    ),
    "key without its group": (["lr=1e-4"], ["lr=1e-4: there is no key lr; did you mean learner.lr?"]),
    "several values": (["selector=random,insight"], ["selector=random,insight: ", "train -m"]),
    "list of benchmarks": (["evaluation.benchmarks=[gpqa]"], ["+benchmark@evaluation.benchmarks.gpqa=gpqa"]),
    "name of an option": (["selector_name=x"], ["selector_name=x: ", "give selector=x"]),
    "code that is not allowed": (["gate._target_=mine.Gate"], ["gate._target_='mine.Gate'", "--allow-package mine"]),
    "unknown group option": (["selector=insigth"], ["selector=insigth", "choose one of", "insight"]),
    "unknown experiment": (["experiment=nope"], ["experiment=nope", "quickstart"]),
    "not an override": (["trainer.num_steps"], ["trainer.num_steps", "key=value"]),
    "wrong type": (["trainer.num_steps=many"], ["trainer.num_steps=many", "must be a whole number"]),
    "wrong type in a part": (["learner.lr=fast"], ["learner.lr='fast'", "must be a number"]),
    "negative steps": (["trainer.num_steps=-3"], ["trainer.num_steps=-3", "at least 1"]),
    "batch that cannot be split": (
        ["trainer.prompts_per_step=12", "trainer.prompts_per_update=5"],
        ["trainer.prompts_per_update=5", "1, 2, 3, 4, 6, 12"],
    ),
    "K = 1": (["trainer.rollouts_per_prompt=1"], ["trainer.rollouts_per_prompt=1", "at least 2"]),
    "temperature 0": (["trainer.temperature=0"], ["trainer.temperature=0", "above 0"]),
    "resume misspelt": (["resume=yes"], ["resume=", "auto, never"]),
    "no such model folder": (["model.path=./no/such/model"], ["model.path='./no/such/model'", "no such folder"]),
    "folder that is no model": (["model.path={tmp}"], ["model.path=", "config.json"]),
    "context longer than the model's": (["model.max_length=4096"], ["model.max_length=4096", "context of 128"]),
    "no room for a prompt": (["trainer.max_completion_tokens=128"], ["trainer.max_completion_tokens=128", "no room"]),
    "prompts longer than the context": (
        ["model.max_length=20", "trainer.max_completion_tokens=18"],
        ["model.max_length=20", "leaves 2 for a prompt", "raise"],
    ),
    "missing data file": (["task.train_path={tmp}/none.jsonl"], ["none.jsonl"]),
    "empty data set": (["task.train_path={tmp}/empty.jsonl"], ["empty.jsonl"]),
    "broken row": (["task.train_path={tmp}/broken.jsonl"], ["broken.jsonl", "row 2"]),
    "more prompts than the pool has": (["trainer.prompts_per_step=4000"], ["trainer.prompts_per_step=4000", "2000"]),
    "unwritable folder": (["run_dir=/proc/insight"], ["run_dir='/proc/insight'", "cannot be written"]),
    "mu out of range": (["selector.mu=3.0"], ["selector.mu=3.0", "0.3"]),
    "a belief that MaPP's advantage cannot read": (
        ["algorithm.advantage=mapp", "selector.verifier_error=0.1"],
        ["selector.verifier_error=0.1", "algorithm.advantage=mapp"],
    ),
    "no prior": (["selector.prior_alpha=0"], ["selector.prior_alpha=0", "from 0.001 to"]),
    "attention that a CPU has not": (["learner.attention=flex"], ["learner.attention='flex': needs a GPU"]),
    "adapted layer that the model has not": (
        ["learner.lora.rank=8", "learner.lora.target_modules=[q_proj,query]"],
        [
            "learner.lora.target_modules=['q_proj', 'query']",
            "query is no linear layer",
            "there are down_proj, gate_proj",
        ],
    ),
    "adapter to send where none is trained": (["weight_sync=adapter"], ["weight_sync='adapter'", "learner.lora.rank="]),
    "zero_stage that does not exist": (["learner=deepspeed", "learner.zero_stage=7"], ["learner.zero_stage=7"]),
    "target that cannot be imported": (
        ["--allow-package", "no_such", "gate._target_=no_such.Gate"],
        ["gate._target_='no_such.Gate'", "module no_such is not installed"],
    ),
    "missing config dir": (["--config-dir", "{tmp}/none"], ["--config-dir", "is not a folder"]),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("wrong")
    (tmp / "empty.jsonl").write_text("")
    (tmp / "broken.jsonl").write_text(json.dumps({"numbers": [1, 2, 3], "target": 6}) + "\n{oops\n")
    return tmp


def run(arguments, cwd):
    command = [sys.executable, "-m", "insight_rl", "train", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env={**os.environ, "HF_HUB_OFFLINE": "1"})


def run_here(arguments, capfd):
    """In this process, which has loaded already what each process of its own needs seconds for."""
    capfd.readouterr()
    code = main(["train", *arguments])
    output, errors = capfd.readouterr()
    return subprocess.CompletedProcess(arguments, code, output, errors)


IN_A_PROCESS = (
    "unknown key",
    "code that is not allowed",
    "wrong type in a part",
    "folder that is no model",
    "broken row",
    "mu out of range",
    "target that cannot be imported",
    "missing config dir",
)
"""Found at one stage of the start each, or what changes settings of the process."""


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_configuration_is_explained(mistake, folder, monkeypatch, capfd):
    overrides, expected = WRONG[mistake]
    overrides = [override.format(tmp=folder) for override in overrides]
    run_dir = [] if any(o.startswith("run_dir") for o in overrides) else [f"run_dir={folder}/run"]
    arguments = [*SMALL, *run_dir, *overrides]
    monkeypatch.chdir(folder)
    result = run(arguments, cwd=folder) if mistake in IN_A_PROCESS else run_here(arguments, capfd)
    assert result.returncode == 2, result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert len(result.stderr.strip().splitlines()) <= 3
    for text in expected:
        assert text in result.stderr
    assert not (folder / "run" / "model").exists()


def test_an_unknown_command_lists_the_commands(tmp_path):
    result = subprocess.run([sys.executable, "-m", "insight_rl", "trian"], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 2
    assert "'trian'" in result.stderr and "train" in result.stderr


def test_a_hub_model_that_cannot_be_had_says_what_to_do(tmp_path):
    result = run([*SMALL, f"run_dir={tmp_path}/run", "model.path=no-one/no-model"], cwd=tmp_path)
    assert result.returncode == 2, result.stderr
    assert "no-one/no-model" in result.stderr and "local copy" in result.stderr
