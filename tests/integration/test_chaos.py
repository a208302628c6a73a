"""The small version of ``scripts/chaos.py``: one run that loses a process of every kind, and one that loses none."""

from __future__ import annotations

import importlib
import json
import random
import signal

import pytest

from insight_rl.paths import conf_dir

SCRIPTS = conf_dir().parent / "scripts"


@pytest.fixture
def chaos(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS)
    return importlib.import_module("chaos")


@pytest.mark.slow
def test_a_run_that_loses_one_process_after_another_decides_as_if_nothing_had_been(chaos, tmp_path):
    losses = (
        ("rank", signal.SIGSTOP, 1),
        ("rollout worker", signal.SIGSTOP, 3),
        ("judge worker", signal.SIGSTOP, 4),
        ("selector service", signal.SIGKILL, 5),
        ("driver", signal.SIGKILL, 6),
    )
    hits = [
        chaos.Hit(target=target, number=number, after_step=step, share=0.3, pause_s=0.5, which=0)
        for target, number, step in losses
    ]
    service = chaos.Service(tmp_path / "service")
    try:
        settings = {"step_s": 0.5, "patience_s": 400.0}
        one_each = ["rollout.num_workers=1", "judge.num_workers=1", "runtime.heartbeat_deadline_s=10"]
        undisturbed = chaos.make(tmp_path / "undisturbed", [], service, one_each, **settings)
        outcome = chaos.make(tmp_path / "run", hits, service, one_each, **settings)
    finally:
        service.close()
    assert undisturbed.problems == []
    chaos.compare(outcome, tmp_path / "run", tmp_path / "undisturbed")
    assert (outcome.problems, outcome.left, outcome.codes) == ([], [], [-signal.SIGKILL, 0])
    told = " / ".join(outcome.said)
    assert "learner rank 0 gave no sign of life for 10 s in" in told and "(restart 1 of at most 2)" in told
    assert (
        "rollout worker 0 gave no sign of life for 10 s in" in told and "it is replaced (loss 1 of at most 8)" in told
    )
    assert {path.name for path in (tmp_path / "run" / "logs").iterdir()} >= {"learner_rank_0.log", "judge_worker.log"}
    assert list((tmp_path / "run").glob("stacks-*.txt"))


def make_folder(folder, selections, metrics):
    folder.mkdir()
    for name, records in (("selections.jsonl", selections), ("metrics.jsonl", metrics)):
        (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.mark.parametrize(
    ("selections", "metrics", "problem"),
    [
        ([{"step": 1, "prompt_ids": ["a", "b"]}], [{"step": 1, "reward/mean": 0.5, "time/step_s": 9.0}], None),
        ([{"step": 1, "prompt_ids": ["a", "c"]}], [{"step": 1, "reward/mean": 0.5}], "other selections from line 1 on"),
        ([{"step": 1, "prompt_ids": ["a", "b"]}], [{"step": 1, "reward/mean": 0.25}], "other metrics: reward/mean"),
        ([{"step": 1, "prompt_ids": ["a", "a"]}], [{"step": 1, "reward/mean": 0.5}], "a prompt twice in step 1"),
        ([], [{"step": 1, "reward/mean": 0.5}], "other selections from line the end on"),
    ],
)
def test_what_differs_from_the_undisturbed_run_is_found(selections, metrics, problem, chaos, tmp_path):
    whole = [{"step": 1, "prompt_ids": ["a", "b"]}], [{"step": 1, "reward/mean": 0.5, "time/step_s": 1.0}]
    reference = make_folder(tmp_path / "reference", *whole)
    outcome = chaos.Outcome(name="run", hits=[])
    chaos.compare(outcome, make_folder(tmp_path / "run", selections, metrics), reference)
    assert problem in outcome.problems if problem else outcome.problems == []


def test_hits_follow_from_the_seed_and_reach_every_kind_of_process(chaos):
    def draw(seed):
        return [chaos.draw_hit(random.Random(f"{seed}/{n}"), 8, ["rank", "driver", "judge worker"]) for n in range(60)]

    assert draw(3) == draw(3) != draw(4)
    assert {(hit.target, hit.number) for hit in draw(3)} == {
        (target, number) for target in ("rank", "driver", "judge worker") for number in chaos.SIGNALS
    }
    assert all(0 <= hit.after_step < 8 for hit in draw(3))
