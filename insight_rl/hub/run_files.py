"""Takes files out of a run folder, which may come from anybody: regular files of bounded size that lie in it.

A link that leaves the folder is refused: what it points at would be read, and sent to the hub.
"""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

from insight_rl.errors import UsageError

MAX_TEXT_BYTES = 256 * 2**20
"""Of one file that is read as text or sent as it is; metrics of 100,000 steps are smaller."""
MAX_TOTAL_BYTES = 2**40
"""Of all weights together."""
MAX_FILES = 2000
_REMEDY = "give the run's own folder, copied whole"


class RunFiles:
    """The files of one run folder."""

    def __init__(self, run_dir: Path) -> None:
        self.root = run_dir.expanduser().resolve()
        if not self.root.is_dir():
            raise UsageError(f"run_dir={str(run_dir)!r}: there is no such folder; give the folder of a run")

    def file(self, name: str, *, max_bytes: int = MAX_TEXT_BYTES) -> Path | None:
        """A regular file by its name in the folder, ``None`` where there is none.

        Raises ``UsageError`` where it lies elsewhere, is no regular file, or is larger than ``max_bytes``.
        """
        path = self.root / name
        if not os.path.lexists(path):
            return None
        real = self._within(path)
        status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UsageError(f"{path}: is no regular file; {_REMEDY}")
        if status.st_size > max_bytes:
            raise UsageError(f"{path}: has {status.st_size} bytes, more than the {max_bytes} that are taken; {_REMEDY}")
        return real

    def folder(self, name: str, *, max_bytes: int = MAX_TOTAL_BYTES, max_files: int = MAX_FILES) -> dict[str, Path]:
        """The regular files directly in a folder, by name and sorted; empty where it is not there.

        ``max_bytes`` is the limit of all together. Raises as :meth:`file`.
        """
        path = self.root / name
        if not os.path.lexists(path):
            return {}
        if not self._within(path).is_dir():
            raise UsageError(f"{path}: is no folder; {_REMEDY}")
        names = sorted(each.name for each in os.scandir(path) if not each.is_dir())
        if len(names) > max_files:
            raise UsageError(f"{path}: has {len(names)} files, more than {max_files}; {_REMEDY}")
        files, left = {}, max_bytes
        for each in names:
            file = self.file(f"{name}/{each}", max_bytes=left)
            assert file is not None, "it has just been listed"
            files[each], left = file, left - file.stat().st_size
        return files

    def check_tree(self, name: str) -> None:
        """Raise ``UsageError`` where a folder, or anything below it, is a link out of the run's folder."""
        if not os.path.lexists(self.root / name):
            return
        self._within(self.root / name)
        for folder, folders, files in os.walk(self.root / name):
            for each in (*folders, *files):
                self._within(Path(folder, each))

    def _within(self, path: Path) -> Path:
        try:
            real = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # a link to nothing, or in a circle
            raise UsageError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
        if not real.is_relative_to(self.root):
            raise UsageError(f"{path}: is a link out of the run's folder; {_REMEDY}")
        return real


def take(source: Path, target: Path) -> None:
    """``target`` with the content of ``source``: a second name of the same file where the disk allows, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # another disk, or one without hard links
        shutil.copyfile(source, target, follow_symlinks=False)
