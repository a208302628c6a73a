"""A run against its hardware: what it takes, what forbids it, what would help. Reads no data and loads no model."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from insight_rl.config import RunConfig
from insight_rl.doctor.cards import Card, card_named, cards_here
from insight_rl.doctor.duration import StepTime, estimate_time
from insight_rl.doctor.memory import (
    KvCache,
    Situation,
    Verdict,
    activations_of,
    count_checkpoint,
    count_host,
    count_kv_cache,
    count_situations,
    count_states,
    fullest,
    is_certain,
    kv_bytes_per_token,
    verdict,
)
from insight_rl.doctor.remedies import Remedy, find_remedies
from insight_rl.doctor.workload import Workload, read_workload
from insight_rl.errors import UsageError
from insight_rl.memory import GIB
from insight_rl.placement import place

_GPU_FILES = ("nvidia[0-9]*", "dxg", "kfd")


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkup:
    """What the doctor found. ``card`` is ``None`` for a run on CPUs, of which memory alone is told."""

    work: Workload
    card: Card | None
    num_gpus: int
    is_stated: bool
    """Whether the GPUs are those of ``doctor.gpu`` and not those that are here."""
    situations: list[Situation]
    verdict: Verdict
    kv_cache: KvCache | None
    reasons: tuple[str, ...]
    """Why this run cannot work, each a sentence with its remedy; empty: nothing certain stands against it."""
    remedies: list[Remedy]
    time: StepTime | None


def find_hardware(config: RunConfig) -> tuple[Card | None, int, bool]:
    """The kind of GPU, how many, and whether ``doctor.gpu`` states them; ``None`` where there is none.

    Imports torch only where the machine has a GPU. Raises ``UsageError`` for a card that is not known.
    """
    settings = config.doctor
    if settings.gpu is not None:
        return card_named(settings.gpu), settings.num_gpus or 1, True
    if not any(any(Path("/dev").glob(pattern)) for pattern in _GPU_FILES):
        return None, 0, False
    here = cards_here()
    if not here:
        return None, 0, False
    smallest = min(here, key=lambda card: card.usable_gib)
    return smallest, min(len(here), settings.num_gpus or len(here)), False


def check_up(config: RunConfig) -> Checkup | None:
    """``None`` where nothing is known of the model without a download."""
    work = read_workload(config)
    if work is None:
        return None
    card, num_gpus, is_stated = find_hardware(config)
    if card is None:
        return Checkup(
            work=work,
            card=None,
            num_gpus=0,
            is_stated=False,
            situations=[],
            verdict="fits",
            kv_cache=None,
            reasons=(),
            remedies=[],
            time=None,
        )
    situations = count_situations(work, card)
    result = verdict(situations, card) if situations else "fits"
    cache = count_kv_cache(work, work.rollout, card) if work.rollout and work.rollout.kind == "vllm" else None
    remedies = find_remedies(work, card, num_gpus=num_gpus) if result != "fits" or _is_short(cache) else []
    reasons = [*_misplaced(work, num_gpus), *_too_small(work, card, situations, cache, remedies, num_gpus)]
    return Checkup(
        work=work,
        card=card,
        num_gpus=num_gpus,
        is_stated=is_stated,
        situations=situations,
        verdict=result,
        kv_cache=cache,
        reasons=tuple(reasons),
        remedies=remedies,
        time=estimate_time(work, card),
    )


def _is_short(cache: KvCache | None) -> bool:
    return cache is not None and cache.num_tokens < cache.max_length


def _misplaced(work: Workload, num_gpus: int) -> list[str]:
    rollout = work.rollout if work.rollout and work.rollout.kind == "vllm" else None
    try:
        place(
            num_gpus=num_gpus,
            num_ranks=work.learner.num_ranks if work.learner else 0,
            num_workers=rollout.num_workers if rollout else 1,
            tensor_parallel_size=rollout.tensor_parallel_size if rollout else 1,
            placement="separate" if rollout and rollout.is_separate else "colocated",
        )
    except UsageError as error:
        return [f"{error}, or state more with doctor.num_gpus"]
    return []


def _too_small(
    work: Workload,
    card: Card,
    situations: list[Situation],
    cache: KvCache | None,
    remedies: list[Remedy],
    num_gpus: int,
) -> list[str]:
    found = []
    advice = "; ".join(" ".join(remedy.overrides) for remedy in remedies[:1])
    advice = (
        f"it fits with {advice}" if advice else "no setting known here makes it fit: take a smaller model or more GPUs"
    )
    if situations and is_certain(situations, card):
        most = fullest(situations)
        largest = sorted(most.parts.items(), key=lambda item: -item[1])[:3]
        parts = ", ".join(f"{name} {num_bytes / GIB:.0f}" for name, num_bytes in largest)
        found.append(
            f"{work.model_path} does not fit {num_gpus} x {card.name}: the {most.phase} phase needs "
            f"{most.total / GIB:.0f} GiB on one of {card.usable_gib:.0f} GiB ({parts}); {advice}"
        )
    if cache is not None and _is_short(cache) and work.rollout is not None:
        found.append(
            f"vLLM's share of {card.name}, rollout.engine_args.gpu_memory_utilization={work.rollout.memory_share:g}, "
            f"holds {cache.num_tokens} tokens beside the weights, fewer than one sequence of "
            f"model.max_length={work.max_length}: raise it, raise rollout.tensor_parallel_size, or lower "
            f"model.max_length; {advice}"
        )
    return found


def examine(config: RunConfig) -> list[str]:
    """What `insight-rl train` asks before anything is downloaded: the notices, none for a run that fits.

    Raises ``UsageError`` under ``doctor=strict`` for a run that certainly cannot work.
    """
    if config.doctor.mode == "off":
        return []
    if config.runtime_name == "ray" and config.doctor.gpu is None:
        return []  # the machines of the cluster are others than this one, and nobody has said what they are
    found = check_up(config)
    if found is None:
        return []
    if found.card is None:
        return short_of_memory(found.work)
    if found.reasons and config.doctor.mode == "strict":
        more = "`insight-rl doctor` with the same settings shows the figures, doctor=warn goes on anyway"
        raise UsageError(f"doctor: {'. '.join(found.reasons)} ({more})")
    return [f"doctor: {text}" for text in found.reasons or _narrow(found)]


def _narrow(found: Checkup) -> list[str]:
    if found.verdict == "fits" or found.card is None:
        return []
    most = fullest(found.situations)
    word = "may not fit" if found.verdict == "does not fit" else "just fits"
    advice = f": {' '.join(found.remedies[0].overrides)} gives room" if found.remedies else ""
    return [
        f"this run {word}: about {most.total / GIB:.0f} of {found.card.usable_gib:.0f} GiB of a GPU in the "
        f"{most.phase} phase{advice}"
    ]


def host_memory() -> int | None:
    """Bytes of main memory that are free, by Linux's own figure; ``None`` elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) * 1024 if found else None


