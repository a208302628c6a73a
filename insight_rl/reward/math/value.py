"""Whether two scalar expressions have the same value, without symbolic algebra.

Constants that are rational are compared exactly. Everything else is evaluated at fixed pseudo-random points: first in
complex doubles, where nearly every wrong answer already differs, then to 80 digits. Two different elementary functions
that agree to 50 digits at three such points would be a coincidence beyond all odds (the Schwartz-Zippel
argument), while an identity holds at every point. All sizes are bounded before they are computed.
"""

from __future__ import annotations

import cmath
import math
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

import mpmath

from insight_rl.reward.math.errors import NotMath, OutOfBounds
from insight_rl.reward.math.nodes import Apply, Constant, Number, Scalar, Symbol, symbols_of

MAX_EXACT_BITS = 400_000
MAX_FACTORIAL = 1_000
MAX_MAGNITUDE = 1e6
"""Largest |exponent x ln base| and argument of a function: beyond it a value is refused rather than computed."""
MAX_AGREEING = 1e25
"""Constants above it that are not rational cannot be distinguished from their neighbours."""
_MAX_SYMBOLS = 24
_NUM_DIGITS = 80
_PRECISE = mpmath.mp.clone()
_PRECISE.dps = _NUM_DIGITS
_DECIMALS_OF_A_ROUNDED_VALUE = 6

_Point = Mapping[str, Any]
_BAD_VALUE = (ArithmeticError, ValueError, TypeError, mpmath.libmp.NoConvergence, mpmath.libmp.ComplexResult)


def same_value(gold: Scalar, answer: Scalar, *, tolerance: float = 0.0) -> bool | None:
    """Whether both have the same value for every value of their symbols; ``None`` where that cannot be decided.

    Exact, but for one case: a value that no decimal can express is equal to it, correctly rounded to six digits or more
    after the point (``1/3`` and ``0.333333``). ``tolerance`` is relative and applies to
    constants. Raises :class:`NotMath` for an operation without values and :class:`OutOfBounds` where one is too large.
    """
    if gold == answer:
        return True
    if _is_infinite(gold) or _is_infinite(answer):
        return False
    symbols = symbols_of(gold) | symbols_of(answer)
    if symbols:
        return _same_function(gold, answer, symbols)
    exact_gold, exact_answer = exact_value(gold), exact_value(answer)
    if exact_gold is None or exact_answer is None:
        return _same_constant(gold, answer, tolerance)
    difference = abs(exact_gold - exact_answer)
    return (
        difference <= Fraction(tolerance) * abs(exact_gold)
        or (_is_rounded(gold, exact_answer, difference) and not _is_finite_decimal(exact_answer))
        or (_is_rounded(answer, exact_gold, difference) and not _is_finite_decimal(exact_gold))
    )


def _is_infinite(node: Scalar) -> bool:
    while isinstance(node, Apply) and node.op == "neg":
        node = node.args[0]
    return node == Constant("inf")


def _is_rounded(decimal: Scalar, value: Any, difference: Any) -> bool:
    """Whether ``decimal`` is a literal of enough digits that is ``value``, ``difference`` away, correctly rounded."""
    num_decimals = _num_decimals(decimal)
    if num_decimals < _DECIMALS_OF_A_ROUNDED_VALUE or num_decimals > _NUM_DIGITS // 2:
        return False
    is_rounded = difference * 2 * 10**num_decimals <= 1
    return bool(is_rounded and difference * 10_000 <= abs(value))


def _is_finite_decimal(value: Fraction) -> bool:
    """Whether ``value`` can be written as a decimal: then only that decimal is it, and nothing is rounded."""
    rest = value.denominator
    for factor in (2, 5):
        while rest % factor == 0:
            rest //= factor
    return rest == 1


def _same_constant(gold: Scalar, answer: Scalar, tolerance: float) -> bool | None:
    rough = _rough_pair(gold, answer, {})
    if rough is not None and abs(rough[0] - rough[1]) > max(0.01, 2 * tolerance) * max(abs(rough[0]), abs(rough[1])):
        return False
    try:
        first, second = (_evaluate(node, {}, _PRECISE_FIELD) for node in (gold, answer))
        if _agrees(first, second):
            # Beyond the digits carried, agreement says nothing: 10^(10^6) and the number after it.
            return True if abs(first) < MAX_AGREEING else None
        difference = abs(first - second)
        is_rounded = _is_rounded(gold, second, difference) or _is_rounded(answer, first, difference)
        return bool(difference <= tolerance * abs(first)) or is_rounded
    except OverflowError as error:
        raise OutOfBounds("too large") from error
    except _BAD_VALUE:
        return None


