"""From the text of an answer, LaTeX or plain, to tokens. Knows the notation; nothing of grammar or of values.

Everything here is linear in the length of the text, which the caller has bounded.
"""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MAX_TOKENS = 1_500


class NotMath(Exception):
    """The text is not an expression that this package understands."""


class OutOfBounds(NotMath):
    """An expression beyond the limits of size that this package sets itself: nothing should try to evaluate it."""


class AlgebraError(Exception):
    """The computer algebra system failed on a comparison: there is no verdict."""


class Token(NamedTuple):
    kind: str
    """number | letter | name | command | text | begin | end | op"""
    text: str
    is_spaced: bool
    """Whether white space stood before it."""


def words(text: str) -> frozenset[str]:
    """A vocabulary, written as one string."""
    return frozenset(text.split())


_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹"
_SUBSCRIPTS = "₀₁₂₃₄₅₆₇₈₉"
_GREEK_NAMES = (
    "α alpha β beta γ gamma δ delta ε epsilon ζ zeta η eta θ theta ι iota κ kappa λ lambda μ mu ν nu ξ xi ρ rho "
    "σ sigma τ tau υ upsilon φ phi χ chi ψ psi ω omega Γ Gamma Δ Delta Θ Theta Λ Lambda Ξ Xi Π Pi Σ Sigma Φ Phi "
    "Ψ Psi Ω Omega"
)
_GREEK = {name: _GREEK_NAMES.split()[index + 1] for index, name in enumerate(_GREEK_NAMES.split()) if index % 2 == 0}
_UNICODE = str.maketrans(
    {
        **dict.fromkeys("−–—‐‑", "-"),
        **dict.fromkeys("×·∙⋅•✕", "*"),
        **{mark: f"^{{{digit}}}" for digit, mark in enumerate(_SUPERSCRIPTS)},
        **{mark: f"_{{{digit}}}" for digit, mark in enumerate(_SUBSCRIPTS)},
        **{letter: f"\\{name} " for letter, name in _GREEK.items()},
        **dict.fromkeys("\u00a0\u2009\u202f\u200a\u2007\u3000", " "),
        **dict.fromkeys("\u200b\u200c\u200d\ufeff\u2061\u2062", ""),
        "÷": "/",
        "⁄": "/",
        "√": "\\sqrt ",
        "π": "\\pi ",
        "∞": "\\infty ",
        "≤": "\\le ",
        "⩽": "\\le ",
        "≥": "\\ge ",
        "⩾": "\\ge ",
        "≠": "\\ne ",
        "≈": "\\approx ",
        "∈": "\\in ",
        "∪": "\\cup ",
        "∩": "\\cap ",
        "∖": "\\setminus ",
        "∅": "\\emptyset ",
        "±": "\\pm ",
        "∓": "\\mp ",
        "°": "^\\circ ",
        "′": "'",
        "’": "'",
        "½": "\\frac{1}{2}",
        "⅓": "\\frac{1}{3}",
        "⅔": "\\frac{2}{3}",
        "¼": "\\frac{1}{4}",
        "¾": "\\frac{3}{4}",
        "⟨": "\\langle ",
        "⟩": "\\rangle ",
        "⌊": "\\lfloor ",
        "⌋": "\\rfloor ",
        "⌈": "\\lceil ",
        "⌉": "\\rceil ",
        "∠": "\\angle ",
        "ℝ": "\\mathbb{R}",
        "ℤ": "\\mathbb{Z}",
    }
)

