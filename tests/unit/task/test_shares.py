from hypothesis import given
from hypothesis import strategies as st

from insight_rl.task.shares import split_by_shares


@given(st.integers(0, 10**6), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_parts_add_up_and_none_is_off_by_one(total, weights):
    shares = {str(index): weight / sum(weights) for index, weight in enumerate(weights)}
    sizes = split_by_shares(total, shares)
    assert sum(sizes.values()) == total
    assert all(abs(sizes[name] - share * total) < 1 + 1e-6 for name, share in shares.items())


def test_remainders_decide_and_whole_parts_stay_whole():
    assert split_by_shares(10, {"a": 0.24, "b": 0.76}) == {"a": 2, "b": 8}
    assert split_by_shares(100, {"a": 0.29, "b": 0.71}) == {"a": 29, "b": 71}
