"""Why an answer cannot be read or compared. Siblings: handling one of them never catches another."""

from __future__ import annotations


class NotMath(Exception):
    """The text is not an expression that this package understands."""


class OutOfBounds(Exception):
    """The expression is larger than the limits of this package allow: nothing should try to evaluate it."""


class AlgebraError(Exception):
    """The computer algebra system failed on a comparison: there is no verdict."""
