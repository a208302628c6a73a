"""The grammar of answers above scalars: lists, tuples, sets, intervals, matrices, relations, units.

Knows no values. What it does not understand raises :class:`~insight_rl.reward.math.latex.NotMath`; nothing is guessed.
"""

from __future__ import annotations

from insight_rl.reward.math.latex import NotMath, Token, clean, tokenize, unit_of, words
from insight_rl.reward.math.nodes import (
    SCALARS,
    Combined,
    Interval,
    Items,
    Matrix,
    Node,
    Number,
    Quantity,
    Relation,
)
from insight_rl.reward.math.scalars import CLOSING, END, ScalarParser

_RELATIONS = {
    "=": "=",
    "==": "=",
    "<": "<",
    ">": ">",
    "<=": "<=",
    ">=": ">=",
    "!=": "!=",
    "\\le": "<=",
    "\\ge": ">=",
    "\\lt": "<",
    "\\gt": ">",
    "\\ne": "!=",
    "\\approx": "approx",
    "\\simeq": "approx",
    "\\in": "in",
    "\\equiv": "equiv",
}
_MATRICES = words("pmatrix bmatrix matrix Bmatrix smallmatrix array vmatrix cases")


def parse(text: str, *, grouped_digits: bool = True) -> Node:
    """Read an answer. ``grouped_digits``: ``1,234`` outside brackets is one number rather than two.

    Raises :class:`NotMath` for anything that is not fully understood.
    """
    tokens = tokenize(clean(text))
    if not tokens:
        raise NotMath("empty")
    return _AnswerParser(tokens, grouped_digits).answer()


class _AnswerParser(ScalarParser):
    # -- lists and relations

    def answer(self) -> Node:
        self.accept("\\approx")
        items = self.items_until_end()
        if self.peek() is not END:
            raise NotMath(f"unexpected {self.peek().text!r}")
        return items[0] if len(items) == 1 else Items("list", tuple(items))

    def items_until_end(self, *closing: str) -> list[Node]:
        """Items between separators, each doubled where it holds a plus-minus sign."""
        items: list[Node] = []
        while self.peek() is not END and self.peek().text not in closing:
            start = self.at
            self.sign_of_pm, self.saw_pm = 1, False
            items.append(self.relation())
            if self.saw_pm:
                self.at, self.sign_of_pm = start, -1
                items.append(self.relation())
            if not self.separator():
                break
        if not items:
            raise NotMath("empty")
        return items

    def separator(self) -> bool:
        found = False
        while self.accept(",", ";", "and", "or"):
            found = True
        return found

    def relation(self) -> Node:
        sides = [self.set_expression()]
        ops: list[str] = []
        while self.peek().kind in ("op", "command") and self.peek().text in _RELATIONS:
            ops.append(_RELATIONS[self.take().text])
            sides.append(self.set_expression())
        if self.accept(":"):
            return self.ratio(sides, ops)
        return Relation(tuple(sides), tuple(ops)) if ops else sides[0]

    def ratio(self, sides: list[Node], ops: list[str]) -> Node:
        terms = [sides[0], self.set_expression()]
        while self.accept(":"):
            terms.append(self.set_expression())
        if ops:
            raise NotMath("a ratio inside a relation")
        return Items("ratio", tuple(terms))

    def set_expression(self) -> Node:
        left = self.quantity()
        while True:
            token = self.peek()
            is_letter_u = token == Token("letter", "U", token.is_spaced) and not isinstance(left, SCALARS)
            if self.accept("\\cup") or (is_letter_u and self.take()):
                left = _combine("union", left, self.quantity())
            elif self.accept("\\cap"):
                left = _combine("intersection", left, self.quantity())
            elif self.accept("\\setminus", "\\backslash"):
                left = _combine("difference", left, self.quantity())
            else:
                return left

    def quantity(self) -> Node:
        degrees_before = self.num_degrees
        value = self.sum()
        words = ["degree"] if self.num_degrees > degrees_before and not self.is_argument else []
        while self.peek().kind == "text" or (words and self.peek().text in ("/", "^")):
            token = self.take()
            if token.kind != "text":
                token = self.unit_operand(token)
            words.append(token.text)
        return Quantity(value, unit_of("".join(words))) if words else value

    def unit_operand(self, operator: Token) -> Token:
        """The rest of a compound unit: ``\\text{m}/\\text{s}``, ``\\text{cm}^2``."""
        if operator.text == "^":
            scalar = self.exponent()
            exponent = scalar.value if isinstance(scalar, Number) else None
            return Token("text", f"^{exponent}", False)
        token = self.take()
        if token.kind not in ("text", "letter"):
            raise NotMath("unit")
        return Token("text", f"/{token.text}", False)

    # -- brackets

    def bracket_items(self, *closing: str) -> list[Node]:
        self.bracket_depth += 1
        num_bars, self.num_bars = self.num_bars, 0
        items = [self.relation()]
        while self.separator():
            items.append(self.relation())
        self.expect(*closing)
        self.bracket_depth -= 1
        self.num_bars = num_bars
        return items

    def bracketed(self, opening: str) -> Node:
        items = self.bracket_items(*CLOSING[opening])
        closing = self.tokens[self.at - 1].text
        if opening in ("\\{", "\\lbrace"):
            return Items("set", tuple(items))
        is_mixed = (opening, closing) in (("(", "]"), ("[", ")"))
        if len(items) == 2 and is_mixed and isinstance(items[0], SCALARS) and isinstance(items[1], SCALARS):
            return Interval(items[0], items[1], opening == "(", closing == ")")
        if is_mixed:
            raise NotMath("brackets do not match")
        if opening == "[" and len(items) > 1:
            if all(isinstance(item, Items) and item.kind == "bracket" for item in items):
                return Matrix(tuple(item.items for item in items if isinstance(item, Items)))
            return Items("bracket", tuple(items))
        if len(items) == 1 and opening in ("(", "["):
            return items[0]
        return Items("tuple", tuple(items))

    def braces(self) -> Node:
        """LaTeX's grouping, or a set where the text is no LaTeX: ``{1, 2}``."""
        items = self.bracket_items("}")
        return items[0] if len(items) == 1 else Items("set", tuple(items))

    def matrix(self, name: str) -> Node:
        """A matrix, or the list that equations below each other are."""
        if name not in _MATRICES:
            raise NotMath(f"environment {name}")
        self.bracket_depth += 1
        rows: list[tuple[Node, ...]] = []
        row: list[Node] = []
        while self.peek().kind != "end":
            row.append(self.relation())
            if self.accept("&"):
                continue
            if self.accept("\\\\"):
                rows.append(tuple(row))
                row = []
        self.take()
        self.bracket_depth -= 1
        if row:
            rows.append(tuple(row))
        if not rows or len({len(row) for row in rows}) != 1:
            raise NotMath("ragged matrix")
        if any(isinstance(entry, Relation) for row in rows for entry in row):
            return Items("list", tuple(entry for row in rows for entry in row))
        return Matrix(tuple(rows), name == "vmatrix")


def _combine(op: str, left: Node, right: Node) -> Combined:
    if isinstance(left, Combined) and left.op == op:
        return Combined(op, (*left.parts, right))
    return Combined(op, (left, right))
