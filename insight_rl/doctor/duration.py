"""Seconds of a step by a roofline: arithmetic over a card's peak, bytes over its bandwidth, at stated efficiencies.

An estimate, and no more: the efficiencies below are assumptions from published runs of other frameworks, and nothing
here has been timed on a GPU. Every completion is taken to be trained on, which is the most that can be.
"""

from __future__ import annotations

from dataclasses import dataclass

from insight_rl.doctor.cards import Card
from insight_rl.doctor.memory import count_kv_cache, kv_bytes_per_token, precision_of, vllm_limits
from insight_rl.doctor.workload import LearnerPlan, RolloutPlan, Workload

LEARNING = 0.35
"""Of a card's bfloat16 peak that forward and backward passes reach."""
READING = 0.6
"""Of its bandwidth that decoding reaches."""
PREFILL = 0.4
"""Of its peak that reading prompts reaches."""
LINK = 0.5
"""Of the link's bandwidth that a weight sync or an exchange of gradients reaches."""
PASS_S = 0.004
"""Seconds of a decoding pass that are neither reading nor arithmetic: scheduling and sampling."""
HOST_BYTES_S = 20e9
"""Bytes a second between a GPU and main memory, and through AdamW on the CPU."""
FILE_BYTES_S = 2e9
"""Bytes a second through a file in memory, one way."""
PROMPT_TOKENS = 256
"""Mean tokens of a prompt, where ``model.max_length`` leaves room for them."""
NUM_PROBLEMS = 512
"""Held-out problems of an evaluation, where the configuration sets no limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds; ``None`` where the part is a class of the user's own."""

    generation: float | None
    learning: float | None
    sync: float | None
    evaluation: float | None
    """Of one evaluation."""
    num_steps: int
    num_evaluations: int

    @property
    def step(self) -> float:
        return sum(part for part in (self.generation, self.learning, self.sync) if part is not None)

    @property
    def run(self) -> float:
        return self.num_steps * self.step + self.num_evaluations * (self.evaluation or 0.0)


def estimate_time(work: Workload, card: Card) -> StepTime:
    learner, rollout = work.learner, work.rollout
    every, steps = work.evaluate_every, work.num_steps
    # Before training, every so many steps, and after the last one.
    evaluations = 0 if every == 0 else 1 + -(-steps // every)
    generation = evaluation = None
    if rollout is not None:
        generation = generation_seconds(work, rollout, card, completions=work.completions_per_step)
        problems = NUM_PROBLEMS if work.max_problems is None else min(NUM_PROBLEMS, work.max_problems)
        evaluation = generation_seconds(work, rollout, card, completions=problems * work.samples_per_problem)
    return StepTime(
        generation=generation,
        learning=None if learner is None else learning_seconds(work, learner, card),
        sync=None if learner is None or rollout is None else sync_seconds(work, learner, rollout, card),
        evaluation=evaluation,
        num_steps=steps,
        num_evaluations=evaluations,
    )


def prompt_tokens(work: Workload) -> int:
    """Of a prompt, as assumed: no data is read."""
    return max(1, min(PROMPT_TOKENS, work.max_length - work.max_completion_tokens))


def generation_seconds(work: Workload, rollout: RolloutPlan, card: Card, *, completions: int) -> float:
    """Decoding of every worker's share, at least as long as the longest completion, and reading the prompts."""
    parallel = rollout.tensor_parallel_size
    weights = work.dtype_bytes * work.parameters.total / parallel
    share = -(-completions // rollout.num_workers)
    context = prompt_tokens(work) + work.mean_completion_tokens / 2
    if rollout.kind == "vllm":
        fitting = count_kv_cache(work, rollout, card).num_tokens / (prompt_tokens(work) + work.mean_completion_tokens)
        together = max(1.0, min(share, vllm_limits(rollout, card)[0], fitting))
    else:
        together = max(1.0, min(share, rollout.max_batch or share))

    def one_pass(sequences: float) -> float:
        read = weights + sequences * context * kv_bytes_per_token(work, parallel)
        arithmetic = 2 * work.parameters.total / parallel * sequences
        return (
            max(read / (READING * card.bandwidth_gbs * 1e9), arithmetic / (PREFILL * card.bf16_tflops * 1e12)) + PASS_S
        )

    decoding = share * work.mean_completion_tokens / together * one_pass(together)
    longest = work.max_completion_tokens * one_pass(1)
    prompts = -(-share // work.rollouts_per_prompt) * prompt_tokens(work)
    prefill = 2 * work.parameters.total / parallel * prompts / (PREFILL * card.bf16_tflops * 1e12)
    return max(decoding, longest) + prefill


def learning_seconds(work: Workload, learner: LearnerPlan, card: Card) -> float:
    """Forward and backward passes of every completion over all ranks, the optimizer, and the exchange of gradients."""
    row = prompt_tokens(work) + work.mean_completion_tokens
    tokens = work.completions_per_step * row
    head = work.shape.vocab_size * work.shape.hidden_size
    body = work.parameters.total - head * (1 if work.shape.is_tied else 2)
    # 2 operations a parameter and token forward; attention multiplies each token with half of its row, twice.
    attention = 2 * work.shape.num_layers * work.shape.num_heads * work.shape.head_dim * row
    forward = 2 * body + attention
    scored = 2 * head * work.mean_completion_tokens / row
    # Backward twice the forward; of an adapter only the half that leads on. The head's logits are computed again.
    backward = 1 if learner.lora else 2
    times = 1 + backward + (1 if learner.gradient_checkpointing else 0)
    operations = work.num_epochs * (times * forward + (2 + backward) * scored)
    if learner.scores_again:
        operations += (1 - 1 / work.updates_per_step) * (forward + scored)
    if learner.has_reference:
        operations += forward + scored
    peak = card.bf16_tflops * 1e12 * (1 if precision_of(work, learner) != "float32" else 0.25)
    updates = work.num_epochs * work.updates_per_step
    return tokens * operations / (LEARNING * peak * learner.num_ranks) + updates * _update_seconds(work, learner, card)


def _update_seconds(work: Workload, learner: LearnerPlan, card: Card) -> float:
    trained, ranks = work.num_trained, learner.num_ranks
    sharded = ranks if learner.zero_stage else 1
    if learner.offload == "cpu":
        seconds = 28 * trained / sharded / HOST_BYTES_S
    else:
        seconds = 28 * trained / sharded / (READING * card.bandwidth_gbs * 1e9)
    exchanged = (0 if ranks == 1 else 2) * work.dtype_bytes * trained
    return seconds + exchanged / (LINK * card.link_gbs * 1e9)


def sync_seconds(work: Workload, learner: LearnerPlan, rollout: RolloutPlan, card: Card) -> float:
    num_bytes = work.dtype_bytes * work.parameters.total
    if rollout.kind == "transformers":
        return num_bytes / (READING * card.bandwidth_gbs * 1e9)
    if work.weight_sync == "shared_memory":
        return 2 * num_bytes / FILE_BYTES_S
    waking = num_bytes / HOST_BYTES_S if rollout.sleeps else 0.0
    return waking + num_bytes / (LINK * card.link_gbs * 1e9)