def _same_function(gold: Scalar, answer: Scalar, symbols: set[Symbol]) -> bool | None:
    if len(symbols) > _MAX_SYMBOLS:
        raise OutOfBounds("too many symbols")
    differs: bool | None = None if _may_hide_equality(gold, answer) else False
    names = sorted(symbol.name for symbol in symbols)
    num_agreeing = 0
    for index in range(5):
        # The last point tried is negative in every symbol: it tells x from |x|.
        sign = -1 if num_agreeing == 2 else 1
        fractions = {name: sign * _coordinate(name, index) for name in names}
        rough = _rough_pair(gold, answer, {name: float(value) for name, value in fractions.items()})
        if rough is not None and abs(rough[0] - rough[1]) > 0.01 * max(abs(rough[0]), abs(rough[1])):
            return differs if num_agreeing < 2 else None
        point = {name: _PRECISE_FIELD.number(value) for name, value in fractions.items()}
        try:
            first, second = (_evaluate(node, point, _PRECISE_FIELD) for node in (gold, answer))
            agrees = _agrees(first, second)
        except OverflowError as error:
            raise OutOfBounds("too large") from error
        except _BAD_VALUE:
            continue
        if not agrees:
            return differs if num_agreeing < 2 else None
        num_agreeing += 1
        if num_agreeing == 3:
            return True
    return True if num_agreeing == 2 else None


def _may_hide_equality(first: Scalar, second: Scalar) -> bool:
    """Whether the expressions may be equal although they differ at every point tried.

    That is so where both contain opaque symbols, but not the same ones: ``2 f(1+x)`` and ``2 f(x+1)`` get different
    values, since ``f(1+x)`` and ``f(x+1)`` are two symbols here, and are equal. If only one side contains an opaque
    symbol, or both contain the same ones, different values mean different expressions.
    """
    opaque = [{symbol for symbol in symbols_of(node) if symbol.is_opaque} for node in (first, second)]
    return bool(opaque[0]) and bool(opaque[1]) and opaque[0] != opaque[1]


def is_multiple(first: tuple[Scalar, Scalar], second: tuple[Scalar, Scalar]) -> int | None:
    """Whether the equations ``first[0] = first[1]`` and ``second[0] = second[1]`` are multiples of each other.

    They are if ``(first[0] - first[1]) / (second[0] - second[1])`` has the same value at every point: ``x - y = 1`` and
    ``2y = 2x - 2`` have the quotient -1/2 everywhere. Returns the sign of that quotient, 1 or -1 (for inequalities it
    says whether the relation is turned round); 0 if the quotient changes from point to point; ``None`` if it cannot be
    decided, because one side is zero everywhere, the values are too few, or opaque symbols may hide equality.
    """
    symbols = set().union(*(symbols_of(node) for node in (*first, *second)))
    if len(symbols) > _MAX_SYMBOLS:
        raise OutOfBounds("too many symbols")
    may_hide = _may_hide_equality(Apply("add", first), Apply("add", second))
    ratios: list[Any] = []
    for index in range(5):
        point = {symbol.name: _PRECISE_FIELD.number(_coordinate(symbol.name, index)) for symbol in symbols}
        try:
            values = [_evaluate(node, point, _PRECISE_FIELD) for node in (*first, *second)]
            numerator, denominator = values[0] - values[1], values[2] - values[3]
            if _agrees(numerator, 0) or _agrees(denominator, 0):
                return None
            ratios.append(numerator / denominator)
        except OverflowError as error:
            raise OutOfBounds("too large") from error
        except _BAD_VALUE:
            continue
        if not _agrees(ratios[0], ratios[-1]):
            return None if may_hide else 0
        if len(ratios) == 3:
            break
    if len(ratios) < 2 or abs(_PRECISE.im(ratios[0])) > 1e-20:
        return None
    return 1 if _PRECISE.re(ratios[0]) > 0 else -1


