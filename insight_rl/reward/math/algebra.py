"""The last resort: math-verify on one extracted answer. Imported only where it is needed: it loads for half a second.

math-verify's own timeouts are signals, which work in the main thread only, so they are off: the deadline belongs to the
parent of the process this runs in (:mod:`insight_rl.reward.judge_processes`). Only its LaTeX reader is used: its reader
for plain expressions goes through ``sympy.parse_expr``, which compiles and runs what it reads.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import LatexExtractionConfig, parse, verify

from insight_rl.reward.math.errors import AlgebraError

MAX_CHARS = 800
_CONFIG = (LatexExtractionConfig(boxed_match_priority=0),)

# Both warn once per process that the timeouts are off, and log every answer they cannot read.
logging.getLogger("math_verify").setLevel(logging.CRITICAL)
logging.getLogger("latex2sympy2_extended").setLevel(logging.CRITICAL)


def same_by_algebra(gold: str, answer: str) -> bool | None:
    """Whether a computer algebra system finds ``answer`` equal to ``gold``; ``None`` if it cannot read ``answer``."""
    if max(len(gold), len(answer)) > MAX_CHARS:
        return None
    gold_parsed, answer_parsed = _parse(gold), _parse(answer)
    if not _is_read(answer_parsed):
        return None
    if not _is_read(gold_parsed):
        return False
    try:
        return bool(verify(list(gold_parsed), list(answer_parsed), timeout_seconds=None, raise_on_error=True))
    except Exception as error:
        # Any exception at all can come out of symbolic algebra on text that nobody vetted; it is handed on by name.
        raise AlgebraError(f"{type(error).__name__}: {error}"[:200]) from error


@lru_cache(maxsize=4096)
def _parse(text: str) -> tuple[Any, ...]:
    """Expressions and, last, the text they were read from; the latter alone if there are none."""
    try:
        return tuple(parse(f"\\boxed{{{text}}}", _CONFIG, parsing_timeout=None, raise_on_error=True))
    except Exception as error:
        raise AlgebraError(f"{type(error).__name__}: {error}"[:200]) from error


def _is_read(parsed: tuple[Any, ...]) -> bool:
    return any(not isinstance(item, str) for item in parsed)
