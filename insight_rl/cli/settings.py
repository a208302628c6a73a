"""The ``key=value`` arguments of commands that compose no configuration."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from pathlib import Path

from insight_rl.errors import UsageError, check


def read_settings(words: Sequence[str], keys: Sequence[str]) -> dict[str, str]:
    """The values by their keys. Raises ``UsageError`` for a word that is no ``key=value`` with one of ``keys``."""
    given = {}
    for word in words:
        key, separator, value = word.partition("=")
        if not separator or key not in keys or not value:
            close = difflib.get_close_matches(key, keys, n=1)
            hint = f"did you mean {close[0]}=...?" if close else f"it takes {', '.join(f'{k}=...' for k in keys)}"
            raise UsageError(f"{word}: there is no such setting; {hint}")
        given[key] = value
    return given


def read_keys(words: Sequence[str], keys: Collection[str]) -> dict[str, str]:
    """As :func:`read_settings`, for commands with many keys: a wrong one is told all that there are."""
    given = dict(word.partition("=")[::2] for word in words)
    for key, value in given.items():
        check(key in keys, key, value, f"there is no such key; there are {', '.join(keys)}")
        check(value != "", key, value, "give a value: key=value")
    return given


def check_is_new(key: str, folder: Path) -> None:
    """Raise ``UsageError`` that names ``key`` unless ``folder`` is not there yet, or empty."""
    is_new = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    check(is_new, key, str(folder), "is there already and not empty; take a new folder")
