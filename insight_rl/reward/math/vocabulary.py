"""The words of mathematics: functions, constants, relations, units, and short words of English that are none."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    """A vocabulary, written as one string."""
    return frozenset(text.split())


FUNCTIONS = words(
    "sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh ln log lg exp sqrt cbrt gcd lcm max min "
    "abs floor ceil asin acos atan"
)
RELATIONS = {
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
MATRICES = words("pmatrix bmatrix matrix Bmatrix smallmatrix array vmatrix cases")
GREEK = words(
    "alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu xi rho "
    "sigma tau upsilon phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi Omega ell "
    "hbar nabla Upsilon odot"
)
CONSTANTS = {"\\pi": "pi", "\\infty": "inf"}
ACCENTS = words("\\dot \\ddot \\hat \\bar \\vec \\overline \\tilde \\widehat \\overrightarrow")
PREFIXES = frozenset(("\\angle", "\\triangle", "\\measuredangle"))
FENCES = {"\\lfloor": ("\\rfloor", "floor"), "\\lceil": ("\\rceil", "ceil"), "\\lvert": ("\\rvert", "abs")}
INVERSE = {"sin": "arcsin", "cos": "arccos", "tan": "arctan"}
ALIASES = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
TRIGONOMETRIC = frozenset(("sin", "cos", "tan", "cot", "sec", "csc"))
CLOSING = {"(": (")", "]"), "[": ("]", ")"), "\\{": ("\\}",), "\\lbrace": ("\\rbrace",), "\\langle": ("\\rangle",)}

# Two letters that are a word of English rather than a product.
SHORT_WORDS = words(
    "is to of in at no so be if an as by on it we do up he me my us am go hi ok any all the not yes and "
    "for are was has one two per odd but its let see our out who why how now new old day way man men get "
    "got put set"
)
PERCENT = frozenset(("percent", "pct", "percentage", "percents", "per cent"))

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
    return word.lower() in PERCENT or unit_of(word) is not None
