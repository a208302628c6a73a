"""What a run keeps of its rollouts, whatever becomes of the run meanwhile."""

from __future__ import annotations

import errno
import gzip
import json
import math

import numpy as np
import pytest

from insight_rl import rollout_log
from insight_rl.rollout_log import RolloutLog, RolloutLogEnd, rollout_files, spread
from insight_rl.types import Completion, Group, Prompt, Reward

HOSTILE = '</script>\n{"gaps": \0 \ud800'
JUDGED = Reward(value=0.5, success=True, status="correct", parts={"format": 0.1})
UNJUDGED = Reward(value=0.0, success=None, status="timeout", reason="no verdict within 5 s")


def group(name: str, step: int, text: str = "3*7") -> Group:
    completion = Completion(
        token_ids=(1, 2, 3), logprobs=(-0.5,) * 3, text=text, finish_reason="stop", policy_version=step - 1
    )
    prompt = Prompt(id=name, task="t", text=f"prompt of {name}", token_ids=(1,), answer={"target": 21})
    return Group(prompt=prompt, completions_G=(completion, completion), rewards_G=(JUDGED, UNJUDGED))


class Run:
    """Two prompts a step; the learner has seen the first alone."""

    def __init__(self, folder, *, first_step=1, every=2, max_mb=1.0, text="3*7"):
        self.text, self.step = text, 0
        self.log = RolloutLog(folder, every=every, max_mb=max_mb, first_step=first_step, gaps=self.gaps)
        self.end = RolloutLogEnd(self.log)

    def gaps(self):
        return {"a": np.array([self.step / 3, math.nan])}

    def go(self, *steps):
        for self.step in steps:
            self.log.log(self.step, [group("a", self.step, self.text), group("b", self.step, self.text)], [1.0, 0.5])
            self.end.log({}, step=self.step)


def read(path) -> list[dict]:
    return [json.loads(line) for line in gzip.decompress(path.read_bytes()).decode().splitlines()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_whole_groups_of_the_first_and_of_every_second_step(tmp_path):
    Run(tmp_path).go(1, 2, 3, 4)
    assert list(rollout_files(tmp_path)) == [1, 2, 4]
    one, other, gaps = read(tmp_path / "step_000002.jsonl.gz")
    assert (one["step"], one["prompt_id"], one["task"], one["prompt"]) == (2, "a", "t", "prompt of a")
    assert json.loads(one["answer"]) == {"target": 21}
    judged, unjudged = one["completions"]
    assert judged == {
        "text": "3*7",
        "tokens": 3,
        "finish": "stop",
        "version": 1,
        "success": True,
        "value": 0.5,
        "status": "correct",
        "parts": {"format": 0.1},
    }
    assert (unjudged["success"], unjudged["reason"]) == (None, "no verdict within 5 s")
    assert other["prompt_id"] == "b"
    assert gaps == {"gaps": {"a": [0.6667, None]}}


def test_any_text_comes_back_on_one_line(tmp_path):
    Run(tmp_path, text=HOSTILE).go(1)
    groups = read(tmp_path / "step_000001.jsonl.gz")[:2]
    assert [c["text"].encode("utf-16", "surrogatepass") for g in groups for c in g["completions"]] == [
        HOSTILE.encode("utf-16", "surrogatepass")
    ] * 4


def test_a_run_that_was_cut_off_ends_with_the_same_files(tmp_path):
    Run(tmp_path / "whole").go(*range(1, 7))
    Run(tmp_path / "cut").go(*range(1, 6))
    (tmp_path / "cut" / ".step_000006.jsonl.gz.1-2.writing").write_bytes(b"half")
    Run(tmp_path / "cut", first_step=3).go(*range(3, 7))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_what_a_run_has_not_come_to_again_is_gone(tmp_path):
    Run(tmp_path).go(*range(1, 7))
    Run(tmp_path, first_step=4)
    assert list(rollout_files(tmp_path)) == [1, 2]
    Run(tmp_path, first_step=1, every=0)
    assert not rollout_files(tmp_path)


def test_a_step_that_was_rolled_out_before_a_stop_and_learnt_after_it_has_its_gaps_once(tmp_path):
    Run(tmp_path).go(1, 2)
    resumed = Run(tmp_path, first_step=3)  # trainer=async: the rollouts of step 2 were in the checkpoint
    resumed.step = 2
    resumed.end.log({}, step=2)
    assert [next(iter(line)) for line in read(tmp_path / "step_000002.jsonl.gz")] == ["step", "step", "gaps"]


def test_too_much_text_leaves_out_whole_groups(tmp_path):
    run = Run(tmp_path, max_mb=2 * 1500 / 2**20, text="x" * 1000)
    run.go(1)
    assert [line.get("prompt_id") for line in read(tmp_path / "step_000001.jsonl.gz")] == ["a", None]


def test_a_choice_of_groups_is_spread_over_the_step():
    assert spread([1] * 8, 8) == list(range(8))
    taken = spread([1] * 100, 10)
    assert len(taken) == 10 and taken == sorted(taken)
    assert max(np.diff([-1, *taken, 100])) <= 20
    assert spread([5, 1, 1], 2) == [1, 2]
    assert spread([], 2) == spread([3], 2) == []


def test_a_full_disk_is_an_error_of_the_disk_and_leaves_what_was_there(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.go(1, 2)
    before = contents(tmp_path)

    def is_full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(rollout_log, "write_atomically", is_full)
    with pytest.raises(OSError, match="No space left"):
        run.go(2)
    assert contents(tmp_path) == before


def test_names_that_are_none_of_its_own_are_left_alone(tmp_path):
    for name in ("step_x.jsonl.gz", "step_²2.jsonl.gz", "notes.txt"):
        (tmp_path / name).write_text("mine")
    Run(tmp_path, first_step=0).go(1)
    assert len(list(tmp_path.iterdir())) == 4
