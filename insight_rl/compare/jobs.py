"""One run of a comparison, in a process of its own that is forked from a server which has loaded the libraries already.

Nothing that starts threads of ours happens in the server: a fork copies no threads. Each run has one thread, so that it
computes the same whatever runs beside it, and leaves ``outcome.json`` in its folder.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from insight_rl.allowed_code import allowed
from insight_rl.child_main import prepare
from insight_rl.compare.plan import BudgetPlan
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import Interrupted, RunStopped, UsageError, interruption_behind
from insight_rl.files import write_atomically
from insight_rl.nested import flatten
from insight_rl.run_identity import RunIdentity

OUTCOME_FILE, OUTPUT_FILE = "outcome.json", "output.txt"
_PRELOAD = "insight_rl.compare.preloaded"
START_VARIABLE = "INSIGHT_RL_COMPARE_START"
"""Environment variable of the server that runs are forked from: the first run's overrides and own code, in JSON."""
_RUN_DEFAULTS = ("monitor=jsonl",)
CHECKPOINT_AFTER_S = 300.0
"""Shorter runs begin anew where they were killed; a checkpoint of the tiny model takes as long as a step."""
FINISHED, FAILED = "finished", "failed"
NUM_STEPS_WITHOUT_BOUND = 1_000_000


@dataclass(frozen=True, kw_only=True)
class OwnCode:
    """What ``--config-dir`` and ``--allow-package`` have allowed, for another process."""

    config_dir: Path | None = None
    packages: frozenset[str] = frozenset()

    def allow(self) -> None:
        allowed.allow(self.packages, [self.config_dir] if self.config_dir else [])


@dataclass(frozen=True, kw_only=True)
class Job:
    """A training run: ``overrides`` are those of its arm; seed, folder and budget are added by :func:`compose_run`."""

    name: str
    arm: str
    seed: int
    overrides: tuple[str, ...]
    budget: BudgetPlan
    run_dir: Path
    starts: Path
    """Folder in which the runs share their evaluation before training."""
    own_code: OwnCode
    keep_models: bool = False


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a job ended: ``reason`` is empty for one that finished."""

    job: Job
    reason: str
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class CheckedRun:
    """What is known of a run before any model loads."""

    identity: RunIdentity
    config: dict[str, Any]
    """The composed configuration by dotted key."""


def fork_server(first: Job) -> ForkServerContext:
    """The context whose processes start with the libraries loaded, and with the data of ``first``.

    Sets the environment that all of them share. The server starts with the first process and serves until this one
    ends; it learns of the first job by a variable.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("NUMBA_NUM_THREADS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    own = first.own_code
    start = {
        "overrides": [*_RUN_DEFAULTS, *first.overrides],
        "config_dir": str(own.config_dir) if own.config_dir else None,
        "packages": sorted(own.packages),
    }
    os.environ[START_VARIABLE] = json.dumps(start)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOAD])
    return context


def compose_run(job: Job) -> DictConfig:
    """The configuration of a run. Raises ``UsageError`` naming key, value and remedy."""
    tree = compose_config(["monitor=jsonl", *job.overrides, f"seed={job.seed}"], config_dir=job.own_code.config_dir)
    tree.run_dir = str(job.run_dir)
    # For trackers: the comparison's name, by its folder, and the arm.
    tree.run_group, tree.arm = job.run_dir.parent.parent.name, job.arm
    config, size = parse_config(tree).trainer, job.budget.size
    per_step = config.prompts_per_step * config.rollouts_per_prompt
    match job.budget.axis:
        case "steps":
            tree.trainer.num_steps = size
        case "rollouts":
            tree.trainer.max_rollouts = size
            tree.trainer.num_steps = -(-size // per_step)
        case "tokens":
            # A rollout has at least one token.
            tree.trainer.max_tokens = size
            tree.trainer.num_steps = -(-size // per_step)
        case "seconds":
            tree.trainer.max_device_s = size
            tree.trainer.num_steps = NUM_STEPS_WITHOUT_BOUND
    return tree


def check_job(job: Job) -> CheckedRun:
    """Everything about a run that can be checked before a model loads. Raises ``UsageError``."""
    from insight_rl.run import build_parts, open_selector

    job.own_code.allow()
    try:
        tree = compose_run(job)
        config = parse_config(tree)
        parts = build_parts(config)
        open_selector(config, parts)
    except UsageError as error:
        raise UsageError(f"arm {job.arm}: {error}") from None
    plain: Any = OmegaConf.to_container(tree, resolve=True)
    return CheckedRun(identity=parts.identity, config=flatten(plain))


def end_with_parent() -> None:
    """Called first in a worker process, so that none is left behind by a runner that was killed."""
    prepare(os.getppid())


def run_job(job: Job, gpu: str | None) -> None:
    """The whole of a child process: train, and say in ``outcome.json`` how it ended."""
    # A group of its own: Ctrl-C reaches the runner alone, which passes it on once.
    os.setsid()
    end_with_parent()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    job.run_dir.mkdir(parents=True, exist_ok=True)
    with (job.run_dir / OUTPUT_FILE).open("a", encoding="utf-8") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    started = time.perf_counter()
    state, reason, code = FINISHED, "", 0
    try:
        _train(job)
    except Interrupted as error:
        sys.exit(128 + error.number)
    except (UsageError, RunStopped) as error:
        state, reason, code = FAILED, str(error).splitlines()[0], 1
    except Exception as error:
        stopped = interruption_behind(error)
        if isinstance(stopped, Interrupted):
            sys.exit(128 + stopped.number)
        traceback.print_exc()
        state, reason, code = FAILED, f"{type(error).__name__}: {error}; see {OUTPUT_FILE}", 1
    outcome = {"state": state, "reason": reason, "wall_s": round(time.perf_counter() - started, 3)}
    write_atomically(job.run_dir / OUTCOME_FILE, json.dumps(outcome))
    sys.exit(code)


def _train(job: Job) -> None:
    from insight_rl.run import RunOutput, train

    job.own_code.allow()
    output = RunOutput(
        keeps_model=job.keep_models,
        keeps_decisions=job.keep_models,
        checkpoint_after_s=CHECKPOINT_AFTER_S,
        start_evaluations=job.starts,
    )
    train(compose_run(job), output)
    if not job.keep_models:
        shutil.rmtree(job.run_dir / "checkpoints", ignore_errors=True)


def read_outcome(run_dir: Path) -> dict[str, Any]:
    """``state``, ``reason`` and ``wall_s``; empty for a run that has not ended."""
    try:
        found = json.loads((run_dir / OUTCOME_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