# Commands that change the looks only.
_DECORATION = re.compile(
    r"\\(?:left|right|[bB]ig{1,2}[lrm]?|displaystyle|textstyle|limits|nolimits|rm|bf|it|mathop|mathopen|mathclose"
    r"|boldmath|scriptstyle|allowbreak|newline|centering|hfill|phantom)(?![A-Za-z])"
)
_RENAMED = re.compile(
    r"\\(?:[dtc]frac|[dt]binom|leq(?:slant)?|geq(?:slant)?|neq|land|lor|varnothing|thinspace)(?![A-Za-z])"
)
_NEW_NAMES = {
    "\\dfrac": "\\frac",
    "\\tfrac": "\\frac",
    "\\cfrac": "\\frac",
    "\\dbinom": "\\binom",
    "\\tbinom": "\\binom",
    "\\leq": "\\le",
    "\\leqslant": "\\le",
    "\\geq": "\\ge",
    "\\geqslant": "\\ge",
    "\\neq": "\\ne",
    "\\land": "\\text{and}",
    "\\lor": "\\text{or}",
    "\\varnothing": "\\emptyset",
    "\\thinspace": "\\,",
}
_STYLE = re.compile(
    r"\\(?:mathbf|mathit|mathsf|mathcal|mathscr|mathfrak|boldsymbol|bm|pmb|underline|ensuremath)\s*\{([^{}]*)\}"
)
_TEXT = re.compile(r"\\(?:text|textbf|textit|textrm|textsf|textnormal|texttt|mathrm|mbox|hbox|emph)\s*\{([^{}]*)\}")
_OPERATOR_NAME = re.compile(r"\\operatorname\*?\s*\{\s*([A-Za-z]+)\s*\}")
_NUMBER_SET = re.compile(r"\\mathbb\s*\{?([RZNQC])\}?")
_GROUPED_DIGITS = re.compile(r"(?<=\d)(?:\{,\}|\\[,;:! ]|,\\!)[ ]?(?=\d{3}(?!\d))")
_CHOICES = re.compile(r"\(?[A-Z]\)?(?:\s*(?:,|and|or)\s*(?:and\s+)?\(?[A-Z]\)?)*")
_MATH_MARKS = re.compile(r"\\[()\[\]]|\$")
_TRAILING = re.compile(r"(?:\s|\\\\|\\$|(?<!\.)\.$|[,;:]$|\\[,;!: ]$)+$")
_CURRENCY = re.compile(r"\\\$|[€£¥₹₽₩₪฿₫₴₦]")


