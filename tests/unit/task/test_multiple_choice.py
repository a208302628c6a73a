"""Rows in the formats of MMLU and GPQA, with questions made up for these tests."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.reward.multiple_choice import MultipleChoiceReward
from insight_rl.task.mmlu import GROUP_OF_SUBJECT, MmluRows
from insight_rl.task.multiple_choice import MultipleChoiceRows
from insight_rl.task.problem import NoAnswer

ROWS = MultipleChoiceRows()
GPQA = MultipleChoiceRows(
    question=["Question"],
    correct=["Correct Answer"],
    incorrect=["Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"],
)
CITIES = ["Rome", "Oslo", "Paris", "Bern"]


@pytest.mark.parametrize("answer", [2, "C", "Paris"])
def test_index_letter_and_text_name_the_same_option(answer):
    problem = ROWS.problem({"question": "Capital of France?", "choices": CITIES, "answer": answer})
    assert problem.answer == {"letter": "C", "num_choices": 4, "choices": CITIES}
    assert problem.text == "Capital of France?\n\nA. Rome\nB. Oslo\nC. Paris\nD. Bern"
    assert problem.metadata == {"num_choices": 4}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "?", "choices": CITIES, "answer": 4}, "no index from 0 to 3"),
        ({"question": "?", "choices": CITIES, "answer": -1}, "no index from 0 to 3"),
        ({"question": "?", "choices": CITIES, "answer": "E"}, "no letter of ABCD"),
        ({"question": "?", "choices": CITIES, "answer": True}, "answer='True'"),
        ({"question": "?", "choices": ["one"], "answer": 0}, "no list of 2 to 26"),
        ({"question": "?", "choices": "ABCD", "answer": 0}, "no list of 2 to 26"),
        ({"question": "?", "choices": CITIES, "gold": 0}, "none of the fields answer"),
        ({"question": "?", "answer": 0}, "none of the fields choices, options"),
    ],
)
def test_rows_that_cannot_be_read_say_why(row, reason):
    with pytest.raises(ValueError, match=reason):
        ROWS.problem(row)


def test_rows_without_an_answer_are_told_apart():
    with pytest.raises(NoAnswer):
        ROWS.problem({"question": "?", "choices": CITIES, "answer": None})


def gpqa_row(question: str) -> dict[str, str]:
    return {
        "Question": question,
        "Correct Answer": " right\n",
        "Incorrect Answer 1": "wrong 1",
        "Incorrect Answer 2": "wrong 2",
        "Incorrect Answer 3": "wrong 3",
        "Subdomain": "Optics",
    }


@given(st.text(min_size=1).filter(lambda text: text.strip() != ""))
def test_shuffled_options_keep_the_right_one_right(question):
    problem = GPQA.problem(gpqa_row(question))
    assert sorted(problem.choices) == ["right", "wrong 1", "wrong 2", "wrong 3"]
    assert problem.choices["ABCD".index(problem.answer["letter"])] == "right"


def test_the_order_depends_on_the_seed_and_the_question_alone():
    questions = [f"Question {number}?" for number in range(400)]
    other_seed = MultipleChoiceRows(
        question=["Question"], correct=["Correct Answer"], incorrect=["Incorrect Answer 1"], shuffle_seed=1
    )
    letters = [GPQA.problem(gpqa_row(question)).answer["letter"] for question in questions]
    assert letters == [GPQA.problem(gpqa_row(question)).answer["letter"] for question in questions]
    # 100 of each expected; a binomial's standard deviation is 8.7
    assert all(60 < count < 140 for count in Counter(letters).values())
    assert len(set(letters)) == 4
    assert len({other_seed.problem(gpqa_row(question)).answer["letter"] for question in questions}) == 2


def test_the_id_does_not_depend_on_the_order_of_the_options():
    first = ROWS.problem({"question": "Capital of France?", "choices": CITIES, "answer": "C"})
    second = ROWS.problem({"question": "Capital of France?", "choices": CITIES[::-1], "answer": "B"})
    other = ROWS.problem({"question": "Capital of France?", "choices": ["Rome", "Paris"], "answer": "B"})
    assert first.id_within("x") == second.id_within("x") != other.id_within("x")


def test_mmlu_rows_of_the_hub_and_of_local_files():
    hub = MmluRows().problem({"question": "Bones?", "subject": "anatomy", "choices": CITIES, "answer": 1})
    local = MmluRows().problem({"question": "Bones?", "subject": "anatomy", "choices": CITIES, "answer": "B"})
    assert hub == local
    assert hub.metadata == {"num_choices": 4, "subject": "anatomy", "group": "STEM"}
    auxiliary = MmluRows().problem({"question": "Bones?", "subject": "", "choices": CITIES, "answer": 1})
    assert auxiliary.metadata["group"] == "auxiliary"
    with pytest.raises(ValueError, match="subject='cooking'"):
        MmluRows().problem({"question": "Bones?", "subject": "cooking", "choices": CITIES, "answer": 1})


def test_the_four_groups_of_mmlu():
    assert Counter(GROUP_OF_SUBJECT.values()) == {"STEM": 19, "humanities": 13, "social sciences": 12, "other": 13}


@pytest.mark.parametrize("row", [{"question": "?", "choices": CITIES, "answer": "D"}, gpqa_row("?")])
def test_the_reward_takes_the_answer(row):
    problem = (GPQA if "Question" in row else ROWS).problem(row)
    judge = MultipleChoiceReward().judge
    for letter in "ABCD":
        assert judge(f"\\boxed{{{letter}}}", problem.answer).success is (letter == problem.answer["letter"])


@pytest.mark.parametrize("settings", [{"correct": ["a"]}, {"incorrect": ["b"]}])
def test_right_and_wrong_options_are_named_together(settings):
    with pytest.raises(ValueError, match=r"task.rows.incorrect="):
        MultipleChoiceRows(**settings)
