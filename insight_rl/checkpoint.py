"""Checkpoints that survive ``kill -9``: each one a folder that is whole or does not exist under its name.

    checkpoints/step_000020/{manifest.json, trainer.json, selector/, learner/}   latest -> "step_000020"

Writes whole folders, checks them on reading and decides which are kept; the parts write and read their own files.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError
from insight_rl.files import fsync, write_atomically

MANIFEST = "manifest.json"
FORMAT = 1


class CheckpointStore:
    """The ``checkpoints`` folder of a run: keeps the newest ``keep_last`` and the best by held-out accuracy."""

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last

    def save(self, step: int, parts: Mapping[str, Callable[[Path], None]], *, accuracy: float | None) -> Path:
        """Write one checkpoint; each part gets its own empty folder. ``accuracy`` decides which one is best.

        Raises ``OSError`` where it cannot be written, a deleted run folder included; the checkpoints before stay.
        """
        self.folder.mkdir(exist_ok=True)
        for leftover in self.folder.glob(".writing_*"):
            shutil.rmtree(leftover)
        writing = self.folder / f".writing_{_name(step)}"
        for name, write in parts.items():
            (writing / name).mkdir(parents=True)
            write(writing / name)
        files = {str(path.relative_to(writing)): _digest(path) for path in sorted(_files(writing))}
        manifest = {"format": FORMAT, "step": step, "accuracy": accuracy, "parts": sorted(parts), "files": files}
        (writing / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
        for path in [*_files(writing), *(p for p in writing.rglob("*") if p.is_dir()), writing]:
            fsync(path)
        target = self.folder / _name(step)
        if target.exists():  # a damaged one that the run fell back from
            shutil.rmtree(target)
        writing.rename(target)
        fsync(self.folder)
        write_atomically(self.folder / "latest", target.name)
        self._prune()
        return target

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


def read_manifest(checkpoint: Path) -> dict[str, Any]:
    return dict(json.loads((checkpoint / MANIFEST).read_text(encoding="utf-8")))


def part_folder(checkpoint: Path, name: str) -> Path:
    """Folder of one part; raises ``UsageError`` if the checkpoint was written without it."""
    if name not in read_manifest(checkpoint)["parts"]:
        raise UsageError(f"checkpoint {checkpoint}: has no part {name!r}; it was written by another kind of run")
    return checkpoint / name


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _find_manifest_damage(checkpoint: Path) -> str | None:
    try:
        manifest = read_manifest(checkpoint)
    except (OSError, ValueError, TypeError) as error:
        return f"unreadable {MANIFEST}: {error}"
    if manifest.get("format") != FORMAT:
        return f"format {manifest.get('format')!r} instead of {FORMAT}"
    accuracy, parts, files = (manifest.get(key) for key in ("accuracy", "parts", "files"))
    is_whole = isinstance(parts, list) and isinstance(files, dict) and isinstance(accuracy, (int, float, type(None)))
    return None if is_whole else f"{MANIFEST} lacks accuracy, parts or files"


def _find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    problem = _find_manifest_damage(checkpoint)
    if problem is not None:
        return problem
    for name, expected in read_manifest(checkpoint)["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if not isinstance(expected, dict) or path.stat().st_size != expected.get("size") or _digest(path) != expected:
            return f"{name} is not as it was written"
    return None
