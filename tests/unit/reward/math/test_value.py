"""Comparison by value against exact arithmetic and against sympy, and the bounds that keep it fast."""

from __future__ import annotations

import time
from fractions import Fraction

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.reward.math.errors import NotMath, OutOfBounds
from insight_rl.reward.math.parser import parse
from insight_rl.reward.math.value import exact_value, same_value

numbers = st.integers(-40, 40)


@st.composite
def arithmetic(draw, depth=3):
    """An expression as text, and its exact value (None where it divides by zero)."""
    if depth == 0 or draw(st.booleans()):
        number = draw(numbers)
        return (f"({number})" if number < 0 else str(number)), Fraction(number)
    (left, a), (right, b) = draw(arithmetic(depth=depth - 1)), draw(arithmetic(depth=depth - 1))
    op = draw(st.sampled_from("+-*/"))
    if a is None or b is None or (op == "/" and b == 0):
        return f"({left}{op}{right})", None
    value = {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[op]()
    latex = f"\\frac{{{left}}}{{{right}}}" if op == "/" and draw(st.booleans()) else f"({left}{op}{right})"
    return latex, value


@given(arithmetic())
def test_rational_arithmetic_is_exact(case):
    text, value = case
    assert exact_value(parse(text)) == value


@st.composite
def polynomials(draw):
    """A product of factors, as text and as sympy has it."""
    x, y = sympy.symbols("x y")
    text, expression = "", sympy.Integer(1)
    for _ in range(draw(st.integers(1, 3))):
        a, b, c = (draw(st.integers(-9, 9)) for _ in range(3))
        text += f"({a}x + ({b})y + ({c}))"
        expression *= a * x + b * y + c
    return text, expression


@settings(max_examples=60, deadline=None)
@given(polynomials(), polynomials())
def test_polynomials_agree_with_symbolic_algebra(first, second):
    expanded = sympy.latex(sympy.expand(first[1]))
    assert same_value(parse(first[0]), parse(expanded)) is True
    expected = sympy.expand(first[1] - second[1]) == 0
    assert same_value(parse(first[0]), parse(second[0])) is expected


@given(st.integers(2, 10**30), st.integers(1, 10**6))
def test_neighbours_of_irrational_constants_differ(radicand, offset):
    assert same_value(parse(f"\\sqrt{{{radicand}}}"), parse(f"\\sqrt{{{radicand + offset}}}")) is False


@given(st.integers(1, 10**9), st.integers(6, 9))
def test_a_rounded_decimal_needs_six_right_digits(numerator, num_decimals):
    gold = Fraction(numerator, 7_000_003)
    rounded = f"{float(gold):.{num_decimals}f}"
    gold_node = parse(f"\\frac{{{numerator}}}{{7000003}}")
    is_close = abs(Fraction(rounded) - gold) <= gold / 10_000
    assert same_value(gold_node, parse(rounded)) is is_close
    off = f"{float(gold) + 2e-6:.{num_decimals}f}"
    assert same_value(gold_node, parse(off)) is False


@pytest.mark.parametrize(
    "bomb",
    ["9^{9^{9^{9}}}", "((10^{10})!)!", "10**10**10", "2^{2^{2^{2^{2^{2}}}}}", "\\exp(\\exp(\\exp(20)))", "100000!"],
)
def test_huge_values_are_refused_at_once(bomb):
    started = time.monotonic()
    try:
        verdict = same_value(parse("\\sqrt{2}"), parse(bomb))
    except OutOfBounds:
        verdict = None
    assert verdict is not True
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("text", ["(" * 500 + "1" + ")" * 500, "1+" * 5000 + "1", "9" * 2000, "1e99999"])
def test_huge_texts_are_out_of_bounds(text):
    with pytest.raises(OutOfBounds):
        parse(text)


@pytest.mark.parametrize("text", ["hello world", "1 2", "(1, 2", "x + ", "\\unknown{3}", "\\frac{1}", "", "1 +* 2"])
def test_what_is_not_understood_is_not_guessed(text):
    with pytest.raises(NotMath):
        parse(text)


@pytest.mark.parametrize("text", ["-" * 1_400 + "1", "x^" + "-" * 1_400 + "1", "\\frac" * 700, "\\pm" * 700 + "1"])
def test_long_runs_of_signs_and_commands_do_not_exhaust_the_stack(text):
    try:
        parse(text)
    except (NotMath, OutOfBounds):
        return


def test_the_kinds_of_failure_are_siblings():
    assert not issubclass(OutOfBounds, NotMath)
    assert not issubclass(NotMath, OutOfBounds)
