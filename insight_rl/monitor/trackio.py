"""Writes each step's metrics into a Trackio database: no account, no network.

    TRACKIO_DIR=runs/demo/trackio trackio show --project insight_rl

Library: https://github.com/gradio-app/trackio ; the import is deferred, so that the package need not be there.

Trackio's ``init`` starts a thread that writes later, asks the Hugging Face hub who you are, and turns its own failures
into warnings. So its storage is used directly: a step is one transaction, on the disk before :meth:`TrackioMonitor.log`
returns.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import random
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.files import write_atomically
from insight_rl.monitor.dashboard import ARM, OTHER_AXES, arm_of, over_other_axes, tags_of
from insight_rl.monitor.records import finite_or_none
from insight_rl.monitor.summary import Summary
from insight_rl.types import Histogram, Metrics, Table

FOLDER = "trackio"


class TrackioMonitor:
    """One Trackio run per ``run_dir``, resumed under the same id, in the database of ``folder``.

    ``folder`` null is ``run_dir/trackio``, a dashboard for each run; runs that share a folder share a dashboard.
    A resumed run repeats the steps after its checkpoint with the same outcome: those that are there already are not
    written twice. The name of the run is the name of ``run_dir``, its group ``run_group``.
    """

    def __init__(self, *, project: str = "insight_rl", folder: str | None = None) -> None:
        is_plain = bool(project) and all(letter.isalnum() or letter in "-_" for letter in project)
        check(is_plain, "monitor.trackio.project", project, "use letters, digits, - and _: the database has this name")
        check(folder is None or folder != "", "monitor.trackio.folder", folder, "use a path, or null for run_dir")
        spec = importlib.util.find_spec("trackio")
        # A folder named trackio in the working directory is found as well, as a package without a file.
        if spec is None or spec.origin is None:
            raise UsageError(
                "monitor=trackio: the package trackio is not installed; install it with "
                "`pip install 'insight-rl[trackio]'`"
            )
        self._project = project
        self._given_folder = folder
        self._folder = Path()
        self._run: dict[str, str] = {}
        self._config: dict[str, Any] | None = None
        self._last_step = -1

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        run_dir = run_dir.resolve()
        own = run_dir / FOLDER
        own.mkdir(parents=True, exist_ok=True)
        self._folder = Path(self._given_folder).expanduser().resolve() if self._given_folder else own
        run_id = _run_id(own / "run_id", is_resumed=first_step > 0)
        self._run = {"run": run_dir.name, "run_id": run_id}
        self._config = {**config, ARM: arm_of(config), "tags": tags_of(config), "_Group": config.get("run_group")}
        with _storage(self._folder) as storage:
            last = storage.get_max_step_for_run(self._project, run_dir.name, run_id=run_id)
        self._last_step = -1 if last is None else last

    def log(self, metrics: Metrics, *, step: int) -> None:
        if step <= self._last_step:
            return
        values = {key: entry for key, value in metrics.items() if (entry := _entry(key, value, step)) is not None}
        for renamed in over_other_axes(values).values():
            values |= renamed
        if "eval/accuracy" in values:
            # In its charts any metric can be the axis, if the same step has it.
            for axis in OTHER_AXES.values():
                values.setdefault(axis, 0)
        with _storage(self._folder) as storage:
            storage.bulk_log(
                project=self._project, **self._run, metrics_list=[values], steps=[step], config=self._config
            )
        self._config, self._last_step = None, step

    def notice(self, text: str) -> None:
        """Notices are in the terminal and in notices.jsonl."""

    def close(self, summary: Summary | None = None) -> None:
        """Every step is on the disk already: says where."""
        if self._run:
            folder = shlex.quote(str(self._folder))
            print(f"Trackio: look at it with `TRACKIO_DIR={folder} trackio show --project {self._project}`")
            self._run = {}


@contextmanager
def _storage(folder: Path) -> Iterator[Any]:
    """Trackio's storage class, pointed at ``folder``: by itself it looks for its folder once, when it is imported."""
    folder.mkdir(parents=True, exist_ok=True)
    before, state = os.environ.get("TRACKIO_DIR"), random.getstate()
    os.environ["TRACKIO_DIR"] = str(folder)
    try:
        # The first import draws random numbers, which are the run's.
        module: Any = importlib.import_module("trackio.sqlite_storage")
    finally:
        random.setstate(state)
        if before is None:
            del os.environ["TRACKIO_DIR"]
        else:
            os.environ["TRACKIO_DIR"] = before
    default, module.TRACKIO_DIR = module.TRACKIO_DIR, folder
    try:
        yield module.SQLiteStorage
    finally:
        module.TRACKIO_DIR = default


def _run_id(path: Path, *, is_resumed: bool) -> str:
    if is_resumed and path.is_file():
        return path.read_text().strip()
    run_id = os.urandom(16).hex()
    write_atomically(path, run_id + "\n")
    return run_id


def _entry(key: str, value: Any, step: int) -> Any:
    """What Trackio keeps of a value: numbers, and histograms and tables in its own form; None for NaN."""
    if isinstance(value, Histogram):
        return {"_type": "trackio.histogram", "bins": list(value.edges), "values": list(value.counts)}
    if isinstance(value, Table):
        rows = [dict(zip(value.columns, map(_cell, row), strict=True)) for row in value.rows]
        return {"_type": "trackio.table", "_value": rows}
    return finite_or_none(value)


def _cell(value: Any) -> Any:
    """Text as its database takes it: half a surrogate pair cannot be UTF-8."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
