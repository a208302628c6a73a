"""The errors that a user can mend. Everything else is a defect of ours and keeps its traceback."""

from __future__ import annotations

import sys


class UsageError(ValueError):
    """Bad input: the message names the key or row, the value and the remedy. The command line ends with code 2."""


class RunStopped(RuntimeError):
    """The run stopped itself for a reason it can name (log-prob parity lost, reward errors): code 1, no traceback."""


class RanksLost(RunStopped):
    """A rank of the learner died or hangs, or what it is to learn from is gone: closed and started again, it can go on.

    What it had learnt since its newest checkpoint is lost. ``reason`` says in a clause what happened.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    def __reduce__(self) -> tuple[type[RanksLost], tuple[str, str]]:
        return type(self), (self.reason, str(self))  # a rank may raise it in a process of its own


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop by signal ``number``: code 128 + ``number``, no traceback."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def interruption_behind(error: BaseException) -> KeyboardInterrupt | None:
    """The stop signal that has caused ``error``, if one has: in the middle of an import it comes out as its failure."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__cause__ or found.__context__
    return found


def check(condition: bool, key: str, value: object, remedy: str) -> None:
    """Raise a :class:`UsageError` that names ``key``, ``value`` and the ``remedy`` unless ``condition`` holds."""
    if not condition:
        raise UsageError(f"{key}={value!r}: {remedy}")


def is_number(value: object) -> bool:
    """Whether a setting is a finite int or float; ``True`` and NumPy arrays are not numbers."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
