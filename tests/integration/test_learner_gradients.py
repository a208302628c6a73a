"""Every learner takes the very updates that the definition of the loss asks for.

The reference is one process and one plain model: a sequence at a time, a token at a time, all groups (those without
spread too), gradients from autograd. The optimizer is made to be plain gradient descent (AdamW with both betas 0 and an
``eps`` that dwarfs every gradient), so that the change of the weights *is* the gradient. Two updates of two groups: in
the second the policy has moved, so that ratios, clips, old log-probs and the KL term all matter.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from insight_rl.algorithm.advantage import group_std
from insight_rl.algorithm.loss import CISPO, DAPO, GRPO, GSPO, DrGRPO, LossSettings
from insight_rl.learner.accelerate import AccelerateLearner
from insight_rl.learner.deepspeed import DeepSpeedLearner
from insight_rl.learner.logprobs import TokenScorer
from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.learner.settings import StartSpec
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward

TEMPERATURE = 0.9
MAX_COMPLETION_TOKENS = 8
PROMPTS_PER_UPDATE = 2
RATE = 0.5
EPS = 1e8
GRADIENT_DESCENT = {
    "lr": RATE * EPS,
    "eps": EPS,
    "betas": (0.0, 0.0),
    "weight_decay": 0.0,
    "max_grad_norm": None,
}
PLAIN = LossSettings(loss=GRPO(), clip_low=0.05, clip_high=0.1, importance_high=1.05)
LOSSES = {
    "grpo": PLAIN,
    "dr_grpo": dataclasses.replace(PLAIN, loss=DrGRPO()),
    "dapo": dataclasses.replace(PLAIN, loss=DAPO(), mask_truncated=True),
    "gspo": dataclasses.replace(PLAIN, loss=GSPO(), clip_low=0.01, clip_high=0.02),
    "cispo": dataclasses.replace(PLAIN, loss=CISPO(), clip_low=0.1),
    "grpo with kl": dataclasses.replace(PLAIN, kl_coef=0.2),
    # Each mode of the correction once; tests/unit/algorithm/test_loss.py has every mode with every loss.
    "token_mask": dataclasses.replace(PLAIN, importance="token_mask", importance_low=0.95),
    "sequence_truncate": dataclasses.replace(
        PLAIN, loss=DAPO(), importance="sequence_truncate", importance_low=0.9, importance_high=1.1
    ),
    "sequence_mask": dataclasses.replace(
        PLAIN, loss=CISPO(), clip_low=0.1, importance="sequence_mask", importance_low=0.8, importance_high=1.25
    ),
    "old_logprobs=rollout": dataclasses.replace(PLAIN, importance="none", old_logprobs="rollout"),
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    change: dict[str, torch.Tensor]
    """Of each weight, over the step."""
    metrics: dict[str, float]


@pytest.fixture(scope="module")
def groups(untied_model) -> list[Group]:
    """Four prompts: mixed, flat, mixed with one rollout not judged, mixed with a truncated one."""
    from transformers import AutoModelForCausalLM

    rng = np.random.default_rng(0)
    model = AutoModelForCausalLM.from_pretrained(untied_model, dtype=torch.float64)
    values = [[1.0, 0.0, 0.1, 1.0], [0.0] * 4, [None, 1.0, 0.0, 0.0], [0.1, 0.1, 1.0, 0.0]]
    found = []
    for number, rewards in enumerate(values):
        prompt = tuple(rng.integers(5, 24, size=int(rng.integers(4, 9))).tolist())
        completions = []
        for j in range(len(rewards)):
            ids = tuple(rng.integers(5, 24, size=int(rng.integers(2, MAX_COMPLETION_TOKENS + 1))).tolist())
            logprobs = plain_logprobs(model, prompt, ids).detach().numpy() + rng.normal(0, 0.1, len(ids))
            completions.append(
                Completion(
                    token_ids=ids,
                    logprobs=tuple(logprobs.tolist()),
                    text="",
                    finish_reason="length" if (number, j) == (3, 1) else "stop",
                    policy_version=0,
                )
            )
        found.append(
            Group(
                prompt=Prompt(id=str(number), task="t", text="", token_ids=prompt, answer=None),
                completions_G=tuple(completions),
                rewards_G=tuple(Reward(value=v or 0.0, success=None if v is None else v == 1.0) for v in rewards),
            )
        )
    return found


def advantages_of(groups: list[Group]) -> list[np.ndarray]:
    none = np.array([])
    return [
        group_std(np.array([r.value if r.is_judged else np.nan for r in group.rewards_G]), none, None)
        for group in groups
    ]


def plain_logprobs(model, prompt: Sequence[int], completion: Sequence[int]) -> torch.Tensor:
    logits = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1].double() / TEMPERATURE
    return logits.log_softmax(-1)[torch.arange(len(completion)), torch.tensor([*completion])]


@pytest.fixture(scope="module")
def reference(groups):
    """Called as ``reference(model_path, loss, num_epochs=1)``; computed once for each."""

    @functools.cache
    def run(model_path: Path, loss: LossSettings, num_epochs: int = 1) -> Outcome:
        return run_reference(model_path, loss, groups, num_epochs)

    return run


def run_reference(model_path: Path, loss: LossSettings, groups: list[Group], num_epochs: int) -> Outcome:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float64)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    sequences = [
        (number // PROMPTS_PER_UPDATE, group.prompt.token_ids, completion, float(advantage))
        for number, (group, advantages) in enumerate(zip(groups, advantages_of(groups), strict=True))
        for completion, advantage in zip(group.completions_G, advantages, strict=True)
        if not np.isnan(advantage) and not (loss.mask_truncated and completion.is_truncated)
    ]
    with torch.no_grad():
        old = [plain_logprobs(model, prompt, completion.token_ids) for _, prompt, completion, _ in sequences]
    total_loss = 0.0
    for _ in range(num_epochs):
        for update in range(len(groups) // PROMPTS_PER_UPDATE):
            members = [i for i, sequence in enumerate(sequences) if sequence[0] == update]
            num_tokens = sum(len(sequences[i][2].token_ids) for i in members)
            value = torch.zeros((), dtype=torch.float64)
            for i in members:
                _, prompt, completion, advantage = sequences[i]
                now = plain_logprobs(model, prompt, completion.token_ids)
                weight = {
                    GRPO: 1 / (len(members) * len(now)),
                    GSPO: 1 / (len(members) * len(now)),
                    DrGRPO: 1 / (len(members) * MAX_COMPLETION_TOKENS),
                    DAPO: 1 / num_tokens,
                    CISPO: 1 / num_tokens,
                }[type(loss.loss)]
                for t in range(len(now)):
                    importance, _ = plain_importance(loss, old[i], completion.logprobs, t)
                    anchor = torch.tensor(completion.logprobs) if loss.old_logprobs == "rollout" else old[i]
                    value = value + weight * importance * plain_token(loss, now, anchor, t, advantage)
            total_loss += value.item()
            model.zero_grad()
            value.backward()
            with torch.no_grad():
                for parameter in model.parameters():
                    assert parameter.grad is not None
                    parameter -= RATE * parameter.grad
    # Sequences without a gradient are not run, so no log-prob of theirs is measured.
    ran = [i for i, sequence in enumerate(sequences) if sequence[3] != 0 or loss.uses_reference]
    # The policy before the step is known for the first update's tokens only where nothing else is scored by it.
    scored = [i for i in ran if loss.old_logprobs == "learner" or sequences[i][0] == 0]
    # Those of later updates are scored before the first one.
    later = sum(sequences[i][0] > 0 for i in ran) if loss.old_logprobs == "learner" else 0
    gaps = torch.cat([(old[i] - torch.tensor(sequences[i][2].logprobs)).abs() for i in scored])
    corrections = [
        plain_importance(loss, old[i], sequences[i][2].logprobs, t) for i in ran for t in range(old[i].numel())
    ]
    return Outcome(
        change={name: parameter.detach() - start[name] for name, parameter in model.named_parameters()},
        metrics={
            "learner/num_extra_forwards": later + (len(ran) if loss.uses_reference else 0),
            "learner/loss": total_loss / (num_epochs * len(groups) // PROMPTS_PER_UPDATE),
            "rollout/logprob_gap_max": gaps.max().item(),
            "rollout/logprob_gap_mean": gaps.mean().item(),
            "learner/num_tokens": sum(old[i].numel() for i in ran),
        }
        | ({} if loss.importance == "none" else means_of(corrections)),
    )


def means_of(corrections: list[tuple[float, bool]]) -> dict[str, float]:
    weights, is_kept = zip(*corrections, strict=True)
    return {
        "learner/importance_weight_mean": float(np.mean(weights)),
        "learner/importance_kept_fraction": float(np.mean(is_kept)),
    }


def plain_importance(loss: LossSettings, old: torch.Tensor, rollout: np.ndarray, t: int) -> tuple[float, bool]:
    """The token's weight, and whether it is within the bounds."""
    if loss.importance == "none":
        return 1.0, True
    gaps = old.numpy() - rollout
    weight = float(np.exp(gaps.sum() if "sequence" in loss.importance else gaps[t]))
    low, high = loss.importance_low or 0.0, loss.importance_high
    assert high is not None
    if low <= weight <= high:
        return weight, True
    return (0.0 if "mask" in loss.importance else low if weight < low else high), False