def is_rounded_to(decimal: Scalar, value: Scalar) -> bool:
    """Whether the literal ``decimal`` is the constant ``value`` rounded to the digits it has: ``10/3 = 3.3``."""
    num_decimals = _num_decimals(decimal)
    pair = _rough_pair(decimal, value, {}) if num_decimals else None
    return pair is not None and abs(pair[0] - pair[1]) <= 0.500001 * 10.0**-num_decimals


def rough_value(node: Scalar) -> float | None:
    """A real constant in double precision, for sorting; ``None`` if it is not one."""
    rough = _rough_pair(node, node, {}) if not symbols_of(node) else None
    return rough[0].real if rough is not None and abs(rough[0].imag) < 1e-12 else None


@lru_cache(maxsize=4096)
def _coordinate(name: str, index: int) -> Fraction:
    """A fixed rational in (0.3, 2.3) that depends on the symbol and the point only."""
    return Fraction(3, 10) + Fraction(2 * zlib.crc32(f"{index}/{name}/{index}".encode()), 2**32)


def _agrees(first: Any, second: Any) -> bool:
    return bool(abs(first - second) <= 1e-50 * max(abs(first), abs(second)) + 1e-60)


def _rough_pair(gold: Scalar, answer: Scalar, point: _Point) -> tuple[complex, complex] | None:
    try:
        first, second = (complex(_evaluate(node, point, _FLOAT_FIELD)) for node in (gold, answer))
    except _BAD_VALUE:
        return None
    return (first, second) if cmath.isfinite(first) and cmath.isfinite(second) else None


def _num_decimals(node: Scalar) -> int:
    """Digits after the point of a literal: 4 for ``-0.3333``, 6 for ``33.3333\\%``; 0 if it is none."""
    num_moved = 0
    while isinstance(node, Apply) and node.op in ("neg", "pct"):
        num_moved += 2 if node.op == "pct" else 0
        node = node.args[0]
    return node.num_decimals + num_moved if isinstance(node, Number) and node.num_decimals else 0


# -- exact values


def exact_value(node: Scalar) -> Fraction | None:
    """The rational value of a constant, or ``None`` if it is irrational, has symbols or would be too large."""
    if isinstance(node, Number):
        return node.value
    if not isinstance(node, Apply) or node.op not in _EXACT:
        return None
    values: list[Fraction] = []
    for arg in node.args:
        value = exact_value(arg)
        if value is None:
            return None
        values.append(value)
    try:
        result = _EXACT[node.op](*values)
    except (ZeroDivisionError, TypeError):
        return None
    is_small = result is None or max(result.numerator.bit_length(), result.denominator.bit_length()) <= MAX_EXACT_BITS
    return result if is_small else None


def _exact_pow(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    bits = max(base.numerator.bit_length(), base.denominator.bit_length())
    if abs(exponent.numerator) * bits > MAX_EXACT_BITS:
        return None
    return Fraction(base**exponent.numerator)


def _exact_sqrt(value: Fraction) -> Fraction | None:
    if value < 0 or value.numerator.bit_length() > MAX_EXACT_BITS:
        return None
    top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
    return Fraction(top, bottom) if top * top == value.numerator and bottom * bottom == value.denominator else None


def _exact_factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or not 0 <= value <= MAX_FACTORIAL:
        return None
    return Fraction(math.factorial(value.numerator))


def _exact_binomial(top: Fraction, bottom: Fraction) -> Fraction | None:
    if top.denominator != 1 or bottom.denominator != 1 or not 0 <= bottom <= top <= MAX_FACTORIAL:
        return None
    return Fraction(math.comb(top.numerator, bottom.numerator))


def _integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def apply(*values: Fraction) -> Fraction | None:
        if any(value.denominator != 1 for value in values):
            return None
        return Fraction(function(*(value.numerator for value in values)))

    return apply


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "add": lambda a, b: a + b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "pct": lambda a: a / 100,
    "pow": _exact_pow,
    "sqrt": _exact_sqrt,
    "fact": _exact_factorial,
    "binom": _exact_binomial,
    "abs": abs,
    "floor": lambda a: Fraction(math.floor(a)),
    "ceil": lambda a: Fraction(math.ceil(a)),
    "max": max,
    "min": min,
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}


