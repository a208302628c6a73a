"""The transformers engine against a sampler without caches, batches that shrink or grow, or shared prompts."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from insight_rl.errors import RunStopped
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.transformers import TransformersEngine, branch, draw_by_sums, keep_nucleus, sample_tokens
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
def reference_samples(model, prompts, sampling):
    """Tokens and log-probs by whole forward passes, drawn by ``torch.multinomial`` for each rollout by itself."""
    generator = torch.Generator().manual_seed(derive_seed(sampling.seed, "batch", 0))
    ordered = sorted(prompts, key=lambda prompt: len(prompt.token_ids))
    rows = [(prompt, list(prompt.token_ids), []) for prompt in ordered for _ in range(sampling.num_rollouts)]
    going = list(range(len(rows)))
    for _ in range(sampling.max_tokens):
        # Padding on the right is never seen.
        lines = [torch.tensor(rows[a][1]) for a in going]
        everywhere = model(torch.nn.utils.rnn.pad_sequence(lines, batch_first=True), use_cache=False).logits
        last = torch.tensor([len(line) - 1 for line in lines])
        logits = everywhere[torch.arange(len(going)), last] / sampling.temperature
        if sampling.top_p < 1:
            logits = keep_nucleus(logits, sampling.top_p)
        logprobs = logits.log_softmax(-1)
        drawn = torch.multinomial(logprobs.exp(), 1, generator=generator).squeeze(1).tolist()
        for place, (a, token) in enumerate(zip(going, drawn, strict=True)):
            rows[a][1].append(token)
            rows[a][2].append((token, float(logprobs[place, token])))
        going = [a for a in going if rows[a][1][-1] not in EOS_TOKEN_IDS]
        if not going:
            break
    return {prompt.id: [row[2] for row in rows if row[0] is prompt] for prompt in ordered}


@pytest.mark.parametrize(
    ("lengths", "compact_below", "changes"),
    [
        ([5, 5, 5], 0.75, {}),
        ([3, 11, 1, 7], 1.0, {"temperature": 0.7}),
        ([3, 11, 1, 7], 0.75, {"top_p": 0.8}),
        ([3, 7], 1.0, {"num_rollouts": 1, "seed": 3}),
        ([3, 7], 1.0, {"num_rollouts": 7, "max_tokens": 80}),
        ([3, 7, 7], 0.75, {"temperature": 0.2, "num_rollouts": 9, "max_tokens": 30}),
        ([3, 7, 7], 0.0, {"temperature": 0.4, "num_rollouts": 9}),
    ],
    ids=str,
)
def test_the_engine_draws_what_a_plain_sampler_draws(engine, model_path, lengths, compact_below, changes, monkeypatch):
    monkeypatch.setattr(TransformersEngine, "_COMPACT_BELOW", compact_below)
    prompts = make_prompts(lengths)
    sampling = Sampling(**{"num_rollouts": 5, "max_tokens": 20, "temperature": 1.0, "seed": 8} | changes)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    expected = reference_samples(model, prompts, sampling)
    for prompt, completions in engine.generate(prompts, sampling=sampling):
        for completion, steps in zip(completions, expected[prompt.id], strict=True):
            assert list(completion.token_ids) == [token for token, _ in steps]
            assert list(completion.logprobs) == pytest.approx([logprob for _, logprob in steps], abs=2e-5)


def test_prompts_are_shared_wherever_attention_allows(engine, model_path):
    is_llama = "Llama" in (model_path / "config.json").read_text()
    assert engine._shares_prompts == is_llama
    assert (engine._layers is not None) == is_llama


@pytest.mark.parametrize("model_path", ["grouped heads"], indirect=True)
def test_layers_that_compute_something_else_are_left_to_transformers(engine, monkeypatch):
    layers = engine._layers
    monkeypatch.setattr(layers, "_epsilon", 1.0)
    assert engine._can_share_prompts()
    assert engine._layers is None
    monkeypatch.undo()
    engine._layers = layers


@pytest.mark.parametrize(
    ("model_path", "layers"),
    [("grouped heads", "own"), ("grouped heads", "transformers"), ("sliding window", "transformers")],
    indirect=["model_path"],
)
@torch.inference_mode()
def test_rows_that_split_leave_and_stay_have_the_logits_of_a_plain_forward_pass(engine, model_path, layers):
    """Copies are made behind the others, in place of them, and of rows whose prompt has lost all others."""
    decoder_layers = engine._layers if layers == "own" else None
    prompts = make_prompts([4, 6, 2])
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    output, mask = engine._prefill(prompts)
    engine_layers, engine._layers = engine._layers, decoder_layers
    decoder = engine._decoder(output.past_key_values, mask, 40)
    engine._layers = engine_layers
    lines = [list(prompt.token_ids) for prompt in prompts]
    generator = torch.Generator().manual_seed(4)
    selections = [[0, 1, 2, 2, 0], [0, 1, 2, 3, 4, 1], None, [5, 0, 4], [0, 1, 2, 1, 1], None, [2, 2], *[None] * 20]
    for parents in selections:
        if parents is not None:
            decoder.select(torch.tensor(parents))
            lines = [list(lines[parent]) for parent in parents]
        tokens = torch.randint(5, 25, (len(lines),), generator=generator)
        found = decoder.next_logits(tokens)
        for row, (line, token) in enumerate(zip(lines, tokens.tolist(), strict=True)):
            line.append(token)
            assert torch.allclose(found[row], model(torch.tensor([line])).logits[0, -1], atol=1e-4)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("compact_below", [0.0, 0.8, 1.0])
@pytest.mark.parametrize("merges", [True, False])
def test_rollouts_keep_their_tokens_however_rows_branch(seed, compact_below, merges):
    """Against bookkeeping with lists: what each rollout has drawn, and what each row would have been fed."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [[prompt] for prompt in range(3) for _ in range(6)]
    fed = [[prompt] for prompt in range(3)]
    rows = torch.tensor([line[0] for line in drawn])
    for t in range(6):
        stays = torch.rand(len(drawn), generator=generator) < 0.9
        drawn, rows = [line for line, stay in zip(drawn, stays, strict=True) if stay], rows[stays]
        if not drawn:
            break
        tokens = torch.randint(3, (len(drawn),), generator=generator)
        for line, token in zip(drawn, tokens.tolist(), strict=True):
            line.append(token)
        branching = branch(rows, tokens, num_rows=len(fed), merges=merges or t > 0, compact_below=compact_below)
        parents = range(len(fed)) if branching.parents_A is None else branching.parents_A.tolist()
        fed = [[*fed[parent], token] for parent, token in zip(parents, branching.tokens_A.tolist(), strict=True)]
        rows = branching.rows_R
        assert [fed[row] for row in rows.tolist()] == drawn
        distinct = len(set(map(tuple, drawn))) if merges else len(drawn)
        assert len(set(rows.tolist())) == distinct
        if compact_below == 1.0:
            assert len(fed) == distinct


