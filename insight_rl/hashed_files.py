"""Files whose checksums are computed while they are written, so that nothing is read again to know them."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Digest = dict[str, Any]
"""``{"size": bytes, "sha256": hexadecimal}`` of a file."""

_PIECE_BYTES = 4 << 20
"""Written and hashed at a time: small enough that a writer notices soon that it is cancelled."""


class WriteCancelled(Exception):
    """Whoever asked for the file does not want it any more."""


class HashedFile(io.FileIO):
    """A new file that is written from its start to its end, and hashed on the way. Seeking is refused.

    Raises :class:`WriteCancelled` in place of writing once ``cancelled`` is set, ``FileExistsError`` if the file is
    there, and ``OSError`` with the file's name where it cannot be written.
    """

    def __init__(self, path: Path, cancelled: threading.Event) -> None:
        super().__init__(path, "x")
        self._path, self._cancelled = path, cancelled
        self._sha256, self._size = hashlib.sha256(), 0

    def write(self, data: Any) -> int:
        """Write and hash all of ``data``; both leave Python's lock to other threads meanwhile."""
        with memoryview(data) as view, view.cast("B") as flat:
            for start in range(0, len(flat), _PIECE_BYTES):
                self._write_piece(flat[start : start + _PIECE_BYTES])
            return len(flat)

    def _write_piece(self, piece: memoryview) -> None:
        while piece:
            if self._cancelled.is_set():
                raise WriteCancelled(str(self._path))
            try:
                written = super().write(piece)
            except OSError as error:
                error.filename = str(self._path)  # an error in the middle of a file names none
                raise
            self._sha256.update(piece[:written])
            self._size += written
            piece = piece[written:]

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        raise io.UnsupportedOperation(f"{self._path} is hashed as it is written, from its start to its end")

    @property
    def digest(self) -> Digest:
        """Of what has been written so far."""
        return {"size": self._size, "sha256": self._sha256.hexdigest()}


@contextmanager
def hashed_file(path: Path, cancelled: threading.Event, digests: dict[str, Digest]) -> Iterator[HashedFile]:
    """A new :class:`HashedFile` at ``path``; at the end it is on disk and its digest under its name in ``digests``."""
    with HashedFile(path, cancelled) as file:
        yield file
        os.fsync(file.fileno())
        digests[path.name] = file.digest


def digest_of(path: Path) -> Digest:
    """The digest of a file that is there already, which is read for it."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
