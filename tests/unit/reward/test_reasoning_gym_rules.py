"""Our rules for reasoning-gym: other ways to write a right answer pass, near misses and tricks fail.

No part of the library is needed here; tests/unit/reward/test_reasoning_gym.py compares with its own scorers.
"""

from __future__ import annotations

import time

import pytest

from insight_rl.reward.reasoning_gym_answers import MAX_LENGTH, RULES
from insight_rl.reward.reasoning_gym_puzzles import RULES as PUZZLE_RULES

# Generator, right answer, others that are right, and wrong ones.
ANSWERS = [
    (
        "advanced_geometry",
        "45.12\u00b0",
        ["45.12", "45.123\u00b0"],
        ["45.13\u00b0", "nan", "\u00b0", "45.12\u00b0\u00b0"],
    ),
    ("advanced_geometry", "(1.500, -2.000)", ["(1.5, -2)", "1.5,-2.0"], ["(1.5, 2)", "(1.5)", "(1.5, -2, 0)"]),
    ("bitwise_arithmetic", "-0x1f", ["-31", "-0X1F"], ["0x1f", "-0x1f+0", "-0x", "-1f", "~30"]),
    ("calendar_arithmetic", "Monday", ["monday"], ["Monday Tuesday", "Mon"]),
    ("coin_flip", "0.109375", ["7/64", "0.1094", "10.9375e-2"], ["7/0", "1e-400", "1e999999999", "0.11", "nan"]),
    ("complex_arithmetic", "4.0 - 7.0i", ["4-7i", "(4 - 7j)"], ["4+7i", "4", "-7i", "nan", "4-7", "ii", "4-7i+0i"]),
    ("complex_arithmetic", "1.00i", ["i", "+i", "0+i"], ["-i", "1", "2i"]),
    ("decimal_arithmetic", "1.378", ["1.3780", "+1.378"], ["1.379", "1.3780001", "1_378e-3", "inf"]),
    ("fraction_simplification", "$\\dfrac{2}{3}$", ["2/3", "\\frac{2}{3}", "$2/3$"], ["4/6", "2/3/1", "0.667", "2"]),
    (
        "futoshiki",
        "1   2\n\u2227    \n2 > 1",
        ["1 2\n2 1", "12".replace("", " ") + "\n2 1"],
        ["1 2 2 1", "12\n21", "1 2\n2"],
    ),
    ("game_of_life", "[[0,1],[1,0]]", ["[[0, 1],\n[1, 0]]"], ["[[false,true],[true,false]]", "[[0,1],[1,0],[0,0]]"]),
    (
        "group_anagrams",
        '[["eat","tea"],["nat"]]',
        ['[["nat"],["tea","eat"]]'],
        ['[["eat","tea","nat"]]', "[[1]]", "[1]"],
    ),
    ("gsm_symbolic", "1687.5", ["1,687.50"], ["1687.5 or 3", "16,87.5", "-1687.5"]),
    (
        "knights_knaves",
        "Al is a saint, and Bo is an imp.",
        ["Bo is an imp and Al is a saint"],
        ["Al is a saint", "Al is an imp, and Bo is an imp", "Al is a saint, Al is an imp, Bo is an imp"],
    ),
    (
        "number_sorting",
        "['-2.0', '1.5']",
        ["[-2, 1.5]", '["-2","1.5"]'],
        ["[1.5, -2]", "[-2, 1.5, 1.5]", "[NaN, 1.5]", "[[-2], 1.5]"],
    ),
    ("palindrome_generation", "abba", ["baab", "ABBA"], ["aa", "abab", "abbba"]),
    (
        "palindrome_partitioning",
        '[["a","a"],["aa"]]',
        ['[["aa"],["a","a"]]'],
        ['[["aa"]]', '[["a","a"],["aa"],["aa"]]'],
    ),
    ("polynomial_equations", "-1.5, 2.0", ["2,-1.5", "-1.49995, 2"], ["-1.5", "-1.5, 2, 2", "2.0, 2.0", "-1.5, 2, x"]),
    ("pool_matrix", "5.666666 1.0", ["5.67 1"], ["5.65 1", "5.67\n1", "5.67 1 1"]),
    ("power_function", "8.05544726166417e-06", ["8.06e-6", "0.00000806", "8.055e-06"], ["8.05e-6", "8.06e-5", "8.06"]),
    (
        "prime_factorization",
        "2 \u00d7 3 \u00d7 3",
        ["3*2*3", "3 x 3 x 2"],
        ["18", "2 \u00d7 9", "2 \u00d7 3 \u00d7 3 \u00d7 1", "0x2 \u00d7 3"],
    ),
    ("word_sorting", "IRS, Think", ["IRS,Think"], ["Think, IRS", "IRS, Think, a", "irs, think"]),
]
PUZZLES = [
    (
        "cryptarithm",
        "A=1,B=9,C=2,D=0",
        {"words_letters": ["AB", "A"], "result_letters": "CD", "allow_leading_zero": False},
        ["A=1, B=9, C=2, D=0", "A=2,B=8,C=3,D=0"],
        ["A=1,B=9,C=2", "A=0,B=1,C=0,D=1", "A=1,B=9,C=2,D=0,A=1", "A=1,B=9,C=2,D=10"],
    ),
    (
        "graph_color",
        "{}",
        {"puzzle": {"vertices": [0, 1], "edges": [[0, 1]], "color_options": [1, 2]}},
        ['{"0": 1, "1": 2}', '{"1": 1, "0": 2}'],
        ['{"0": 1, "1": 1}', '{"0": 1}', '{"0": true, "1": 2}', '{"0": 1, "1": 3}', "[1, 2]"],
    ),
    (
        "jugs",
        "[]",
        {"puzzle": {"jug_capacities": [3, 5], "target": 4}},
        ['["fill B","pour B->A","empty A","pour B->A","fill B","pour B->A"]'],
        ['["fill B"]', '["fill C"]', '["pour A->A"]', '["fill"]', "[4]", '["drink A"]', '["fill A->B"]', "4"],
    ),
    (
        "kakurasu",
        "",
        {"row_sums": [1, 2], "col_sums": [1, 2]},
        ["1 0\n0 1"],
        ["0 1\n1 0", "1 0", "1 0\n0 1\n0 0", "10\n01", "1 0\n0 2"],
    ),
    (
        "n_queens",
        "",
        {"puzzle": [["_", "Q", "_", "_"], ["_"] * 4, ["_"] * 4, ["_"] * 4]},
        ["_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _"],
        ["_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _", "_ Q _ _\n_ _ _ _\n_ _ _ _\n_ _ _ _", "Q Q Q Q"],
    ),
    (
        "puzzle24",
        "",
        {"numbers": [1, 3, 4, 6]},
        ["6/(1-3/4)"],
        ["24", "6*4*1", "6*4*1*3/3", "4*6+1-3", "(6)(4)", "6*4**1"],
    ),
    (
        "quantum_lock",
        "A \u2192 B",
        {
            "buttons": [
                {"name": "A", "type": "add", "value": 2, "active_state": "any"},
                {"name": "B", "type": "multiply", "value": 3, "active_state": "green"},
            ],
            "initial_value": 1,
            "initial_state": "red",
            "target_value": 9,
        },
        ["A -> B", "A B"],
        ["B A", "A", "A B B", "A A", "AB", "a b", "the A B"],
    ),
    (
        "shortest_path",
        "right down",
        {"matrix": [["*", "O"], ["O", "#"]]},
        ["down right"],
        ["right", "down down", "infeasible", "right down left right"],
    ),
    (
        "sokoban",
        "R",
        {"gamestr": "+ + + + +  \n+ * @ X +  \n+ + + + +  \n\n"},
        ["RR", "LR"],
        ["", "L", "r", "R R", "R\n"],
    ),
    (
        "survo",
        "",
        {"puzzle": [[0, 0, 3], [4, 5, 9], [0, 7, 12]], "candidate_numbers": [1, 2, 5]},
        ["1 2 3\n4 5 9\n5 7 12"],
        ["2 1 3\n4 5 9\n5 7 12", "1 2 3\n4 5 9\n5 7 13", "1 2 3", "1 2 3\n4 5 9\n5 7 12 0"],
    ),
    (
        "tower_of_hanoi",
        "",
        {"num_disks": 2, "num_pegs": 3, "start_peg": 1, "target_peg": 3, "solution_length": 3},
        ["Move disk 1 from Peg 1 to Peg 2\nMove disk 2 from Peg 1 to Peg 3\nMove disk 1 from Peg 2 to Peg 3"],
        [
            "Move disk 2 from Peg 1 to Peg 3",
            "Move disk 1 from Peg 1 to Peg 9",
            "Move disk 1 from Peg 1 to Peg 3\n" * 4,
            "done",
        ],
    ),
]


