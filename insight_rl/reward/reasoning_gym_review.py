"""Which generators of reasoning-gym may be used: all of them were read, and each has a line that says what was found.

Library: https://github.com/open-thought/reasoning-gym ; the import is deferred, so that the package need not be there.

A generator comes with a scorer, and a scorer sees text that a model wrote. Some of them hand it to ``eval`` or to
``sympy.parse_expr``, which is ``eval`` too; some give full marks to wrong answers. So there are three lists, and they
hold for the one version that was read:

* :data:`LIBRARY`: the library's scorer is called. It compares strings or decimal numbers with ``entry["answer"]``,
  reads nothing else of the entry, takes time linear in the text, and gives 1 to right answers only.
* :data:`OWN`: the problems are used, and a rule of ours judges them (:mod:`insight_rl.reward.reasoning_gym_answers`,
  :mod:`insight_rl.reward.reasoning_gym_puzzles`); the line says why the library's scorer is not called.
* :data:`REFUSED`: not used, and why.

An allowed generator makes the same problems in every process: its draws depend neither on the order of a set of strings
nor on the date.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util

from insight_rl.errors import UsageError

REVIEWED_VERSION = "0.1.25"

INSTALL = "pip install 'insight-rl[gym]'"

COUNTDOWN = "countdown"
"""Its problems are used, its scorer is not: answers are judged by :mod:`insight_rl.reward.countdown`."""

_EQUAL = "equal strings"
_DECIMAL = "equal decimal numbers"
LIBRARY = {
    "aiw": _EQUAL,
    "base_conversion": _EQUAL,
    "basic_arithmetic": _EQUAL,
    "binary_alternation": _EQUAL,
    "caesar_cipher": _EQUAL,
    "chain_sum": _DECIMAL,
    "circuit_logic": "equal strings, blanks around them aside",
    "color_cube_rotation": "equal words, their case aside",
    "count_bits": _EQUAL,
    "count_primes": _EQUAL,
    "course_schedule": _EQUAL,
    "decimal_chain_sum": _DECIMAL,
    "dice": "equal strings, case and line ends aside",
    "family_relationships": "equal words, their case aside",
    "gcd": _EQUAL,
    "largest_island": _EQUAL,
    "lcm": _EQUAL,
    "leg_counting": _EQUAL,
    "letter_counting": _EQUAL,
    "maze": _EQUAL,
    "modulo_grid": _EQUAL,
    "number_filtering": _EQUAL,
    "number_sequence": _EQUAL,
    "path_star": "equal strings, blanks around them aside",
    "products": _DECIMAL,
    "rotate_matrix": _EQUAL,
    "rotten_oranges": _EQUAL,
    "self_reference": _EQUAL,
    "sentence_reordering": "equal words in the same places, their case aside",
    "simple_equations": _EQUAL,
    "simple_geometry": _EQUAL,
    "string_manipulation": _EQUAL,
    "string_splitting": _EQUAL,
    "string_synthesis": _EQUAL,
    "syllogism": _EQUAL,
    "word_sequence_reversal": _EQUAL,
}
"""The scorer that most share gives 1 to equal strings, and a share to an answer that contains the right one."""

_EVALUATES = "the library's scorer evaluates text as Python"
_METADATA = "the library's scorer needs the metadata of the problem"
_STRICT = "equal strings; ours sets blanks aside"
OWN = {
    COUNTDOWN: _EVALUATES,
    "ab": _STRICT,
    "advanced_geometry": _METADATA,
    "arc_1d": _STRICT,
    "arc_agi": _METADATA,
    "bf": _STRICT,
    "binary_matrix": _EVALUATES,
    "bitwise_arithmetic": _EVALUATES,
    "calendar_arithmetic": "the library's scorer gives more than 1 to wrong answers where the right one is negative",
    "coin_flip": "the library's scorer computes 10 to any power that the text names",
    "complex_arithmetic": "the library's scorer gives 1 to nan",
    "cryptarithm": _METADATA,
    "decimal_arithmetic": "the library's scorer accepts a difference that depends on settings it does not have",
    "emoji_mystery": _STRICT,
    "figlet_font": "the library's scorer gives 1 to any text with ten right letters",
    "fraction_simplification": _METADATA,
    "futoshiki": _METADATA,
    "game_of_life": "the library's scorer gives 1 to grids with rows too many",
    "game_of_life_halting": "the library's scorer gives 1 to any text at all",
    "graph_color": _METADATA,
    "group_anagrams": _METADATA,
    "gsm_symbolic": "the library's scorer takes the first number of a text, without its sign",
    "jugs": _METADATA,
    "kakurasu": _METADATA,
    "knights_knaves": "the library's scorer skips words that it does not know",
    "letter_jumble": "the library's scorer may give 1 to words too many",
    "mahjong_puzzle": _STRICT,
    "manipulate_matrix": "the library's scorer needs its dataset; ours compares the rows",
    "mini_sudoku": _METADATA,
    "n_queens": _EVALUATES,
    "needle_haystack": "equal strings; ours takes no other blanks for part of a name",
    "number_format": _METADATA,
    "number_sorting": "the library's scorer evaluates the right answer as Python and accepts numbers off by 1",
    "palindrome_generation": _METADATA,
    "palindrome_partitioning": _METADATA,
    "polynomial_equations": "the library's scorer skips what is no number",
    "pool_matrix": "the library's scorer gives 1 to numbers that are off by a hundredth of themselves",
    "power_function": "the library's scorer reads digits of every script",
    "prime_factorization": "the library's scorer reads digits of every script",
    "puzzle24": _EVALUATES,
    "quantum_lock": "the library's scorer finds buttons in the letters of any text",
    "rearc": _METADATA,
    "rectangle_count": "the library's scorer reads digits of every script",
    "shortest_path": _METADATA,
    "sokoban": _METADATA,
    "spell_backward": "the library's scorer gives more than 1 to some wrong answers",
    "spiral_matrix": _EVALUATES,
    "string_insertion": _EVALUATES,
    "sudoku": _METADATA,
    "survo": "the library's scorer accepts one of several right grids, and skips words between the numbers",
    "tower_of_hanoi": _METADATA,
    "tsumego": "the library's scorer is safe; ours sets blanks and case aside",
    "word_sorting": "the library's scorer gives 1 to lists with words too many",
    "zebra_puzzles": "the library's scorer is safe; ours sets blanks aside",
}

_ORDER = "its problems differ from process to process"
REFUSED = {
    "acre": "it makes as many problems as the dataset is large before it gives the first",
    "boxnet": "it gives no right answer, and its scorer counts the boxes that any text moves",
    "codeio": "it runs Python code of a file",
    "composite": "it is a mixture of other generators; name them as parts",
    "intermediate_integration": "its scorer evaluates text as Python, and ours has no calculus",
    "isomorphic_strings": _ORDER,
    "knight_swap": _ORDER,
    "list_functions": _ORDER,
    "polynomial_multiplication": f"its scorer evaluates text as Python, and {_ORDER}",
    "propositional_logic": "its scorer gives 1 to a premise that was copied from the question",
    "ransom_note": _ORDER,
    "rubiks_cube": "it gives no right answer, and its scorer turns a face as often as the text says",
    "rush_hour": "it gives no right answer, and its scorer moves a car as often as the text says",
    "simple_integration": "its scorer evaluates text as Python, and ours has no calculus",
    "time_intervals": "its problems depend on the date of the day",
    "word_ladder": _ORDER,
}

ALLOWED = tuple(sorted({*LIBRARY, *OWN}))


def check_generator(key: str, name: object) -> str:
    """``name``, if it is allowed. Raises ``UsageError`` that names ``key``, the reason and the allowed ones."""
    if isinstance(name, str) and name in ALLOWED:
        return name
    reason = REFUSED.get(name, "reasoning-gym has no such generator") if isinstance(name, str) else "is no name"
    raise UsageError(f"{key}={name!r}: {reason}; take one of {', '.join(ALLOWED)}")


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
