"""From the text of an answer, LaTeX or plain, to tokens. The grammar is in ``parser.py``.

Everything here is linear in the length of the text, which the caller has bounded.
"""

# ruff: noqa: RUF001 (the characters of answers, as models write them)
from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from insight_rl.reward.math.errors import NotMath, OutOfBounds
from insight_rl.reward.math.vocabulary import FUNCTIONS, PERCENT, SHORT_WORDS, unit_of

MAX_TOKENS = 1_500


class Token(NamedTuple):
    kind: str
    """number | letter | name | command | text | begin | end | op"""
    text: str
    is_spaced: bool
    """Whether white space stood before it."""


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
_SEPARATORS = {"and": "and", "or": "or", "&": "and"}


def tokenize(cleaned: str) -> list[Token]:
    """The tokens of a :func:`clean` text.

    Raises :class:`NotMath` for prose and :class:`OutOfBounds` for more than ``MAX_TOKENS``.
    """
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
            # An exponent or index without braces is one letter: the 3 of ``2^i3`` is a factor.
            is_apart = is_spaced or (len(tokens) > 1 and tokens[-2].text in ("^", "_"))
            tokens.append(Token(kind or "op", "^" if text == "**" else text, is_apart))
        is_spaced = False
        if len(tokens) > MAX_TOKENS:
            raise OutOfBounds("too long")
    return _split_arguments(tokens)


def _split_arguments(tokens: list[Token]) -> list[Token]:
    r"""An argument without braces is one digit: ``\frac12`` gets the numbers 1 and 2, ``\frac123`` 1, 2 and 3."""
    places = [index for index, token in enumerate(tokens) if token.text in ("\\frac", "\\binom")]
    if not places:
        return tokens
    closing = closing_braces(tokens)
    num_split = [0] * len(tokens)
    for place in places:
        at = place + 1
        for _ in range(2):
            at = closing.get(at, at)
            if at < len(tokens) and tokens[at].kind == "number" and tokens[at].text.isdigit():
                num_split[at] += 1
                if len(tokens[at].text) > num_split[at]:
                    continue  # the next argument is the digit after it
            at += 1
    result: list[Token] = []
    for token, num_digits in zip(tokens, num_split, strict=True):
        digits = token.text[:num_digits]
        # As if spaced: the 2 of ``\\frac x2`` is no index of x.
        result += [Token("number", digit, True) for digit in digits]
        if rest := token.text[num_digits:]:
            result.append(Token(token.kind, rest, num_digits == 0 and token.is_spaced))
    return result


def closing_braces(tokens: Sequence[Token]) -> dict[int, int]:
    """The index of the closing brace of every opening one that is closed."""
    closing: dict[int, int] = {}
    open_braces: list[int] = []
    for index, token in enumerate(tokens):
        if token.text == "{":
            open_braces.append(index)
        elif token.text == "}" and open_braces:
            closing[open_braces.pop()] = index
    return closing


def _text_token(text: str) -> Token:
    word = " ".join(text.split()).strip(" ,.;").lower()
    if word in _SEPARATORS:
        return Token("op", _SEPARATORS[word], True)
    if word in PERCENT or text.strip() == "%":
        return Token("op", "%", True)
    return Token("text", text.strip(), True)


def _split_word(word: str, is_spaced: bool, before: list[Token]) -> list[Token]:
    """A word as separator, function, constant, unit, or a product of letters. Raises ``NotMath`` for prose."""
    lower = word.lower()
    if lower in _SEPARATORS:
        return [Token("op", _SEPARATORS[lower], is_spaced)]
    if lower in PERCENT:
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
