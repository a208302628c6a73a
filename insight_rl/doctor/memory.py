"""What a GPU holds in each phase of a step, part by part, in bytes; and whether that fits.

Figures of the learner follow from DeepSpeed's and Accelerate's own rules for what they keep; those of vLLM from the
share of the GPU that it takes as a whole. None of them has been compared with a GPU yet (scripts/check_gpu.py does).
Contexts, CUDA graphs and fragments cannot be computed: they are allowances, listed as such, and never the reason for a
refusal.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from insight_rl.doctor.activations import Activations, Precision, count_activations
from insight_rl.doctor.cards import Card
from insight_rl.doctor.workload import LearnerPlan, RolloutPlan, Workload

Verdict = Literal["fits", "tight", "does not fit"]

ROOM = 0.92
"""Share of the memory up to which a run fits; above it, up to all of it, it is tight."""

CERTAIN = 1.03
"""A run is refused if what can be computed, without any allowance, is more than this many times the memory."""

CONTEXT = int(0.5 * 2**30)
"""Allowance for the CUDA context and libraries of one process."""
NCCL = int(0.3 * 2**30)
"""Allowance for the buffers of one communicator."""
GRAPHS = 2**30
"""Allowance for vLLM's CUDA graphs, which lie outside of its share."""
FRAGMENTS = 0.05
"""Allowance for what the allocator cannot use, of everything that is allocated anew in each pass."""
SYNC_BUFFER = 256 << 20
"""Least size of the buffer that weights travel in: the default of ``weight_sync.buffer_bytes``."""
BUCKET = 500_000_000
"""Elements of DeepSpeed's reduce bucket."""
LIVE_PARAMETERS = 1_000_000_000
"""Most parameters that ZeRO-3 keeps gathered."""

