"""Which generators of reasoning-gym may be used: those whose scorer was read and found safe on hostile text.

Library: https://github.com/open-thought/reasoning-gym ; the import is deferred, so that the package need not be there.

A generator comes with a scorer, and a scorer sees text that a model wrote. Some of them hand it to ``eval`` or to
``sympy.parse_expr``, which is ``eval`` too. So there is a list of the allowed ones, and it holds for the one version
that was read. An allowed scorer compares strings or decimal numbers with ``entry["answer"]`` and reads nothing else of
the entry, its time is linear in the text, and it gives 1 to right answers only. An allowed generator makes the same
problems in every process (its draws do not depend on the order of a set of strings).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from insight_rl.errors import UsageError

REVIEWED_VERSION = "0.1.25"

INSTALL = "pip install 'insight-rl[gym]'"

COUNTDOWN = "countdown"
"""Its problems are used, its scorer is not: answers are judged by :mod:`insight_rl.reward.countdown`."""

ALLOWED = (
    # The scorer that most share: equal strings, or a share for an answer that contains the right one.
    "aiw",
    "base_conversion",
    "basic_arithmetic",
    "binary_alternation",
    "caesar_cipher",
    "count_bits",
    "count_primes",
    "course_schedule",
    "gcd",
    "largest_island",
    "lcm",
    "leg_counting",
    "letter_counting",
    "maze",
    "modulo_grid",
    "number_filtering",
    "number_sequence",
    "rotate_matrix",
    "rotten_oranges",
    "simple_equations",
    "simple_geometry",
    "string_manipulation",
    "string_splitting",
    "string_synthesis",
    "syllogism",
    "word_sequence_reversal",
    # Equal decimal numbers.
    "chain_sum",
    "decimal_chain_sum",
    "products",
    # Equal strings, after case, blanks or the order of words are set aside.
    "circuit_logic",
    "color_cube_rotation",
    "dice",
    "family_relationships",
    "path_star",
    "self_reference",
    "sentence_reordering",
    COUNTDOWN,
)

_EVALUATES = "its scorer evaluates text as Python"
_ORDER = "its problems differ from process to process"
REFUSED = {
    "binary_matrix": _EVALUATES,
    "bitwise_arithmetic": _EVALUATES,
    "codeio": "it runs Python code of a file",
    "game_of_life_halting": "its scorer gives 1 to any text at all",
    "intermediate_integration": _EVALUATES,
    "isomorphic_strings": _ORDER,
    "list_functions": _ORDER,
    "n_queens": _EVALUATES,
    "number_sorting": _EVALUATES,
    "polynomial_multiplication": _EVALUATES,
    "puzzle24": _EVALUATES,
    "ransom_note": _ORDER,
    "simple_integration": _EVALUATES,
    "spell_backward": "its scorer gives more than 1 to some wrong answers",
    "spiral_matrix": _EVALUATES,
    "string_insertion": _EVALUATES,
}
"""What was found in those that were read and are not allowed. The others were not read."""


def check_generator(key: str, name: object) -> str:
    """``name``, if it is allowed. Raises ``UsageError`` that names ``key``, the reason and the allowed ones."""
    if isinstance(name, str) and name in ALLOWED:
        return name
    reason = REFUSED.get(name, "is not among those whose scorer was read") if isinstance(name, str) else "is no name"
    raise UsageError(f"{key}={name!r}: {reason}; take one of {', '.join(sorted(ALLOWED))}")


def check_installed(key: str) -> None:
    """Raise ``UsageError`` if the package is missing, or is not the version that was read."""
    if importlib.util.find_spec("reasoning_gym") is None:
        raise UsageError(
            f"{key}=reasoning_gym: the package reasoning-gym is not installed; install it with `{INSTALL}`"
        )
    version = importlib.metadata.version("reasoning-gym")
    if version != REVIEWED_VERSION:
        raise UsageError(
            f"{key}=reasoning_gym: reasoning-gym {version} is installed, and the scorers of {REVIEWED_VERSION} are the "
            f"ones that were read for safety; install that one with `{INSTALL}`"
        )
