"""What every monitor of conf/monitor promises: to report, and to change nothing."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.monitor.summary import PHASES, Summary
from insight_rl.paths import conf_dir
from insight_rl.types import Histogram, Table

OPTIONS = sorted(file.stem for file in (conf_dir() / "monitor").glob("*.yaml"))
CONFIG = {"seed": 0, "trainer": {"num_steps": 3}}
# Tables of samples hold what a model wrote: any text at all.
METRICS = {
    "eval/accuracy": 0.25,
    "reward/mean": float("nan"),
    "rollout/num_tokens": 12,
    "selector/belief_histogram": Histogram(counts=(1, 2), edges=(0.0, 0.5, 1.0)),
    "rollout/samples": Table(columns=("prompt", "completion"), rows=(("3,7=10:", "[/bold] \x00 \x1b[31m \n <b>"),)),
    "time/step_s": 0.5,
}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """``make(option)``: the option's monitors, as a run builds them, in an empty working folder."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.setenv("WANDB_MODE", "offline")

    def build(option, config_dir=None):
        tree = compose_config([f"monitor={option}"], config_dir=config_dir)
        nodes = OmegaConf.to_container(tree.monitor, resolve=True)
        return [build_part(f"monitor.{name}", node) for name, node in nodes.items()]

    return build


def follow_a_run(monitor, run_dir, *, first_step=0, summary=None):
    run_dir.mkdir(exist_ok=True)
    monitor.open(run_dir, config=copy.deepcopy(CONFIG), num_steps=3, first_step=first_step)
    for step in range(first_step, 4):
        monitor.log(copy.deepcopy(METRICS), step=step)
        monitor.notice("A sentence with [brackets].")
    if summary is None:
        monitor.close()
    else:
        monitor.close(summary)


def follows_a_run_to_its_end(monitor, folder):
    summary = Summary(
        run_dir=folder / "run",
        model_dir=None,
        num_steps=3,
        accuracy_before=0.25,
        accuracy_after=None,
        accuracy_best=None,
        best_step=None,
        num_rollouts=12,
        num_tokens=48,
        informative_fraction=None,
        seconds=dict.fromkeys(PHASES, 0.5),
    )
    follow_a_run(monitor, folder / "run", summary=summary)


def closes_a_run_that_was_cut_short(monitor, folder):
    follow_a_run(monitor, folder / "run")


def goes_on_with_a_resumed_run(monitor, folder):
    follow_a_run(monitor, folder / "run")
    follow_a_run(copy.copy(monitor), folder / "run", first_step=2)


def changes_neither_metrics_nor_config(monitor, folder):
    metrics, config = copy.deepcopy(METRICS), copy.deepcopy(CONFIG)
    (folder / "run").mkdir()
    monitor.open(folder / "run", config=config, num_steps=3, first_step=0)
    monitor.log(metrics, step=0)
    monitor.close()
    assert repr(metrics) == repr(METRICS) and config == CONFIG


def draws_no_random_number(monitor, folder):
    def states():
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    before = states()
    follow_a_run(monitor, folder / "run")
    assert states() == before


def writes_into_the_runs_folder_only(monitor, folder):
    follow_a_run(monitor, folder / "run")
    assert {path.name for path in folder.iterdir() if path.name != "conf"} - {"cwd", "run"} == set()
    assert list((folder / "cwd").iterdir()) == []


PROMISES = (
    follows_a_run_to_its_end,
    closes_a_run_that_was_cut_short,
    goes_on_with_a_resumed_run,
    changes_neither_metrics_nor_config,
    draws_no_random_number,
    writes_into_the_runs_folder_only,
)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_monitor(option, promise, make, tmp_path):
    for monitor in make(option):
        promise(monitor, tmp_path)


GOOD = """
import random
from pathlib import Path

class Bad:
    def open(self, run_dir, *, config, num_steps, first_step):
        self.file = (run_dir / "log").open("a")
    def log(self, metrics, *, step):
        self.file.write(repr(sorted(metrics)))
    def notice(self, text): pass
    def close(self, summary=None):
        self.file.close()
"""
BROKEN = {
    follows_a_run_to_its_end: ("def notice(self, text): pass", ""),
    closes_a_run_that_was_cut_short: ("summary=None", "summary"),
    goes_on_with_a_resumed_run: ('.open("a")', '.open("x")'),
    changes_neither_metrics_nor_config: ("self.file.write", "metrics.pop('eval/accuracy'); self.file.write"),
    draws_no_random_number: ("self.file.write", "random.random(); self.file.write"),
    writes_into_the_runs_folder_only: ('(run_dir / "log")', 'Path("log")'),
}


@pytest.mark.parametrize("promise", [None, *PROMISES])
def test_a_monitor_that_breaks_a_promise_is_found(promise, make, tmp_path, monkeypatch, allow_folder):
    old, new = BROKEN.get(promise, ("", ""))
    assert old in GOOD
    module = f"bad_monitor_{getattr(promise, '__name__', 'none')}"
    (tmp_path / "conf" / "monitor").mkdir(parents=True)
    (tmp_path / "conf" / f"{module}.py").write_text(GOOD.replace(old, new, 1))
    (tmp_path / "conf" / "monitor" / "bad.yaml").write_text(f"bad:\n  _target_: {module}.Bad\n")
    allow_folder(tmp_path / "conf")
    broken = []
    for number, each in enumerate(PROMISES):
        folder = tmp_path / str(number)
        (folder / "cwd").mkdir(parents=True)
        monkeypatch.chdir(folder / "cwd")
        try:
            each(*make("bad", config_dir=tmp_path / "conf"), folder)
        except Exception:
            broken.append(each)
    assert (promise in broken) if promise else broken == []
