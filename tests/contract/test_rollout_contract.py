"""What every rollout engine of conf/rollout must keep to; a new option file is found and held to it by being there."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from transformers import AutoModelForCausalLM

from insight_rl.build import build_part
from insight_rl.errors import UsageError
from insight_rl.learner.lora import describe_weights
from insight_rl.rollout.base import RolloutSpec, UpdatesWhileGenerating
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Prompt, Sampling
from insight_rl.weight_sync.base import SyncSeconds

CONF = Path(__file__).parents[2] / "conf" / "rollout"
EOS_TOKEN_IDS = {2, 4}
MAX_LENGTH = 64
PROMPTS = [
    Prompt(
        id=f"prompt/{i}",
        task="toy",
        text="",
        token_ids=(1, *(5 + (i * i + j) % 20 for j in range(3 + i % 7))),
        answer=i,
    )
    for i in range(6)
]


def option(path: Path):
    marks = [] if path.stem == "transformers" else [pytest.mark.slow, pytest.mark.xdist_group(path.stem)]
    return pytest.param(path.stem, id=path.stem, marks=marks)


@pytest.fixture(scope="session", params=[option(path) for path in sorted(CONF.glob("*.yaml"))])
def started(request, tied_model):
    if request.param == "vllm":
        # Built like the others once, but the process it starts is shared by the whole session.
        assert type(build_part("rollout", read_option("vllm"))) is type(request.getfixturevalue("vllm_tied"))
        yield request.getfixturevalue("vllm_tied")
        return
    engine = build_part("rollout", read_option(request.param))
    engine.start(RolloutSpec(model_path=tied_model, dtype="float32", max_length=MAX_LENGTH, seed=0))
    yield engine
    engine.close()


def read_option(name):
    return OmegaConf.to_container(OmegaConf.load(CONF / f"{name}.yaml"))


@pytest.fixture
def reference(tied_model):
    return AutoModelForCausalLM.from_pretrained(tied_model, dtype=torch.float32).eval()


@pytest.fixture
def engine(started, reference):
    """The engine with the weights of ``reference``, whatever the test before has left in it."""
    started.update_weights(ModelWeights(reference), version=0)
    return started


class ModelWeights:
    """A transformers model as a weight source."""

    def __init__(self, model):
        self.model = model

    def describe(self):
        return describe_weights(self.model, torch.float32)

    def named_tensors(self):
        for name, parameter in self.model.named_parameters():
            yield name, parameter.detach()

    def save(self, folder):
        self.model.save_pretrained(folder)
        return SyncSeconds()


def sampling(**settings):
    defaults = {"num_rollouts": 4, "max_tokens": 12, "temperature": 1.0, "top_p": 1.0, "seed": 11}
    return Sampling(**(defaults | settings))


def generate(engine, prompts=PROMPTS, **settings):
    """Completions by prompt id; every prompt must come back exactly once, as the object it was."""
    results = list(engine.generate(prompts, sampling=sampling(**settings)))
    assert sorted(prompt.id for prompt, _ in results) == sorted(prompt.id for prompt in prompts)
    by_id = {prompt.id: prompt for prompt in prompts}
    assert all(prompt is by_id[prompt.id] for prompt, _ in results)
    return {prompt.id: completions for prompt, completions in results}


def tokens(results):
    return {key: [tuple(completion.token_ids.tolist()) for completion in group] for key, group in results.items()}


@torch.no_grad()
def forward_logprobs(model, prompt, completion, temperature):
    """Log-probs of the completion's tokens by one plain forward pass."""
    ids = torch.tensor([[*prompt.token_ids, *completion.token_ids]])
    logits = model(ids).logits[0, len(prompt.token_ids) - 1 : -1] / temperature
    return torch.log_softmax(logits, dim=-1).gather(1, ids[0, len(prompt.token_ids) :, None]).squeeze(1)


def largest_gap(model, results, temperature=1.0):
    prompts = {prompt.id: prompt for prompt in PROMPTS}
    return max(
        float(
            (forward_logprobs(model, prompts[key], completion, temperature) - torch.tensor(completion.logprobs))
            .abs()
            .max()
        )
        for key, group in results.items()
        for completion in group
    )


def test_each_prompt_gets_its_number_of_rollouts_with_one_logprob_a_token(engine):
    results = generate(engine, num_rollouts=5)
    for group in results.values():
        assert len(group) == 5
        for completion in group:
            assert 1 <= len(completion.token_ids) == len(completion.logprobs) <= 12
            assert (completion.token_ids.dtype, completion.logprobs.dtype) == (np.int32, np.float32)
            assert (completion.logprobs <= 0).all()


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logprobs_are_those_of_a_plain_forward_pass_after_temperature(engine, reference, temperature):
    results = generate(engine, temperature=temperature)
    assert largest_gap(reference, results, temperature) <= 1e-4
    other = 1.0 if temperature != 1.0 else 0.7
    assert largest_gap(reference, results, other) > 1e-2


def test_greedy_takes_the_likeliest_token_each_time(engine, reference):
    results = generate(engine, temperature=0.0, num_rollouts=2)
    for prompt in PROMPTS:
        first, second = results[prompt.id]
        assert first == second
        with torch.no_grad():
            logits = reference(torch.tensor([[*prompt.token_ids, *first.token_ids]])).logits[0]
        assert logits[len(prompt.token_ids) - 1 : -1].argmax(-1).tolist() == first.token_ids.tolist()


