"""Checkpoints that survive ``kill -9``: each one a folder that is whole or does not exist under its name.

    checkpoints/step_000020/{manifest.json, trainer/, selector/, learner/}   latest -> "step_000020"

The state of every part is fixed while training stands still, and written in the background while it goes on. Files are
hashed as they are written; the manifest with all hashes comes last, and then the folder gets its name. So a checkpoint
holds one moment of the whole run, or there is none. The parts write and read their own files.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from insight_rl.errors import UsageError, check
from insight_rl.files import fsync, write_atomically
from insight_rl.hashed_files import Digest, digest_of, hashed_file
from insight_rl.state_codec import state_files
from insight_rl.types import Metrics

MANIFEST = "manifest.json"
FORMAT = 2
_LOOK_S = 0.1
"""How often a wait for the writer looks whether it can go on."""
_ABANDON_S = 10.0
"""So long is a writer that is told to stop waited for: a disk may hang."""
_SETTLE_S = 60.0
_NUM_READERS = 4


class PartWriting(Protocol):
    """A part of a checkpoint whose content is fixed, and which is written in the background."""

    def write(self, cancelled: threading.Event) -> dict[str, Digest]:
        """Write it, or wait until whoever writes it has; returns the digest of every file, by its name in the part.

        Called once, in another thread than the run's. Raises ``OSError`` where a file cannot be written, and
        :class:`~insight_rl.hashed_files.WriteCancelled` soon after ``cancelled`` is set.
        """
        ...

    def check(self) -> None:
        """Called in the run's thread while that waits: raises what has gone wrong with those who write."""
        ...


Part = Callable[[Path], PartWriting | None]
"""Called with the part's own empty folder while training stands still. ``None``: everything is in the folder already,
and is read again to be hashed."""


class StatePart:
    """A part that is one ``state_dict``, copied when this is made: see :mod:`insight_rl.state_codec`.

    Example::

        store.save(20, {"selector": StatePart(selector.state_dict())}, accuracy=None)
    """

    def __init__(self, state: Mapping[str, Any]) -> None:
        self._files = state_files(state)

    def __call__(self, folder: Path) -> PartWriting:
        self._folder = folder
        return self

    def write(self, cancelled: threading.Event) -> dict[str, Digest]:
        """See :meth:`PartWriting.write`."""
        digests: dict[str, Digest] = {}
        for name, content in self._files.items():
            with hashed_file(self._folder / name, cancelled, digests) as file:
                file.write(content)
        return digests

    def check(self) -> None:
        """Nobody else writes it."""


class _Writer(threading.Thread):
    """Makes one checkpoint whole."""

    def __init__(self, complete: Callable[[threading.Event], None], parts: Mapping[str, PartWriting | None]) -> None:
        super().__init__(name="checkpoint writer", daemon=True)
        self._complete, self._parts = complete, parts
        self.cancelled = threading.Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._complete(self.cancelled)
        except BaseException as error:  # the run's thread raises it again
            self.error = error

    def check_parts(self) -> None:
        for part in self._parts.values():
            if part is not None:
                part.check()