def clean(text: str) -> str:
    """``text`` without delimiters, decoration and currency signs, in one spelling for each command."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_UNICODE)).translate(_UNICODE)
    if "\\" in text or "$" in text:
        text = _CURRENCY.sub("", text)
        text = _GROUPED_DIGITS.sub("", text)
        text = _MATH_MARKS.sub(" ", text)
        text = _DECORATION.sub("", text)
        text = _RENAMED.sub(lambda match: _NEW_NAMES[match[0]], text)
        text = _STYLE.sub(r"\1", text)
        text = _OPERATOR_NAME.sub(r"\\\1 ", text)
        text = _NUMBER_SET.sub(r"\\mathbb\1 ", text)
        text = _TEXT.sub(_plain_text, text)
        text = text.replace("\\%", "%")
    else:
        text = _CURRENCY.sub("", text)
        text = _GROUPED_DIGITS.sub("", text)
    text = text.replace("np.", "").strip()
    while (shorter := _TRAILING.sub("", text)) != text:
        text = shorter
    return text


def _plain_text(match: re.Match[str]) -> str:
    content = match[1].replace("~", " ").strip()
    if not content:
        return " "
    if content in ("e", "i", "d") or _CHOICES.fullmatch(content):
        return content
    return f"\\text{{{content}}}"


_TOKEN = re.compile(
    r"(?P<space>(?:\s|\\[,;:!> ]|~|\\q?quad(?![A-Za-z]))+)"
    r"|(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+(?![A-Za-z\d.]))?)"
    r"|\\begin\s*\{(?P<begin>[a-zA-Z]+)\*?\}(?:\{[^{}]*\})?"
    r"|\\end\s*\{(?P<end>[a-zA-Z]+)\*?\}"
    r"|\\text\{(?P<text>[^{}]*)\}"
    r"|(?P<command>\\[A-Za-z]+|\\.)"
    r"|(?P<word>[A-Za-z]+)"
    r"|(?P<op>\*\*|<=|>=|!=|==|.)",
    re.DOTALL,
)

FUNCTIONS = words(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt cbrt gcd lcm max min "
    "abs floor ceil asin acos atan"
)
_WORD_COMMANDS = {
    "pi": "\\pi",
    "inf": "\\infty",
    "infty": "\\infty",
    "infinity": "\\infty",
    "oo": "\\infty",
    "theta": "\\theta",
    "alpha": "\\alpha",
    "beta": "\\beta",
    "gamma": "\\gamma",
    "lambda": "\\lambda",
    "frac": "\\frac",
    "cup": "\\cup",
}
# Two letters that are a word of English rather than a product.
SHORT_WORDS = words(
    "is to of in at no so be if an as by on it we do up he me my us am go hi ok any all the not yes and "
    "for are was has one two per odd but its let see our out who why how now new old day way man men get "
    "got put set"
)
_SEPARATORS = {"and": "and", "or": "or", "&": "and"}
_PERCENT = frozenset(("percent", "pct", "percentage", "percents", "per cent"))


def tokenize(cleaned: str) -> list[Token]:
    """The tokens of a :func:`clean` text. Raises :class:`NotMath` for prose and for more than ``MAX_TOKENS``."""
    tokens: list[Token] = []
    is_spaced = False
    for match in _TOKEN.finditer(cleaned):
        kind = match.lastgroup
        text = match[kind] if kind else ""
        if kind == "space":
            is_spaced = True
            continue
        if kind == "word":
            tokens += _split_word(text, is_spaced, tokens)
        elif kind == "text":
            tokens.append(_text_token(text))
        elif kind == "command" and text[1:] in FUNCTIONS:
            tokens.append(Token("name", text[1:], is_spaced))
        else:
            tokens.append(Token(kind or "op", "^" if text == "**" else text, is_spaced))
        is_spaced = False
        if len(tokens) > MAX_TOKENS:
            raise OutOfBounds("too long")
    return tokens


def _text_token(text: str) -> Token:
    word = " ".join(text.split()).strip(" ,.;").lower()
    if word in _SEPARATORS:
        return Token("op", _SEPARATORS[word], True)
    if word in _PERCENT or text.strip() == "%":
        return Token("op", "%", True)
    return Token("text", text.strip(), True)


def _split_word(word: str, is_spaced: bool, before: list[Token]) -> list[Token]:
    """A word as separator, function, constant, unit, or a product of letters. Raises ``NotMath`` for prose."""
    lower = word.lower()
    if lower in _SEPARATORS:
        return [Token("op", _SEPARATORS[lower], is_spaced)]
    if lower in _PERCENT:
        return [Token("op", "%", is_spaced)]
    if lower in FUNCTIONS:
        return [Token("name", lower, is_spaced)]
    if lower in _WORD_COMMANDS:
        return [Token("command", _WORD_COMMANDS[lower], is_spaced)]
    follows_number = bool(before) and (before[-1].kind == "number" or before[-1].text in (")", "}", "%"))
    if follows_number and unit_of(word) is not None and len(word) > 1:
        return [Token("text", word, is_spaced)]
    is_product = len(word) <= 2 or (len(word) <= 5 and word.isupper()) or not re.search("[aeiouy]", lower)
    if len(word) > 1 and ((lower in SHORT_WORDS and not word.isupper()) or not is_product or len(word) > 8):
        raise NotMath(f"prose: {word}")
    if len(word) > 2 and word.isupper():
        # The name of a figure or an arrangement, where order matters, rather than a product.
        return [Token("letter", word, is_spaced)]
    letters = [Token("letter", letter, False) for letter in word]
    letters[0] = letters[0]._replace(is_spaced=is_spaced)
    return letters


_UNITS = {
    "m": "m metre metres meter meters",
    "cm": "cm centimetre centimetres centimeter centimeters",
    "mm": "mm millimetre millimetres millimeter millimeters",
    "km": "km kilometre kilometres kilometer kilometers",
    "in": "inch inches",
    "ft": "ft foot feet",
    "yd": "yd yard yards",
    "mi": "mi mile miles",
    "g": "g gram grams",
    "kg": "kg kilogram kilograms kgs",
    "lb": "lb lbs pound pounds",
    "oz": "oz ounce ounces",
    "s": "s sec secs second seconds",
    "min": "min mins minute minutes",
    "h": "h hr hrs hour hours",
    "day": "day days",
    "week": "week weeks",
    "month": "month months",
    "year": "year years yr yrs",
    "l": "l L litre litres liter liters",
    "ml": "ml mL millilitre milliliter milliliters",
    "mph": "mph",
    "kmh": "kmh km/h kph kmph",
    "m/s": "m/s",
    "dollar": "dollar dollars usd USD bucks",
    "cent": "cent cents",
    "euro": "euro euros eur EUR",
    "degree": "degree degrees deg",
    "rad": "radian radians rad rads",
    "unit": "unit units",
    "N": "N newton newtons",
    "J": "J joule joules",
    "W": "W watt watts",
    "V": "V volt volts",
    "K": "K kelvin",
    "Hz": "Hz hertz",
}
_UNIT_OF = {spelling: unit for unit, spellings in _UNITS.items() for spelling in spellings.split()}


def unit_of(word: str) -> str | None:
    """The unit a word spells, in one spelling, or ``None``."""
    return _UNIT_OF.get(word) or _UNIT_OF.get(word.lower())


def is_unit(word: str) -> bool:
    """Whether a word spells a unit or a percent sign."""
    return word.lower() in _PERCENT or unit_of(word) is not None
