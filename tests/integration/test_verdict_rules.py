"""Tricks that must not pass and forms that must, for the rules of docs/rewards.md: 64, 40 and 40 of them."""

from __future__ import annotations

import pytest

from insight_rl.reward.math.reward import MathReward
from insight_rl.reward.multiple_choice import MultipleChoiceReward

MATH_TRICKS = [
    # a digit inside a word, a path, a time, a date, a version or an identifier
    ("the log is in build-42", "42"),
    ("see /srv/run-42/out for the rest", "42"),
    ("it is in folder/42", "42"),
    ("the train leaves at 17:42", "42"),
    ("the train leaves at 17:42", "17"),
    ("it took 1:02:42 in all", "42"),
    ("measured on 2031-05-12", "12"),
    ("measured on 12/05/2031", "2031"),
    ("it runs on version 3.1.42", "42"),
    ("it runs on v42", "42"),
    ("the host is 10.0.0.42", "42"),
    ("write to user@42 or to https://example.org/42", "42"),
    ("the key is item_42", "42"),
    ("open notes42.txt and 42.txt", "42"),
    ("ticket #42 says so", "42"),
    ("that was the 42nd attempt", "42"),
    ("a 42-sided die", "42"),
    ("carbon-42 is rare", "42"),
    ("the address is 0x42", "42"),
    ("so the term is 42x", "42"),
    ("so we are left with n+42", "42"),
    ("so we are left with y-42", "42"),
    ("it grows as k^42", "42"),
    ("\\boxed{build-0}", "0"),
    ("\\boxed{at 10:12}", "12"),
    ("The answer is run-0", "0"),
    ("Answer: see step_7", "7"),
    # several answers
    ("1 2 3 ... 41 42", "42"),
    ("1, 2, 3, ..., 41, 42", "42"),
    ("40 41 42", "42"),
    ("40\n41\n42", "42"),
    ("it is 41 or 42", "42"),
    ("it is 41, or possibly 42", "42"),
    ("either 41 or maybe 42", "42"),
    ("The answer is 1 2 3 ... 42", "42"),
    ("\\boxed{40 41 42}", "42"),
    ("\\boxed{1, 2, \\ldots, 42}", "42"),
    ("\\boxed{41 \\text{ or } 42}", "42"),
    ("\\boxed{\\pm 42}", "42"),
    ("x = 41 or x = 42", "42"),
    # false equations, and relations that are not the answer
    ("\\boxed{43 = 42}", "42"),
    ("\\boxed{42 = 43}", "42"),
    ("\\boxed{x = 43 = 42}", "42"),
    ("\\boxed{6 \\cdot 8 = 42}", "42"),
    ("\\boxed{\\text{since } 43 = 42}", "42"),
    ("\\boxed{\\frac{1}{2} = \\frac{1}{3}}", "1/3"),
    ("So 43 = 42.", "42"),
    ("The answer is 43 = 42", "42"),
    ("$43 = 42$", "42"),
    ("\\boxed{x \\ne 42}", "42"),
    ("\\boxed{x < 42}", "42"),
    ("\\boxed{x \\ge 42}", "42"),
    ("\\boxed{42 < 43}", "42"),
    ("\\boxed{y = 42}", "x = 42"),
    ("\\boxed{43 \\approx 42}", "42"),
    # near, but not equal
    ("\\boxed{0.5000001}", "\\frac{1}{2}"),
    ("\\boxed{0.4999999}", "1/2"),
    ("\\boxed{41.9999999}", "42"),
    ("\\boxed{0.3333334}", "1/3"),
    ("\\boxed{1.570797}", "\\frac{\\pi}{2}"),
    ("\\boxed{0.1250001}", "0.125"),
    ("\\boxed{142}", "42"),
    ("\\boxed{4 2}", "42"),
    ("\\boxed{\\sum_{i=1}^{42} 1}", "42"),
]

