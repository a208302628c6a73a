"""What every prior of conf/selector/prior must keep to, under a selector that prefers it and one that does not."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.types import Counts, Prompt

PRIORS = sorted(path.stem for path in (Path(__file__).parents[2] / "conf" / "selector" / "prior").glob("*.yaml"))
K = 8


def make_pool(size=150):
    """A third is hopeless, as its text tells; the metadata gives a noisy pass rate."""
    rng = np.random.default_rng(0)
    rates = np.where(np.arange(size) % 3 == 0, 0.0, rng.random(size))
    return [
        Prompt(
            id=f"p{i}",
            task="toy",
            text=f"prove {i}" if i % 3 == 0 else f"add {i} and {i % 11}",
            token_ids=(i,),
            answer=i,
            metadata={"pass_rate": float(rate), "part": "ab"[i % 2]},
        )
        for i, rate in enumerate(rates)
    ]


POOL = make_pool()


@cache
def composed(selector, prior):
    tree = compose_config([f"selector={selector}", f"selector/prior={prior}"]).selector
    return OmegaConf.to_container(tree, resolve=True)


def make(selector, prior, seed=3):
    made = build_part("selector", composed(selector, prior))
    made.open(POOL, num_rollouts=K, seed=seed)
    return made


def outcomes(prompts, step):
    rng = np.random.default_rng(step)
    draws = {prompt.id: rng.binomial(K, prompt.metadata["pass_rate"]) for prompt in POOL}
    return [Counts(prompt_id=prompt.id, num_judged=K, num_successes=int(draws[prompt.id])) for prompt in prompts]


def run(selector, first, steps):
    trace = []
    for step in range(first, first + steps):
        prompts = selector.select(8)
        trace += [[prompt.id for prompt in prompts], list(selector.last_scores())]
        selector.observe(outcomes(prompts, step))
        trace.append(selector.metrics())
    return trace


def through_json(state):
    return json.loads(json.dumps(state, default=lambda array: array.tolist()))


@pytest.mark.parametrize("selector", ["expected_signal", "insight"])
@pytest.mark.parametrize("prior", PRIORS)
def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(selector, prior):
    whole = make(selector, prior)
    run(whole, 0, 4)
    resumed = make(selector, prior, seed=9)
    resumed.load_state_dict(through_json(whole.state_dict()))
    assert run(resumed, 4, 4) == run(whole, 4, 4)


@pytest.mark.parametrize("prior", PRIORS)
def test_opened_again_it_has_forgotten(prior):
    selector = make("expected_signal", prior)
    first = run(selector, 0, 3)
    selector.open(POOL, num_rollouts=K, seed=3)
    assert run(selector, 0, 3) == first


@pytest.mark.parametrize("prior", PRIORS)
def test_beliefs_are_finite_and_positive_and_the_histograms_count_everyone(prior):
    selector = make("expected_signal", prior)
    run(selector, 0, 5)
    beliefs = np.array(selector.beliefs([prompt.id for prompt in POOL]))
    assert np.isfinite(beliefs).all() and (beliefs >= 1e-3).all()
    metrics = selector.metrics()
    assert sum(metrics["selector/belief_histogram"].counts) == len(POOL)
    assert metrics["selector/mean_belief"] == pytest.approx((beliefs[:, 0] / beliefs.sum(axis=1)).mean())


def test_the_option_alone_makes_the_difference():
    flat, learnt = (make("expected_signal", prior) for prior in ("flat", "pool"))
    run(flat, 0, 2), run(learnt, 0, 2)
    unseen = next(prompt.id for prompt in POOL if flat.belief(prompt.id) == (1.0, 1.0))
    assert learnt.belief(unseen) != (1.0, 1.0)
