"""What every selector of conf/selector must keep to; a new option file is found and held to it by being there."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.selector.base import KnowsVersionLags
from insight_rl.types import Completion, Group, Histogram, Prompt, Reward

CONF = Path(__file__).parents[2] / "conf" / "selector"
OPTIONS = sorted(path.stem for path in CONF.glob("*.yaml"))
K = 8


@pytest.fixture(scope="module")
def service(start_service, tmp_path_factory):
    """For ``remote``: what it hosts is insight."""
    _, url = start_service(tmp_path_factory.mktemp("service"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INSIGHT_RL_SELECTOR_URL", url)
        yield


@pytest.fixture(params=OPTIONS)
def option(request):
    if request.param == "remote":
        request.getfixturevalue("service")
    return request.param


@cache
def composed(option):
    return OmegaConf.to_container(compose_config([f"selector={option}"]).selector, resolve=True)


def make(option, *, pool=None, seed=3, **settings):
    """Built as a run builds it: composed from the whole tree, checked against the signature."""
    if option == "remote":
        node = composed(option) | {"hosts": {"name": "insight", "settings": settings}}
    else:
        node = composed(option) | settings
    selector = build_part("selector", node)
    selector.open(make_pool() if pool is None else pool, num_rollouts=K, seed=seed)
    return selector


def make_with_flat_prior(option, **settings):
    """For exact beliefs: a learnt prior moves with every outcome."""
    flat = {"_target_": "insight_rl.selector.prior.FlatPrior"}
    return make(option, **settings, **({"prior": flat} if "prior" in composed(option) else {}))


def make_pool(size=200):
    return [Prompt(id=f"p{i:04d}", task="toy", text="", token_ids=(i,), answer=i % 10 / 9) for i in range(size)]


def group(prompt, outcomes_G):
    completion = Completion(token_ids=(1,), logprobs=(0.0,), text="", finish_reason="stop", policy_version=0)
    rewards_G = tuple(Reward(value=0.1 if not outcome else 1.0, success=outcome) for outcome in outcomes_G)
    return Group(prompt=prompt, completions_G=(completion,) * len(rewards_G), rewards_G=rewards_G)


def rolled_out(prompts, step):
    """K verdicts each, at the rate the prompt's answer names; depends on nothing but prompt and step."""
    rng = np.random.default_rng(step)
    uniform = {f"p{i:04d}": rng.random(K) for i in range(2000)}
    return [group(prompt, [bool(u < prompt.answer) for u in uniform[prompt.id]]) for prompt in prompts]


def run(selector, steps, *, first=0, num_prompts=16):
    trace = []
    for step in range(first, first + steps):
        prompts = selector.select(num_prompts)
        trace.append([prompt.id for prompt in prompts])
        trace.append(["nan" if np.isnan(score) else score for score in selector.last_scores()])
        selector.observe(rolled_out(prompts, step))
        trace.append(selector.metrics())
    return trace


def through_json(state):
    """As a checkpoint would: JSON and NumPy arrays, nothing else."""

    def encode(value):
        if isinstance(value, np.ndarray):
            return {"array": value.tolist(), "dtype": str(value.dtype)}
        raise TypeError(f"{type(value)} is neither JSON-able nor an array")

    def decode(value):
        return np.array(value["array"], value["dtype"]) if "array" in value else value

    return json.loads(json.dumps(state, default=encode), object_hook=decode)


def test_the_six_selectors_of_the_paper_are_there():
    paper = {"random", "mopps", "inverse_evidence", "expected_difficulty", "dynamic_sampling", "insight"}
    assert paper <= set(OPTIONS)


def test_select_returns_distinct_prompts_with_a_score_each(option):
    selector = make(option)
    prompts = selector.select(32)
    assert len(prompts) == len({prompt.id for prompt in prompts}) == 32
    assert len(selector.last_scores()) == 32


def test_pending_prompts_are_not_selected_again_until_observed(option):
    selector = make(option)
    first, second = selector.select(90), selector.select(90)
    assert not {prompt.id for prompt in first} & {prompt.id for prompt in second}
    assert len(selector.select(90)) == 20  # all that the pool of 200 has left
    assert len(selector.select(90)) == 0
    selector.observe(rolled_out(second, 0))
    assert {prompt.id for prompt in selector.select(200)} == {prompt.id for prompt in second}


def test_more_than_the_pool_holds_gives_the_pool(option):
    assert {prompt.id for prompt in make(option).select(1000)} == {prompt.id for prompt in make_pool()}


def test_a_seed_fixes_the_run_and_another_seed_another_run(option):
    assert run(make(option), 6) == run(make(option), 6)
    assert run(make(option), 6) != run(make(option, seed=4), 6)


def test_ties_do_not_favour_the_front_of_the_pool(option):
    """At step 0 every belief is equal: the mean position of the picks over seeds must be the middle of the pool."""
    positions = [prompt.token_ids[0] for seed in range(40) for prompt in make(option, seed=seed).select(10)]
    assert abs(np.mean(positions) - 99.5) < 5 * 57.7 / np.sqrt(len(positions))


