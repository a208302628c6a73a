"""The tensor objective against a slow plain version, one token at a time, and against TRL's own code."""

from __future__ import annotations

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.algorithm.loss import (
    CISPO,
    DAPO,
    GRPO,
    GSPO,
    IMPORTANCE_MODES,
    DrGRPO,
    LossSettings,
    Tokens,
    importance_weights,
    k3,
    sequence_mean,
    token_losses,
)
from insight_rl.errors import UsageError

LOSSES = {"grpo": GRPO, "dr_grpo": DrGRPO, "dapo": DAPO, "gspo": GSPO, "cispo": CISPO}
VARIANTS = tuple(LOSSES)
MAX_COMPLETION_TOKENS = 9


def settings_of(variant: str, **changes) -> LossSettings:
    given = {"clip_low": 0.1, "clip_high": 0.2, "importance": "none"} | changes
    return LossSettings(loss=LOSSES[variant](), **given)


def variant_of(settings: LossSettings) -> str:
    return next(name for name, cls in LOSSES.items() if type(settings.loss) is cls)


class Case:
    """Five sequences with log-probs under four policies, far enough apart that every clip and cap acts."""

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.lengths = [3, 1, 9, 5, 4]
        self.advantages = [1.3, -0.7, 0.4, -1.1, 0.9]
        self.old = [rng.normal(-1.5, 0.5, size) for size in self.lengths]
        self.now = [old + rng.normal(0, 0.4, old.size) for old in self.old]
        self.rollout = [old + rng.normal(0, 0.4, old.size) for old in self.old]
        self.reference = [old + rng.normal(0, 0.4, old.size) for old in self.old]

    def weights(self, loss: LossSettings) -> np.ndarray:
        return loss.loss.sequence_weights(np.array(self.lengths), max_completion_tokens=MAX_COMPLETION_TOKENS)

    def value_and_gradient(self, loss: LossSettings) -> tuple[float, np.ndarray]:
        sequences_N = torch.repeat_interleave(torch.arange(len(self.lengths)), torch.tensor(self.lengths))
        now = torch.tensor(np.concatenate(self.now), requires_grad=True)
        tokens = Tokens(
            logprobs_N=now,
            old_logprobs_N=torch.tensor(np.concatenate(self.old)),
            rollout_logprobs_N=torch.tensor(np.concatenate(self.rollout)),
            reference_logprobs_N=torch.tensor(np.concatenate(self.reference)) if loss.uses_reference else None,
            advantages_N=torch.tensor(self.advantages, dtype=torch.float64)[sequences_N],
            sequences_N=sequences_N,
            num_sequences=len(self.lengths),
        )
        total = (token_losses(loss, tokens).value * torch.tensor(self.weights(loss))[sequences_N]).sum()
        total.backward()
        assert now.grad is not None
        return total.item(), now.grad.numpy()


def plain_value(loss: LossSettings, case: Case, now: list[list[float]], frozen: list[list[float]]) -> float:
    """The loss from its definition in plain Python. ``frozen`` are the log-probs where a gradient must not flow."""
    variant = variant_of(loss)
    total = 0.0
    total_tokens, num_sequences = sum(case.lengths), len(case.lengths)
    for s, length in enumerate(case.lengths):
        advantage = case.advantages[s]
        sequence_ratio = math.exp(sum(now[s][t] - case.old[s][t] for t in range(length)) / length)
        for t in range(length):
            ratio = sequence_ratio if variant == "gspo" else math.exp(now[s][t] - case.old[s][t])
            low, high = 1 - loss.clip_low, 1 + loss.clip_high
            if variant == "cispo":
                constant = min(max(math.exp(frozen[s][t] - case.old[s][t]), low), high)
                value = -constant * advantage * now[s][t]
            else:
                value = -min(ratio * advantage, min(max(ratio, low), high) * advantage)
            if loss.kl_coef:
                gap = case.reference[s][t] - now[s][t]
                value += loss.kl_coef * ratio * (math.exp(gap) - gap - 1)
            value *= plain_importance(loss, case, s, t)
            total += (
                value
                * {
                    "grpo": 1 / (num_sequences * length),
                    "gspo": 1 / (num_sequences * length),
                    "dr_grpo": 1 / (num_sequences * MAX_COMPLETION_TOKENS),
                    "dapo": 1 / total_tokens,
                    "cispo": 1 / total_tokens,
                }[variant]
            )
    return total


def plain_importance(loss: LossSettings, case: Case, s: int, t: int) -> float:
    if loss.importance == "none":
        return 1.0
    places = range(case.lengths[s]) if "sequence" in loss.importance else [t]
    weight = math.prod(math.exp(case.old[s][i]) / math.exp(case.rollout[s][i]) for i in places)
    low = -math.inf if loss.importance_low is None else loss.importance_low
    high = math.inf if loss.importance_high is None else loss.importance_high
    if low <= weight <= high:
        return weight
    return 0.0 if "mask" in loss.importance else low if weight < low else high


