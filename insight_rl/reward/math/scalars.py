"""The scalar half of the grammar of answers: numbers, symbols, functions, fractions, roots. Knows no lists or sets.

Recursive descent with bounded depth. What it does not understand raises
:class:`~insight_rl.reward.math.latex.NotMath`; nothing is guessed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from fractions import Fraction

from insight_rl.reward.math.latex import NotMath, OutOfBounds, Token, words
from insight_rl.reward.math.nodes import SCALARS, Apply, Constant, NamedSet, Node, Number, Scalar, Symbol

MAX_DEPTH = 40
MAX_DIGITS = 1_000
_GREEK = words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell "
    "hbar nabla Upsilon odot"
)
_CONSTANTS = {"\\pi": "pi", "\\infty": "inf"}
_ACCENTS = words("\\dot \\ddot \\hat \\bar \\vec \\overline \\tilde \\widehat \\overrightarrow")
_PREFIXES = frozenset(("\\angle", "\\triangle", "\\measuredangle"))
_FENCES = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "\\lvert": ("\\rvert", "abs")}
_INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
_ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\lbrace": ("\\rbrace",), "\\langle": ("\\rangle",)}
END = Token("end_of_text", "", False)


class ScalarParser(ABC):
    """A cursor over tokens and the rules for one scalar. Brackets with several items belong to the subclass."""

    def __init__(self, tokens: list[Token], grouped_digits: bool) -> None:
        self.tokens = tokens
        self.grouped_digits = grouped_digits
        self.at = 0
        self.depth = 0
        self.bracket_depth = 0
        self.num_bars = 0
        self.sign_of_pm = 1
        self.saw_pm = False
        self.num_degrees = 0
        self.is_argument = False

    # -- tokens

    def peek(self, offset: int = 0) -> Token:
        index = self.at + offset
        return self.tokens[index] if index < len(self.tokens) else END

    def take(self) -> Token:
        token = self.peek()
        self.at += 1
        return token

    def accept(self, *texts: str) -> bool:
        if self.peek().kind in ("op", "command") and self.peek().text in texts:
            self.at += 1
            return True
        return False

    def expect(self, *texts: str) -> str:
        token = self.take()
        if token.text not in texts:
            raise NotMath(f"expected {' or '.join(texts)}, found {token.text!r}")
        return token.text

    def enter(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise OutOfBounds("nested too deep")

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
                self.saw_pm = True
                left = apply_op("add", left, self.with_sign(self.sign_of_pm, self.product()))
            elif self.accept("\\mp"):
                self.saw_pm = True
                left = apply_op("add", left, self.with_sign(-self.sign_of_pm, self.product()))
            else:
                self.depth -= 1
                return left

    def signed_product(self) -> Node:
        sign = 1
        while True:
            if self.accept("-"):
                sign = -sign
            elif self.accept("\\pm"):
                self.saw_pm = True
                sign *= self.sign_of_pm
            elif not self.accept("+"):
                return self.with_sign(sign, self.product())

    def with_sign(self, sign: int, node: Node) -> Node:
        if sign > 0:
            return node
        if isinstance(node, Number):
            return Number(-node.value, node.num_decimals)
        return apply_op("neg", node)

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
            return _mixed(left, apply_op("div", numerator, self.power()))
        is_fraction = self.peek().text == "\\frac"
        right = self.power()
        if is_integer and is_fraction and _is_proper_fraction(right):
            return _mixed(left, right)
        return apply_op("mul", left, right)

    def starts_factor(self) -> bool:
        token = self.peek()
        if token.kind in ("number", "letter", "name"):
            return not (token.text == "U" and self.peek(1).text in CLOSING)
        if token.kind == "command":
            name = token.text[1:]
            starts = token.text in ("\\frac", "\\sqrt", "\\binom", "\\{", *_CONSTANTS, *_PREFIXES, *_ACCENTS)
            return starts or name in _GREEK or token.text in _FENCES
        return token.text in ("(", "{") or (token.text == "|" and self.num_bars == 0) or token.text == "["

    def power(self) -> Node:
        base = self.postfix(self.atom())
        while self.accept("^"):
            if self.is_degree():
                self.num_degrees += 1
            else:
                base = self.postfix(apply_op("pow", base, self.exponent()))
        return base

    def is_degree(self) -> bool:
        braced = [self.peek(i).text for i in range(3)] == ["{", "\\circ", "}"]
        if braced:
            self.at += 3
        return braced or self.accept("\\circ")

    def exponent(self) -> Node:
        if self.accept("-"):
            return self.with_sign(-1, self.exponent())
        if self.accept("+"):
            return self.exponent()
        if self.accept("{"):
            node = self.sum()
            self.expect("}")
            return node
        base = self.atom()
        if self.accept("^"):
            self.enter()
            base = apply_op("pow", base, self.exponent())
            self.depth -= 1
        return base

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
        text = token.text
        if len(text) > MAX_DIGITS:
            raise OutOfBounds("too many digits")
        if self.grouped_digits and self.bracket_depth == 0 and text.isdigit() and len(text) <= 3:
            text = self.digit_groups(text)
        if self.peek().text == "_" and text.isdigit():
            return self.in_base(text)
        value, num_decimals = read_decimal(text)
        if "." in text and self.peek().text == "\\overline":
            return self.repeating(value, num_decimals or 0)
        return Number(value, num_decimals)

    def digit_groups(self, text: str) -> str:
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

    def in_base(self, digits: str) -> Scalar:
        self.take()
        base = self.exponent()
        if not isinstance(base, Number):
            raise NotMath("base")
        return Symbol(f"{digits}_{base.value}")

    def repeating(self, value: Fraction, num_decimals: int) -> Scalar:
        """``0.1\\overline{6}``, exactly."""
        self.take()
        self.expect("{")
        digits = self.take().text
        self.expect("}")
        if not digits.isdigit() or len(digits) > 50:
            raise NotMath("repeating decimal")
        period = Fraction(int(digits), 10 ** len(digits) - 1) / 10**num_decimals
        return Number(value + period if value >= 0 else value - period)

    def symbol(self, name: str) -> Scalar:
        if name in ("e", "i") and self.peek().text not in ("_", "'"):
            return Constant(name)
        if self.accept("_"):
            name += "_" + self.subscript()
        while self.accept("'"):
            name += "'"
        while self.peek().text == "^" and [self.peek(1).text, self.peek(2).text] == ["{", "\\prime"]:
            self.at += 4
            name += "'"
        if self.peek().text == "(" and not self.peek().is_spaced and self.is_application(name):
            start = self.at
            self.take()
            self.bracketed("(")
            return Symbol(name + "".join(token.text for token in self.tokens[start : self.at]), is_opaque=True)
        return Symbol(name)

    def subscript(self) -> str:
        if not self.accept("{"):
            return self.take().text
        start = self.at
        while self.peek() is not END and self.peek().text not in ("{", "}"):
            self.take()
        name = "".join(token.text for token in self.tokens[start : self.at])
        self.expect("}")
        return name

    def is_application(self, name: str) -> bool:
        """``f(x+1)``, ``I(0)`` and ``P(a, b)`` are values of functions; ``x(y+1)`` is a product."""
        inside = self.peek(1)
        is_single = inside.kind in ("number", "letter") and self.peek(2).text == ")"
        is_pair = inside.kind in ("number", "letter") and self.peek(2).text == ","
        return is_single or is_pair or name[0] in "fgh"

    def function(self, name: str) -> Scalar:
        name = _ALIASES.get(name, name)
        if name == "sqrt":
            return self.root()
        power: Node | None = None
        base: Node | None = None
        if self.accept("_"):
            base = self.exponent()
        if self.accept("^"):
            power = self.exponent()
            if power == Number(Fraction(-1)) and name in _INVERSE:
                name, power = _INVERSE[name], None
        degrees_before, is_argument, self.is_argument = self.num_degrees, self.is_argument, True
        args = self.arguments()
        self.is_argument = is_argument
        if name in _TRIGONOMETRIC and self.num_degrees > degrees_before:
            args = tuple(apply_op("mul", arg, apply_op("div", Constant("pi"), Number(Fraction(180)))) for arg in args)
            self.num_degrees = degrees_before
        if base is not None:
            if name != "log":
                raise NotMath("subscript")
            args = (*args, base)
        node = apply_op(name, *args)
        return node if power is None else apply_op("pow", node, power)

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
            return apply_op("binom", self.single_argument(), self.single_argument())
        if text in _CONSTANTS:
            return Constant(_CONSTANTS[text])
        if text in _FENCES:
            closing, op = _FENCES[text]
            node = self.sum()
            self.expect(closing)
            return apply_op(op, node)
        if text in CLOSING:
            return self.bracketed(text)
        if name in _GREEK:
            return self.symbol(name)
        if text in _PREFIXES:
            return self.power()
        if text in _ACCENTS:
            start = self.at
            self.atom()
            return Symbol(name + "".join(token.text for token in self.tokens[start : self.at]))
        if text == "\\emptyset":
            return NamedSet("empty")
        if name.startswith("mathbb"):
            return NamedSet(name[6:])
        raise NotMath(f"unknown command {text}")

    def fraction(self) -> Scalar:
        derivative = self.derivative()
        if derivative is not None:
            return derivative
        return apply_op("div", self.single_argument(), self.single_argument())

    def derivative(self) -> Scalar | None:
        """``\\frac{dx}{dt}`` as a symbol of its own: dividing out the d would make every derivative a quotient."""
        if self.peek().text != "{" or self.peek(1).text not in ("d", "\\partial"):
            return None
        start = self.at
        for _ in range(2):
            self.expect("{")
            if self.take().text not in ("d", "\\partial"):
                self.at = start
                return None
            level = 1
            while level:
                token = self.take()
                if token is END:
                    raise NotMath("unclosed brace")
                level += (token.text == "{") - (token.text == "}")
        return Symbol("".join(token.text for token in self.tokens[start : self.at]), is_opaque=True)

    def single_argument(self) -> Node:
        """A braced argument, or the single digit or token that LaTeX takes in its place: ``\\frac12``."""
        token = self.peek()
        if token.kind == "number" and len(token.text) > 1 and token.text.isdigit():
            self.tokens[self.at] = Token("number", token.text[1:], False)
            return Number(Fraction(token.text[0]))
        return self.atom()

    def bars(self) -> Scalar:
        self.num_bars += 1
        node = self.sum()
        self.num_bars -= 1
        self.expect("|")
        return apply_op("abs", node)

    # -- brackets

    @abstractmethod
    def bracketed(self, opening: str) -> Node:
        """What stands after the bracket ``opening``, up to its closing one."""

    @abstractmethod
    def bracket_items(self, *closing: str) -> list[Node]:
        """The items up to a closing bracket."""

    @abstractmethod
    def braces(self) -> Node:
        """What stands after ``{``, up to its closing one."""

    @abstractmethod
    def matrix(self, name: str) -> Node:
        """What stands after ``\\begin{name}``."""


def read_decimal(text: str) -> tuple[Fraction, int | None]:
    """The exact value of a literal such as ``0.250``, ``.5`` or ``4.5e-3``, and its digits after the point.

    Raises :class:`NotMath` for exponents beyond four digits.
    """
    mantissa, _, exponent = text.lower().partition("e")
    whole, point, decimals = mantissa.partition(".")
    if len(exponent.lstrip("+-")) > 4:
        raise OutOfBounds("exponent too large")
    value = Fraction(int((whole + decimals) or "0"), 10 ** len(decimals))
    if exponent:
        value *= Fraction(10) ** int(exponent)
    return value, (len(decimals) if point and decimals else None)


def apply_op(op: str, *args: Node) -> Apply:
    scalars = tuple(arg for arg in args if isinstance(arg, SCALARS))
    if len(scalars) != len(args):
        raise NotMath(f"{op} of something that is no scalar")
    return Apply(op, scalars)


def _is_proper_fraction(node: Node) -> bool:
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


def _mixed(whole: Node, fraction: Node) -> Node:
    if not _is_proper_fraction(fraction):
        return apply_op("mul", whole, fraction)
    return apply_op("add", whole, fraction)
