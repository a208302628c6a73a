"""The check of a weight sync, with engines and learners of a few lines: one number is a worker's weights."""

from __future__ import annotations

import numpy as np
import pytest

from insight_rl.errors import RunStopped
from insight_rl.sync_check import SyncCheck
from insight_rl.types import Completion, Prompt, Sampling

PROMPTS = [Prompt(id=f"p{i}", task="t", text="", token_ids=(1, *range(5, 25 - i)), answer=i) for i in range(12)]
SAMPLING = Sampling(num_rollouts=8, max_tokens=64, temperature=1.0, seed=3)


def logprobs(weight, prompt, token_ids):
    """What one number as the weights makes of a completion; depends on all that it may depend on."""
    return -(weight + np.asarray(token_ids) / 10 + sum(prompt.token_ids) / 100).astype(np.float32)


class Engine:
    def __init__(self, *weights):
        self.weights, self.calls = list(weights), []

    def generate(self, prompts, *, sampling):
        (samples,) = self.generate_on_each(prompts, sampling=sampling)
        yield from reversed(samples)

    def generate_on_each(self, prompts, *, sampling):
        self.calls.append((prompts, sampling))
        rng = np.random.default_rng(sampling.seed)
        drawn = [(prompt, rng.integers(5, 25, size=1 + len(prompt.token_ids) % 16)) for prompt in prompts]
        return [[(prompt, (self.complete(weight, prompt, ids),)) for prompt, ids in drawn] for weight in self.weights]

    def complete(self, weight, prompt, ids):
        scores = logprobs(weight, prompt, ids)
        return Completion(token_ids=ids, logprobs=scores, text="", finish_reason="stop", policy_version=0)

    def start(self, spec): ...
    def update_weights(self, weights, *, version): ...
    def close(self): ...


class OneWorker(Engine):
    generate_on_each = None  # as one that does not have it

    def generate(self, prompts, *, sampling):
        (samples,) = Engine.generate_on_each(self, prompts, sampling=sampling)
        yield from reversed(samples)


class Learner:
    weight = 1.0

    def logprobs(self, completions):
        return [logprobs(self.weight, prompt, ids) for prompt, ids in completions]

    def start(self, spec): ...
    def step(self, groups_P, advantages_P_G): ...
    def weights(self): ...
    def save_checkpoint(self, folder): ...
    def load_checkpoint(self, folder): ...
    def save_model(self, folder): ...
    def close(self): ...


def make(engine, *, every=0, learner=None, prompts=PROMPTS):
    return SyncCheck(
        rollout=engine, learner=learner or Learner(), prompts=prompts, sampling=SAMPLING, every=every, max_mean_gap=1e-3
    )


def test_the_worst_worker_counts_and_each_samples_a_few_short_completions():
    engine = Engine(1.0, 1.0002, 1.0)
    metrics = make(engine)(1)
    assert metrics["sync/logprob_gap_mean"] == pytest.approx(2e-4, rel=1e-2)
    assert metrics["sync/logprob_gap_max"] == pytest.approx(2e-4, rel=1e-2)
    assert metrics.keys() == {"sync/logprob_gap_mean", "sync/logprob_gap_max", "time/sync_check_s"}
    ((prompts, sampling),) = engine.calls
    assert (len(prompts), sampling.num_rollouts, sampling.max_tokens) == (8, 1, 16)


def test_one_stale_worker_among_many_stops_the_run_though_the_mean_of_all_is_small():
    engine = Engine(*[1.0] * 5, 1.004, *[1.0] * 10)
    with pytest.raises(RunStopped, match=r"step 7 rollout worker 5 of 16 .* 0\.004 over .*max_mean_logprob_gap"):
        make(engine)(7)


def test_log_probs_that_are_no_numbers_stop_the_run():
    with pytest.raises(RunStopped, match="rollout worker 1 of 2"):
        make(Engine(1.0, float("nan")))(1)


@pytest.mark.parametrize(("every", "checked"), [(0, [3]), (4, [3, 4, 8]), (1, [3, 4, 5, 6, 7, 8])])
def test_the_first_sync_is_checked_and_then_every_so_many_steps(every, checked):
    check = make(Engine(1.0), every=every)
    assert [version for version in range(3, 9) if check(version)] == checked


def test_an_engine_without_workers_is_one():
    assert make(OneWorker(1.0))(1)["sync/logprob_gap_mean"] == 0
    with pytest.raises(RunStopped, match="worker 0 of 1"):
        make(OneWorker(1.1))(1)


def test_a_learner_that_cannot_score_is_not_asked():
    class Silent(Learner):
        logprobs = None

    engine = Engine(5.0)
    assert make(engine, learner=Silent())(1) == {}
    assert engine.calls == []


def test_no_prefix_of_the_prompts_of_the_run_gets_into_a_cache():
    """A resumed run is checked at other steps, and must not find other prefixes cached."""
    engine = Engine(1.0)
    make(engine, prompts=[*PROMPTS, Prompt(id="one", task="t", text="", token_ids=(1,), answer=0)])(1)
    ((prompts, _),) = engine.calls
    assert {prompt.token_ids[0] for prompt in prompts} == {5}
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert not {prompt.id for prompt in prompts} & {prompt.id for prompt in PROMPTS}