class CheckpointStore:
    """The ``checkpoints`` folder of a run: keeps the newest ``keep_last`` and the best by held-out accuracy.

    Used by one thread; at most one checkpoint is being written at a time.
    """

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last
        self._writer: _Writer | None = None
        self._number = 0

    def save(self, step: int, parts: Mapping[str, Part], *, accuracy: float | None) -> None:
        """Fix the state of every part, and write it in the background. ``accuracy`` decides which one is best.

        Waits for the checkpoint before, if that is not whole yet. Raises ``OSError`` where one of the two cannot be
        written, a deleted run folder included; those before stay.
        """
        self.wait()
        started = time.perf_counter()
        self.folder.mkdir(exist_ok=True)
        # A process of a killed run may still write for a moment: its folder may not go yet, and is not this one's.
        for leftover in self.folder.glob(".writing_*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._number += 1
        writing = self.folder / f".writing_{_name(step)}_{os.getpid()}_{self._number}"
        begun: dict[str, PartWriting | None] = {}
        for name, begin in parts.items():
            (writing / name).mkdir(parents=True)
            begun[name] = begin(writing / name)

        def complete(cancelled: threading.Event) -> None:
            files: dict[str, Digest] = {}
            for name, part in begun.items():
                written = _read_digests(writing / name) if part is None else part.write(cancelled)
                files |= {f"{name}/{file}": digest for file, digest in written.items()}
            manifest = {
                "format": FORMAT,
                "step": step,
                "accuracy": accuracy,
                "parts": sorted(begun),
                "files": files,
                "write_s": round(time.perf_counter() - started, 3),
            }
            self._publish(writing, manifest)

        self._writer = _Writer(complete, begun)
        self._writer.start()

    def check(self) -> None:
        """Raise what has ended the writing of a checkpoint, if anything has; never waits."""
        writer = self._writer
        if writer is not None and not writer.is_alive():
            self._writer = None
            if writer.error is not None:
                raise writer.error

    def wait(self) -> None:
        """Return once the checkpoint that is being written is whole; raises as :meth:`save`."""
        while self._writer is not None and self._writer.is_alive():
            self._writer.join(_LOOK_S)
            if self._writer.is_alive():
                self._writer.check_parts()
        self.check()

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, but not long, and ask nobody: the run is about to end.

        Raises as :meth:`check`.
        """
        if self._writer is not None:
            self._writer.join(_SETTLE_S)
        self.check()

    def abandon(self) -> None:
        """Stop writing: the checkpoint that is not whole yet never will be. The run ends, or starts its ranks anew."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.cancelled.set()
            writer.join(_ABANDON_S)

    def _publish(self, writing: Path, manifest: Mapping[str, Any]) -> None:
        """Give a folder that has all its parts its manifest and then its name."""
        write_atomically(writing / MANIFEST, json.dumps(manifest, indent=1))
        for path in [*(p for p in writing.rglob("*") if p.is_dir()), writing]:
            fsync(path)
        target = self.folder / _name(manifest["step"])
        if target.exists():  # a damaged one that the run fell back from
            shutil.rmtree(target)
        writing.rename(target)
        fsync(self.folder)
        write_atomically(self.folder / "latest", target.name)
        self._prune()

    def newest_sound(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint whose files are as written, and a notice for each damaged one passed over.

        Raises ``UsageError`` if there are checkpoints but none is sound: starting afresh would overwrite the run.
        """
        notices: list[str] = []
        for path in reversed(self._all()):
            problem = _find_damage(path)
            if problem is None:
                return path, notices
            notices.append(f"checkpoint {path.name} is damaged ({problem}); falling back to the one before")
        if notices:
            raise UsageError(
                f"run_dir: no sound checkpoint in {self.folder} ({'; '.join(notices)}); restore one or take a new "
                "run_dir"
            )
        return None, notices

    def sound(self, name: str) -> Path:
        """The checkpoint called ``name`` (``step_000020``), ``latest`` or ``best``, whose files are as written.

        Raises ``UsageError`` where it is damaged or not there.
        """
        there = [path.name for path in self._all()]
        wanted = name
        if name == "latest" and there:
            wanted = there[-1]
        elif name == "best" and (self.folder / "best").is_file():
            with (self.folder / "best").open(encoding="utf-8", errors="replace") as file:
                wanted = file.read(100).strip()
        check(
            wanted in there,
            "checkpoint",
            name,
            f"there is no such checkpoint in {self.folder}; there are {', '.join(there) or 'none'} (and best, once one "
            "of them has been evaluated)",
        )
        damage = _find_damage(self.folder / wanted)
        check(damage is None, "checkpoint", name, f"{self.folder / wanted} is damaged ({damage}); take another one")
        return self.folder / wanted

    def newest_name(self) -> str | None:
        """Its folder's name, e.g. ``step_000020``; whether it is sound is seen on resuming."""
        return next((path.name for path in reversed(self._all())), None)

    def _all(self) -> list[Path]:
        """Oldest first. The folder's names are the truth; ``latest`` is for people and other programs."""
        return sorted(self.folder.glob("step_*")) if self.folder.is_dir() else []

    def _prune(self) -> None:
        checkpoints = self._all()
        kept = set(checkpoints[-self._keep_last :])
        accuracies = {
            path: read_manifest(path)["accuracy"] for path in checkpoints if _find_manifest_damage(path) is None
        }
        evaluated = [path for path, accuracy in accuracies.items() if accuracy is not None]
        if evaluated:
            best = max(evaluated, key=lambda path: accuracies[path])
            kept.add(best)
            write_atomically(self.folder / "best", best.name)
        for path in checkpoints:
            if path not in kept:
                shutil.rmtree(path)


class CheckpointWatch:
    """Asks after every step whether the checkpoint that is being written has failed, so that the run stops then.

    See :class:`~insight_rl.monitor.base.Monitor`.
    """

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        """Nothing is written by the first step."""

    def log(self, metrics: Metrics, *, step: int) -> None:
        """Raises as :meth:`CheckpointStore.save`."""
        self._store.check()

    def notice(self, text: str) -> None:
        """Not for the store."""

    def close(self, summary: object = None) -> None:
        """The run waits for the last checkpoint by itself."""


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))


def part_folder(checkpoint: Path, name: str) -> Path:
    """Folder of one part; raises ``UsageError`` if the checkpoint was written without it."""
    if name not in read_manifest(checkpoint)["parts"]:
        raise UsageError(f"checkpoint {checkpoint}: has no part {name!r}; it was written by another kind of run")
    return checkpoint / name


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _read_digests(folder: Path) -> dict[str, Digest]:
    """Of every file in the folder, each of them on disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in paths:
        fsync(path)
    return {str(path.relative_to(folder)): digest_of(path) for path in paths}


def _find_manifest_damage(checkpoint: Path) -> str | None:
    try:
        manifest = read_manifest(checkpoint)
    except (OSError, ValueError, TypeError) as error:
        return f"unreadable {MANIFEST}: {error}"
    if manifest.get("format") != FORMAT:
        return f"format {manifest.get('format')!r} instead of {FORMAT}: another version of this program wrote it"
    accuracy, parts, files = (manifest.get(key) for key in ("accuracy", "parts", "files"))
    is_whole = isinstance(parts, list) and isinstance(files, dict) and isinstance(accuracy, (int, float, type(None)))
    return None if is_whole else f"{MANIFEST} lacks accuracy, parts or files"


def _find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    problem = _find_manifest_damage(checkpoint)
    if problem is not None:
        return problem
    files = read_manifest(checkpoint)["files"].items()
    # Hashing leaves Python's lock to other threads.
    with ThreadPoolExecutor(_NUM_READERS) as readers:
        problems = readers.map(lambda item: _find_file_damage(checkpoint, *item), files)
        return next((problem for problem in problems if problem is not None), None)


def _find_file_damage(checkpoint: Path, name: str, expected: object) -> str | None:
    path = checkpoint / name
    if not path.is_file():
        return f"{name} is missing"
    if not isinstance(expected, dict) or path.stat().st_size != expected.get("size") or digest_of(path) != expected:
        return f"{name} is not as it was written"
    return None
