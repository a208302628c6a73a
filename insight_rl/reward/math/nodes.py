"""What an answer can be, once it is read: scalars, the containers of scalars, and how they are made and rewritten."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from insight_rl.reward.math.errors import NotMath


@dataclass(frozen=True, slots=True)
class Number:
    """A literal, e.g. ``Number(Fraction(1, 4), 2)`` for ``0.25``."""

    value: Fraction
    num_decimals: int | None = None
    """Digits written after the decimal point; ``None`` for an integer."""


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, e.g. ``Symbol("x")`` or ``Symbol("a_1")``."""

    name: str
    is_opaque: bool = False
    """The name is a whole expression that is not evaluated, such as ``f(x+1)`` or a derivative.

    Different names of this kind may mean the same (``f(x+1)`` and ``f(1+x)``), so a difference proves nothing.
    """


@dataclass(frozen=True, slots=True)
class Constant:
    """pi, e, i or infinity."""

    name: str


@dataclass(frozen=True, slots=True)
class Apply:
    """An operation, e.g. ``Apply("add", (Symbol("x"), Number(Fraction(1))))``."""

    op: str
    args: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Quantity:
    """A value followed by text that is its unit."""

    value: Node
    unit: str | None
    """In one spelling; ``None`` for text that is no known unit."""


@dataclass(frozen=True, slots=True)
class Items:
    """Several nodes: ``list`` (no brackets), ``tuple`` (), ``bracket`` [], ``set`` {} or ``ratio`` a:b."""

    kind: str
    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Interval:
    low: Scalar
    high: Scalar
    is_low_open: bool
    is_high_open: bool


@dataclass(frozen=True, slots=True)
class Combined:
    """``union``, ``intersection`` or ``difference`` of sets."""

    op: str
    parts: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class NamedSet:
    """``R``, ``Z``, ``N``, ``Q``, ``C`` or ``empty``."""

    name: str


@dataclass(frozen=True, slots=True)
class Relation:
    """``sides[0] ops[0] sides[1] ops[1] ...``, e.g. ``-1 < x <= 2``."""

    sides: tuple[Node, ...]
    ops: tuple[str, ...]
    """Each one of = < > <= >= != approx in equiv."""


@dataclass(frozen=True, slots=True)
class Matrix:
    rows: tuple[tuple[Node, ...], ...]
    is_determinant: bool = False


Scalar = Number | Symbol | Constant | Apply
Node = Scalar | Quantity | Items | Interval | Combined | NamedSet | Relation | Matrix
SCALARS = (Number, Symbol, Constant, Apply)


def symbols_of(node: Scalar) -> set[Symbol]:
    """Every symbol under ``node``."""
    return {part for part in _parts_of(node) if isinstance(part, Symbol)}


def ops_of(node: Scalar) -> set[str]:
    """The name of every operation under ``node``."""
    return {part.op for part in _parts_of(node) if isinstance(part, Apply)}


def _parts_of(node: Scalar) -> list[Scalar]:
    """``node`` and everything under it."""
    parts: list[Scalar] = [node]
    for part in parts:
        if isinstance(part, Apply):
            parts += part.args
    return parts


def apply_op(op: str, *args: Node) -> Apply:
    """``op`` applied to scalars. Raises :class:`NotMath` if one of ``args`` is no scalar."""
    scalars = tuple(arg for arg in args if isinstance(arg, SCALARS))
    if len(scalars) != len(args):
        raise NotMath(f"{op} of something that is no scalar")
    return Apply(op, scalars)


def negated(node: Node) -> Scalar:
    """Minus ``node``; a literal keeps being a literal. Raises :class:`NotMath` if it is no scalar."""
    if isinstance(node, Number):
        return Number(-node.value, node.num_decimals)
    return apply_op("neg", node)


def combined(op: str, left: Node, right: Node) -> Combined:
    """``left op right`` for sets; a chain of one operation becomes one node."""
    if isinstance(left, Combined) and left.op == op:
        return Combined(op, (*left.parts, right))
    return Combined(op, (left, right))


def is_proper_fraction(node: Node) -> bool:
    """Whether ``node`` is written as one integer over a larger one, such as 1/2."""
    if not (isinstance(node, Apply) and node.op == "div"):
        return False
    top, bottom = node.args
    return (
        isinstance(top, Number)
        and isinstance(bottom, Number)
        and top.num_decimals is None
        and bottom.num_decimals is None
        and 0 < top.value < bottom.value
    )


Rules = Mapping[str, Callable[[Scalar], Scalar]]


def rewrite(node: Node, rules: Rules) -> Node:
    """``node`` with every operation ``op`` of one argument that ``rules`` names replaced by ``rules[op](argument)``.

    E.g. ``rewrite(node, {"pm": negated})`` takes the minus of every plus-minus sign.
    """
    if isinstance(node, SCALARS):
        return rewrite_scalar(node, rules)
    if isinstance(node, Quantity):
        return Quantity(rewrite(node.value, rules), node.unit)
    if isinstance(node, Items):
        return Items(node.kind, tuple(rewrite(item, rules) for item in node.items))
    if isinstance(node, Interval):
        low, high = rewrite_scalar(node.low, rules), rewrite_scalar(node.high, rules)
        return Interval(low, high, node.is_low_open, node.is_high_open)
    if isinstance(node, Combined):
        return Combined(node.op, tuple(rewrite(part, rules) for part in node.parts))
    if isinstance(node, Relation):
        return Relation(tuple(rewrite(side, rules) for side in node.sides), node.ops)
    if isinstance(node, Matrix):
        return Matrix(tuple(tuple(rewrite(entry, rules) for entry in row) for row in node.rows), node.is_determinant)
    return node


def rewrite_scalar(node: Scalar, rules: Rules) -> Scalar:
    """:func:`rewrite` for a scalar."""
    if not isinstance(node, Apply):
        return node
    args = tuple(rewrite_scalar(arg, rules) for arg in node.args)
    if node.op in rules:
        return rules[node.op](args[0])
    return Apply(node.op, args)
