"""Which piece of a response is the answer: rules that hold for any word, number and text."""

from __future__ import annotations

import string

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from insight_rl.reward.math.reward import MathReward
from insight_rl.reward.math.vocabulary import FUNCTIONS, is_unit

numbers = st.integers(0, 10_000)
words = st.text(string.ascii_lowercase, min_size=3, max_size=8).filter(
    lambda word: not is_unit(word) and word not in FUNCTIONS and word not in ("infty", "percent", "pct")
)
FORMS = [
    "{word}{number}",
    "{word}-{number}",
    "{word}_{number}",
    "/{word}/{number}",
    "{word}/{number}/{word}",
    "{word}.{number}",
    "{word}@{number}",
    "{number}{word}",
    "{number}-{word}",
    "{number}.{word}",
    "#{number}",
    "1.2.{number}",
    "{number}.1.2",
    "12:{number:02d}",
    "2031-05-{number:02d}",
]
SEPARATORS = [" ", ", ", " or ", " ... "]
ALPHABET = string.ascii_letters + string.digits + " ^=+-*/(),<>!|'"
sentences = st.sampled_from(["%s", "it is in %s", "see %s for the rest", "The answer is in %s", "\\boxed{%s}"])


@settings(deadline=None)
@given(word=words, number=numbers, form=st.sampled_from(FORMS), sentence=sentences)
def test_a_number_inside_a_longer_token_is_no_answer(word, number, form, sentence):
    assume(number > 0 or form != "{number}{word}")  # 0x is 0, whatever x is
    response = sentence % form.format(word=word, number=number)
    assert MathReward().judge(response, str(number)).success is False, response


@settings(deadline=None)
@given(first=numbers, second=numbers, form=st.sampled_from(["\\boxed{%s}", "%s", "$%s$", "The answer is %s", "So %s."]))
def test_a_false_equation_is_never_right(first, second, form):
    assume(first != second)
    for gold in (first, second):
        assert MathReward().judge(form % f"{first} = {second}", str(gold)).success is False


@settings(deadline=None)
@given(
    items=st.lists(numbers, min_size=2, max_size=6, unique=True), joint=st.sampled_from([" ", ", ", " or ", " ... "])
)
def test_a_row_of_numbers_is_none_of_them(items, joint):
    response = joint.join(map(str, items))
    assume(joint != " " or not response.replace(" ", "").isdigit() or all(len(str(item)) != 3 for item in items))
    for gold in items:
        for form in ("%s", "it is %s", "\\boxed{%s}"):
            assert MathReward().judge(form % response, str(gold)).success is False, response


@settings(deadline=None)
@given(
    text=st.text(string.ascii_letters + string.digits + " ^=+-*/(),<>!|'", min_size=1, max_size=120), math=st.booleans()
)
def test_identical_text_is_right_whatever_it_contains(text, math):
    assume(text.strip() and text.strip().lower() != "nan")
    response = f"  ${text}$ \n" if math else f"{text} ."
    assert MathReward().judge(response, text).success is True
    assert MathReward().judge(f"\\boxed{{ {text} }}", text).success is True
