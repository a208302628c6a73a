import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.task.overlap import leaks, normalised, repeats, without_boilerplate

LONG = "A farmer has {n} goats and every goat eats three kilograms of hay on each of the seven days of the week."


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("What is $1+1$?", "what is 1 + 1"),
        ("Find \\left( x \\right).", "Find (x)."),
        ("**Find** `x`", "find x"),
        ("\\( x \\)  is", "x is"),
        ("x is ﬁne", "X IS FINE"),
    ],
)
def test_spacing_and_markup_do_not_tell_texts_apart(a, b):
    assert normalised(a) == normalised(b)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("3 - 5", "3 + 5"),
        ("1 23", "12 3"),
        ("1.5", "15"),
        ("2*3", "23"),
        ("1,19=10", "11,9=10"),
        ("f{1}{23}", "f{12}{3}"),
    ],
)
def test_signs_and_numbers_do(a, b):
    assert normalised(a) != normalised(b)


def test_repeats():
    assert repeats(["a b", "c", "A  b.", "d", "c"]) == [(0, 2), (1, 4)]


def test_leaks_are_equal_texts_and_those_that_share_most_of_their_words():
    reworded = "Yesterday, on the farm: " + LONG.format(n=12)
    other = (
        "A train leaves the station at noon and travels for seven hours at a speed of sixty kilometres an hour today."
    )
    train = [other, reworded, "short one", LONG.format(n=12)]
    test = ["Short one!", LONG.format(n=12), "quite another text"]
    found = leaks(train, test)
    assert [(overlap.test, overlap.train, overlap.share) for overlap in found] == [(0, 2, 1.0), (1, 1, 1.0)]


def test_another_number_is_near_but_not_equal():
    (found,) = leaks([LONG.format(n=99)], [LONG.format(n=12)], min_share=0.5)
    assert 0.5 < found.share < 1
    assert leaks([LONG.format(n=99)], [LONG.format(n=12)], min_share=0.95) == []


@given(st.text(max_size=8), st.lists(st.text(max_size=8), min_size=2, max_size=6, unique=True), st.text(max_size=8))
def test_boilerplate_is_what_all_texts_begin_and_end_with(beginning, bodies, end):
    cut = without_boilerplate([beginning + body + end for body in bodies])
    assert len(set(cut)) == len(bodies)
    # Nothing is left that all of them share.
    assert len({text[:1] for text in cut}) > 1 or "" in cut
    assert len({text[-1:] for text in cut}) > 1 or "" in cut
    for text, body in zip(cut, bodies, strict=True):
        assert text in body


def test_a_single_text_is_left_as_it_is():
    assert without_boilerplate(["only one", "only one"]) == ["only one", "only one"]


def test_phrases_that_many_test_texts_hold_count_for_nothing():
    phrase = "Which of the following statements about the matter at hand is most likely to be true in this case"
    test = [f"{phrase} {n}?" for n in range(60)]
    assert leaks([f"{phrase} x{n}?" for n in range(5)], test) == []