@pytest.mark.parametrize("model_path", ["grouped heads"], indirect=True)
def test_equal_beginnings_are_one_row(engine, monkeypatch):
    """The decoder computes each distinct beginning of a prompt's completions once, and nothing besides."""
    monkeypatch.setattr(TransformersEngine, "_COMPACT_BELOW", 1.0)
    counted = []
    plain = engine._decoder

    def counting(*arguments):
        decoder = plain(*arguments)
        next_logits = decoder.next_logits

        def count(tokens):
            counted.append(len(tokens))
            return next_logits(tokens)

        decoder.next_logits = count
        return decoder

    monkeypatch.setattr(engine, "_decoder", counting)
    sampling = Sampling(num_rollouts=16, max_tokens=12, temperature=0.3, seed=0)
    groups = [group for _, group in engine.generate(make_prompts([3, 5, 9]), sampling=sampling)]
    beginnings = [
        sum(len({tuple(c.token_ids[:t]) for c in group if len(c.token_ids) > t}) for group in groups)
        for t in range(1, max(len(c.token_ids) for group in groups for c in group))
    ]
    assert counted == beginnings
    assert sum(counted) < 0.8 * sum(len(c.token_ids) - 1 for group in groups for c in group)


@pytest.mark.parametrize("model_path", ["grouped heads"], indirect=True)
@torch.no_grad()
def test_pairs_of_tokens_follow_the_policy(engine, model_path):
    """First two tokens of 20,000 rollouts that share rows, against exact probabilities by a chi-square test."""
    prompt = make_prompts([4])[0]
    sampling = Sampling(num_rollouts=20_000, max_tokens=2, temperature=1.0, seed=1)
    ((_, group),) = engine.generate([prompt], sampling=sampling)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64).eval()
    first = model(torch.tensor([prompt.token_ids])).logits[0, -1].softmax(-1)
    seconds = model(torch.tensor([[*prompt.token_ids, token] for token in range(25)])).logits[:, -1].softmax(-1)
    exact = {pair: float(first[pair[0]] * seconds[pair]) for pair in itertools.product(range(25), repeat=2)}
    exact = {pair: p for pair, p in exact.items() if pair[0] not in EOS_TOKEN_IDS}
    exact |= {(token,): float(first[token]) for token in EOS_TOKEN_IDS}
    counts = dict.fromkeys(exact, 0)
    for completion in group:
        counts[tuple(completion.token_ids.tolist())] += 1
    common = [pair for pair, p in exact.items() if p * len(group) >= 10]
    chi_square = sum((counts[pair] - exact[pair] * len(group)) ** 2 / (exact[pair] * len(group)) for pair in common)
    assert len(common) > 100
    assert chi_square < len(common) + 5 * (2 * len(common)) ** 0.5


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
    draws = draw_by_sums(probabilities[None], torch.zeros(20_000, dtype=torch.long), generator)
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
    probabilities /= probabilities.sum(1, keepdim=True)
    drawn = draw_by_sums(probabilities, torch.tensor([0, 1, 2, 1]), torch.Generator())
    assert drawn.tolist() == [5 if uniform == 0 else num_tokens - 16] * 4


def test_large_vocabularies_are_drawn_along_the_sums_with_the_same_logprobs():
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, 5000, generator=generator) * 3
    rows = torch.tensor([0, 1, 1, 3, 5, 5, 5])
    for top_p in (1.0, 0.5):
        sampling = Sampling(num_rollouts=1, max_tokens=1, temperature=0.8, top_p=top_p, seed=0)
        tokens, logprobs = sample_tokens(logits, rows, sampling, generator)
        expected = keep_nucleus(logits / 0.8, top_p).log_softmax(-1) if top_p < 1 else (logits / 0.8).log_softmax(-1)
        assert logprobs.tolist() == pytest.approx(expected[rows, tokens].tolist(), abs=1e-5)
        assert len(set(tokens[4:].tolist())) > 1
