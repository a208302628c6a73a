"""Whole runs with the bundled model, every part real."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from insight_rl.cli.main import main
from insight_rl.cli.train import expand_combinations
from insight_rl.config import compose_config
from insight_rl.monitor.dashboard import SECTIONS
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.run import train
from insight_rl.run_dir import RunDir

SMALL = [
    "trainer.num_steps=3",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=24",
    "learner.lr=1.0e-4",
    "evaluation.every=3",
    "evaluation.samples_per_problem=2",
    "evaluation.max_problems=16",
    "checkpoint.every=2",
    "monitor=jsonl",
    "rollout_log.every=2",
]
NAMED_METRICS = (
    "eval/accuracy",
    "reward/mean",
    "selector/informative_fraction",
    "rollout/logprob_gap_max",
    "rollout/num_rollouts",
    "rollout/num_tokens",
    "time/select_s",
    "time/rollout_s",
    "time/reward_s",
    "time/learn_s",
    "time/sync_s",
    "time/step_s",
    "learner/mfu",
    "learner/tokens_per_s",
    "rollout/tokens_per_s",
    "memory/trainer_gib",
)


def run(folder, *overrides):
    return train(compose_config([*SMALL, f"run_dir={folder}", *overrides]))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def rollouts_of(folder):
    return {path.name: path.read_bytes() for path in (folder / "rollouts").iterdir()}


def without_times(records):
    return [{key: value for key, value in record.items() if not is_of_the_machine(key)} for record in records]


# Others train in tests/integration/test_documented_commands.py.
SELECTORS = ("inverse_evidence", "expected_difficulty", "dynamic_sampling", "insight")


@pytest.mark.parametrize("overrides", [[f"selector={s}"] for s in SELECTORS] + [["gate=mixed_outcomes"]], ids=str)
def test_every_selector_trains(overrides, tmp_path):
    summary = run(tmp_path / "run", *overrides)
    records = read_lines(tmp_path / "run" / "metrics.jsonl")
    assert [record["step"] for record in records] == [0, 1, 2, 3]
    assert all(key in records[-1] for key in NAMED_METRICS)
    assert 0 < records[-1]["learner/mfu"] < 1.5
    assert max(record["rollout/logprob_gap_max"] for record in records[1:]) < 1e-4
    selections = read_lines(tmp_path / "run" / "selections.jsonl")
    assert [line["step"] for line in selections] == [1, 2, 3]
    for line in selections:
        assert len(line["scores"]) == len(line["prompt_ids"]) == len(set(line["prompt_ids"])) >= 8
    assert records[-1]["rollout/num_rollouts"] == 4 * sum(len(line["prompt_ids"]) for line in selections)
    assert summary.num_steps == 3


def test_a_run_leaves_what_it_promises_and_the_model_loads(tmp_path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run(tmp_path / "run", "learner.lr=1.0e-2")
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"metrics.jsonl", "selections.jsonl", "config.yaml", "checkpoints", "model", "curves.png"} <= left
    assert {path.name for path in (tmp_path / "run" / "rollouts").iterdir()} == {
        "step_000001.jsonl.gz",
        "step_000002.jsonl.gz",
    }
    assert json.loads((tmp_path / "run" / "versions.json").read_text())[-1]["versions"]["torch"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    start = AutoModelForCausalLM.from_pretrained(compose_config([]).model.path)
    moved = [
        not np.array_equal(a.detach(), b.detach()) for a, b in zip(model.parameters(), start.parameters(), strict=True)
    ]
    assert all(moved)
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "model")("3,7=10:")["input_ids"]

    logged = {key for line in read_lines(tmp_path / "run" / "metrics.jsonl") for key in line}
    for chart in [chart for section in SECTIONS for chart in section.charts]:
        # Bars are for bins, of which the empty ones are left out.
        needed = 1 if chart.kind == "bars" else len(chart.keys)
        assert len(logged & set(chart.keys)) >= needed, f"the dashboard shows {chart.keys}, which no run logs"


def test_one_seed_one_run(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        run(tmp_path / name, f"seed={seed}")
    a, b, c = (
        (without_times(read_lines(tmp_path / n / "metrics.jsonl")), (tmp_path / n / "selections.jsonl").read_text())
        for n in "abc"
    )
    assert a == b
    assert a != c


def test_an_uninterrupted_and_a_continued_run_are_equal(tmp_path):
    run(tmp_path / "whole", "trainer.num_steps=5")
    run(tmp_path / "parts", "trainer.num_steps=4")
    # Written after the last checkpoint by a run that was then killed: must vanish.
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "reward/mean": -1}\n{"step": 6, "rew')
    with (tmp_path / "parts" / "selections.jsonl").open("a") as file:
        file.write('{"step": 5, "prompt_ids": ["x"], "scores": [1.0]}\n')
    run(tmp_path / "parts", "trainer.num_steps=5")
    whole, parts = (read_lines(tmp_path / name / "metrics.jsonl") for name in ("whole", "parts"))
    # The shorter run also evaluated at its own last step.
    assert without_times(parts)[5] == without_times(whole)[5]
    assert [r["reward/mean"] for r in parts[1:]] == [r["reward/mean"] for r in whole[1:]]
    assert (tmp_path / "whole" / "selections.jsonl").read_text() == (
        tmp_path / "parts" / "selections.jsonl"
    ).read_text()
    assert rollouts_of(tmp_path / "whole") == rollouts_of(tmp_path / "parts")


def test_a_changed_setting_is_refused_on_resume(tmp_path):
    from insight_rl.errors import UsageError

    run(tmp_path / "run")
    with pytest.raises(UsageError, match=r"selector\.mu=0\.5: the run in .* was started with selector\.mu=0\.3"):
        run(tmp_path / "run", "selector.mu=0.5")
    with pytest.raises(UsageError, match="resume=never"):
        run(tmp_path / "run", "resume=never")


def test_a_pool_that_has_changed_is_refused_before_a_model_loads(tmp_path, monkeypatch):
    from insight_rl.errors import UsageError
    from insight_rl.paths import data_dir
    from insight_rl.rollout.transformers import TransformersEngine

    lines = (data_dir() / "countdown" / "train.jsonl").read_text().splitlines()[:40]
    file = tmp_path / "train.jsonl"
    file.write_text("\n".join(lines))
    run(tmp_path / "run", f"task.train_path={file}")
    monkeypatch.setattr(TransformersEngine, "start", lambda *_, **__: pytest.fail("a model was loaded"))
    file.write_text("\n".join(lines[1:]))
    with pytest.raises(UsageError, match=r"checkpoint .*: the saved beliefs belong to another pool .*another run_dir"):
        run(tmp_path / "run", f"task.train_path={file}", "trainer.num_steps=9")


def start_process(folder, *overrides):
    command = [sys.executable, "-m", "insight_rl", "train", *SMALL, f"run_dir={folder}", *overrides]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def wait_for_step(process, folder, step):
    """Until the run has recorded ``step``; fails at once if the process ends before, with what it said."""
    deadline = time.monotonic() + 120
    while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_text().splitlines()) <= step:
        if process.poll() is not None:
            pytest.fail(f"the run ended with code {process.returncode} before step {step}: {process.stderr.read()}")
        if time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"the run has not come to step {step} in two minutes: {process.communicate()[1]}")
        time.sleep(0.05)


def test_waiting_for_a_run_that_dies_ends_with_its_message(tmp_path):
    process = start_process(tmp_path / "run", "selector.mu=3")
    with pytest.raises(pytest.fail.Exception, match=r"code 2 before step 1: .*selector\.mu=3"):
        wait_for_step(process, tmp_path / "run", 1)


@pytest.mark.slow
def test_a_run_that_is_interrupted_and_then_killed_ends_as_if_nothing_had_happened(tmp_path):
    """Ctrl-C finishes the step, writes a checkpoint and the model; kill -9 goes back to the last checkpoint."""
    run(tmp_path / "whole", "trainer.num_steps=12")
    process = start_process(tmp_path / "cut", "trainer.num_steps=12")
    wait_for_step(process, tmp_path / "cut", 1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in errors
    done = len(read_lines(tmp_path / "cut" / "selections.jsonl"))
    assert 1 <= done < 9, "it is cut again below"
    assert (tmp_path / "cut" / "model" / "model.safetensors").exists()
    process = start_process(tmp_path / "cut", "trainer.num_steps=12")
    wait_for_step(process, tmp_path / "cut", done + 2)
    process.kill()
    process.communicate()
    run(tmp_path / "cut", "trainer.num_steps=12")
    whole, cut = (without_times(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("whole", "cut"))
    assert whole == cut
    assert (tmp_path / "whole" / "selections.jsonl").read_text() == (tmp_path / "cut" / "selections.jsonl").read_text()
    assert rollouts_of(tmp_path / "whole") == rollouts_of(tmp_path / "cut")
    assert len(rollouts_of(tmp_path / "whole")) == 7


def test_two_runs_cannot_share_a_folder(tmp_path, capfd):
    first = RunDir(tmp_path / "run")
    assert main(["train", *SMALL, f"run_dir={tmp_path}/run"]) == 2
    assert "another run is writing" in capfd.readouterr().err
    first.close()
    assert main(["train", *SMALL, f"run_dir={tmp_path}/run", "trainer.num_steps=1", "evaluation.every=0"]) == 0


def test_a_sweep_over_two_keys_has_a_folder_for_each_pair():
    base, combinations = expand_combinations(["selector=random,insight", "seed=1,2", "run_dir=/runs/x", "model=tiny"])
    assert base == Path("/runs/x")
    assert {label: sorted(overrides) for overrides, label in combinations} == {
        f"selector-{selector}_seed-{seed}": ["model=tiny", f"seed={seed}", f"selector={selector}"]
        for selector in ("random", "insight")
        for seed in (1, 2)
    }
