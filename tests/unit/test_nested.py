import pytest

from insight_rl.nested import flatten, value_at

TREE = {"a": {"b": 1, "c": {"d": None}}, "e": [2]}


@pytest.mark.parametrize(("key", "value"), [("a.b", 1), ("e", [2]), ("a.c", {"d": None})])
def test_a_value_is_found_by_its_dotted_key(key, value):
    assert value_at(TREE, key) == value


@pytest.mark.parametrize("key", ["", "x", "a.x", "a.b.c", "e.0", "a.c.d.f"])
def test_what_is_not_there_is_none(key):
    assert value_at(TREE, key) is None
    assert value_at("no mapping", key) is None


def test_every_leaf_is_at_its_flat_key():
    assert {key: value_at(TREE, key) for key in flatten(TREE)} == flatten(TREE)
