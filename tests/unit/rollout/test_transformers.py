"""The transformers engine against a sampler without caches, batches that shrink or shared prompts."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from insight_rl.errors import RunStopped
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.transformers import TransformersEngine, draw_by_sums, keep_nucleus, sample_tokens
from insight_rl.seeding import derive_seed
from insight_rl.types import Prompt, Sampling

EOS_TOKEN_IDS = [2, 4]
SHAPE = {
    "vocab_size": 25,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS_TOKEN_IDS,
}


@pytest.fixture(scope="module", params=["grouped heads", "sliding window"])
def model_path(request, tied_model, tmp_path_factory):
    """A model whose prompts can be shared, and one whose cannot; with the tokenizer of ``tied_model``."""
    torch.manual_seed(3)
    if request.param == "grouped heads":
        model = LlamaForCausalLM(LlamaConfig(**SHAPE))
    else:
        model = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=6))
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    for file in tied_model.glob("tokenizer*"):
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.fixture(scope="module")
def engine(model_path):
    engine = TransformersEngine()
    engine.start(RolloutSpec(model_path=model_path, dtype="float32", max_length=256, seed=0))
    return engine


def make_prompts(lengths):
    return [
        Prompt(id=str(i), task="t", text="", token_ids=tuple(5 + (i + j * j) % 20 for j in range(length)), answer=None)
        for i, length in enumerate(lengths)
    ]


@torch.no_grad()
def reference_samples(model, prompts, sampling, compact_below):
    """Tokens and log-probs by whole forward passes, drawn by ``torch.multinomial``; rows leave as in the engine."""
    generator = torch.Generator().manual_seed(derive_seed(sampling.seed, "batch", 0))
    ordered = sorted(prompts, key=lambda prompt: len(prompt.token_ids))
    rows = [(prompt, list(prompt.token_ids), []) for prompt in ordered for _ in range(sampling.num_rollouts)]
    active = list(range(len(rows)))
    ended = [False] * len(rows)
    for t in range(sampling.max_tokens):
        # Padding on the right is never seen.
        lines = [torch.tensor(rows[a][1]) for a in active]
        everywhere = model(torch.nn.utils.rnn.pad_sequence(lines, batch_first=True), use_cache=False).logits
        last = torch.tensor([len(line) - 1 for line in lines])
        logits = everywhere[torch.arange(len(active)), last] / sampling.temperature
        if sampling.top_p < 1:
            logits = keep_nucleus(logits, sampling.top_p)
        logprobs = logits.log_softmax(-1)
        drawn = torch.multinomial(logprobs.exp(), 1, generator=generator).squeeze(1).tolist()
        for place, (a, token) in enumerate(zip(active, drawn, strict=True)):
            rows[a][1].append(token)
            if not ended[a]:
                rows[a][2].append((token, float(logprobs[place, token])))
            ended[a] |= token in EOS_TOKEN_IDS
        going = [a for a in active if not ended[a]]
        if not going or t + 1 == sampling.max_tokens:
            break
        if len(going) <= compact_below * len(active):
            active = going
    return {prompt.id: [row[2] for row in rows if row[0] is prompt] for prompt in ordered}


@pytest.mark.parametrize(
    ("lengths", "compact_below", "changes"),
    [
        ([5, 5, 5], 0.75, {}),
        ([3, 11, 1, 7], 1.0, {"temperature": 0.7}),
        ([3, 11, 1, 7], 0.75, {"top_p": 0.8}),
        ([3, 7], 1.0, {"num_rollouts": 1, "seed": 3}),
        ([3, 7], 1.0, {"num_rollouts": 7, "max_tokens": 80}),
    ],
    ids=str,
)
def test_the_engine_draws_what_a_plain_sampler_draws(engine, model_path, lengths, compact_below, changes, monkeypatch):
    monkeypatch.setattr(TransformersEngine, "_COMPACT_BELOW", compact_below)
    prompts = make_prompts(lengths)
    sampling = Sampling(**{"num_rollouts": 5, "max_tokens": 20, "temperature": 1.0, "seed": 8} | changes)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    expected = reference_samples(model, prompts, sampling, compact_below)
    for prompt, completions in engine.generate(prompts, sampling=sampling):
        for completion, steps in zip(completions, expected[prompt.id], strict=True):
            assert list(completion.token_ids) == [token for token, _ in steps]
            assert list(completion.logprobs) == pytest.approx([logprob for _, logprob in steps], abs=2e-5)


def test_prompts_are_shared_wherever_attention_allows(engine, model_path):
    assert engine._shares_prompts == ("Llama" in (model_path / "config.json").read_text())


def test_a_policy_that_is_not_finite_stops_the_run(engine, model_path):
    weights = {name: tensor.clone() for name, tensor in engine._parameters.items()}
    with torch.no_grad():
        engine._parameters["model.norm.weight"].fill_(float("nan"))
    with pytest.raises(RunStopped, match="not finite"):
        list(engine.generate(make_prompts([4]), sampling=Sampling(num_rollouts=2, max_tokens=3, temperature=1, seed=0)))
    with torch.no_grad():
        engine._parameters["model.norm.weight"].copy_(weights["model.norm.weight"])


@pytest.mark.parametrize("num_tokens", [256, 300, 1000])
def test_draws_along_the_sums_follow_the_probabilities(num_tokens):
    """Against the exact distribution by a chi-square test with a bound that one seed in a million would pass."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(num_tokens, generator=generator).mul(2).softmax(-1)
    probabilities[::7] = 0
    probabilities /= probabilities.sum()
    draws = draw_by_sums(probabilities.expand(50_000, -1), generator)
    counts = torch.bincount(draws, minlength=num_tokens).double()
    assert (counts[::7] == 0).all()
    expected = probabilities.double() * len(draws)
    common = expected >= 10
    chi_square = ((counts - expected)[common] ** 2 / expected[common]).sum()
    degrees = int(common.sum())
    assert chi_square < degrees + 5 * (2 * degrees) ** 0.5


@pytest.mark.parametrize("uniform", [0.0, 1.0 - 2**-53])
@pytest.mark.parametrize("num_tokens", [256, 300])
def test_the_ends_of_the_sums_are_tokens_that_can_be_drawn(monkeypatch, uniform, num_tokens):
    probabilities = torch.rand(3, num_tokens - 20, generator=torch.Generator().manual_seed(1))
    probabilities = torch.nn.functional.pad(probabilities, (5, 15))
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, uniform, dtype=torch.float64))
    drawn = draw_by_sums(probabilities / probabilities.sum(1, keepdim=True), torch.Generator())
    assert drawn.tolist() == [5 if uniform == 0 else num_tokens - 16] * 3


def test_large_vocabularies_are_drawn_along_the_sums_with_the_same_logprobs():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 5000, generator=generator) * 3
    for top_p in (1.0, 0.5):
        sampling = Sampling(num_rollouts=1, max_tokens=1, temperature=0.8, top_p=top_p, seed=0)
        tokens, logprobs = sample_tokens(logits, sampling, generator)
        expected = keep_nucleus(logits / 0.8, top_p).log_softmax(-1) if top_p < 1 else (logits / 0.8).log_softmax(-1)
        assert logprobs.tolist() == pytest.approx(expected.gather(1, tokens[:, None]).squeeze(1).tolist(), abs=1e-5)
