"""A position in the tokens of an answer, and what is read there without a grammar: literals and names."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from insight_rl.reward.math.errors import NotMath, OutOfBounds
from insight_rl.reward.math.latex import Token
from insight_rl.reward.math.nodes import Number

MAX_DEPTH = 40
MAX_DIGITS = 1_000
END = Token("end_of_text", "", False)


class Cursor:
    """Reads the tokens from left to right; they never change.

    Example::

        from insight_rl.reward.math.latex import tokenize

        cursor = Cursor(tokenize("x_1 + 2"))
        cursor.take().text, cursor.name_of("x"), cursor.accept("+"), cursor.take().text   # "x", "x_1", True, "2"
    """

    def __init__(self, tokens: Sequence[Token]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def peek(self, offset: int = 0) -> Token:
        index = self.at + offset
        return self.tokens[index] if index < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, *texts: str) -> bool:
        """Take the next token if it is one of these operators or commands."""
        if self.peek().kind in ("op", "command") and self.peek().text in texts:
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        """Take the next token. Raises :class:`NotMath` if it is none of these."""
        token = self.take()
        if token.text not in texts:
            raise NotMath(f"expected {' or '.join(texts)}, found {token.text!r}")
        return token.text

    def enter(self) -> None:
        """Count one more level of nesting. Raises :class:`OutOfBounds` beyond ``MAX_DEPTH``."""
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OutOfBounds("nested too deep")

    def text_since(self, start: int) -> str:
        return "".join(token.text for token in self.tokens[start : self.at])

    # -- numbers

    def number_after(self, first: Token, *, grouped: bool) -> Number:
        """The literal that begins with the token ``first``, which was just taken.

        ``grouped``: ``1,234`` is one number. Raises :class:`OutOfBounds` for too many digits.
        """
        text = first.text
        if len(text) > MAX_DIGITS:
            raise OutOfBounds("too many digits")
        if grouped and text.isdigit() and len(text) <= 3:
            text = self._with_groups(text)
        value, num_decimals = read_decimal(text)
        if "." in text and self.peek().text == "\\overline":
            return self._repeating(value, num_decimals or 0)
        return Number(value, num_decimals)

    def _with_groups(self, text: str) -> str:
        """The rest of ``1,234,567.8``: every group directly after its comma."""
        while text != "0" and self.peek().text == "," and not self.peek().is_spaced:
            group = self.peek(1)
            digits = group.text.split(".")[0]
            if group.kind != "number" or group.is_spaced or len(digits) != 3 or not digits.isdigit():
                break
            self.at += 2
            text += group.text
            if "." in group.text:
                break
        return text

    def _repeating(self, value: Fraction, num_decimals: int) -> Number:
        """``0.1\\overline{6}``, exactly."""
        self.take()
        self.expect("{")
        digits = self.take().text
        self.expect("}")
        if not digits.isdigit() or len(digits) > 50:
            raise NotMath("repeating decimal")
        period = Fraction(int(digits), 10 ** len(digits) - 1) / 10**num_decimals
        return Number(value + period)

    # -- names

    def name_of(self, letter: str) -> str:
        """``letter`` with its index and primes: ``x_{10}'`` and ``x10'`` are ``x_10'``."""
        name = letter
        if self.has_index():
            name += "_" + self.take().text
        elif self.accept("_"):
            name += "_" + self._subscript()
        while self.accept("'"):
            name += "'"
        while self.peek().text == "^" and [self.peek(1).text, self.peek(2).text] == ["{", "\\prime"]:
            self.at += 4
            name += "'"
        return name

    def has_index(self) -> bool:
        """Whether digits follow directly: ``x2`` is an index, or an identifier, and no product."""
        token = self.peek()
        follows = token.kind == "number" and not token.is_spaced and token.text.isdigit()
        return follows and self.peek(1).text != "_"

    def _subscript(self) -> str:
        if not self.accept("{"):
            return self.take().text
        start = self.at
        while self.peek() is not END and self.peek().text not in ("{", "}"):
            self.take()
        name = self.text_since(start)
        self.expect("}")
        return name


def read_decimal(text: str) -> tuple[Fraction, int | None]:
    """The exact value of a literal such as ``0.250``, ``.5`` or ``4.5e-3``, and its digits after the point.

    Raises :class:`OutOfBounds` for exponents beyond four digits.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(exponent.lstrip("+-")) > 4:
        raise OutOfBounds("exponent too large")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return value, (len(decimals) if point and decimals else None)
