"""Two vLLM workers: each has every version of the weights, both sample the same policy, and one may be killed."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine
from tests.integration.test_vllm_engine import PROMPTS, SAMPLING, ModelWeights, load, perturb

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("two vllm workers")]


@pytest.fixture(scope="module")
def said():
    return []


@pytest.fixture(scope="module")
def engine(untied_model, said):
    """Two prompts fit in the limit of a worker, so that most are handed out as others finish.

    And fewer tokens fit in one pass than the prompts have: cutting a prompt in two would rewind its generator, which
    CPU generators cannot do.
    """
    assert sum(len(prompt.token_ids) for prompt in PROMPTS) > 64
    settings = {"num_workers": 2, "num_threads": 1, "engine_args": {"max_num_batched_tokens": 64}}
    engine = VllmEngine(**settings, max_tokens_in_flight=100)
    engine.start(RolloutSpec(model_path=untied_model, dtype="float32", max_length=64, seed=0, say=said.append))
    yield engine
    groups = [worker.pid for worker in engine._pool.workers]
    for _ in range(2):
        engine.close()
    for group in groups:
        with pytest.raises(ProcessLookupError):
            os.killpg(group, 0)


def by_prompt(results):
    """Completions by prompt id; each prompt exactly once."""
    assert sorted(prompt.id for prompt, _ in results) == [prompt.id for prompt in PROMPTS]
    return {prompt.id: group for prompt, group in results}


def generate(engine):
    return by_prompt(list(engine.generate(PROMPTS, sampling=SAMPLING)))


def generate_on_each(engine):
    return [by_prompt(results) for results in engine.generate_on_each(PROMPTS, sampling=SAMPLING)]


@torch.no_grad()
def largest_gap(groups, model):
    gap = 0.0
    for prompt in PROMPTS:
        for completion in groups[prompt.id]:
            ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
            logprobs = torch.log_softmax(model(ids).logits[0, len(prompt.token_ids) - 1 : -1], dim=-1)
            exact = logprobs.gather(1, ids[0, len(prompt.token_ids) :, None]).squeeze(1)
            gap = max(gap, float((exact - torch.tensor(completion.logprobs)).abs().max()))
    return gap


def versions(groups):
    return {completion.policy_version for group in groups.values() for completion in group}


def test_every_worker_has_the_weights_and_the_version_after_every_sync(engine, untied_model):
    model = load(untied_model)
    assert model.lm_head.weight is not model.model.embed_tokens.weight
    for version in (0, 1, 2, 3):
        if version:
            perturb(model, seed=version)
            # Fill the caches with prefixes of the old weights: none of them may survive the update.
            assert largest_gap(generate(engine), model) > 1e-2
            engine.update_weights(ModelWeights(model), version=version)
        for groups in generate_on_each(engine):
            assert versions(groups) == {version}
            assert largest_gap(groups, model) <= 1e-4


def test_the_worker_and_the_company_of_a_prompt_do_not_matter(engine):
    """As with one worker: seeds hang on the prompt's id. In float32 rounding does not show on this model."""
    tokens = [
        {key: [completion.token_ids.tolist() for completion in group] for key, group in groups.items()}
        for groups in (generate(engine), *generate_on_each(engine))
    ]
    assert tokens[0] == tokens[1] == tokens[2]


def test_a_worker_that_is_killed_is_replaced_with_the_run_s_weights_and_no_prompt_is_lost(engine, untied_model, said):
    model = load(untied_model)
    perturb(model, seed=9)
    engine.update_weights(ModelWeights(model), version=9)
    stream = engine.generate(PROMPTS, sampling=SAMPLING)
    results = [next(stream)]
    os.kill(engine._pool.workers[1].pid, signal.SIGKILL)
    results += stream
    assert sorted(prompt.id for prompt, _ in results) == [prompt.id for prompt in PROMPTS]
    groups = {prompt.id: group for prompt, group in results}
    assert versions(groups) == {9} and largest_gap(groups, model) <= 1e-4
    assert len(said) == 1 and said[0].startswith(
        "rollout worker 1 died in generate (killed by SIGKILL); it is replaced"
    )
    groups = generate_on_each(engine)[1]
    assert versions(groups) == {9} and largest_gap(groups, model) <= 1e-4
    assert engine.update_weights(ModelWeights(model), version=10)["rollout/num_replaced_workers"] == 1