def host_need(work: Workload) -> int:
    """Bytes of main memory of a run on CPUs: every rank's states and activations, the engine's weights and cache."""
    need = 0
    if work.learner is not None:
        states, passes = count_states(work, work.learner), activations_of(work, work.learner)
        need += states.weights + states.gradients + states.optimizer + states.reference + count_host(work, work.learner)
        need += passes.kept + passes.head + passes.temporary
        need *= work.learner.num_ranks
        need += count_checkpoint(work)
    if work.rollout is not None:
        sequences = min(work.completions_per_step, work.rollout.max_batch or work.completions_per_step)
        cache = kv_bytes_per_token(work, 1) * work.max_length * sequences
        if work.rollout.kind == "vllm":
            cache = min(cache, GIB) * work.rollout.num_workers
        need += work.dtype_bytes * work.parameters.total * work.rollout.num_workers + cache
    return need


def short_of_memory(work: Workload) -> list[str]:
    """A sentence where a run on CPUs seems to need more memory than is free: only ever a notice."""
    free, need = host_memory(), host_need(work)
    if free is None or need <= free:
        return []
    return [
        f"doctor: this run may need about {need / GIB:.0f} GiB of main memory, of which {free / GIB:.0f} GiB are "
        "free; learner.gradient_checkpointing=true, a smaller learner.tokens_per_micro_batch or "
        "trainer.prompts_per_step take less"
    ]
