"""The grammar of answers, by recursive descent: scalars, lists, tuples, sets, intervals, matrices, relations, units.

What it does not understand raises :class:`~insight_rl.reward.math.errors.NotMath`; nothing is guessed. The parser reads
the tokens once, from left to right. Two signs are kept as operations until their meaning is known: ``pm`` and ``mp``
until the whole item is read (it then stands for two), ``deg`` until the function or the quantity around it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from insight_rl.reward.math.cursor import END, Cursor
from insight_rl.reward.math.errors import NotMath
from insight_rl.reward.math.latex import Token, clean, closing_braces, tokenize
from insight_rl.reward.math.nodes import (
    SCALARS,
    Constant,
    Interval,
    Items,
    Matrix,
    NamedSet,
    Node,
    Number,
    Quantity,
    Relation,
    Scalar,
    Symbol,
    apply_op,
    combined,
    is_proper_fraction,
    negated,
    rewrite,
)
from insight_rl.reward.math.vocabulary import (
    ACCENTS,
    ALIASES,
    CLOSING,
    CONSTANTS,
    FENCES,
    GREEK,
    INVERSE,
    MATRICES,
    PREFIXES,
    RELATIONS,
    TRIGONOMETRIC,
    unit_of,
)

_DEGREE = apply_op("div", Constant("pi"), Number(Fraction(180)))


def parse(text: str, *, grouped_digits: bool = True) -> Node:
    """Read an answer. ``grouped_digits``: ``1,234`` outside brackets is one number rather than two.

    Raises :class:`NotMath` for anything that is not fully understood, :class:`OutOfBounds` for what is too large.
    """
    tokens = tokenize(clean(text))
    if not tokens:
        raise NotMath("empty")
    return _Parser(tokens, grouped_digits).answer()


def _same_scalar(node: Scalar) -> Scalar:
    return node


def _without_degrees(node: Node) -> Node:
    return rewrite(node, {"deg": _same_scalar})


class _Parser(Cursor):
    def __init__(self, tokens: Sequence[Token], grouped_digits: bool) -> None:
        super().__init__(tokens)
        self.grouped_digits = grouped_digits
        texts = {token.text for token in tokens}
        self.has_degrees = "\\circ" in texts
        self.has_plus_minus = "\\pm" in texts or "\\mp" in texts
        self.closing = closing_braces(tokens) if "\\frac" in texts else {}
        self.bracket_depth = 0
        self.num_open_bars = 0

    # -- lists and relations

    def answer(self) -> Node:
        self.accept("\\approx")
        items: list[Node] = []
        while self.peek() is not END:
            items += self.both_signs(self.relation())
            if not self.separator():
                break
        if not items:
            raise NotMath("empty")
        if self.peek() is not END:
            raise NotMath(f"unexpected {self.peek().text!r}")
        return items[0] if len(items) == 1 else Items("list", tuple(items))

    def both_signs(self, item: Node) -> list[Node]:
        """``item``, or the two that it stands for if it holds a plus-minus sign."""
        if not self.has_plus_minus:
            return [item]
        plus = rewrite(item, {"pm": _same_scalar, "mp": negated})
        minus = rewrite(item, {"pm": negated, "mp": _same_scalar})
        return [plus] if plus == minus else [plus, minus]

    def separator(self) -> bool:
        found = False
        while self.accept(",", ";", "and", "or"):
            found = True
        return found

    def relation(self) -> Node:
        sides = [self.set_expression()]
        ops: list[str] = []
        while self.peek().kind in ("op", "command") and self.peek().text in RELATIONS:
            ops.append(RELATIONS[self.take().text])
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
                left = combined("union", left, self.quantity())
            elif self.accept("\\cap"):
                left = combined("intersection", left, self.quantity())
            elif self.accept("\\setminus", "\\backslash"):
                left = combined("difference", left, self.quantity())
            else:
                return left

    def quantity(self) -> Node:
        """A scalar or container with the unit that follows it."""
        written = self.sum()
        value = _without_degrees(written) if self.has_degrees else written
        words = ["degree"] if value != written else []
        while self.peek().kind == "text" or (words and self.peek().text in ("/", "^")):
            token = self.take()
            words.append(token.text if token.kind == "text" else self.unit_operand(token))
        return Quantity(value, unit_of("".join(words))) if words else value

    def unit_operand(self, operator: Token) -> str:
        """The rest of a compound unit: ``\\text{m}/\\text{s}``, ``\\text{cm}^2``."""
        if operator.text == "^":
            scalar = self.exponent()
            return f"^{scalar.value if isinstance(scalar, Number) else None}"
        token = self.take()
        if token.kind not in ("text", "letter"):
            raise NotMath("unit")
        return f"/{token.text}"

    # -- scalars

    def sum(self) -> Node:
        self.enter()
        left = self.signed_product()
        while True:
            if self.accept("+"):
                left = apply_op("add", left, self.product())
            elif self.accept("-"):
                left = apply_op("add", left, apply_op("neg", self.product()))
            elif self.accept("\\pm"):
                left = apply_op("add", left, apply_op("pm", self.product()))
            elif self.accept("\\mp"):
                left = apply_op("add", left, apply_op("mp", self.product()))
            else:
                self.depth -= 1
                return left

    def signed_product(self) -> Node:
        """A product with the signs before it: ``-3``, ``+-3``, ``\\pm 3``."""
        is_negative = has_both_signs = False
        while True:
            if self.accept("-"):
                is_negative = not is_negative
            elif self.accept("\\pm", "\\mp"):
                has_both_signs = True
            elif not self.accept("+"):
                break
        node = self.product()
        if has_both_signs:
            return apply_op("pm", node)
        return negated(node) if is_negative else node

    def product(self) -> Node:
        left = self.power()
        while True:
            if self.accept("*", "\\cdot", "\\times", "\\ast"):
                left = apply_op("mul", left, self.signed_factor())
            elif self.accept("/", "\\div"):
                left = apply_op("div", left, self.signed_factor())
            elif self.starts_factor():
                left = self.adjacent(left)
            else:
                return left

    def signed_factor(self) -> Node:
        if self.accept("-"):
            return apply_op("neg", self.power())
        return self.power()

    def adjacent(self, left: Node) -> Node:
        """Two factors without a sign between them: a product, or a mixed number such as ``3 1/2``."""
        is_integer = isinstance(left, Number) and left.num_decimals is None
        if self.peek().kind == "number" and isinstance(left, Number):
            if not (
                is_integer and self.peek().is_spaced and self.peek(1).text == "/" and self.peek(2).kind == "number"
            ):
                raise NotMath("two numbers side by side")
            numerator = self.power()
            self.take()
            right: Node = apply_op("div", numerator, self.power())
            is_fraction = True
        else:
            is_fraction = self.peek().text == "\\frac"
            right = self.power()
        is_mixed = is_integer and is_fraction and is_proper_fraction(right)
        return apply_op("add" if is_mixed else "mul", left, right)

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("number", "letter", "name"):
            return not (token.text == "U" and self.peek(1).text in CLOSING)
        if token.kind == "command":
            name = token.text[1:]
            starts = token.text in ("\\frac", "\\sqrt", "\\binom", "\\{", *CONSTANTS, *PREFIXES, *ACCENTS)
            return starts or name in GREEK or token.text in FENCES
        return token.text in ("(", "{") or (token.text == "|" and self.num_open_bars == 0) or token.text == "["

    def power(self) -> Node:
        base = self.postfix(self.atom())
        while self.accept("^"):
            base = apply_op("deg", base) if self.is_degree() else self.postfix(apply_op("pow", base, self.exponent()))
        return base

    def is_degree(self) -> bool:
        braced = [self.peek(i).text for i in range(3)] == ["{", "\\circ", "}"]
        if braced:
            self.at += 3
        return braced or self.accept("\\circ")

    def exponent(self) -> Node:
        self.enter()
        if self.accept("-"):
            node: Node = negated(self.exponent())
        elif self.accept("+"):
            node = self.exponent()
        elif self.accept("{"):
            node = self.sum()
            self.expect("}")
        else:
            node = self.atom()
            if self.accept("^"):
                node = apply_op("pow", node, self.exponent())
        self.depth -= 1
        return node

    def postfix(self, node: Node) -> Node:
        while True:
            if self.accept("!"):
                node = apply_op("fact", node)
            elif self.accept("%"):
                node = apply_op("pct", node)
            else:
                return node

    def atom(self) -> Node:
        self.enter()
        token = self.take()
        if token.kind == "number":
            node: Node = self.number(token)
        elif token.kind == "letter":
            node = self.symbol(token.text)
        elif token.kind == "name":
            node = self.function(token.text)
        elif token.kind == "begin":
            node = self.matrix(token.text)
        elif token.kind == "command":
            node = self.command(token.text)
        elif token.text in ("(", "["):
            node = self.bracketed(token.text)
        elif token.text == "{":
            node = self.braces()
        elif token.text == "|":
            node = self.bars()
        else:
            raise NotMath(f"unexpected {token.text!r}")
        self.depth -= 1
        return node

    def number(self, token: Token) -> Scalar:
        number = self.number_after(token, grouped=self.grouped_digits and self.bracket_depth == 0)
        if self.peek().text != "_" or not token.text.isdigit():
            return number
        self.take()
        base = self.exponent()
        if not isinstance(base, Number):
            raise NotMath("base")
        return Symbol(f"{number.value}_{base.value}")

    def symbol(self, name: str) -> Scalar:
        if name in ("e", "i") and self.peek().text not in ("_", "'") and not self.has_index():
            return Constant(name)
        name = self.name_of(name)
        if self.peek().text == "(" and not self.peek().is_spaced and self.is_application(name):
            start = self.at
            self.take()
            self.bracketed("(")
            return Symbol(name + self.text_since(start), is_opaque=True)
        return Symbol(name)

    def is_application(self, name: str) -> bool:
        """``f(x+1)``, ``I(0)`` and ``P(a, b)`` are values of functions; ``x(y+1)`` is a product."""
        inside = self.peek(1)
        is_single = inside.kind in ("number", "letter") and self.peek(2).text == ")"
        is_pair = inside.kind in ("number", "letter") and self.peek(2).text == ","
        return is_single or is_pair or name[0] in "fgh"

    def function(self, name: str) -> Scalar:
        name = ALIASES.get(name, name)
        if name == "sqrt":
            return self.root()
        power: Node | None = None
        base: Node | None = None
        if self.accept("_"):
            base = self.exponent()
        if self.accept("^"):
            power = self.exponent()
            if power == Number(Fraction(-1)) and name in INVERSE:
                name, power = INVERSE[name], None
        args = self.arguments()
        if self.has_degrees:
            args = tuple(self.in_radians(arg) if name in TRIGONOMETRIC else self.with_degrees(arg) for arg in args)
        if base is not None:
            if name != "log":
                raise NotMath("subscript")
            args = (*args, base)
        node = apply_op(name, *args)
        return node if power is None else apply_op("pow", node, power)

    def in_radians(self, arg: Node) -> Node:
        """The argument of a trigonometric function: ``30^\\circ`` is pi/6."""
        arg = self.with_degrees(arg)
        value = _without_degrees(arg)
        return arg if value == arg else apply_op("mul", value, _DEGREE)

    def with_degrees(self, arg: Node) -> Node:
        """An argument in brackets was read as a quantity; here it is a scalar again."""
        return apply_op("deg", arg.value) if isinstance(arg, Quantity) and arg.unit == "degree" else arg

    def arguments(self) -> tuple[Node, ...]:
        if self.peek().text == "(":
            self.take()
            return tuple(self.bracket_items(")"))
        if self.peek().text == "{":
            return (self.atom(),)
        factors = [self.signed_factor()]
        while self.starts_factor() and self.peek().kind != "name" and self.peek().text != "(":
            factors.append(self.power())
        node = factors[0]
        for factor in factors[1:]:
            node = apply_op("mul", node, factor)
        if self.accept("/"):
            node = apply_op("div", node, self.power())
        return (node,)

    def root(self) -> Scalar:
        degree: Node = Number(Fraction(2))
        if self.accept("["):
            degree = self.sum()
            self.expect("]")
        radicand = self.atom()
        return apply_op("sqrt", radicand) if degree == Number(Fraction(2)) else apply_op("root", radicand, degree)

    def command(self, text: str) -> Node:
        name = text[1:]
        if text == "\\frac":
            return self.fraction()
        if text == "\\binom":
            return apply_op("binom", self.atom(), self.atom())
        if text in CONSTANTS:
            return Constant(CONSTANTS[text])
        if text in FENCES:
            closing, op = FENCES[text]
            node = self.sum()
            self.expect(closing)
            return apply_op(op, node)
        if text in CLOSING:
            return self.bracketed(text)
        if name in GREEK:
            return self.symbol(name)
        if text in PREFIXES:
            return self.power()
        if text in ACCENTS:
            start = self.at
            self.atom()
            return Symbol(name + self.text_since(start))
        if text == "\\emptyset":
            return NamedSet("empty")
        if name.startswith("mathbb"):
            return NamedSet(name[6:])
        raise NotMath(f"unknown command {text}")

    def fraction(self) -> Scalar:
        derivative = self.derivative()
        if derivative is not None:
            return derivative
        return apply_op("div", self.atom(), self.atom())

    def derivative(self) -> Scalar | None:
        """``\\frac{dx}{dt}`` as a symbol of its own: dividing out the d would make every derivative a quotient."""
        end = self.at
        for _ in range(2):
            if [token.text for token in self.tokens[end : end + 2]] not in (["{", "d"], ["{", "\\partial"]):
                return None
            if end not in self.closing:
                raise NotMath("unclosed brace")
            end = self.closing[end] + 1
        start, self.at = self.at, end
        return Symbol(self.text_since(start), is_opaque=True)

    def bars(self) -> Scalar:
        self.num_open_bars += 1
        node = self.sum()
        self.num_open_bars -= 1
        self.expect("|")
        return apply_op("abs", node)

    # -- brackets

    def bracket_items(self, *closing: str) -> list[Node]:
        self.bracket_depth += 1
        num_open_bars, self.num_open_bars = self.num_open_bars, 0
        items = [self.relation()]
        while self.separator():
            items.append(self.relation())
        self.expect(*closing)
        self.bracket_depth -= 1
        self.num_open_bars = num_open_bars
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
        if name not in MATRICES:
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
