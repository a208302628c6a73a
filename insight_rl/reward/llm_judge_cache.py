"""Verdicts that were given before, in memory and, if wanted, in a folder that several processes and runs share."""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError

MAX_IN_MEMORY = 20_000
_WORDS = {b"right": True, b"wrong": False}


class VerdictCache:
    """By keys that are hashes in hexadecimal. Only verdicts are kept: what was not judged is asked again.

    Where the folder fails (a full disk, a file that is no verdict), the model is asked: a verdict that cannot be kept
    is still one. Sent to worker processes without what it remembers.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._recent: OrderedDict[str, bool] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["folder"])  # type: ignore[misc]

    def check_start(self, key: str) -> None:
        """Make the folder. Raises ``UsageError`` that names the setting ``key`` if it cannot be written."""
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            (self._folder / ".writable").touch()
        except OSError as error:
            raise UsageError(
                f"{key}={str(self._folder)!r}: cannot be written ({error.strerror}); name another folder, or null"
            ) from error

    def get(self, key: str) -> bool | None:
        with self._lock:
            if key in self._recent:
                self._recent.move_to_end(key)
                return self._recent[key]
        if self._folder is None:
            return None
        try:
            with (self._folder / key[:2] / key).open("rb") as file:
                verdict = _WORDS.get(file.read(16))
        except OSError:
            return None
        if verdict is not None:
            self._remember(key, verdict)
        return verdict

    def put(self, key: str, verdict: bool) -> None:
        self._remember(key, verdict)
        if self._folder is None:
            return
        file = self._folder / key[:2] / key
        part = file.with_name(f".{key}.{threading.get_native_id()}")
        try:
            file.parent.mkdir(exist_ok=True)
            part.write_bytes(b"right" if verdict else b"wrong")
            part.replace(file)
        except OSError:
            part.unlink(missing_ok=True)

    def _remember(self, key: str, verdict: bool) -> None:
        with self._lock:
            self._recent[key] = verdict
            if len(self._recent) > MAX_IN_MEMORY:
                self._recent.popitem(last=False)