@pytest.mark.parametrize("kl_coef", [0.0, 0.3])
@pytest.mark.parametrize("importance", IMPORTANCE_MODES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient_equal_the_slow_plain_version(variant, importance, kl_coef) -> None:
    loss = settings_of(variant, kl_coef=kl_coef, importance=importance, importance_low=0.8, importance_high=1.3)
    case = Case()
    value, gradient = case.value_and_gradient(loss)
    now = [list(map(float, sequence)) for sequence in case.now]
    assert value == pytest.approx(plain_value(loss, case, now, now), rel=1e-12)
    step = 1e-6
    slopes = []
    for s, t in [(s, t) for s, length in enumerate(case.lengths) for t in range(length)]:
        ends = []
        for sign in (1, -1):
            moved = [list(sequence) for sequence in now]
            moved[s][t] += sign * step
            ends.append(plain_value(loss, case, moved, now))
        slopes.append((ends[0] - ends[1]) / (2 * step))
    np.testing.assert_allclose(gradient, slopes, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("correction", ["none", "kl", *IMPORTANCE_MODES[1:]])
@pytest.mark.parametrize("variant", VARIANTS)
def test_value_and_gradient_equal_trl(variant, correction) -> None:
    loss = settings_of(
        variant,
        clip_low=1.0 if variant == "cispo" else 0.1,
        clip_high=0.2,
        kl_coef=0.3 if correction == "kl" else 0.0,
        importance=correction if correction in IMPORTANCE_MODES else "none",
        importance_low=0.8,
        importance_high=1.3,
    )
    case = Case()
    value, gradient = case.value_and_gradient(loss)
    trl_value, trl_gradient = trl_value_and_gradient(loss, case)
    assert value == pytest.approx(trl_value, abs=1e-6)
    np.testing.assert_allclose(gradient, trl_gradient, rtol=0, atol=1e-6)


def trl_value_and_gradient(loss: LossSettings, case: Case) -> tuple[float, np.ndarray]:
    """What TRL's own ``GRPOTrainer._compute_loss`` makes of the same log-probs, with stubs for all around it."""
    variant = variant_of(loss)
    trl = pytest.importorskip("trl")
    width = max(case.lengths)
    mask = torch.tensor([[t < length for t in range(width)] for length in case.lengths])

    def padded(values: list[np.ndarray]) -> torch.Tensor:
        table = torch.zeros(len(values), width, dtype=torch.float64)
        for s, row in enumerate(values):
            table[s, : len(row)] = torch.tensor(row)
        return table

    now = padded(case.now).requires_grad_()
    trainer = object.__new__(trl.GRPOTrainer)
    trainer.loss_type = {"gspo": "grpo"}.get(variant, variant)
    trainer.importance_sampling_level = "sequence" if variant == "gspo" else "token"
    trainer.epsilon_low = loss.clip_low
    trainer.epsilon_high = 1 + loss.clip_high if variant == "cispo" else loss.clip_high
    trainer.beta = loss.kl_coef
    trainer.use_vllm = trainer.vllm_importance_sampling_correction = loss.importance != "none"
    trainer.vllm_importance_sampling_mode = loss.importance
    trainer.args = SimpleNamespace(delta=None, use_bias_correction_kl=True, steps_per_generation=1)
    trainer.max_completion_length = MAX_COMPLETION_TOKENS
    trainer.current_gradient_accumulation_steps = 1
    trainer.top_entropy_quantile = 1.0
    trainer.off_policy_mask_threshold = None
    trainer._entropy_bonus_enabled = trainer.aux_loss_enabled = False
    trainer.model = SimpleNamespace(training=True)
    trainer.accelerator = SimpleNamespace(
        num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, gather_for_metrics=lambda x: x
    )
    trainer._metrics = {"train": defaultdict(list)}
    trainer._get_per_token_logps_and_entropies = lambda *args, **kwargs: (now, torch.zeros_like(now), None)
    ids = torch.zeros(len(case.lengths), width, dtype=torch.long)
    inputs = {
        "prompt_ids": ids[:, :1],
        "prompt_mask": torch.ones_like(ids[:, :1]),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": torch.tensor(case.advantages, dtype=torch.float64),
        "old_per_token_logps": padded(case.old),
        "ref_per_token_logps": padded(case.reference),
        "num_items_in_batch": mask.sum(),
    }
    if loss.importance != "none":
        # TRL makes these where it makes the rollouts, in the midst of a long method: only its use of them is compared.
        rows = [[plain_importance(loss, case, s, t) for t in range(length)] for s, length in enumerate(case.lengths)]
        inputs["importance_sampling_ratio"] = padded([np.array(row) for row in rows])
    value = trainer._compute_loss(None, inputs)
    value.backward()
    assert now.grad is not None
    return value.item(), now.grad[mask].numpy()


def test_kl_term_has_the_gradient_of_the_kl_divergence_itself() -> None:
    """Over all tokens of a small vocabulary, weighted by the old policy: sum of grad = grad KL(policy || reference)."""
    rng = np.random.default_rng(1)
    logits = torch.tensor(rng.normal(size=6), requires_grad=True)
    reference, old = (torch.tensor(rng.normal(size=6)).log_softmax(0) for _ in range(2))
    policy = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)
    policy = logits.log_softmax(0)
    loss = settings_of("grpo", clip_low=0.2, clip_high=0.2, kl_coef=1.0)
    tokens = Tokens(
        logprobs_N=policy,
        old_logprobs_N=old,
        rollout_logprobs_N=old,
        reference_logprobs_N=reference,
        advantages_N=torch.zeros(6, dtype=torch.float64),
        sequences_N=torch.arange(6),
        num_sequences=6,
    )
    objective = token_losses(loss, tokens)
    (gradient,) = torch.autograd.grad((old.exp() * objective.value).sum(), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def tokens_of(old: list[list[float]], rollout: list[list[float]], **changes) -> Tokens:
    lengths = torch.tensor([len(sequence) for sequence in old])
    flat_old = torch.tensor([value for sequence in old for value in sequence], dtype=torch.float64)
    given = {
        "logprobs_N": flat_old.clone(),
        "old_logprobs_N": flat_old,
        "rollout_logprobs_N": torch.tensor([v for sequence in rollout for v in sequence], dtype=torch.float64),
        "reference_logprobs_N": None,
        "advantages_N": torch.ones(len(flat_old), dtype=torch.float64),
        "sequences_N": torch.repeat_interleave(lengths),
        "num_sequences": len(old),
    }
    return Tokens(**(given | changes))


@settings(deadline=None)
@given(
    gaps=st.lists(st.lists(st.floats(-3, 3), min_size=1, max_size=6), min_size=1, max_size=5),
    mode=st.sampled_from(IMPORTANCE_MODES[1:]),
    low=st.none() | st.floats(0, 1),
    high=st.none() | st.floats(1, 5),
)
def test_weights_are_within_their_bounds_or_masked_and_kept_ones_are_exact(gaps, mode, low, high) -> None:
    loss = settings_of("grpo", importance=mode, importance_low=low, importance_high=high)
    weights, is_kept = importance_weights(loss, tokens_of(gaps, [[0.0] * len(sequence) for sequence in gaps]))
    at = 0
    for sequence in gaps:
        own, kept = weights[at : at + len(sequence)], is_kept[at : at + len(sequence)]
        at += len(sequence)
        exact = [sum(sequence)] * len(sequence) if "sequence" in mode else sequence
        np.testing.assert_allclose(own[kept], np.exp(exact)[kept.numpy()], rtol=1e-12)
        changed = {0.0} if "mask" in mode else {low, high}
        assert set(own[~kept].tolist()) <= changed
        assert ((own[kept] >= (low or 0)) & (own[kept] <= (high or math.inf))).all()
        if "sequence" in mode:
            assert len(set(own.tolist())) == 1
    assert is_kept.all() or low is not None or high is not None


@pytest.mark.parametrize("mode", IMPORTANCE_MODES[1:])
def test_on_policy_every_weight_is_one_and_a_broken_one_is_not_hidden(mode) -> None:
    loss = settings_of("grpo", importance=mode, importance_low=0.5)
    same = [[-0.5, -1.5], [-2.0]]
    weights, is_kept = importance_weights(loss, tokens_of(same, same))
    assert weights.tolist() == [1, 1, 1] and is_kept.all()
    weights, _ = importance_weights(loss, tokens_of(same, [[-0.5, -1.5], [math.nan]]))
    assert torch.isnan(weights[2]), "a mask must not turn it into 0"


@pytest.mark.parametrize(
    ("mode", "is_unbiased"), [("sequence_truncate", True), ("token_truncate", False), ("none", False)]
)
def test_the_weight_of_the_sequence_is_unbiased_on_two_tokens(mode, is_unbiased) -> None:
    """All completions of two tokens, weighted by the rollout's probabilities: sum of gradients = gradient of E[reward].

    The policy has logits of its own for each first token; rewards are any numbers.
    """
    rng = np.random.default_rng(2)
    first, second = torch.tensor(rng.normal(size=3)), torch.tensor(rng.normal(size=(3, 3)))
    rollout_first, rollout_second = (table + torch.tensor(rng.normal(0, 0.7, table.shape)) for table in (first, second))
    rewards = torch.tensor(rng.normal(size=(3, 3)))
    first.requires_grad_()
    second.requires_grad_()
    joint = first.log_softmax(0)[:, None] + second.log_softmax(1)
    expected = torch.autograd.grad((joint.exp() * rewards).sum(), (first, second))

    pairs = [(a, b) for a in range(3) for b in range(3)]

    def logprobs(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
        log_one, log_two = one.log_softmax(0), two.log_softmax(1)
        return torch.stack([value for a, b in pairs for value in (log_one[a], log_two[a, b])])

    now, rollout = logprobs(first, second), logprobs(rollout_first, rollout_second)
    loss = settings_of("grpo", importance=mode, importance_high=None)
    tokens = Tokens(
        logprobs_N=now,
        old_logprobs_N=now.detach(),
        rollout_logprobs_N=rollout,
        reference_logprobs_N=None,
        advantages_N=torch.stack([rewards[pair] for pair in pairs]).repeat_interleave(2),
        sequences_N=torch.arange(9).repeat_interleave(2),
        num_sequences=9,
    )
    probabilities = torch.stack([rollout[2 * i : 2 * i + 2].sum().exp() for i in range(9)]).repeat_interleave(2)
    found = torch.autograd.grad(-(probabilities * token_losses(loss, tokens).value).sum(), (first, second))
    gap = max(float((one - other).abs().max()) for one, other in zip(found, expected, strict=True))
    assert gap < 1e-12 if is_unbiased else gap > 1e-3


def test_the_rollouts_logprobs_serve_as_the_old_ones_only_without_another_correction() -> None:
    with pytest.raises(UsageError, match=r"old_logprobs='rollout': needs algorithm\.importance=none"):
        settings_of("grpo", old_logprobs="rollout", importance="token_truncate")
    assert settings_of("grpo", old_logprobs="rollout").importance == "none"


def test_clip_flags_mark_the_tokens_whose_gradient_is_cut() -> None:
    loss = settings_of("grpo")
    now = torch.tensor([-0.5, 0.5, -0.5, 0.5, 0.05], requires_grad=True)
    zeros = torch.zeros(5)
    tokens = Tokens(
        logprobs_N=now,
        old_logprobs_N=zeros,
        rollout_logprobs_N=zeros,
        reference_logprobs_N=None,
        advantages_N=torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0]),
        sequences_N=torch.arange(5),
        num_sequences=5,
    )
    objective = token_losses(loss, tokens)
    objective.value.sum().backward()
    assert objective.is_clipped_low.tolist() == [True, False, False, False, False]
    assert objective.is_clipped_high.tolist() == [False, True, False, False, False]
    assert now.grad is not None
    assert (now.grad == 0).tolist() == [True, True, False, False, False]


@pytest.mark.parametrize("variant", VARIANTS)
def test_weights_depend_on_all_counts_and_not_on_the_order(variant) -> None:
    loss = LOSSES[variant]()
    lengths = np.array([3, 1, 9, 5])
    weights = loss.sequence_weights(lengths, max_completion_tokens=10)
    expected = {
        "grpo": 1 / (4 * lengths),
        "gspo": 1 / (4 * lengths),
        "dr_grpo": np.full(4, 1 / 40),
        "dapo": np.full(4, 1 / 18),
        "cispo": np.full(4, 1 / 18),
    }[variant]
    np.testing.assert_allclose(weights, expected, rtol=1e-15)
    np.testing.assert_array_equal(loss.sequence_weights(lengths[::-1], max_completion_tokens=10), weights[::-1])
    assert loss.sequence_weights(np.array([], dtype=np.int64), max_completion_tokens=10).size == 0


def test_sequence_mean_averages_over_each_sequence_alone() -> None:
    means = sequence_mean(torch.tensor([1.0, 3.0, 7.0]), torch.tensor([0, 0, 2]), 3)
    assert means.tolist() == [2.0, 0.0, 7.0]


def test_k3_estimates_the_divergence_from_samples_of_the_first_policy() -> None:
    p, q = (torch.tensor(np.random.default_rng(seed).normal(size=6)).log_softmax(0) for seed in (1, 2))
    expected = (p.exp() * (p - q)).sum()
    torch.testing.assert_close((p.exp() * k3(p - q)).sum(), expected, rtol=1e-12, atol=1e-14)
    assert (k3(p - q) >= 0).all()


def test_a_loss_without_its_methods_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match=r"^algorithm\.loss=.*has no surrogate, sequence_weights"):
        LossSettings(loss=SimpleNamespace(ratio=lambda tokens: None), clip_low=0.2, clip_high=0.2)