def plain_token(loss: LossSettings, now: torch.Tensor, old: torch.Tensor, t: int, advantage: float) -> torch.Tensor:
    ratio = torch.exp((now - old).mean() if type(loss.loss) is GSPO else now[t] - old[t])
    clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    if type(loss.loss) is CISPO:
        return -clipped.detach() * advantage * now[t]
    value = -torch.min(ratio * advantage, clipped * advantage)
    if loss.uses_reference:
        # The reference is the start model, which made the old log-probs.
        gap = old[t] - now[t]
        value = value + loss.kl_coef * ratio * (gap.exp() - gap - 1)
    return value


def spec_of(model_path: Path, loss: LossSettings, *, num_epochs: int = 1) -> StartSpec:
    return StartSpec(
        model_path=model_path,
        dtype="float32",
        loss=loss,
        temperature=TEMPERATURE,
        max_completion_tokens=MAX_COMPLETION_TOKENS,
        prompts_per_update=PROMPTS_PER_UPDATE,
        num_epochs=num_epochs,
        num_steps=1,
        seed=0,
    )


def take_step(
    learner: MultiRankLearner, model_path: Path, loss: LossSettings, groups: list[Group], *, num_epochs: int = 1
) -> Outcome:
    learner.start(spec_of(model_path, loss, num_epochs=num_epochs))
    before = {name: tensor.double().clone() for name, tensor in learner.weights().named_tensors()}
    metrics = learner.step(groups, advantages_of(groups))
    after = {name: tensor.double().clone() for name, tensor in learner.weights().named_tensors()}
    check_gaps(learner.completion_gaps(), groups, metrics)
    return Outcome(change={name: after[name] - before[name] for name in before}, metrics=metrics)


