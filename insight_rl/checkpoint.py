"""Checkpoints that survive ``kill -9``: each one a folder that is whole or does not exist under its name.

    checkpoints/step_000020/{manifest.json, trainer.json, selector/, learner/}   latest -> "step_000020"

Owns the atomic write, the check on reading and what is kept; the parts write and read themselves.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.errors import UsageError

MANIFEST = "manifest.json"
FORMAT = 1
_ARRAY_KEY = "__array__"


class CheckpointStore:
    """The ``checkpoints`` folder of a run: keeps the newest ``keep_last`` and the best by held-out accuracy."""

    def __init__(self, folder: Path, *, keep_last: int) -> None:
        self.folder = folder
        self._keep_last = keep_last

    def save(self, step: int, parts: Mapping[str, Callable[[Path], None]], *, accuracy: float | None) -> Path:
        """Write one checkpoint; each part gets its own empty folder. ``accuracy`` decides which one is best."""
        self.folder.mkdir(parents=True, exist_ok=True)
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
            _fsync(path)
        target = self.folder / _name(step)
        if target.exists():  # a damaged one that the run fell back from
            shutil.rmtree(target)
        writing.rename(target)
        _fsync(self.folder)
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


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write a ``state_dict``: nested mappings of JSON-able values and NumPy arrays."""
    arrays: dict[str, np.ndarray] = {}

    def without_arrays(node: Any) -> Any:
        if isinstance(node, np.ndarray):
            arrays[f"array_{len(arrays)}"] = node
            return {_ARRAY_KEY: f"array_{len(arrays) - 1}"}
        if isinstance(node, Mapping):
            return {key: without_arrays(value) for key, value in node.items()}
        return node

    (folder / "state.json").write_text(json.dumps(without_arrays(state)), encoding="utf-8")
    np.savez(folder / "arrays.npz", allow_pickle=False, **arrays)


def load_state(folder: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; tuples come back as lists."""
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:

        def with_arrays(node: Any) -> Any:
            if not isinstance(node, dict):
                return node
            if node.keys() == {_ARRAY_KEY}:
                return arrays[node[_ARRAY_KEY]]
            return {key: with_arrays(value) for key, value in node.items()}

        return dict(with_arrays(state))


def write_atomically(path: Path, text: str) -> None:
    """Replace a small file: after a crash it holds the old text or the new one, never half."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(text, encoding="utf-8")
    _fsync(temporary)
    temporary.rename(path)
    _fsync(path.parent)


def _name(step: int) -> str:
    return f"step_{step:06d}"


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _digest(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _find_manifest_damage(checkpoint: Path) -> str | None:
    try:
        manifest = read_manifest(checkpoint)
    except (OSError, ValueError) as error:
        return f"unreadable {MANIFEST}: {error}"
    return None if manifest.get("format") == FORMAT else f"format {manifest.get('format')!r} instead of {FORMAT}"


def _find_damage(checkpoint: Path) -> str | None:
    """Why a checkpoint cannot be trusted, or None."""
    problem = _find_manifest_damage(checkpoint)
    if problem is not None:
        return problem
    for name, expected in read_manifest(checkpoint)["files"].items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"] or _digest(path) != expected:
            return f"{name} is not as it was written"
    return None
