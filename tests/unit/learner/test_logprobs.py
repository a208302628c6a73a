from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from insight_rl.algorithm.loss import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    IMPORTANCE_MODES,
    DrGRPO,
    LossSettings,
    Tokens,
    token_losses,
)
from insight_rl.learner.attention import implementation, packed_layout, sharing_mask
from insight_rl.learner.batch import Row, TrainSequence, make_micro_batch
from insight_rl.learner.logprobs import TokenScorer
from insight_rl.learner.models import load_policy
from insight_rl.learner.settings import Kernel, LearnerSettings


@pytest.fixture(scope="module", params=["tied_model", "untied_model"])
def model(request):
    path = request.getfixturevalue(request.param)
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64).eval()


def make_sequences(vocab_size: int) -> list[TrainSequence]:
    rng = np.random.default_rng(0)
    prompt = rng.integers(vocab_size, size=6)
    return [
        TrainSequence(
            prompt_ids=prompt,
            completion_ids=rng.integers(vocab_size, size=size),
            rollout_logprobs=np.zeros(size),
            advantage=1.0,
            weight=1.0,
        )
        for size in (5, 1, 8)
    ]


def score(scorer: TokenScorer, rows: list[Row], kernel: Kernel = "sdpa") -> tuple[torch.Tensor, torch.Tensor]:
    batch = make_micro_batch(rows, is_packed=kernel != "sdpa")
    as_tensor = {
        name: None if array is None else torch.from_numpy(array)
        for name, array in (
            ("input_ids", batch.input_ids),
            ("segments", batch.segments),
            ("positions", batch.positions),
            ("sources_N", batch.sources_N),
            ("targets_N", batch.targets_N),
        )
    }
    layout = None if batch.parts is None else packed_layout(batch.parts, kernel, torch.device("cpu"))
    return scorer(**as_tensor, layout=layout)


def plain_scores(model, sequences: list[TrainSequence], temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """One sequence at a time through the whole model, all its logits at once."""
    logprobs, entropies = [], []
    for sequence in sequences:
        ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.completion_ids]))
        logits = model(ids[None]).logits[0, sequence.prompt_ids.size - 1 : -1] / temperature
        distribution = torch.distributions.Categorical(logits=logits)
        logprobs.append(distribution.log_prob(torch.from_numpy(sequence.completion_ids)))
        entropies.append(distribution.entropy())
    return torch.cat(logprobs), torch.cat(entropies)


def relative_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return ((found - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("calls_head", [True, False])
@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("kernel", ["sdpa", "flash", "flex"])
def test_scores_and_gradients_equal_the_plain_model(
    model, flex_by_dense_mask, kernel, temperature, is_shared, calls_head
) -> None:
    sequences = make_sequences(model.config.vocab_size)
    scorer = TokenScorer(model, temperature=temperature, settings=LearnerSettings())
    scorer.calls_head = calls_head
    rows = [Row(sequences=tuple(sequences))] if is_shared else [Row(sequences=(s,)) for s in sequences]
    if kernel != "sdpa":
        # A row of another prompt in the same line.
        stranger = dataclasses.replace(sequences[2], prompt_ids=sequences[2].prompt_ids[2:])
        rows.insert(1, Row(sequences=(stranger,)))
        sequences.insert(len(rows[0].sequences), stranger)
    model.set_attn_implementation(implementation(kernel))
    logprobs, entropies = score(scorer, rows, kernel)
    model.set_attn_implementation("sdpa")
    expected_logprobs, expected_entropies = plain_scores(model, sequences, temperature)
    # Log-probs are float32 whatever the weights are, and so are the model's norms.
    tolerance = 2e-6
    assert relative_error(logprobs, expected_logprobs) < tolerance
    assert relative_error(entropies, expected_entropies) < tolerance
    assert not entropies.requires_grad
    slopes = torch.linspace(-1, 1, len(logprobs), dtype=torch.float64)
    parameters = list(model.parameters())
    found = torch.autograd.grad((slopes * logprobs).sum(), parameters)
    expected = torch.autograd.grad((slopes * expected_logprobs).sum(), parameters)
    for one, other in zip(found, expected, strict=True):
        assert relative_error(one, other) < tolerance


LOSS = LossSettings(loss=GRPO(), clip_low=0.05, clip_high=0.1)
LOSSES = [
    *(dataclasses.replace(LOSS, loss=variant()) for variant in (GRPO, DrGRPO, DAPO, GSPO, CISPO)),
    dataclasses.replace(LOSS, kl_coef=0.2),
]

CORRECTIONS = [{"importance": mode, "importance_low": 0.8, "importance_high": 1.1} for mode in IMPORTANCE_MODES]


@pytest.mark.parametrize("gradient_checkpointing", [False, True])
@pytest.mark.parametrize(
    ("kernel", "is_shared"), [("sdpa", False), ("sdpa", True), ("flash", False), ("flash", True), ("flex", True)]
)
def test_every_loss_and_correction_has_the_gradient_of_the_plain_model(
    untied_model, flex_by_dense_mask, kernel, is_shared, gradient_checkpointing
) -> None:
    """One forward pass of a layout, then a backward pass for each loss and each way to correct it."""
    model = load_policy(untied_model, torch.float64, gradient_checkpointing=gradient_checkpointing, kernel=kernel)
    sequences = make_sequences(model.config.vocab_size)
    rows = [Row(sequences=tuple(sequences))] if is_shared else [Row(sequences=(s,)) for s in sequences]
    found, _ = score(TokenScorer(model, temperature=0.9, settings=LearnerSettings()), rows, kernel)
    plain_model = load_policy(untied_model, torch.float64, gradient_checkpointing=False)
    expected, _ = plain_scores(plain_model, sequences, 0.9)
    lengths = [sequence.completion_ids.size for sequence in sequences]
    rng = np.random.default_rng(1)
    nearby = [expected.detach() + torch.from_numpy(rng.normal(0, 0.1, len(expected))) for _ in range(3)]
    num_cases = 0
    for loss in LOSSES:
        for correction in CORRECTIONS:
            gradients = []
            for logprobs, of_model in ((found, model), (expected, plain_model)):
                tokens = Tokens(
                    logprobs_N=logprobs,
                    old_logprobs_N=nearby[0],
                    rollout_logprobs_N=nearby[1],
                    reference_logprobs_N=nearby[2],
                    advantages_N=torch.repeat_interleave(torch.tensor([1.0, -0.5, 0.7]), torch.tensor(lengths)),
                    sequences_N=torch.repeat_interleave(torch.arange(3), torch.tensor(lengths)),
                    num_sequences=3,
                )
                losses = token_losses(dataclasses.replace(loss, **correction), tokens)
                assert losses.is_kept is None or 0 < losses.is_kept.sum() < len(losses.is_kept)
                value = losses.value.sum()
                gradients.append(torch.autograd.grad(value, list(of_model.parameters()), retain_graph=True))
            ours, theirs = (torch.cat([g.ravel() for g in of_model]) for of_model in gradients)
            assert theirs.norm() > 0
            assert relative_error(ours, theirs) < 1e-5, (loss, correction)
            num_cases += 1
    assert num_cases == len(LOSSES) * len(CORRECTIONS)


def test_sharing_mask_shows_prompt_and_own_completion_only() -> None:
    mask = sharing_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