def check_gaps(gaps: Mapping[str, np.ndarray], groups: list[Group], metrics: Metrics) -> None:
    """Those of the completions make up the mean over all tokens, whatever ranks and micro-batches they were in."""
    lengths = np.array([c.token_ids.size for group in groups for c in group.completions_G])
    gaps_N = np.concatenate([gaps[group.prompt.id] for group in groups])
    known = ~np.isnan(gaps_N)
    if "rollout/logprob_gap_mean" in metrics:
        mean = np.average(gaps_N[known], weights=lengths[known])
        assert mean == pytest.approx(metrics["rollout/logprob_gap_mean"], rel=1e-6)
    assert known.any() == ("rollout/logprob_gap_mean" in metrics)


def assert_same(found: Outcome, expected: Outcome, *, tolerance: float = 1e-5) -> None:
    assert found.change.keys() == expected.change.keys()
    names = list(expected.change)
    difference = torch.cat([(found.change[name] - expected.change[name]).ravel() for name in names]).norm()
    size = torch.cat([expected.change[name].ravel() for name in names]).norm()
    assert size > 0.1
    assert difference / size < tolerance
    for name, value in expected.metrics.items():
        assert found.metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize("variant", LOSSES)
def test_clips_and_caps_act_in_this_case(untied_model, groups, variant) -> None:
    """Else the tests below would compare less than they say."""
    learner = AccelerateLearner(**GRADIENT_DESCENT)
    metrics = take_step(learner, untied_model, LOSSES[variant], groups).metrics
    learner.close()
    assert metrics["learner/clip_fraction_low"] > 0
    assert metrics["learner/clip_fraction_high"] > 0
    assert metrics["learner/num_skipped_groups"] == (0 if LOSSES[variant].uses_reference else 1)
    assert metrics["rollout/logprob_gap_max"] > 0.05


