from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.retirement import Retirement, mastered
from insight_rl.types import Counts, Prompt


def test_mastered_is_a_tail_of_the_belief():
    rng = np.random.default_rng(0)
    alpha, beta = rng.uniform(0.5, 60.0, 200), rng.uniform(0.5, 5.0, 200)
    expected = stats.beta.sf(0.9, alpha, beta) > 0.8
    assert np.array_equal(mastered(alpha, beta, 0.9, 0.8), expected)
    assert 0 < expected.sum() < 200


def opened(phi, *, forgetting=1.0, **settings):
    """Uniform selection of a pool in which prompt i succeeds always if ``phi[i]`` is 1 and never if it is 0."""
    selector = BeliefSelector(score=None, candidate_ratio=1, forgetting=forgetting, retirement=Retirement(**settings))
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(i,), answer=None) for i in range(len(phi))]
    selector.open(pool, num_rollouts=8, seed=0)
    return selector


def step(selector, phi, num_prompts):
    prompts = selector.select(num_prompts)
    counts = [Counts(prompt_id=p.id, num_judged=8, num_successes=int(8 * phi[int(p.id)])) for p in prompts]
    selector.observe(counts)
    return sorted(int(prompt.id) for prompt in prompts)


def test_mastered_prompts_rest_for_intervals_that_double():
    """Two prompts, one mastered: with rate 0.8 its belief Beta(9, 1) is sure enough after one visit."""
    phi = np.array([1.0, 0.0, 0.0, 0.0])
    selector = opened(phi, rate=0.8, confidence=0.8, first_interval=2, review_share=0.5)
    visits = [0 in step(selector, phi, 2) for _ in range(60)]
    seen = np.flatnonzero(visits)
    first = seen[0]
    # Due at first + 1 + 2, then after 4, 8, 16 more steps of rest; a review takes its place at once.
    assert seen.tolist() == [first, first + 3, first + 8, first + 17, first + 34]
    assert selector.metrics()["selector/num_retired"] == 1.0


def test_hopeless_prompts_stay():
    phi = np.zeros(6)
    selector = opened(phi, rate=0.8, confidence=0.8)
    for _ in range(10):
        assert len(step(selector, phi, 3)) == 3
    assert selector.metrics()["selector/num_retired"] == 0.0


def test_a_failed_review_brings_a_prompt_back():
    phi = np.array([1.0] * 5 + [0.0] * 5)
    selector = opened(phi, rate=0.8, confidence=0.8, first_interval=2, review_share=1.0, forgetting=0.5)
    for _ in range(4):
        step(selector, phi, 10)
    assert selector.metrics()["selector/num_retired"] == 5.0
    forgotten = np.zeros(10)
    for _ in range(20):
        step(selector, forgotten, 4)
    assert selector.metrics()["selector/num_retired"] == 0.0


def test_reviews_keep_to_their_share_the_longest_due_first():
    retirement = Retirement(rate=0.8, confidence=0.5, first_interval=1, review_share=0.25)
    for number, index in enumerate((7, 3, 5)):
        retirement.observe(np.array([index]), np.array([30.0]), np.array([1.0]), number)
    assert retirement.resting(0).tolist() == [3, 5, 7]
    assert retirement.resting(10).tolist() == []
    none_pending = np.empty(0, np.int64)
    assert retirement.reviews(10, none_pending, 8).tolist() == [7, 3]
    assert retirement.reviews(10, np.array([7]), 8).tolist() == [3, 5]
    assert retirement.reviews(10, none_pending, 3).tolist() == []


def test_a_step_is_filled_before_anybody_rests():
    phi = np.ones(6)
    selector = opened(phi, rate=0.8, confidence=0.8, first_interval=50)
    assert [len(step(selector, phi, 6)) for _ in range(4)] == [6] * 4


def test_the_log_says_how_prompts_came_to_be_chosen():
    phi = np.array([1.0] * 4 + [0.0] * 16)
    selector = opened(phi, rate=0.8, confidence=0.8, first_interval=1, review_share=0.5)
    for _ in range(40):
        selector.select(4)
        decision = selector.take_decisions()[0]
        propensity = selector.propensity(decision)
        chosen = decision.candidates[decision.chosen]
        assert (propensity[decision.chosen[: decision.num_reviews]] == 1.0).all()
        assert len(set(chosen.tolist())) == 4
        assert ((propensity > 0.0) & (propensity <= 1.0)).all()
        counts = [Counts(prompt_id=str(i), num_judged=8, num_successes=int(8 * phi[i])) for i in chosen.tolist()]
        selector.observe(counts)
    assert decision.num_reviews > 0 or selector.metrics()["selector/num_retired"] == 4.0


def test_it_resumes_where_it_was():
    phi = np.array([1.0] * 8 + [0.0] * 12)
    settings = {"rate": 0.8, "confidence": 0.8, "first_interval": 2, "review_share": 0.5}
    selector, resumed = opened(phi, **settings), opened(phi, **settings)
    for _ in range(8):
        step(selector, phi, 6)
    resumed.load_state_dict(selector.state_dict())
    for _ in range(12):
        assert step(selector, phi, 6) == step(resumed, phi, 6)
        assert selector.metrics() == resumed.metrics()


@pytest.mark.parametrize(
    ("setting", "value"),
    [("rate", 1.0), ("rate", "x"), ("confidence", 0), ("first_interval", 0), ("review_share", 1.5)],
)
def test_bad_settings_are_named(setting, value):
    with pytest.raises(UsageError, match=rf"selector\.retirement\.{setting}"):
        Retirement(**{setting: value})


def test_a_confidence_that_no_belief_reaches_is_refused():
    with pytest.raises(UsageError, match=r"confidence=0\.9: is never reached: with selector\.forgetting=0\.5"):
        opened(np.ones(3), rate=0.9, forgetting=0.5)
    opened(np.ones(3), rate=0.9, forgetting=0.85)
    opened(np.ones(3), forgetting=0.5)  # off


def test_the_command_line_reaches_it():
    config = compose_config(["selector=mapp", "selector.retirement.rate=0.9"])
    assert config.selector.retirement.rate == 0.9