EQUAL_FORMS = [
    # identical text, whatever it contains
    ("odd $n$", "odd $n$"),
    ("odd  n", "odd $n$"),
    ("The answer is odd $n$.", "odd $n$"),
    ("\\boxed{\\text{all odd } n}", "\\text{all odd } n"),
    ("no solution", "no solution"),
    ("even $n$ and $n = 1$", "even $n$ and $n=1$"),
    ("**build-42**", "build-42"),
    ("17:42", "17:42"),
    ("The answer is 2031-05-12.", "2031-05-12"),
    ("\\boxed{43 = 42}", "43=42"),
    ("$f$ is constant", "\\(f\\) is constant"),
    # an equation is read by the side that is asked for
    ("\\boxed{x = 2}", "2"),
    ("\\boxed{2 = x}", "2"),
    ("2 = x", "2"),
    ("\\boxed{2}", "2 = x"),
    ("\\boxed{2}", "x = 2"),
    ("\\boxed{2 = x}", "x = 2"),
    ("\\boxed{2x + 1 = f(x)}", "2x+1"),
    ("\\boxed{6 \\cdot 7 = 42}", "42"),
    ("so 6*7 = 42", "42"),
    ("\\boxed{x = \\frac{10}{3} = 3.33}", "3.33"),
    ("\\boxed{\\text{so } x = 2}", "2"),
    ("log 100 = 2", "2"),
    # numbers in prose
    ("the total is **42**", "42"),
    ("Total:42", "42"),
    ("it weighs 42kg", "42"),
    ("it costs $42/hour", "42"),
    ("####42", "42"),
    ("so the angle is 76^\\circ.", "76^\\circ"),
    ("mixed in the ratio 2:3", "2:3"),
    ("we need 4.5e3 of them", "4500"),
    ("the side is 2√5", "2\\sqrt{5}"),
    ("it opens at 10:30 and holds 42 people", "42"),
    # the rest
    ("\\boxed{\\pm \\frac12}", "\\pm \\frac{1}{2}"),
    ("\\boxed{\\frac{1}{2}, -\\frac{1}{2}}", "\\pm \\frac12"),
    ("\\boxed{\\frac{x}{2}, \\frac{-x}{2}}", "\\pm\\frac12 x"),
    ("\\boxed{0.333333}", "1/3"),
    ("\\boxed{1.570796}", "\\frac{\\pi}{2}"),
    ("\\boxed{33.333333\\%}", "1/3"),
    ("\\boxed{\\sin(30^\\circ)}", "1/2"),
]

CHOICES = ("Rome", "Oslo", "Paris", "Bern")
CHOICE_TRICKS = [
    "The answer is Paris and Oslo",
    "The answer is Paris or Oslo",
    "Answer: Paris, Oslo",
    "Paris and Bern",
    "\\boxed{Paris \\text{ and } Oslo}",
    "answer: Paris/Bern",
    "answer: C|D",
    "answer: C = D",
    "answer: C/D",
    "answer: C -> D",
    "answer: C; D",
    "answer: C & D",
    "answer: C-D",
    "answer: C D",
    "answer: (C) or (D)",
    "answer: any of A-C",
    "answer: all of A, B, C",
    "answer: both B and C",
    "The answer is either C or D",
    "The answer is between B and C",
    "The answers are B and C",
    "\\boxed{C|D}",
    "\\boxed{C = D}",
    "\\boxed{A-C}",
    "\\boxed{C \\text{ or } D}",
    "C or D",
    "A to C",
    "B, C",
    "C\nD",
    "C vs D",
    "one of B, C",
    "It is B, or possibly C",
    "vitamin C",
    "The answer is vitamin C",
    "vitamin C is correct",
    "\\boxed{vitamin C}",
    "about 25 C",
    "it is written in C++",
    "omega-C",
    "The answer is anything but C",
]
CHOICES_RIGHT = [
    "C",
    "(C)",
    "So C.",
    "I think C",
    "not B but C",
    "The answer is C, not D",
    "answer: C = Paris",
    "answer: C - Paris",
    "The answer is Paris",
    "Option C is correct",
    "It's C",
    "I'd say C",
    "Opción C",
    "My pick: C",
    "Paris",
]


def test_the_tables_are_as_large_as_they_say():
    assert (len(MATH_TRICKS), len(EQUAL_FORMS), len(CHOICE_TRICKS)) == (64, 40, 40)
    assert len(set(MATH_TRICKS)) == 64
    assert len(set(EQUAL_FORMS)) == 40
    assert len(set(CHOICE_TRICKS)) == 40


@pytest.mark.parametrize(("response", "gold"), MATH_TRICKS)
def test_a_trick_is_never_right(response, gold):
    verdict = MathReward().judge(response, gold)
    assert verdict.success is False, verdict


@pytest.mark.parametrize(("response", "gold"), EQUAL_FORMS)
def test_an_equal_form_is_right(response, gold):
    verdict = MathReward().judge(response, gold)
    assert verdict.success is True, verdict


@pytest.mark.parametrize("response", CHOICE_TRICKS)
@pytest.mark.parametrize("choices", [CHOICES, ()], ids=["with texts", "letters only"])
def test_a_trick_with_options_is_never_right(response, choices):
    verdict = MultipleChoiceReward().judge(response, {"letter": "C", "num_choices": 4, "choices": choices})
    assert verdict.success is False, verdict


@pytest.mark.parametrize("response", CHOICES_RIGHT)
def test_one_option_is_right(response):
    verdict = MultipleChoiceReward().judge(response, {"letter": "C", "num_choices": 4, "choices": CHOICES})
    assert verdict.success is True, verdict