# -- values at a point


class _Field:
    """Numbers of one precision and the functions on them."""

    def __init__(
        self,
        functions: Mapping[str, Callable[..., Any]],
        number: Callable[[Fraction], Any],
        constants: Mapping[str, Any],
    ) -> None:
        self.functions = functions
        self.number = number
        self.constants = constants


def _evaluate(node: Scalar, point: _Point, field: _Field) -> Any:
    if isinstance(node, Number):
        return field.number(node.value)
    if isinstance(node, Symbol):
        return point[node.name]
    if isinstance(node, Constant):
        return field.constants[node.name]
    args = [_evaluate(arg, point, field) for arg in node.args]
    function = field.functions.get(node.op)
    if function is None:
        raise NotMath(f"no value for {node.op}")
    return function(*args)


def _functions(
    lib: Any, power: Callable[[Any, Any], Any], gamma: Callable[[Any], Any]
) -> dict[str, Callable[..., Any]]:
    """The operations in terms of ``cmath`` or an ``mpmath`` context."""

    def bounded(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def apply(value: Any) -> Any:
            if abs(value) > MAX_MAGNITUDE:
                raise OverflowError
            return function(value)

        return apply

    def root(value: Any, degree: Any) -> Any:
        is_odd = value.imag == 0 and degree.imag == 0 and degree.real == int(degree.real) and int(degree.real) % 2
        return -power(-value, 1 / degree) if is_odd and value.real < 0 else power(value, 1 / degree)

    def log(value: Any, base: Any = None) -> Any:
        return lib.log(value) if base is None else lib.log(value) / lib.log(base)

    factorial = bounded(lambda value: gamma(value + 1))
    trigonometric = {name: bounded(getattr(lib, name)) for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh", "exp")}
    return trigonometric | {
        "add": lambda a, b: a + b,
        "mul": lambda a, b: a * b,
        "div": lambda a, b: a / b,
        "neg": lambda a: -a,
        "pct": lambda a: a / 100,
        "pow": power,
        "sqrt": lib.sqrt,
        "root": root,
        "cbrt": lambda a: root(a, a * 0 + 3),
        "log": log,
        "ln": lib.log,
        "lg": lambda a: lib.log(a) / lib.log(10),
        "cot": lambda a: 1 / trigonometric["tan"](a),
        "sec": lambda a: 1 / trigonometric["cos"](a),
        "csc": lambda a: 1 / trigonometric["sin"](a),
        "arcsin": lib.asin,
        "arccos": lib.acos,
        "arctan": lib.atan,
        "abs": lambda a: a * 0 + abs(a),
        "fact": factorial,
        "binom": lambda n, k: factorial(n) / (factorial(k) * factorial(n - k)),
        "floor": lambda a: a * 0 + math.floor(_real(a) + 1e-15),
        "ceil": lambda a: a * 0 + math.ceil(_real(a) - 1e-15),
    }


def _real(value: Any) -> float:
    if value.imag != 0:
        raise ValueError("not real")
    return float(value.real)


def _float_power(base: complex, exponent: complex) -> complex:
    return complex(base) ** exponent


def _precise_power(base: Any, exponent: Any) -> Any:
    if base != 0 and abs(exponent) * abs(_PRECISE.log(base)) > MAX_MAGNITUDE:
        raise OverflowError
    return _PRECISE.power(base, exponent)


def _float_gamma(value: complex) -> complex:
    return complex(math.gamma(_real(value)))


_FLOAT_FIELD = _Field(
    _functions(cmath, _float_power, _float_gamma),
    lambda value: complex(value),
    {"pi": complex(math.pi), "e": complex(math.e), "i": 1j},
)
_PRECISE_FIELD = _Field(
    _functions(_PRECISE, _precise_power, _PRECISE.gamma),
    lambda value: _PRECISE.mpc(_PRECISE.mpf(value.numerator) / value.denominator),
    {
        "pi": _PRECISE.mpc(_PRECISE.pi),
        "e": _PRECISE.mpc(_PRECISE.e),
        "i": _PRECISE.mpc(0, 1),
    },
)
