import dataclasses

import pytest

from insight_rl.task.summary import answer_kind, find_leaks, summarise_split
from insight_rl.types import Prompt


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("42", "integer"),
        ("-1,234", "integer"),
        ("$7$", "integer"),
        ("0.5", "decimal"),
        ("4.5e33", "decimal"),
        ("1e11", "decimal"),
        ("\\frac{1}{2}", "fraction"),
        ("3/4", "fraction"),
        ("x+1", "expression"),
        ("\\left( 3, 4 \\right)", "expression"),
        ("Tuesday", "words"),
        (["1", "one"], "2 acceptable"),
        ({"gold": "2.5", "tolerance": 0.04}, "decimal with tolerance"),
        ({"letter": "B", "num_choices": 4}, "one of 4"),
        ({"numbers": [1, 2], "target": 3}, "numbers and target"),
    ],
)
def test_answer_kinds(answer, kind):
    assert answer_kind(answer) == kind


def prompt(number, text, **metadata):
    return Prompt(
        id=f"t/{number}", task="t", text=text, token_ids=(0,) * (number + 1), answer=str(number), metadata=metadata
    )


def test_summary_of_a_split():
    prompts = [prompt(n, f"Q{n % 9}", level=n % 2, key=n) for n in range(10)]
    summary = summarise_split(prompts)
    assert (summary.num_prompts, summary.num_repeated) == (10, 1)
    assert summary.token_lengths == {"min": 1, "median": 6, "p90": 9, "max": 10}
    assert summary.answer_kinds == {"integer": 10}
    assert summary.metadata == {"level": {"0": 5, "1": 5}, "key": {"different values": 10}}


def test_a_shared_template_makes_no_leak():
    template = "Here is a question that you are to answer with care and patience: {}? Write nothing but the answer."
    train = [prompt(n, template.format(question)) for n, question in enumerate(["one", "two"])]
    test = [prompt(n, template.format(question)) for n, question in enumerate(["three", "Two"])]
    (leak,) = find_leaks(train, test)
    assert (leak.test, leak.train, leak.share) == (1, 1, 1.0)


def test_golds_that_only_their_text_can_be_compared_with_are_counted():
    others = [{"gold": "3.5", "tolerance": 0.1}, {"letter": "A"}, {"numbers": [1]}]
    answers = ["12", "\\frac{{(", ["1/2", "Monday"], *others]
    prompts = [dataclasses.replace(prompt(n, f"Q{n}"), answer=answer) for n, answer in enumerate(answers)]
    summary = summarise_split(prompts)
    assert (summary.num_text_only, summary.first_text_only) == (2, "\\frac{{(")
