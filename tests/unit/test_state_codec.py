import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from insight_rl.state_codec import decode_state, encode_state, load_state, save_state

LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=8),
    arrays.arrays(st.sampled_from([np.float64, np.int64, np.bool_]), st.sampled_from([(0,), (3,), (2, 0), (2, 2)])),
)
STATES = st.dictionaries(
    st.text(max_size=8), st.recursive(LEAVES, lambda inner: st.dictionaries(st.text(max_size=4), inner, max_size=3))
)


def through_a_folder(state, folder):
    save_state(folder, state)
    return load_state(folder)


def through_a_blob(state, folder):
    return decode_state(encode_state(state))


def assert_same(node, other):
    if isinstance(node, dict):
        assert node.keys() == other.keys()
        for key, value in node.items():
            assert_same(value, other[key])
    elif isinstance(node, np.ndarray):
        np.testing.assert_array_equal(node, other)
        assert node.dtype == other.dtype
    else:
        assert (node, type(node)) == (other, type(other))


@pytest.mark.parametrize("through", [through_a_folder, through_a_blob])
@given(state=STATES)
def test_a_state_comes_back_exactly(tmp_path_factory, through, state):
    assert_same(state, through(state, tmp_path_factory.mktemp("state")))