CHANGES: list[dict] = [
    {"attention": "sdpa"},
    {"attention": "sdpa", "share_prompts": False},
    {"attention": "flash", "tokens_per_micro_batch": 30},
    {"attention": "sdpa", "tokens_per_micro_batch": 1},
    {"attention": "flash", "share_prompts": False, "gradient_checkpointing": True},
    {"attention": "sdpa", "tokens_per_micro_batch": 25, "gradient_checkpointing": True},
]


@pytest.mark.parametrize(
    ("variant", "changes"),
    # Whole products, of one forward and backward pass: tests/unit/learner/test_logprobs.py.
    [(variant, CHANGES[number % len(CHANGES)]) for number, variant in enumerate(LOSSES)]
    + [("grpo with kl", changes) for changes in CHANGES[:-1]],
    ids=str,
)
def test_one_process(untied_model, groups, reference, variant, changes) -> None:
    learner = AccelerateLearner(**GRADIENT_DESCENT, **changes)
    found = take_step(learner, untied_model, LOSSES[variant], groups)
    learner.close()
    assert_same(found, reference(untied_model, LOSSES[variant]))


def test_a_step_of_empty_completions_has_counts_only(untied_model, groups) -> None:
    """Another engine than vLLM may give some; the made-up token that keeps the ranks in step is not measured."""
    none = np.array([])
    empty = [
        dataclasses.replace(
            group,
            completions_G=tuple(dataclasses.replace(c, token_ids=none, logprobs=none) for c in group.completions_G),
        )
        for group in groups
    ]
    found = take_step(AccelerateLearner(**GRADIENT_DESCENT), untied_model, PLAIN, empty)
    assert (found.metrics["learner/num_updates"], found.metrics["learner/num_tokens"]) == (2, 0)
    assert not {"learner/loss", "learner/entropy", "rollout/logprob_gap_mean"} & found.metrics.keys()
    assert not any(change.any() for change in found.change.values())


@pytest.mark.parametrize(("variant", "num_without_gradient"), [("grpo", 1), ("old_logprobs=rollout", 0)])
def test_the_old_policy_is_scored_only_where_the_rollouts_logprobs_do_not_serve(
    untied_model, groups, monkeypatch, variant, num_without_gradient
) -> None:
    """Two updates of one micro-batch each: a training pass for both, and a pass before them for the second."""
    passes: list[bool] = []
    forward = TokenScorer.forward

    def counted(self, **inputs):
        passes.append(torch.is_grad_enabled())
        return forward(self, **inputs)

    monkeypatch.setattr(TokenScorer, "forward", counted)
    learner = AccelerateLearner(**GRADIENT_DESCENT, share_prompts=False)
    learner.start(spec_of(untied_model, LOSSES[variant]))
    passes.clear()
    learner.step(groups, advantages_of(groups))
    learner.close()
    assert sorted(passes) == [False] * num_without_gradient + [True] * 2


