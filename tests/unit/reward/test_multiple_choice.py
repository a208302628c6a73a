"""The rules of ``reward=multiple_choice``: what claims an option, what only looks like it."""

# ruff: noqa: RUF001 (responses in several languages)
from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.reward.multiple_choice import MultipleChoiceReward

CITIES = ["Rome", "Oslo", "Paris", "Bern"]


def judge(response, letter, num_choices=4, choices=None, **settings):
    answer = {"letter": letter, "num_choices": num_choices}
    if choices is not None:
        answer["choices"] = choices
    return MultipleChoiceReward(**settings).judge(response, answer)


@pytest.mark.parametrize(
    "form",
    [
        "{letter}",
        "({letter})",
        "{letter}.",
        "**{letter}**",
        "{letter}) because it fits",
        "Answer: {letter}",
        "ANSWER: {letter}",
        "__Answer__: {letter}",
        "**Answer: {letter}**",
        "Answer: ${letter}$",
        "### Answer\n{letter}",
        "The answer is ({letter}).",
        "The correct answer is **({letter})**",
        "the answer to this question is [{letter}]",
        "The answer is option {letter}.",
        "The correct option is {letter}, not another one.",
        "\\boxed{{{letter}}}",
        "$\\boxed{{\\text{{{letter}}}}}$",
        "\\boxed{{\\text{{({letter})}}}}",
        "\\boxed{{\\text{{{letter}: something in words}}}}",
        "\\boxed{{\\text{{Answer: {letter}}}}}",
        "\\textbf{{({letter})}}",
        "<think>Answer: B</think>Answer: {letter}",
        "<answer>{letter}</answer>",
        "I would go with {letter}.",
        "So I choose option ({letter})",
        "{letter} is the correct option",
        "Therefore option {letter} is correct.",
        "Answer: B\nOn reflection that is wrong.\nAnswer: {letter}",
        "We can rule out the others and settled on {letter}",
        "Answer:\n\n**{letter}**",
        "答案是{letter}",
        "答案：{letter}。",
        "所以选{letter}",
        "La respuesta correcta es {letter}.",
        "Réponse : {letter}",
        "Die richtige Antwort ist {letter}.",
        "A resposta correta é a {letter}",
        "Ответ: {letter}",
        "正解は{letter}です",
        "정답은 {letter}입니다",
        "الإجابة هي {letter}",
        "Đáp án đúng là {letter}",
    ],
)
@pytest.mark.parametrize("letter", ["C", "D"])
def test_forms_that_claim_an_option(form, letter):
    assert judge(form.format(letter=letter), letter).status == "correct"
    assert judge(form.format(letter=letter), "A").success is False


@pytest.mark.parametrize("letter", ["b", "c"])
def test_small_letters_count_where_nothing_follows(letter):
    assert judge(letter, letter.upper()).success is True
    assert judge(f"answer: {letter}", letter.upper()).success is True
    assert judge(f"the answer is {letter} minor", letter.upper()).success is False


@pytest.mark.parametrize(
    ("response", "letter", "num_choices"),
    [
        ("A triangle has three sides.", "A", 4),
        ("The answer is A triangle", "A", 4),
        ("The answer is a triangle", "A", 4),
        ("I am not able to solve this.", "I", 10),
        ("I think so, and so do I", "I", 10),
        ("Because it is so", "B", 4),
        ("Always", "A", 4),
        ("Answer: Dogs", "D", 4),
        ("ANSWER: Yes", "Y", 26),
        ("random text", "A", 4),
        ("", "A", 4),
        ("<think>Answer: A</think>", "A", 4),
    ],
)
def test_words_that_are_no_answers(response, letter, num_choices):
    verdict = judge(response, letter, num_choices)
    assert (verdict.success, verdict.status) == (False, "no_answer")


@pytest.mark.parametrize(
    "response",
    [
        "Answer: B, C",
        "Answer: B or C",
        "The answer is B and C",
        "\\boxed{B, C}",
        "\\boxed{B} or \\boxed{C}",
        "Final answer: B\nFinal answer: C",
        "Final answer: C\nFinal answer: B",
        "\\boxed{B}\nThe answer is C",
        "It's either B or C",
        "A, B, C, D",
        "The answer is not C.",
        "Answer: C is wrong",
    ],
)
@pytest.mark.parametrize("letter", ["B", "C"])
def test_two_answers_and_denied_ones_are_not_right(response, letter):
    assert judge(response, letter).success is False


def test_the_last_claim_counts():
    text = "At first I thought the answer is (B). But no, the answer is (D)."
    assert judge(text, "D").success is True
    assert judge(text, "B").success is False
    assert judge("Candidate is \\boxed{C}, but on reflection the answer is \\boxed{D}", "D").success is True
    assert judge("Thinking: \\boxed{\\text{some idea}}. Final answer: \\boxed{D}", "D").success is True


def test_the_text_of_an_option_counts_as_its_letter():
    for response in ("Paris", "The answer is Paris.", "\\boxed{\\text{Paris}}", "Answer: **paris**"):
        assert judge(response, "C", choices=CITIES).success is True
        assert judge(response, "B", choices=CITIES).success is False
        assert judge(response, "C", choices=CITIES, option_text=False).success is False
    pairs = ["I only", "II only", "A and B", "I, II, and III"]
    assert judge("The answer is A and B", "C", choices=pairs).success is True
    assert judge("The answer is I, II, and III", "D", choices=pairs).success is True
    assert judge("The answer is n", "A", choices=["n", "n + 1", "2n", "n - 1"]).success is True
    assert judge("Answer: A", "A", choices=["B", "A", "D", "C"]).success is True
    numbers = ["0", "4", "2", "6"]
    assert judge("\\boxed{4}", "B", choices=numbers).success is True
    assert judge("Answer: 4", "B", choices=numbers).success is True
    assert judge("Answer: 42", "B", choices=numbers).success is False


def test_a_letter_that_is_no_option_is_wrong():
    assert judge("Answer: E", "C").status == "wrong"
    assert judge("Answer: E", "E", num_choices=5).status == "correct"
    assert judge("The answer is Z.", "Z", num_choices=26).status == "correct"


def test_a_lone_letter_counts_only_if_asked_for():
    response = "We ruled out some and what remains, by elimination, D"
    assert judge(response, "D").success is True
    assert judge(response, "D", lone_letter=False).status == "no_answer"


@pytest.mark.parametrize(
    "answer",
    [
        None,
        "C",
        {"letter": "Z", "num_choices": 4},
        {"letter": "C"},
        {"letter": "C", "num_choices": 1},
        {"letter": "C", "num_choices": 27},
        {"letter": "C", "num_choices": 4, "choices": ["a", "b"]},
        {"letter": "CC", "num_choices": 4},
    ],
)
def test_an_unusable_gold_is_an_error_and_no_verdict(answer):
    verdict = MultipleChoiceReward().judge("Answer: C", answer)
    assert (verdict.success, verdict.status) == (None, "error")
    assert "answer" in verdict.reason


@given(
    letter=st.sampled_from(string.ascii_uppercase),
    other=st.sampled_from(string.ascii_uppercase),
    reasoning=st.text(alphabet=string.ascii_lowercase + " .,\n", max_size=200),
)
def test_reasoning_in_small_letters_never_changes_a_clear_answer(letter, other, reasoning):
    response = f"{reasoning}\n\nFinal answer: ({letter})"
    assert judge(response, other, 26).success is (letter == other)
