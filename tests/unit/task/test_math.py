"""Rows in the formats of the real data sets, with problems made up for these tests."""

import pytest

from insight_rl.reward.math.reward import read_gold
from insight_rl.task.math import MathRows
from insight_rl.task.problem import NoAnswer

GSM8K = MathRows(question=["question"], answer=["answer"], answer_marker="####")
MATH = MathRows(question=["problem", "question"], answer=["answer"], solution=["solution"])
OLYMPIAD = MathRows(
    question=["problem", "question"],
    answer=["final_answer"],
    context=["context"],
    unit=["unit"],
    absolute_error=["error"],
)


@pytest.mark.parametrize(
    ("rows", "row", "question", "answer"),
    [
        # DeepScaleR
        (MathRows(), {"problem": " What is $2+3$? ", "answer": "5", "solution": "..."}, "What is $2+3$?", "5"),
        # GSM8K of the hub, and a local form of it
        (
            GSM8K,
            {"question": "Two pens at $3?", "answer": "It is 2*3=<<2*3=6>>6.\n#### 6"},
            "Two pens at $3?",
            "6",
        ),
        (GSM8K, {"question": "Two pens at $3?", "answer": "6", "solution": "#### 6"}, "Two pens at $3?", "6"),
        (GSM8K, {"question": "How much?", "answer": "No #### yet.\n#### 1,250"}, "How much?", "1,250"),
        # MATH: the answer is the last box of the solution; MATH-500 and local files have an answer field
        (
            MATH,
            {
                "problem": "Halve one.",
                "level": "Level 1",
                "type": "Algebra",
                "solution": "Not $\\boxed{2}$ but $\\boxed{\\frac{1}{2}}$.",
            },
            "Halve one.",
            "\\frac{1}{2}",
        ),
        (
            MATH,
            {"problem": "Halve one.", "solution": "$\\boxed{\\frac12}$", "answer": "\\frac{1}{2}"},
            "Halve one.",
            "\\frac{1}{2}",
        ),
        # a number instead of text
        (MathRows(), {"question": "What is 2+3?", "answer": 5}, "What is 2+3?", "5"),
        # OlympiadBench of the hub (question) and a local form (problem)
        (
            OLYMPIAD,
            {
                "question": "Find $n$.",
                "final_answer": ["$1$,$2$"],
                "context": None,
                "unit": None,
                "error": None,
                "is_multiple_answer": True,
            },
            "Find $n$.",
            "$1$,$2$",
        ),
        (
            OLYMPIAD,
            {
                "problem": "How long?",
                "final_answer": ["45"],
                "context": "A train stops.",
                "unit": "minute",
                "error": None,
            },
            "A train stops.\n\nHow long?\n\nGive the answer in the unit minute.",
            "45",
        ),
        (
            OLYMPIAD,
            {"problem": "Find $x$.", "final_answer": ["1", "one"], "context": "", "unit": None, "error": None},
            "Find $x$.",
            ["1", "one"],
        ),
    ],
)
def test_rows_of_the_real_formats(rows, row, question, answer):
    problem = rows.problem(row)
    assert (problem.question, problem.answer) == (question, answer)
    assert read_gold(problem.answer).texts == tuple(answer if isinstance(answer, list) else [answer])


def test_an_absolute_error_becomes_the_reward_s_relative_tolerance():
    row = {"problem": "About?", "final_answer": ["$2.5$"], "error": "1e-1"}
    gold = read_gold(OLYMPIAD.problem(row).answer)
    assert gold.texts == ("$2.5$",)
    assert gold.tolerance * 2.5 == pytest.approx(0.1)


@pytest.mark.parametrize("final_answer", [["$x+1$"], ["0"], ["0.05"], ["1", "2"]])
def test_an_error_that_says_nothing_about_the_gold_leaves_it_exact(final_answer):
    row = {"problem": "About?", "final_answer": final_answer, "error": "1e-1"}
    assert read_gold(OLYMPIAD.problem(row).answer).tolerance == 0


@pytest.mark.parametrize(
    "row",
    [
        {"problem": "", "answer": "5"},
        {"problem": None, "answer": "5"},
        {"problem": "Why?", "answer": None},
        {"problem": "Why?", "answer": "  "},
        {"problem": "Why?", "answer": []},
        {"problem": "Why?", "solution": "Nobody knows."},
    ],
)
def test_rows_without_a_question_or_an_answer_are_told_apart(row):
    with pytest.raises(NoAnswer):
        MATH.problem(row)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Why?", "answer": "5"}, "none of the fields problem, question, only prompt, answer"),
        ({"problem": "Why?", "gold": "5"}, "none of the fields answer, only problem, gold"),
        ({"problem": 7, "answer": "5"}, "problem='7' is no text"),
        ({"problem": "Why?", "answer": {"value": 5}}, "is no text, number or list"),
        ({"problem": "Why?", "answer": True}, "is no text, number or list"),
        ({"problem": "Why?", "answer": float("nan")}, "answer=nan is no number"),
        ({"problem": "Why?", "answer": "NaN"}, "answer=NaN is no number"),
        ({"problem": "Why?", "answer": float("inf")}, "answer=inf is no number"),
        ({"problem": "Why?", "answer": [1, float("-inf")]}, "answer=-inf is no number"),
    ],
)
def test_rows_that_cannot_be_read_say_why(row, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        MathRows().problem(row)
    assert not isinstance(caught.value, NoAnswer)


@pytest.mark.parametrize(
    "settings", [{"question": []}, {"answer": "answer"}, {"answer": [3]}, {"solution": "x"}, {"answer_marker": ""}]
)
def test_wrong_settings_are_named(settings):
    with pytest.raises(ValueError, match=f"task.rows.{next(iter(settings))}="):
        MathRows(**settings)