ALLOWANCES = "allowances"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """One kind of GPU in one phase of a step.

    Example: ``Situation(gpu="learner and vLLM", phase="backward", parts={"weights": 8_045_000_000, ...})``.
    """

    gpu: str
    phase: str
    parts: Mapping[str, int]

    @property
    def total(self) -> int:
        return sum(self.parts.values())

    @property
    def computed(self) -> int:
        """Without the allowances."""
        return self.total - self.parts.get(ALLOWANCES, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """Room for the sequences that one vLLM worker generates at the same time."""

    num_bytes: int
    """On each GPU of the worker; negative if the weights alone are more than vLLM's share."""
    bytes_per_token: int
    max_length: int

    @property
    def num_tokens(self) -> int:
        return max(0, self.num_bytes // self.bytes_per_token)

    @property
    def num_sequences(self) -> float:
        """Sequences of full length."""
        return self.num_tokens / self.max_length


def verdict(situations: list[Situation], card: Card) -> Verdict:
    fullest = max(situation.total for situation in situations)
    if fullest <= ROOM * card.num_bytes:
        return "fits"
    return "tight" if fullest <= card.num_bytes else "does not fit"


def is_certain(situations: list[Situation], card: Card) -> bool:
    """Whether it cannot fit, whatever the allowances are."""
    return max(situation.computed for situation in situations) > CERTAIN * card.num_bytes


def fullest(situations: list[Situation]) -> Situation:
    return max(situations, key=lambda situation: situation.total)


def count_situations(work: Workload, card: Card) -> list[Situation]:
    """Every phase of a step on the GPUs that hold most; of the learner's, of vLLM's, or of both."""
    learner, rollout = work.learner, work.rollout
    found: list[Situation] = []
    together = learner is not None and rollout is not None and not rollout.is_separate
    if learner is not None:
        place = f"learner and {_engine_name(rollout)}" if together and rollout is not None else "learner"
        for phase, parts in _learner_phases(work, learner).items():
            beside = _rollout_parts(work, rollout, card, phase) if together and rollout is not None else {}
            found.append(Situation(gpu=place, phase=phase, parts=_joined(parts, beside)))
    if rollout is not None:
        idle = _idle_learner(learner) if together and learner is not None else {}
        if rollout.sleeps or not together:
            place = f"learner and {_engine_name(rollout)}" if together else _engine_name(rollout)
            phases = ("generation",) if together else ("sync", "generation")
            for phase in phases:
                parts = _joined(idle, _rollout_parts(work, rollout, card, phase))
                found.append(Situation(gpu=place, phase=phase, parts=parts))
    return found


def _engine_name(rollout: RolloutPlan | None) -> str:
    return "vLLM" if rollout is None or rollout.kind == "vllm" else "transformers engine"


def _joined(*parts: Mapping[str, int]) -> dict[str, int]:
    """Summed name by name, without what is nothing."""
    joined: dict[str, int] = {}
    for each in parts:
        for name, num_bytes in each.items():
            joined[name] = joined.get(name, 0) + num_bytes
    return {name: num_bytes for name, num_bytes in joined.items() if num_bytes}


def precision_of(work: Workload, learner: LearnerPlan) -> Precision:
    if work.dtype_bytes == 4:
        return "float32"
    # Frozen weights are in bfloat16 everywhere, and so is what flows between the layers.
    is_half = learner.lora is not None or (learner.kind == "deepspeed" and learner.zero_stage > 0)
    return "bfloat16" if is_half else "autocast"


def activations_of(work: Workload, learner: LearnerPlan) -> Activations:
    tokens = work.micro_batch_tokens
    return count_activations(
        work.shape,
        tokens=tokens,
        completion_tokens=min(tokens, max(1, tokens * work.max_completion_tokens // work.max_length)),
        precision=precision_of(work, learner),
        gradient_checkpointing=learner.gradient_checkpointing,
        head_dtype=learner.head_dtype,
        adapter_rank=None if learner.lora is None else learner.lora.rank,
        num_parameters=work.parameters.total,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerStates:
    """Bytes on one GPU of what lasts from step to step, and what an update needs in passing."""

    weights: int
    gradients: int
    optimizer: int
    update: int
    """Copies that the optimizer's step makes."""
    buckets: int
    """Where gradients are gathered for their exchange, and ZeRO-3's gathered weights."""
    reference: int


def count_states(work: Workload, learner: LearnerPlan) -> LearnerStates:
    """See ``learner/deepspeed_engine.py`` and ``learner/accelerate_engine.py``: these are their choices."""
    trained, ranks = work.num_trained, learner.num_ranks
    # An adapter lies beside all of the model's own weights, which nothing updates: they are in the model's precision.
    frozen = work.parameters.total if learner.lora else 0
    total = trained + frozen
    if learner.kind == "accelerate" or learner.zero_stage == 0:
        weights = 4 * trained + work.dtype_bytes * frozen
        reference = 4 * work.parameters.total if learner.has_reference and not learner.lora else 0
        buckets = 4 * trained if ranks > 1 and learner.kind == "accelerate" else 0
        return LearnerStates(
            weights=weights,
            gradients=4 * trained,
            optimizer=8 * trained,
            update=0,
            buckets=buckets,
            reference=reference,
        )
    size, stage = work.dtype_bytes, learner.zero_stage
    on_gpu = learner.offload == "none"
    weights = size * total
    buckets = size * min(BUCKET, trained)
    if stage == 3:
        weights = 0 if learner.offload == "cpu" else weights // ranks
        buckets += size * min(LIVE_PARAMETERS, total)
    gradients = 4 * trained // (1 if stage == 1 else ranks)
    states = 12 * trained // ranks
    reference = size * work.parameters.total // (ranks if stage == 3 else 1)
    return LearnerStates(
        weights=weights,
        gradients=gradients if on_gpu else size * min(work.parameters.largest, trained),
        optimizer=states if on_gpu else 0,
        update=4 * trained // ranks if on_gpu else 0,
        buckets=buckets,
        reference=reference if learner.has_reference and not learner.lora else 0,
    )


def count_parked(work: Workload) -> int:
    """Bytes of main memory that ``rollout.sleep`` moves there in turns: vLLM's weights, or all that the ranks keep."""
    if work.rollout is None or not work.rollout.sleeps:
        return 0
    engines = work.dtype_bytes * work.parameters.total * work.rollout.num_workers
    if work.learner is None:
        return engines
    states = count_states(work, work.learner)
    ranks = work.learner.num_ranks * (states.weights + states.optimizer + states.reference)
    return max(engines, ranks)


def count_host(work: Workload, learner: LearnerPlan) -> int:
    """Bytes of main memory that all ranks of a machine hold from step to step."""
    if learner.offload == "none" or learner.kind == "accelerate":
        return 0
    weights = work.dtype_bytes * work.parameters.total if learner.zero_stage == 3 else 0
    return 16 * work.num_trained + weights


def count_checkpoint(work: Workload) -> int:
    """Bytes of one checkpoint on disk, and of the copy in main memory that it is written from."""
    return 0 if work.learner is None else 12 * work.num_trained


def _learner_phases(work: Workload, learner: LearnerPlan) -> dict[str, dict[str, int]]:
    """Parts by phase: backward, update, sync."""
    states, passes = count_states(work, learner), activations_of(work, learner)
    num_contexts = CONTEXT + (NCCL if learner.num_ranks > 1 else 0)
    always = {"weights": states.weights, "optimizer": states.optimizer, "reference model": states.reference}
    anew = passes.kept + passes.head + passes.temporary
    return {
        "backward": {
            **always,
            "gradients": states.gradients,
            "activations": passes.kept,
            "output head": passes.head,
            "temporaries": passes.temporary + passes.weight_copies + states.buckets,
            ALLOWANCES: num_contexts + int(FRAGMENTS * anew),
        },
        "update": {
            **always,
            "gradients": states.gradients,
            "temporaries": states.update + states.buckets,
            ALLOWANCES: num_contexts,
        },
        "sync": {**always, "sync buffer": sync_buffer(work), ALLOWANCES: num_contexts},
    }


def sync_buffer(work: Workload) -> int:
    """The largest tensor, or the channel's least size; two of them for NCCL, which GPUs of their own need."""
    one = max(SYNC_BUFFER, work.dtype_bytes * work.parameters.largest)
    return 2 * one if work.rollout is not None and work.rollout.is_separate else one


def _idle_learner(learner: LearnerPlan) -> dict[str, int]:
    """What a rank holds while a vLLM that sleeps at other times is awake: all it keeps has gone to main memory."""
    return {ALLOWANCES: CONTEXT + (NCCL if learner.num_ranks > 1 else 0)}


def _rollout_parts(work: Workload, rollout: RolloutPlan, card: Card, phase: str) -> dict[str, int]:
    weights = work.dtype_bytes * work.parameters.total // rollout.tensor_parallel_size
    if rollout.kind == "transformers":
        # In the trainer's process, whose allocator keeps what a generation took.
        sequences = min(rollout.max_batch or work.completions_per_step, work.completions_per_step)
        keys = kv_bytes_per_token(work, 1) * work.max_length * sequences
        return {"rollout weights": weights, "KV cache": keys, ALLOWANCES: CONTEXT}
    outside = CONTEXT + (GRAPHS if rollout.has_graphs else 0) + (NCCL if rollout.tensor_parallel_size > 1 else 0)
    if rollout.sleeps and phase in ("backward", "update"):
        return {ALLOWANCES: outside}
    if rollout.sleeps and phase == "sync":
        return {"vLLM's weights": weights, ALLOWANCES: outside}
    cache = count_kv_cache(work, rollout, card)
    share = int(rollout.memory_share * card.num_bytes)
    working = working_memory(work, rollout, card)
    if cache.num_bytes < 0:
        return {"vLLM's weights": weights, "vLLM's buffers": working, ALLOWANCES: outside}
    return {
        "vLLM's weights": weights,
        "vLLM's buffers": working,
        "KV cache": max(0, share - weights - working),
        ALLOWANCES: outside,
    }


def kv_bytes_per_token(work: Workload, tensor_parallel_size: int) -> int:
    heads = -(-work.shape.num_kv_heads // tensor_parallel_size)
    return 2 * work.shape.num_layers * heads * work.shape.head_dim * work.dtype_bytes


def count_kv_cache(work: Workload, rollout: RolloutPlan, card: Card) -> KvCache:
    """What is left of vLLM's share once weights and buffers are in."""
    weights = work.dtype_bytes * work.parameters.total // rollout.tensor_parallel_size
    share = int(rollout.memory_share * card.num_bytes)
    return KvCache(
        num_bytes=share - weights - working_memory(work, rollout, card),
        bytes_per_token=kv_bytes_per_token(work, rollout.tensor_parallel_size),
        max_length=work.max_length,
    )


def vllm_limits(rollout: RolloutPlan, card: Card) -> tuple[int, int]:
    """Most sequences and most tokens of one pass: vLLM's own defaults by the size of the card where nothing is set."""
    is_large = card.usable_gib >= 70 and "a100" not in card.name.lower()
    sequences, tokens = (1024, 16384) if is_large else (256, 8192)
    return rollout.max_batch or sequences, rollout.max_batched_tokens or tokens


def working_memory(work: Workload, rollout: RolloutPlan, card: Card) -> int:
    """What vLLM's largest pass takes: a layer's activations, and the logits of the sampler with its copies."""
    sequences, tokens = vllm_limits(rollout, card)
    inner = 2 * work.shape.intermediate_size // rollout.tensor_parallel_size
    layer = work.dtype_bytes * tokens * (2 * inner + 4 * work.shape.hidden_size)
    return layer + 10 * min(sequences, tokens) * work.shape.vocab_size
