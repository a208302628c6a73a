from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.task.mixture import MixtureTask
from insight_rl.types import Prompt


class Numbers:
    """``size`` training prompts, the first of them twice, and one held-out prompt."""

    def __init__(self, name, size):
        self.name = name
        self.size = size

    def prompts(self, numbers):
        return [
            Prompt(id=f"{self.name}/{n}", task=self.name, text=str(n), token_ids=(n,), answer=str(n)) for n in numbers
        ]

    def train_prompts(self, encoder):
        return self.prompts([0, *range(self.size)])

    def test_prompts(self, encoder):
        return self.prompts([10_000])


def mixture(num_train=None, seed=0, **parts):
    """``name=(size, weight)``"""
    nodes = {name: {"task": Numbers(name, size), "weight": weight} for name, (size, weight) in parts.items()}
    return MixtureTask(parts=nodes, num_train=num_train, seed=seed)


@given(
    st.dictionaries(st.sampled_from("abcd"), st.tuples(st.integers(1, 50), st.floats(0.1, 10)), min_size=1),
    st.integers(0, 99),
)
def test_the_pool_has_the_shares_of_the_weights_and_no_repeats(parts, seed):
    prompts = mixture(seed=seed, **parts).train_prompts(None)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    counts = Counter(prompt.task for prompt in prompts)
    total = sum(weight for _, weight in parts.values())
    for name, (size, weight) in parts.items():
        assert counts[name] <= size
        assert abs(counts[name] - len(prompts) * weight / total) <= 1 + 1e-6
    # As large as it can be: one more prompt in all would be too many for some part.
    assert any((len(prompts) + 2) * weight / total > size for size, weight in parts.values())


def test_a_size_can_be_asked_for():
    task = mixture(num_train=30, a=(100, 2.0), b=(100, 1))
    prompts = task.train_prompts(None)
    assert Counter(prompt.task for prompt in prompts) == {"a": 20, "b": 10}
    assert [prompt.id for prompt in prompts] == [prompt.id for prompt in task.train_prompts(None)]
    other = mixture(num_train=30, seed=1, a=(100, 2.0), b=(100, 1)).train_prompts(None)
    assert {prompt.id for prompt in other} != {prompt.id for prompt in prompts}
    assert Counter(prompt.task for prompt in task.test_prompts(None)) == {"a": 1, "b": 1}


def test_more_than_a_part_has_is_refused():
    with pytest.raises(UsageError, match=r"task.num_train=30: part b has 5 prompts, its share would be 15"):
        mixture(num_train=30, a=(100, 1), b=(5, 1)).train_prompts(None)


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({}, "task.parts="),
        ({"a": {"task": Numbers("a", 3)}}, "task.parts.a="),
        ({"a": {"task": Numbers("a", 3), "weight": 0}}, "task.parts.a.weight="),
        ({"a": {"task": Numbers("a", 3), "weight": "1"}}, "task.parts.a.weight="),
        ({"a": {"task": "gsm8k", "weight": 1}}, "task.parts.a.task="),
    ],
)
def test_wrong_parts_are_named(parts, named):
    with pytest.raises(UsageError, match=named):
        MixtureTask(parts=parts, num_train=None, seed=0)


def test_a_wrong_setting_of_a_part_is_found_before_anything_is_built():
    node = parse_config(compose_config(["task=mixture", "+task.parts.gsm8k.task.max_trian=3"])).task
    with pytest.raises(UsageError, match=r"task.parts.gsm8k.task.max_trian=3: .*did you mean max_train"):
        build_part("task", node)
