"""Whether a parsed answer is the parsed gold answer, by the conventions of answers.

Every rule returns ``True``, ``False`` or ``None``, which is "cannot be decided here" (the caller then asks a computer
algebra system). The rules, gold first:

- order matters in tuples, not in sets and in lists without brackets; ``x = 1, y = 2`` is matched by name, and by place
  against a list without names;
- an equation is the side that says what a name is (``x = 5`` and ``5 = x`` are 5, ``f(x) = x + 1`` is ``x + 1``) when
  the other is no equation; an answer without a name on either side (``6 * 7 = 42``) is its last side;
- an answer with two constant sides that differ (``43 = 42``) is never right;
- two equations are the same when one is a constant multiple of the other, inequalities when that constant is positive;
- an inequality in one variable is its interval;
- one percent sign too few or too many is forgiven at the value written, so ``10%`` is 10 and 0.1; a unit on one side
  only is ignored, two different known units are not.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from insight_rl.reward.math.errors import OutOfBounds
from insight_rl.reward.math.nodes import (
    SCALARS,
    Apply,
    Combined,
    Constant,
    Interval,
    Items,
    Matrix,
    NamedSet,
    Node,
    Quantity,
    Relation,
    Scalar,
    Symbol,
    ops_of,
    symbols_of,
)
from insight_rl.reward.math.value import is_multiple, is_rounded_to, rough_value, same_value
from insight_rl.reward.math.vocabulary import INVERSE, TRIGONOMETRIC

MAX_ITEMS = 200
_FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!="}
_INFINITY = Constant("inf")
_BASE_OR_UNIT = frozenset(("log", *TRIGONOMETRIC, *INVERSE.values()))
_MINUS_INFINITY = Apply("neg", (_INFINITY,))
_REALS = [Interval(_MINUS_INFINITY, _INFINITY, True, True)]

Verdict = bool | None


def same(gold: Node, answer: Node, *, tolerance: float = 0.0) -> Verdict:
    """Whether ``answer`` is ``gold`` by the rules at the top. Raises :class:`OutOfBounds` for values too large."""
    return _Comparison(tolerance).same(gold, answer)


class _Comparison:
    def __init__(self, tolerance: float) -> None:
        self.tolerance = tolerance

    def same(self, gold: Node, answer: Node) -> Verdict:
        if gold == answer:
            return True
        gold, answer, units_fit = _without_units(gold, answer)
        if not units_fit:
            return False
        if isinstance(gold, Relation) or isinstance(answer, Relation):
            return self.relations(gold, answer)
        if _is_list(gold) or _is_list(answer):
            return self.lists(_items_of(gold), _items_of(answer), gold, answer)
        if isinstance(gold, SCALARS) and isinstance(answer, SCALARS):
            return self.scalars(gold, answer)
        if isinstance(gold, Matrix) or isinstance(answer, Matrix):
            return self.matrices(gold, answer)
        if isinstance(gold, Items) and isinstance(answer, Items) and gold.kind == answer.kind:
            return self.in_order(gold.items, answer.items)
        if (isinstance(gold, Items) and gold.kind == "ratio") or (isinstance(answer, Items) and answer.kind == "ratio"):
            return self.ratio(gold, answer)
        return self.sets(gold, answer)

    # -- scalars

    def scalars(self, gold: Scalar, answer: Scalar) -> Verdict:
        gold_pct, answer_pct = _percent(gold), _percent(answer)
        if (gold_pct is None) == (answer_pct is None):
            return same_value(gold_pct or gold, answer_pct or answer, tolerance=self.tolerance)
        bare = same_value(gold_pct or gold, answer_pct or answer, tolerance=self.tolerance)
        return bare or _either(bare, same_value(gold, answer, tolerance=self.tolerance))

    def ratio(self, gold: Node, answer: Node) -> Verdict:
        """``2:3`` against ``2/3``."""
        pair = [_quotient(node) for node in (gold, answer)]
        if pair[0] is None or pair[1] is None:
            return False
        return same_value(pair[0], pair[1], tolerance=self.tolerance)

    # -- containers

    def in_order(self, gold_items: Sequence[Node], answer_items: Sequence[Node]) -> Verdict:
        if len(gold_items) != len(answer_items):
            return False
        return _all(self.same(g, a) for g, a in zip(gold_items, answer_items, strict=True))

    def lists(self, gold_items: Sequence[Node], answer_items: Sequence[Node], gold: Node, answer: Node) -> Verdict:
        """At least one side is a list without brackets or a set in braces."""
        has_inequality = any(_is_inequality(item) for item in (*gold_items, *answer_items))
        if has_inequality or isinstance(gold, Combined) or isinstance(answer, Combined):
            return _either(self.unordered(gold_items, answer_items), self.as_set(gold, answer))
        kinds = {node.kind for node in (gold, answer) if isinstance(node, Items)}
        if "tuple" in kinds or "bracket" in kinds:
            is_interval = len(gold_items) == 2 and "bracket" in kinds
            return False if is_interval else self.in_order(gold_items, answer_items)
        gold_names, answer_names = _names(gold_items), _names(answer_items)
        if gold_names and answer_names:
            if sorted(gold_names) != sorted(answer_names):
                return _either(self.as_set(gold, answer), self.unordered(gold_items, answer_items))
        elif gold_names and len(set(gold_names)) > 1:
            return self.in_order(gold_items, answer_items)
        return self.unordered(gold_items, answer_items)

    def unordered(self, gold_items: Sequence[Node], answer_items: Sequence[Node]) -> Verdict:
        """Equal as sets: repeated elements count once."""
        if max(len(gold_items), len(answer_items)) > MAX_ITEMS:
            raise OutOfBounds("too many items")
        if len(gold_items) == len(answer_items):
            in_order = self.in_order(_sorted(gold_items), _sorted(answer_items))
            if in_order:
                return True
        unmatched = list(range(len(gold_items)))
        is_certain = True
        for answer in answer_items:
            matches = [self.same(gold, answer) for gold in gold_items]
            is_certain &= None not in matches
            if True not in matches:
                return False if None not in matches else None
            unmatched = [index for index in unmatched if not matches[index]]
        if not unmatched:
            return True
        return False if is_certain else None

    def matrices(self, gold: Node, answer: Node) -> Verdict:
        rows = [_rows(node) for node in (gold, answer)]
        if rows[0] is None or rows[1] is None:
            return False
        if isinstance(gold, Matrix) and isinstance(answer, Matrix) and gold.is_determinant != answer.is_determinant:
            return None
        if [len(row) for row in rows[0]] != [len(row) for row in rows[1]]:
            return False
        return _all(self.in_order(g, a) for g, a in zip(rows[0], rows[1], strict=True))

    # -- sets of numbers

    def sets(self, gold: Node, answer: Node) -> Verdict:
        if isinstance(gold, NamedSet) and isinstance(answer, NamedSet):
            return gold.name == answer.name
        if isinstance(gold, SCALARS) or isinstance(answer, SCALARS) or _is_point(gold) or _is_point(answer):
            return False
        return self.as_set(gold, answer)

    def as_set(self, gold: Node, answer: Node) -> Verdict:
        """Both as unions of intervals and points, part by part."""
        gold_parts, answer_parts = _parts(gold), _parts(answer)
        if gold_parts is None or answer_parts is None:
            return None
        gold_parts, answer_parts = _merged(gold_parts), _merged(answer_parts)
        if len(gold_parts) != len(answer_parts):
            return False
        return self.intervals(gold_parts, answer_parts)

    def intervals(self, gold_parts: list[Interval], answer_parts: list[Interval]) -> Verdict:
        return _all(
            _all(
                (
                    (g.is_low_open or _is_infinite(g.low)) == (a.is_low_open or _is_infinite(a.low)),
                    (g.is_high_open or _is_infinite(g.high)) == (a.is_high_open or _is_infinite(a.high)),
                    self.scalars(g.low, a.low),
                    self.scalars(g.high, a.high),
                )
            )
            for g, a in zip(gold_parts, answer_parts, strict=True)
        )

    # -- relations

    def relations(self, gold: Node, answer: Node) -> Verdict:
        if isinstance(answer, Relation) and self.is_false(answer):
            return False
        if isinstance(gold, Relation) and isinstance(answer, Relation):
            return self.two_relations(gold, answer)
        if isinstance(answer, Relation):
            if _is_inequality(answer):
                return False if isinstance(gold, SCALARS) else self.as_set(gold, answer)
            if "approx" in answer.ops:
                return self.approximation(gold, answer)
            return self.same(gold, _value_side(answer))
        assert isinstance(gold, Relation)
        if _is_inequality(gold):
            return False if isinstance(answer, SCALARS) else self.as_set(gold, answer)
        if "approx" in gold.ops:
            return _either(*(self.same(side, answer) for side in gold.sides if not isinstance(side, Symbol)))
        if set(gold.ops) <= {"=", "in", "equiv"} and any(_is_bare(side) for side in (gold.sides[0], gold.sides[-1])):
            return self.same(_value_side(gold), answer)
        return False

    def is_false(self, relation: Relation) -> bool:
        """Whether two neighbouring sides of an equation are constants that differ by more than rounding."""
        return any(
            op == "=" and isinstance(left, SCALARS) and isinstance(right, SCALARS) and self.differ(left, right)
            for left, op, right in zip(relation.sides, relation.ops, relation.sides[1:], strict=False)
        )

    def differ(self, left: Scalar, right: Scalar) -> bool:
        """For certain: ``log 100 = 2`` and ``sin 30 = 0.5`` are true in another base and unit than ours."""
        if symbols_of(left) or symbols_of(right) or not _BASE_OR_UNIT.isdisjoint({*ops_of(left), *ops_of(right)}):
            return False
        return self.scalars(left, right) is False and not (is_rounded_to(left, right) or is_rounded_to(right, left))

    def approximation(self, gold: Node, answer: Relation) -> Verdict:
        """An exact value with its decimal form: either may be the gold, if they are near each other."""
        sides = [side for side in answer.sides if isinstance(side, SCALARS) and not isinstance(side, Symbol)]
        if not sides:
            return None
        if len(sides) > 1 and not same_value(sides[0], sides[-1], tolerance=0.01):
            return False
        return _either(*(self.same(gold, side) for side in (sides[0], sides[-1])))

    def two_relations(self, gold: Relation, answer: Relation) -> Verdict:
        if _is_inequality(gold) != _is_inequality(answer):
            return False
        if _is_inequality(gold):
            return _either(self.same_inequality(gold, answer), self.as_set(gold, answer))
        if "approx" in gold.ops or "approx" in answer.ops:
            return self.same(gold.sides[-1], answer.sides[-1])
        gold_name, answer_name = gold.sides[0], answer.sides[0]
        if _is_bare(gold_name) and gold_name == answer_name:
            last = self.same(gold.sides[-1], answer.sides[-1])
            is_explicit = not any(_mentions(side, gold_name) for side in (gold.sides[-1], answer.sides[-1]))
            if is_explicit or last is not False:
                return last
        return self.same_equation(gold, answer)

    def same_equation(self, gold: Relation, answer: Relation) -> Verdict:
        """``gold[0] - gold[-1]`` a constant multiple of ``answer[0] - answer[-1]``."""
        ends = _scalar_ends(gold, answer)
        if ends is None:
            if gold.ops == answer.ops == ("=",):
                return _either(self.in_order(gold.sides, answer.sides), self.in_order(gold.sides, answer.sides[::-1]))
            return None
        ratio = is_multiple(*ends)
        return None if ratio is None else ratio != 0

    def same_inequality(self, gold: Relation, answer: Relation) -> Verdict:
        if len(gold.ops) != 1 or len(answer.ops) != 1:
            return None
        ends = _scalar_ends(gold, answer)
        ratio = None if ends is None else is_multiple(*ends)
        if ratio is None:
            return None
        op = answer.ops[0] if ratio > 0 else _FLIPPED.get(answer.ops[0])
        return ratio != 0 and gold.ops[0] == op


# -- views of nodes


def _without_units(gold: Node, answer: Node) -> tuple[Node, Node, bool]:
    if not isinstance(gold, Quantity) and not isinstance(answer, Quantity):
        return gold, answer, True
    units = [node.unit if isinstance(node, Quantity) else _percent_unit(node) for node in (gold, answer)]
    fit = units[0] is None or units[1] is None or units[0] == units[1]
    values = [node.value if isinstance(node, Quantity) else node for node in (gold, answer)]
    return values[0], values[1], fit


def _percent_unit(node: Node) -> str | None:
    return "%" if isinstance(node, SCALARS) and _percent(node) is not None else None


def _percent(node: Scalar) -> Scalar | None:
    """The number before a percent sign."""
    if isinstance(node, Apply) and node.op == "pct":
        return node.args[0]
    if isinstance(node, Apply) and node.op == "neg":
        inside = _percent(node.args[0])
        return None if inside is None else Apply("neg", (inside,))
    return None


def _quotient(node: Node) -> Scalar | None:
    if isinstance(node, SCALARS):
        return node
    if isinstance(node, Items) and node.kind == "ratio" and len(node.items) == 2:
        first, second = node.items
        if isinstance(first, SCALARS) and isinstance(second, SCALARS) and rough_value(second):
            return Apply("div", (first, second))
    return None


def _is_list(node: Node) -> bool:
    return isinstance(node, Items) and node.kind in ("list", "set")


def _items_of(node: Node) -> Sequence[Node]:
    if isinstance(node, Items) and node.kind != "ratio":
        return node.items
    return (node,)


def _names(items: Sequence[Node]) -> list[str]:
    """The names in ``a = 1, b = 2``; empty unless every item has one."""
    names: list[str] = []
    for item in items:
        if not (isinstance(item, Relation) and set(item.ops) == {"="} and _is_bare(item.sides[0])):
            return []
        names.append(repr(item.sides[0]))
    return names


def _is_bare(node: Node) -> bool:
    """Made of names only, such as ``x``, ``f(x)``, ``NO/BO`` or ``(p, q)``: what stands left in an assignment."""
    if isinstance(node, Items):
        return all(_is_bare(item) for item in node.items)
    if isinstance(node, Apply):
        return all(_is_bare(arg) for arg in node.args)
    return isinstance(node, (Symbol, Constant))


def _value_side(relation: Relation) -> Node:
    """The side of an equation that says what the other names: the last one, unless that is the name."""
    first, last = relation.sides[0], relation.sides[-1]
    return first if isinstance(last, Symbol) and not isinstance(first, Symbol) else last


def _mentions(node: Node, name: Node) -> bool:
    return not isinstance(node, SCALARS) or not isinstance(name, Symbol) or name in symbols_of(node)


def _is_inequality(node: Node) -> bool:
    return isinstance(node, Relation) and any(op in ("<", ">", "<=", ">=", "!=") for op in node.ops)


def _is_infinite(node: Scalar) -> bool:
    return node in (_INFINITY, _MINUS_INFINITY)


def _scalar_ends(gold: Relation, answer: Relation) -> tuple[tuple[Scalar, Scalar], tuple[Scalar, Scalar]] | None:
    ends = (gold.sides[0], gold.sides[-1], answer.sides[0], answer.sides[-1])
    scalars = tuple(node for node in ends if isinstance(node, SCALARS))
    return ((scalars[0], scalars[1]), (scalars[2], scalars[3])) if len(scalars) == 4 else None


def _rows(node: Node) -> tuple[tuple[Node, ...], ...] | None:
    if isinstance(node, Matrix):
        return node.rows
    if isinstance(node, Items) and node.kind == "bracket":
        return (node.items,)
    return None


def _sorted(items: Sequence[Node]) -> Sequence[Node]:
    """By value where all are real constants, as they stand otherwise."""
    values = [rough_value(item) if isinstance(item, SCALARS) else None for item in items]
    known = [value for value in values if value is not None]
    if len(known) != len(items):
        return items
    return [items[index] for index in sorted(range(len(items)), key=known.__getitem__)]


def _end(scalar: Scalar) -> float:
    """An end of an interval as a double; ``nan`` where it is no number."""
    if _is_infinite(scalar):
        return math.inf if scalar == _INFINITY else -math.inf
    value = rough_value(scalar)
    return math.nan if value is None else value


def _merged(parts: list[Interval]) -> list[Interval]:
    """In order of their low ends, those that overlap or touch as one; empty ones left out."""
    if any(math.isnan(_end(end)) for part in parts for end in (part.low, part.high)):
        return parts
    merged: list[Interval] = []
    for part in sorted(parts, key=lambda part: (_end(part.low), part.is_low_open)):
        is_point_missing = part.is_low_open or part.is_high_open
        if _end(part.low) > _end(part.high) or (_end(part.low) == _end(part.high) and is_point_missing):
            continue
        last = merged[-1] if merged else None
        if last is None or not _touches(last, part):
            merged.append(part)
        elif (_end(part.high), not part.is_high_open) > (_end(last.high), not last.is_high_open):
            merged[-1] = Interval(last.low, part.high, last.is_low_open, part.is_high_open)
    return merged


def _touches(left: Interval, right: Interval) -> bool:
    gap = _end(right.low) - _end(left.high)
    return gap < 0 or (gap == 0 and not (left.is_high_open and right.is_low_open))


def _is_point(node: Node) -> bool:
    """A tuple that cannot be an interval."""
    return isinstance(node, Items) and node.kind in ("tuple", "bracket") and len(node.items) != 2


def _parts(node: Node) -> list[Interval] | None:
    """A set of real numbers as intervals, a point being a closed one; ``None`` for anything else."""
    if isinstance(node, Interval):
        return [node]
    if isinstance(node, Relation):
        return _solution(node)
    if isinstance(node, NamedSet) and node.name == "R":
        return _REALS
    if isinstance(node, Items) and node.kind in ("tuple", "bracket") and len(node.items) == 2:
        low, high = node.items
        is_open = node.kind == "tuple"
        if isinstance(low, SCALARS) and isinstance(high, SCALARS):
            return [Interval(low, high, is_open, is_open)]
        return None
    members: Sequence[Node] = ()
    if (isinstance(node, Items) and node.kind == "list") or (isinstance(node, Combined) and node.op == "union"):
        members = node.items if isinstance(node, Items) else node.parts
    elif isinstance(node, Items) and node.kind == "set":
        points = [item for item in node.items if isinstance(item, SCALARS)]
        return [Interval(p, p, False, False) for p in points] if len(points) == len(node.items) else None
    parts: list[Interval] = []
    for member in members:
        inner = _parts(member)
        if inner is None:
            return None
        parts += inner
    if len(parts) == 2 and all(_is_inequality(member) for member in members):
        return [_overlap(*parts) or parts[0]] if _merged(parts) == _REALS else parts
    return parts or None


def _overlap(first: Interval, second: Interval) -> Interval | None:
    """``x > 1, x < 2``: two half-lines whose union is everything can only be meant together."""
    left, right = (first, second) if _is_infinite(first.low) else (second, first)
    if not _is_infinite(left.low) or not _is_infinite(right.high):
        return None
    return Interval(right.low, left.high, right.is_low_open, left.is_high_open)


def _solution(relation: Relation) -> list[Interval] | None:
    """``x < 2``, ``2 > x``, ``-1 < x <= 2`` or ``x in (1, 2)`` as intervals."""
    sides, ops = relation.sides, relation.ops
    if ops == ("in",):
        return _parts(sides[1])
    if ops == ("=",) and isinstance(sides[0], Symbol) and isinstance(sides[1], SCALARS):
        return [Interval(sides[1], sides[1], False, False)]
    if not all(isinstance(side, SCALARS) for side in sides) or not set(ops) <= {"<", ">", "<=", ">="}:
        return None
    scalars = [side for side in sides if isinstance(side, SCALARS)]
    if isinstance(scalars[0], Symbol) and len(ops) == 1:
        scalars, ops = scalars[::-1], (_FLIPPED[ops[0]],)
    # Now the variable is second: "5 > x", "-1 < x <= 2".
    if not isinstance(scalars[1], Symbol) or len(scalars) > 3 or len({op[0] for op in ops}) != 1:
        return None
    ends = [(scalar, op == ops[0][0]) for scalar, op in zip(scalars[::2], ops, strict=True)]
    if ops[0][0] == ">":
        low, high = (ends[1] if len(ends) == 2 else (_MINUS_INFINITY, True)), ends[0]
    else:
        low, high = ends[0], (ends[1] if len(ends) == 2 else (_INFINITY, True))
    return [Interval(low[0], high[0], low[1], high[1])]


# -- three-valued logic


def _all(verdicts: Iterable[Verdict]) -> Verdict:
    """False if any is, else ``None`` if any is, else True; stops at the first False."""
    result: Verdict = True
    for verdict in verdicts:
        if verdict is False:
            return False
        if verdict is None:
            result = None
    return result


def _either(*verdicts: Verdict) -> Verdict:
    if True in verdicts:
        return True
    return None if None in verdicts or not verdicts else False
