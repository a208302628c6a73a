from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.evaluation import evaluation_metrics, pass_at_k
from insight_rl.types import Completion, Group, Prompt, Reward


@given(st.integers(1, 9).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_equals_the_share_of_subsets_with_a_success(case):
    n, c, k = case
    outcomes = [True] * c + [False] * (n - c)
    share = np.mean([any(subset) for subset in combinations(outcomes, k)])
    assert pass_at_k(n, c, k) == pytest.approx(share, abs=1e-12)


def test_pass_at_k_refuses_more_than_was_sampled():
    with pytest.raises(ValueError, match="k=5"):
        pass_at_k(4, 2, 5)


def group(verdicts, lengths, finish="stop"):
    return Group(
        prompt=Prompt(id=str(verdicts), task="t", text="", token_ids=(1,), answer=None),
        completions_G=tuple(
            Completion(token_ids=(1,) * n, logprobs=(0.0,) * n, text="", finish_reason=finish, policy_version=0)
            for n in lengths
        ),
        rewards_G=tuple(Reward(value=0.0, success=verdict) for verdict in verdicts),
    )


def test_metrics_count_the_unjudged_as_wrong():
    metrics = evaluation_metrics([group([True, None], [2, 4]), group([False, False], [3, 3], finish="length")])
    assert metrics == {
        "eval/accuracy": 0.25,
        "eval/accuracy_half_width": pytest.approx(1.96 * np.std([0.5, 0.0], ddof=1) / np.sqrt(2)),
        "eval/pass_at_1": 0.25,
        "eval/pass_at_2": 0.5,
        "eval/unjudged_fraction": 0.25,
        "eval/truncated_fraction": 0.5,
        "eval/mean_tokens": 3.0,
    }
