"""The ``key=value`` arguments of commands that compose no configuration."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from insight_rl.errors import UsageError


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
