"""What an answer can be, once it is read: scalars, and the containers of scalars. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction


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
    """It stands for something not looked into (``f(2)``, a derivative): two that differ may still be equal."""


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
    found: set[Symbol] = set()
    stack: list[Scalar] = [node]
    while stack:
        top = stack.pop()
        if isinstance(top, Symbol):
            found.add(top)
        elif isinstance(top, Apply):
            stack += top.args
    return found