@pytest.mark.parametrize("variant", ["grpo", "gspo", "old_logprobs=rollout"])
def test_several_passes_over_a_step(untied_model, groups, reference, variant) -> None:
    learner = AccelerateLearner(**GRADIENT_DESCENT)
    found = take_step(learner, untied_model, LOSSES[variant], groups, num_epochs=2)
    learner.close()
    # Rounding adds up over four updates.
    assert_same(found, reference(untied_model, LOSSES[variant], 2), tolerance=2e-5)
    assert found.metrics["learner/num_updates"] == 4


def test_tied_embeddings(tied_model, groups, reference) -> None:
    learner = AccelerateLearner(**GRADIENT_DESCENT)
    found = take_step(learner, tied_model, PLAIN, groups)
    learner.close()
    assert "lm_head.weight" not in found.change
    expected = reference(tied_model, PLAIN)
    # The rollout's log-probs are of the other model: only the updates can be compared.
    assert_same(dataclasses.replace(found, metrics=expected.metrics), expected)


def change_settings(learner: MultiRankLearner, **changes: object) -> None:
    """For the next start, in the processes that there are."""
    for key, value in changes.items():
        object.__setattr__(learner, key, value)
    if learner._processes is not None:
        learner._everywhere("__setattr__", "_engine", learner._make_worker()()._engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "num_ranks", "stages", "losses"),
    [
        pytest.param(AccelerateLearner, 2, [None], slice(0, None, 2), id="accelerate-2-ranks"),
        pytest.param(DeepSpeedLearner, 1, [0, 3], slice(1, None, 2), id="deepspeed-1-rank"),
        pytest.param(DeepSpeedLearner, 2, [1, 2, 3], slice(None), id="deepspeed-2-ranks"),
    ],
)
def test_ranks_in_processes(untied_model, groups, reference, tmp_path, make, num_ranks, stages, losses) -> None:
    """Many losses in one start of the processes; stages, layouts, checkpointing and sizes of micro-batches in turn.

    And then, as this start takes the longest: every way of sharding resumes exactly.
    """
    learner = make(num_ranks=num_ranks, **GRADIENT_DESCENT)
    try:
        for number, loss in enumerate([*LOSSES.values()][losses]):
            change_settings(
                learner,
                **stage_of(stages[number % len(stages)]),
                tokens_per_micro_batch=(16384, 1, 40)[number // 2 % 3],
                attention=("sdpa", "flash")[number % 2],
                gradient_checkpointing=number % 4 < 2,
            )
            found = take_step(learner, untied_model, loss, groups)
            assert_same(found, reference(untied_model, loss))
        change_settings(learner, lr=1e-3, eps=1e-8, betas=(0.9, 0.95), tokens_per_micro_batch=16384)
        for stage in stages:
            change_settings(learner, **stage_of(stage))
            check_resumption(learner, untied_model, groups, tmp_path / str(stage))
    finally:
        learner.close()


def stage_of(stage: int | None) -> dict[str, object]:
    return {} if stage is None else {"zero_stage": stage}


def check_resumption(learner: MultiRankLearner, model_path: Path, groups: list[Group], folder: Path) -> None:
    """Started anew in the same processes; ``tests/contract/test_learner_contract.py`` has new ones.

    The one that goes on leaves its device before that, and nothing is different when it has come back. It goes on while
    its checkpoint is being written, and does not wait for it.
    """

    def step() -> tuple[dict[str, object], dict[str, torch.Tensor]]:
        metrics = learner.step(groups, advantages_of(groups))
        weights = {name: tensor.clone() for name, tensor in learner.weights().named_tensors()}
        return {key: value for key, value in metrics.items() if not is_of_the_machine(key)}, weights

    learner.start(spec_of(model_path, PLAIN))
    _, after_first = step()
    folder.mkdir()
    writing = learner.save_checkpoint(folder)
    assert writing is not None
    learner.release_memory()
    metrics, weights = step()
    writing.write(threading.Event())
    writing.check()
    assert all(not torch.equal(weights[name], after_first[name]) for name in weights)
    learner.start(spec_of(model_path, PLAIN))
    learner.load_checkpoint(folder)
    metrics_resumed, weights_resumed = step()
    assert metrics_resumed == metrics
    assert all(torch.equal(weights_resumed[name], weights[name]) for name in weights)