@pytest.mark.parametrize(("generator", "right", "others", "wrong"), ANSWERS)
def test_answers(generator, right, others, wrong):
    rule = RULES[generator]
    assert [text for text in [right, *others] if not rule(text, right)] == []
    assert [text for text in wrong if rule(text, right)] == []


@pytest.mark.parametrize(("generator", "right", "puzzle", "solutions", "wrong"), PUZZLES)
def test_puzzles(generator, right, puzzle, solutions, wrong):
    rule = PUZZLE_RULES[generator]
    assert [text for text in solutions if not rule(text, right, puzzle)] == []
    assert [text for text in wrong if rule(text, right, puzzle)] == []


def test_the_tables_name_every_puzzle():
    assert {row[0] for row in PUZZLES} == set(PUZZLE_RULES)


@pytest.mark.parametrize("piece", ["9", "9,", "[", "1 \u00d7 ", "-", "1e9 ", "A=1,", "(", '{"a":', "a is a b, "])
def test_no_rule_is_slow_on_the_longest_text(piece):
    text = (piece * MAX_LENGTH)[:MAX_LENGTH]
    started = time.process_time()
    for rule in set(RULES.values()):
        assert rule(text, "17") is False
    for generator, right, puzzle, *_ in PUZZLES:
        assert PUZZLE_RULES[generator](text, right, puzzle) is False
    assert time.process_time() - started < 2
