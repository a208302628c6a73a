"""Sends each step's metrics to Weights & Biases, or keeps them for a later ``wandb sync``.

It asks no questions and does not wait for the network.

Library: https://docs.wandb.ai/ref/python/ ; the import is deferred, so that the package need not be there.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.errors import UsageError, check
from insight_rl.files import write_atomically
from insight_rl.monitor.dashboard import ARM, OTHER_AXES, arm_of, over_other_axes, tags_of
from insight_rl.monitor.records import finite_or_none
from insight_rl.monitor.summary import Summary
from insight_rl.types import Histogram, Metrics, Table

if TYPE_CHECKING:
    import wandb

MODES = ("auto", "online", "offline", "disabled")
STEP_AXIS = "step"


class WandbMonitor:
    """One W&B run per ``run_dir``, resumed under the same id; its files are below ``run_dir/wandb``.

    ``mode="auto"`` is online where wandb finds credentials (``WANDB_API_KEY``, ``wandb login``), otherwise offline;
    ``WANDB_MODE`` overrides it, as everywhere in wandb. Where no ``group`` is given it is ``run_group``; where no
    ``tags`` are given they name selector, task, model and seed. So a sweep falls into the dashboard that
    `insight-rl dashboard` makes.
    """

    def __init__(
        self,
        *,
        project: str = "insight_rl",
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        tags: Sequence[str] | None = None,
        mode: str = "auto",
    ) -> None:
        check(mode in MODES, "monitor.wandb.mode", mode, f"must be one of {', '.join(MODES)}")
        check(bool(project), "monitor.wandb.project", project, "must not be empty")
        spec = importlib.util.find_spec("wandb")
        # A folder named wandb in the working directory is found as well, as a package without a file.
        if spec is None or spec.origin is None:
            raise UsageError("monitor=wandb: the package wandb is not installed; install it with `pip install wandb`")
        self._settings = {"project": project, "entity": entity}
        self._group = group
        self._tags = tags
        self._name = name
        self._mode = mode
        self._run: wandb.Run | None = None
        self._own_variables: list[str] = []

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        import wandb

        folder = run_dir.resolve() / "wandb"
        folder.mkdir(parents=True, exist_ok=True)
        # Otherwise wandb stages every table in the user's home.
        for variable in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR"):
            if variable not in os.environ:
                os.environ[variable] = str(folder / variable.split("_")[1].lower())
                self._own_variables.append(variable)
        arguments: dict[str, Any] = {
            **self._settings,
            "group": self._group or config.get("run_group"),
            "tags": list(tags_of(config) if self._tags is None else self._tags) or None,
            "dir": run_dir.resolve(),
            "config": {**config, ARM: arm_of(config)},
            "name": self._name or run_dir.resolve().name,
            "id": _run_id(folder / "run_id", is_resumed=first_step > 0),
            # The terminal belongs to the console monitor; wandb's wrapping of it would garble the live display.
            "settings": wandb.Settings(console="off", quiet=True, init_timeout=30),
        }
        mode: Any = os.environ.get("WANDB_MODE") or self._chosen_mode()
        try:
            self._run = wandb.init(mode=mode, resume="allow" if mode == "online" else None, **arguments)
        except wandb.errors.CommError as error:
            reason = str(error).splitlines()[0]
            remedy = f"W&B cannot be reached ({reason}); take monitor.wandb.mode=offline and `wandb sync` later"
            check(self._mode == "auto", "monitor.wandb.mode", self._mode, remedy)
            wandb.termwarn(f"W&B cannot be reached ({reason}); this run stays offline")
            # The failed attempt still holds the id.
            wandb.teardown()
            self._run = wandb.init(mode="offline", **arguments)
        self._run.define_metric(STEP_AXIS)
        self._run.define_metric("*", step_metric=STEP_AXIS)
        for word, axis in OTHER_AXES.items():
            self._run.define_metric(axis, step_metric=STEP_AXIS)
            self._run.define_metric(f"eval_by_{word}/*", step_metric=axis)

    def log(self, metrics: Metrics, *, step: int) -> None:
        assert self._run is not None, "open() comes first"
        # A resumed run repeats the steps after its checkpoint, with the same outcome: the server has these already.
        if step < self._run.starting_step:
            return
        values = {key: _to_wandb(value) for key, value in metrics.items()}
        for renamed in over_other_axes(values).values():
            values |= renamed
        if "eval/accuracy" in metrics:
            for axis in OTHER_AXES.values():
                values.setdefault(axis, 0)
        self._run.log({STEP_AXIS: step, **values}, step=step)

    def notice(self, text: str) -> None:
        assert self._run is not None, "open() comes first"
        self._run.write_logs(text)

    def close(self, summary: Summary | None = None) -> None:
        if self._run is None:
            return
        if summary is not None:
            figures = asdict(summary)
            for key in ("accuracy_before", "accuracy_after", "accuracy_best", "num_rollouts", "num_tokens", "seconds"):
                self._run.summary[f"final/{key}"] = figures[key]
        mode, folder, url = self._run.settings.mode, Path(self._run.settings.sync_dir), self._run.url
        self._run.finish(exit_code=1 if summary is None else 0)
        self._run = None
        if mode == "offline":
            print(f"W&B: kept offline; send it with `wandb sync {shlex.quote(str(folder))}`")
        elif url:
            print(f"W&B: look at it on {url}")
        while self._own_variables:
            del os.environ[self._own_variables.pop()]

    def _chosen_mode(self) -> str:
        if self._mode != "auto":
            return self._mode
        import wandb

        return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _run_id(path: Path, *, is_resumed: bool) -> str:
    if is_resumed and path.is_file():
        return path.read_text().strip()
    run_id = os.urandom(6).hex()
    write_atomically(path, run_id + "\n")
    return run_id


def _to_wandb(value: Any) -> Any:
    import wandb

    if isinstance(value, Histogram):
        return wandb.Histogram(np_histogram=(np.asarray(value.counts), np.asarray(value.edges)))
    if isinstance(value, Table):
        return wandb.Table(columns=list(value.columns), data=[list(row) for row in value.rows])
    return finite_or_none(value)