def test_nucleus_sampling_never_leaves_the_nucleus(engine, reference):
    results = generate(engine, top_p=0.5, num_rollouts=16)
    for prompt in PROMPTS:
        with torch.no_grad():
            probabilities = torch.softmax(reference(torch.tensor([prompt.token_ids])).logits[0, -1], dim=-1)
        ordered, ids = probabilities.sort(descending=True)
        nucleus = set(ids[: int((ordered.cumsum(0) < 0.5).sum()) + 1].tolist())
        assert {completion.token_ids[0] for completion in results[prompt.id]} <= nucleus


def test_draws_follow_the_policy(engine, reference):
    """First tokens of 4,000 rollouts against the exact distribution: total variation well inside the sampling error."""
    prompt = PROMPTS[0]
    group = generate(engine, [prompt], num_rollouts=4000, max_tokens=1)[prompt.id]
    with torch.no_grad():
        exact = torch.softmax(reference(torch.tensor([prompt.token_ids])).logits[0, -1].double(), dim=-1)
    counts = torch.bincount(torch.tensor([completion.token_ids[0] for completion in group]), minlength=len(exact))
    # Expected distance of 4,000 draws over 25 tokens is about 0.03; a wrong temperature is off by more than 0.1.
    assert 0.5 * (counts / 4000 - exact).abs().sum() < 0.06


def test_a_completion_ends_with_its_end_of_sequence_token_or_is_truncated(engine):
    completions = [completion for group in generate(engine, num_rollouts=16).values() for completion in group]
    ends = set()
    for completion in completions:
        *body, last = completion.token_ids.tolist()
        assert not EOS_TOKEN_IDS & set(body)
        if completion.finish_reason == "stop":
            assert last in EOS_TOKEN_IDS
            ends.add(last)
        else:
            assert completion.finish_reason == "length" and completion.is_truncated
            assert last not in EOS_TOKEN_IDS and len(completion.token_ids) == 12
    assert ends == EOS_TOKEN_IDS, "both ends must occur for this test to mean anything"
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_an_end_of_sequence_token_in_the_last_place_counts_as_the_end(engine):
    completions = [
        completion for group in generate(engine, max_tokens=1, num_rollouts=64).values() for completion in group
    ]
    for completion in completions:
        assert completion.finish_reason == ("stop" if completion.token_ids[0] in EOS_TOKEN_IDS else "length")
    assert {completion.finish_reason for completion in completions} == {"stop", "length"}


def test_text_is_the_decoded_tokens(engine, tied_model):
    tokenizer = ModelTokenizer(tied_model)
    for group in generate(engine).values():
        for completion in group:
            assert [completion.text] == tokenizer.decode_batch([completion.token_ids])


def test_the_same_seed_gives_the_same_completions_and_another_seed_others(engine):
    first = generate(engine, seed=5)
    assert generate(engine, seed=5) == first
    other = tokens(generate(engine, seed=6))
    assert all(other[key] != group for key, group in tokens(first).items())


def test_rollouts_of_a_prompt_and_equal_prompts_differ(engine):
    twins = [Prompt(id=f"twin/{i}", task="toy", text="", token_ids=PROMPTS[0].token_ids, answer=None) for i in range(2)]
    first, second = tokens(generate(engine, twins, num_rollouts=8)).values()
    assert len(set(first)) > 4
    assert first != second


def test_new_weights_change_the_policy_and_its_version(engine, reference):
    before = generate(engine)
    assert {completion.policy_version for group in before.values() for completion in group} == {0}
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    assert largest_gap(reference, before) > 1e-2
    engine.update_weights(ModelWeights(reference), version=7)
    after = generate(engine)
    assert {completion.policy_version for group in after.values() for completion in group} == {7}
    assert largest_gap(reference, after) <= 1e-4


def test_weights_that_come_in_the_middle_are_those_of_every_token_after_them(engine, reference):
    """Each token's log-prob is of the weights that sampled it: first of the old ones, then of the new ones."""
    if not isinstance(engine, UpdatesWhileGenerating):
        pytest.skip("takes weights between generations only")
    torch.manual_seed(1)
    changed = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in changed.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    # So many that most of them are still to come when the first is finished.
    prompts = [dataclasses.replace(PROMPTS[i % len(PROMPTS)], id=f"many/{i}") for i in range(60)]
    stream = engine.generate(prompts, sampling=sampling(num_rollouts=8, max_tokens=40))
    finished = [next(stream)]
    engine.update_while_generating(ModelWeights(changed), version=1)
    finished += stream
    assert sorted(prompt.id for prompt, _ in finished) == sorted(prompt.id for prompt in prompts)
    versions = set()
    for prompt, completions in finished[::6]:
        for completion in completions[:2]:
            old, new = (
                np.abs(forward_logprobs(model, prompt, completion, 1.0).numpy() - completion.logprobs) <= 1e-4
                for model in (reference, changed)
            )
            from_the_start = np.logical_and.accumulate(old)
            to_the_end = np.logical_and.accumulate(new[::-1])[::-1]
            assert (from_the_start | to_the_end).all()
            versions.add(completion.policy_version)
            assert completion.policy_version == 0 or new.all()
    assert not old.all(), "the new weights have come before the end"
    assert versions <= {0, 1} and 0 in versions


def test_an_engine_goes_on_after_a_caller_that_stopped_listening(engine):
    stream = engine.generate(PROMPTS, sampling=sampling())
    next(iter(stream))
    del stream
    assert len(generate(engine)) == len(PROMPTS)


def test_a_prompt_that_does_not_fit_is_named(engine):
    long = Prompt(id="much-too-long", task="toy", text="", token_ids=(5,) * 60, answer=None)
    with pytest.raises(UsageError, match="much-too-long"):
        list(engine.generate([PROMPTS[0], long], sampling=sampling()))
    assert len(generate(engine)) == len(PROMPTS)