def test_a_state_saved_in_mid_step_continues_identically(option):
    selector = make(option)
    run(selector, 5)
    pending = selector.select(16)
    state = through_json(selector.state_dict())
    resumed = make(option, seed=99)
    resumed.load_state_dict(state)
    assert np.array_equal(resumed.last_scores(), selector.last_scores(), equal_nan=True)
    assert resumed.metrics() == selector.metrics()
    for each in (selector, resumed):
        each.observe(rolled_out(pending, 5))
    assert run(resumed, 5, first=6) == run(selector, 5, first=6)


def test_a_state_of_another_pool_or_with_a_part_missing_is_refused(option):
    selector = make(option)
    state = selector.state_dict()
    with pytest.raises(ValueError, match="another pool"):
        make(option, pool=make_pool(199)).load_state_dict(state)
    for part in state:
        with pytest.raises(ValueError, match=part):
            selector.load_state_dict({name: value for name, value in state.items() if name != part})


def test_beliefs_count_judged_rollouts_only(option):
    selector = make_with_flat_prior(option, prior_alpha=2.0, prior_beta=3.0, forgetting=1.0)
    a, b, c = selector.select(3)
    selector.observe([group(a, [True, False, False, None]), group(b, [None] * 4), group(c, [False] * 4)])
    assert selector.belief(a.id) == (3.0, 5.0)
    assert selector.belief(b.id) == (2.0, 3.0)
    assert selector.belief(c.id) == (2.0, 7.0)
    assert selector.metrics()["selector/visited_fraction"] == 2 / 200
    assert b.id in {prompt.id for prompt in selector.select(200)}  # though unjudged, it is free again


def test_forgetting_decays_towards_the_prior(option):
    selector = make_with_flat_prior(option, prior_alpha=2.0, prior_beta=3.0, forgetting=0.5)
    prompt = selector.select(1)[0]
    selector.observe([group(prompt, [True] * 6 + [False] * 2)])
    assert selector.belief(prompt.id) == (8.0, 5.0)
    selector.observe([group(prompt, [False] * 8)])  # 0.5 * 8 + 0.5 * 2 + 0 and 0.5 * 5 + 0.5 * 3 + 8
    assert selector.belief(prompt.id) == (5.0, 12.0)


def test_metrics_are_keyed_and_complete(option):
    selector = make(option)
    run(selector, 20)  # past the first visits: before, every forecast is the same and has no rank
    metrics = selector.metrics()
    names = "mean_belief mean_evidence visited_fraction visits_gini informative_fraction brier spearman coverage"
    histograms = "belief_histogram evidence_histogram"
    assert {f"selector/{name}" for name in f"{names} {histograms}".split()} <= metrics.keys()
    for name in histograms.split():
        assert isinstance(metrics[f"selector/{name}"], Histogram)
        assert sum(metrics[f"selector/{name}"].counts) == 200


@pytest.mark.parametrize(
    ("setting", "value", "remedy"),
    [
        ("prior_alpha", 0.0, "from 0.001 to"),
        ("prior_beta", "x", "must be a number"),
        ("forgetting", 1.5, r"in \[0, 1\]"),
        ("no_such_setting", 1, "no such setting"),
    ],
)
def test_bad_settings_are_named_with_their_value_and_a_remedy(option, setting, value, remedy):
    with pytest.raises(UsageError, match=rf"selector\.{setting}={value!r}: .*{remedy}"):
        make(option, **{setting: value})


@pytest.mark.parametrize(
    ("overrides", "gate"),
    [
        (["selector=dynamic_sampling"], "MixedOutcomes"),
        (["selector=dynamic_sampling", "gate=admit_all"], "AdmitAll"),
        (["selector=insight", "gate=mixed_outcomes"], "MixedOutcomes"),
        (["selector=random"], "AdmitAll"),
    ],
)
def test_dynamic_sampling_brings_its_gate_unless_another_is_named(overrides, gate):
    config = compose_config(overrides)
    assert config.gate._target_.endswith(gate)
    assert config.selector._target_.startswith("insight_rl.selector.")


def test_a_selector_that_is_told_of_version_lags_ages_outcomes_by_them(option):
    """Once, for the next outcomes alone; at a service too."""

    def beliefs_after(lag):
        drifts = option == "remote" or "drift" in composed(option)
        selector = make(option, pool=make_pool(20), **({"drift": True} if drifts else {}))
        if not isinstance(selector, KnowsVersionLags):
            pytest.skip("decides without beliefs")
        ids, metrics = [], []
        for step in range(6):
            prompts = selector.select(20)
            ids = sorted(prompt.id for prompt in prompts)
            if step == 3:
                selector.expect_lags(dict.fromkeys(ids[:10], lag))
            selector.observe(rolled_out(prompts, step))
            metrics.append(selector.metrics().get("selector/version_lag"))
        return metrics, [selector.belief(each) for each in ids]

    metrics, beliefs = beliefs_after(2)
    assert metrics == [None, None, None, 1.0, None, None]
    assert beliefs_after(0)[0] == [None] * 6
    if option in ("insight", "remote"):
        assert beliefs != beliefs_after(0)[1]
