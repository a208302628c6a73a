"""One rank's side of a step: scores, losses, updates and their sums.

The order of a step: log-probs under the old policy for every update but the first (whose own forward pass gives them),
unless the rollout's serve (``algorithm.old_logprobs``); log-probs under the reference, if there is a KL term; then the
updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch

from insight_rl.algorithm.loss import TokenLosses, Tokens, k3, token_losses
from insight_rl.errors import RunStopped, check
from insight_rl.learner.attention import attends_fully, implementation, packed_layout
from insight_rl.learner.batch import MicroBatch, Row, TrainSequence, make_micro_batch, packs_rows
from insight_rl.learner.device_memory import ParkedMemory
from insight_rl.learner.engine import Scorer, TrainEngine
from insight_rl.learner.flops import ModelShape, Work, measure_peak
from insight_rl.learner.head import check_plain_head
from insight_rl.learner.lora import ADAPTER_FOLDER, describe_adapter, has_adapter, write_adapter
from insight_rl.learner.models import save_merged, write_weights
from insight_rl.learner.plan import BatchPlan, RankPlan, lay_out
from insight_rl.learner.settings import ModelFacts, StartSpec
from insight_rl.learner.shards import ShardWriter, read_shards
from insight_rl.learner.step_sums import StepSums
from insight_rl.learner.weight_handover import HandedWeights, write_to_memory
from insight_rl.weight_sync.base import Sender, SenderSpec, SyncSeconds, TensorInfo
from insight_rl.weight_sync.checksum import checksum


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceBatch:
    """A micro-batch as tensors on the rank's device; floats in the precision of the log-probs."""

    inputs: dict[str, Any]
    """Keyword arguments of the scorer."""
    sequences_N: torch.Tensor
    rollout_logprobs_N: torch.Tensor
    advantages_N: torch.Tensor
    weights_N: torch.Tensor
    num_sequences: int
    is_measured: bool
    work: Work


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """A micro-batch that is laid out anew each time it is needed: laid out, its tokens take eight times the memory."""

    plan: BatchPlan
    sequences: Sequence[TrainSequence]
    """All sequences of the rank."""

    @property
    def lengths(self) -> list[int]:
        """Completion tokens of each sequence, in the order of the batch's tokens."""
        return [self.sequences[s].completion_ids.size for row in self.plan.rows for s in row]

    @property
    def rollout_logprobs_N(self) -> np.ndarray:
        return np.concatenate([np.asarray(self.sequences[s].rollout_logprobs) for row in self.plan.rows for s in row])


class RankWorker:
    """Runs in the process of its rank, which for a single rank may be the trainer's own."""

    def __init__(self, engine: TrainEngine) -> None:
        self._engine = engine
        self._handed_file: BinaryIO | None = None
        self._sender: Sender | None = None
        self._parked: ParkedMemory | None = None
        self._shards = ShardWriter()

    def start(self, spec: StartSpec) -> ModelFacts:
        from transformers import set_seed

        set_seed(spec.seed)
        self._shards.wait()
        self._shards = ShardWriter()
        self._spec = spec
        self._engine.start(spec)
        self._reference = self._engine.load_reference() if spec.loss.uses_reference else None
        config = self._engine.model.config.get_text_config()
        can_share = self._probe(config.vocab_size)
        self._shape = ModelShape.of(self._engine.model)
        return ModelFacts(
            hidden_size=config.hidden_size,
            can_share_prompts=can_share,
            kernel=self._engine.kernel,
            peak_flops=measure_peak(self._engine.device, self._engine.dtype),
        )

    def _probe(self, vocab_size: int) -> bool:
        """Try on a few random tokens what this architecture allows; returns whether prompts may be shared."""
        generator = np.random.default_rng(0)
        prompt, *completions = (generator.integers(vocab_size, size=size) for size in (6, 5, 4, 6))
        zeros = np.zeros(8)
        sequences = [
            TrainSequence(prompt_ids=prompt, completion_ids=c, rollout_logprobs=zeros[: c.size], advantage=0, weight=0)
            for c in completions
        ]
        rows = [Row(sequences=(sequence,)) for sequence in sequences]
        kernel, device = self._engine.kernel, self._engine.device
        padded = self._copy(make_micro_batch(rows))
        alone = self._copy(make_micro_batch(rows, is_packed=packs_rows(kernel)))
        shared = self._copy(make_micro_batch([Row(sequences=tuple(sequences))], is_packed=packs_rows(kernel)))
        # Random tokens score very differently in another context, so in half precision a wide margin still tells.
        is_full = self._engine.dtype == torch.float32
        context_margin = 1e-3 if is_full else 0.2
        model = self._engine.model
        with torch.no_grad():
            by_head = self._engine.scorer(**alone.inputs)[0]
            self._engine.set_calls_head(False)
            by_model = self._engine.scorer(**alone.inputs)[0]
            if packs_rows(kernel):
                model.set_attn_implementation(implementation("sdpa"))
                gap = _mean_gap(self._engine.scorer(**padded.inputs)[0], by_model)
                model.set_attn_implementation(implementation(kernel))
                check(
                    gap < context_margin,
                    "learner.attention",
                    kernel,
                    f"on this machine its log-probs differ from those of sdpa by {gap:.2g} nats; take sdpa",
                )
            is_matrix = type(model.get_output_embeddings()) is torch.nn.Linear
            calls_head = is_matrix and _mean_gap(by_head, by_model) < (1e-3 if is_full else 2e-2)
            self._engine.set_calls_head(calls_head)
            check_plain_head(calls_head, self._engine.settings)
            if not attends_fully(model.config) or (kernel == "sdpa" and device.type != "cpu"):
                return False  # a dense mask on a GPU costs more than sharing saves
            together = self._engine.scorer(**shared.inputs)[0]
        return _mean_gap(together, by_head if calls_head else by_model) < context_margin

    def step(self, plan: RankPlan, lr: float) -> StepSums:
        """Raises ``RunStopped`` where the gradient is not finite, ``OSError`` where a checkpoint cannot be written."""
        self._shards.wait_for_copy()
        sequences = plan.table.sequences()
        updates = [[_Batch(plan=batch, sequences=sequences) for batch in batches] for batches in plan.updates]
        result = StepSums()
        if self._engine.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._engine.device)
        scorer = self._engine.scorer
        # Log-probs under the policy before the step; the first update's come from its own forward pass.
        before: list[list[torch.Tensor]] = [[] for _ in updates]
        if self._spec.loss.old_logprobs == "learner":
            before[1:] = [self._score(scorer, batches, result) for batches in updates[1:]]
        reference = [self._score(self._reference, batches, result) for batches in updates] if self._reference else None
        for epoch in range(self._spec.num_epochs):
            for number, batches in enumerate(updates):
                is_first = epoch == number == 0
                of_reference = reference[number] if reference else None
                self._accumulate(batches, before[number], of_reference, result, is_first=is_first)
                grad_norm = self._engine.update(lr)
                if not math.isfinite(grad_norm):
                    raise RunStopped(f"the gradient norm is {grad_norm}: lower learner.lr or take model.dtype=float32")
                result.grad_norms.append(grad_norm)
        for batches, logprobs in zip(updates, before, strict=True):
            for batch, logprobs_N in zip(batches, logprobs, strict=bool(logprobs)):
                if batch.plan.is_measured:
                    gaps = add_gap(result, logprobs_N, self._floats(batch.rollout_logprobs_N), batch.lengths)
                    numbers = (number for row in batch.plan.rows for number in row)
                    result.gaps_by_sequence.update(zip(numbers, gaps, strict=True))
        if self._engine.device.type == "cuda":
            result.gpu_bytes = {
                "allocated": torch.cuda.max_memory_allocated(self._engine.device),
                "reserved": torch.cuda.max_memory_reserved(self._engine.device),
            }
        return result

    def _accumulate(
        self,
        batches: list[_Batch],
        before: list[torch.Tensor],
        reference: list[torch.Tensor] | None,
        result: StepSums,
        *,
        is_first: bool,
    ) -> None:
        """Forward and backward of one update; fills ``before`` if this is the first of the step."""
        from_rollout = self._spec.loss.old_logprobs == "rollout"
        for number, planned in enumerate(batches):
            batch = self._to_device(planned)
            with self._engine.accumulating(is_last=number == len(batches) - 1):
                logprobs_N, entropies_N = self._engine.scorer(**batch.inputs)
                if is_first:
                    before.append(logprobs_N.detach())
                tokens = Tokens(
                    logprobs_N=logprobs_N,
                    old_logprobs_N=batch.rollout_logprobs_N if from_rollout else before[number],
                    rollout_logprobs_N=batch.rollout_logprobs_N,
                    reference_logprobs_N=reference[number] if reference else None,
                    advantages_N=batch.advantages_N,
                    sequences_N=batch.sequences_N,
                    num_sequences=batch.num_sequences,
                )
                losses = token_losses(self._spec.loss, tokens)
                loss = (losses.value * batch.weights_N).sum()
                self._engine.backward(loss)
            result.flops += self._shape.training(batch.work)
            if batch.is_measured:
                result.add(_sums(tokens, losses, loss, entropies_N))

    def _score(self, scorer: Scorer, batches: list[_Batch], result: StepSums) -> list[torch.Tensor]:
        scores = []
        for planned in batches:
            batch = self._to_device(planned)
            with torch.no_grad():
                scores.append(scorer(**batch.inputs)[0])
            result.flops += self._shape.forward(batch.work)
            if batch.is_measured:
                result.add({"extra_forwards": batch.num_sequences})
        return scores

    def _to_device(self, batch: _Batch) -> DeviceBatch:
        return self._copy(lay_out(batch.plan, batch.sequences, is_packed=packs_rows(self._engine.kernel)))

    def _copy(self, batch: MicroBatch) -> DeviceBatch:
        def integers(array: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(array).to(self._engine.device, non_blocking=True)

        return DeviceBatch(
            inputs={
                "input_ids": integers(batch.input_ids),
                "segments": None if batch.segments is None else integers(batch.segments),
                "positions": None if batch.positions is None else integers(batch.positions),
                "sources_N": integers(batch.sources_N),
                "targets_N": integers(batch.targets_N),
                "layout": None
                if batch.parts is None
                else packed_layout(batch.parts, self._engine.kernel, self._engine.device),
            },
            sequences_N=integers(batch.sequences_N),
            rollout_logprobs_N=self._floats(batch.rollout_logprobs_N),
            advantages_N=self._floats(batch.advantages_N),
            weights_N=self._floats(batch.weights_N),
            num_sequences=batch.num_sequences,
            is_measured=batch.is_measured,
            work=batch.work,
        )

    def _floats(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._engine.device, torch.float32, non_blocking=True)

    def logprobs(self, completions: Sequence[tuple[Sequence[int], np.ndarray]]) -> list[np.ndarray]:
        """Of the tokens of each completion after its prompt; both are token ids. One row at a time."""
        found = []
        for prompt_ids, completion_ids in completions:
            sequence = TrainSequence(
                prompt_ids=np.asarray(prompt_ids),
                completion_ids=completion_ids,
                rollout_logprobs=np.zeros(len(completion_ids)),
                advantage=0.0,
                weight=0.0,
            )
            row = Row(sequences=(sequence,))
            batch = self._copy(make_micro_batch([row], is_packed=packs_rows(self._engine.kernel)))
            with torch.no_grad():
                found.append(self._engine.scorer(**batch.inputs)[0].float().cpu().numpy())
        return found

    def release_memory(self) -> int:
        """Move all that is on the device to host memory, until :meth:`take_memory`; returns how many bytes it was."""
        self._shards.wait_for_copy()
        self._parked = ParkedMemory([self._engine, self._reference], self._engine.device)
        return self._parked.num_bytes

    def take_memory(self) -> None:
        assert self._parked is not None
        self._parked.restore()
        self._parked = None

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._engine.named_tensors()

    def checksum(self) -> str:
        """Of the weights that rollout engines get: see :mod:`insight_rl.weight_sync.checksum`. Collective."""
        return checksum(self._engine.named_tensors())

    def describe(self) -> list[TensorInfo]:
        return self._engine.describe()

    def send_weights(self, spec: SenderSpec | None, *, ask: Callable[[Any], Any]) -> SyncSeconds:
        """Send the weights to the rollout processes; ``spec``: open a new sender first (``WeightSource.send``)."""
        if spec is not None:
            self._sender = spec.open(self._engine, lambda method, argument: ask((method, argument)))
        assert self._sender is not None, "the first call has to say how to send"
        return self._sender.send_weights()

    def hand_over_weights(self) -> HandedWeights | None:
        """Rank 0 keeps the weights in memory for the trainer, until :meth:`drop_handed_weights`."""
        if self._engine.rank != 0:
            _exhaust(self._engine.named_tensors())
            return None
        self._handed_file, weights = write_to_memory(self._engine.named_tensors())
        return weights

    def drop_handed_weights(self) -> None:
        if self._handed_file is not None:
            self._handed_file.close()
            self._handed_file = None

    def save_weights(self, folder: Path) -> SyncSeconds:
        """A safetensors checkpoint in ``folder``, written by rank 0."""
        seconds, started = SyncSeconds(), time.perf_counter()
        tensors = seconds.gathering(self._engine.named_tensors())
        if self._engine.rank == 0:
            write_weights(tensors, folder)
        else:
            _exhaust(tensors)
        seconds.transfer_s = time.perf_counter() - started - seconds.gather_s
        return seconds

    def save_model(self, folder: Path) -> None:
        """A Hugging Face folder; with LoRA of the merged model, and the adapter alone beside it in ``adapter/``."""
        if self._engine.rank != 0:
            _exhaust(self._engine.named_tensors())
            self.save_adapter(folder.with_name(ADAPTER_FOLDER))
            return
        save_merged(
            self._engine.model,
            self._engine.named_tensors(),
            source=self._spec.model_path,
            folder=folder,
            dtype=self._engine.dtype,
        )
        self.save_adapter(folder.with_name(ADAPTER_FOLDER))

    def describe_adapter(self) -> list[TensorInfo]:
        return describe_adapter(self._engine.model)

    def save_adapter(self, folder: Path) -> SyncSeconds:
        """The adapter in ``folder``, as peft and vLLM load it, written by rank 0; nothing without LoRA."""
        seconds, started = SyncSeconds(), time.perf_counter()
        tensors = seconds.gathering(self._engine.adapter_tensors())
        if self._engine.rank == 0 and has_adapter(self._engine.model):
            write_adapter(self._engine.model, tensors, folder, base=self._spec.model_path)
        else:
            _exhaust(tensors)
        seconds.transfer_s = time.perf_counter() - started - seconds.gather_s
        return seconds

    def begin_checkpoint(self, folder: Path) -> None:
        """Start writing this rank's share to ``folder``, in the background."""
        self._shards.begin(folder, self._engine.rank, self._engine.fragments(owned=True), self._engine.device)

    def check_checkpoint(self) -> None:
        """Raise what writing has failed of, if it has; never waits."""
        self._shards.check()

    def load_checkpoint(self, folder: Path) -> None:
        self._shards.wait_for_copy()
        read_shards(folder, self._engine.fragments(owned=False))
        self._engine.take_over_fragments()

    def close(self) -> None:
        self._shards.cancel()
        self._engine.close()


def _sums(tokens: Tokens, losses: TokenLosses, loss: torch.Tensor, entropies_N: torch.Tensor) -> dict[str, float]:
    columns = {
        "num_tokens": torch.ones_like(entropies_N).sum(),
        "loss": loss.detach(),
        "entropy": entropies_N.sum(),
        "ratio": losses.ratio.sum(),
        "clipped_low": losses.is_clipped_low.sum(),
        "clipped_high": losses.is_clipped_high.sum(),
    }
    if losses.importance is not None and losses.is_kept is not None:
        columns |= {"importance": losses.importance.sum(), "importance_kept": losses.is_kept.sum()}
    if tokens.reference_logprobs_N is not None:
        columns["kl_to_reference"] = k3(tokens.logprobs_N.detach() - tokens.reference_logprobs_N).sum()
    return dict(zip(columns, torch.stack([value.double() for value in columns.values()]).tolist(), strict=True))


def add_gap(
    result: StepSums, logprobs_N: torch.Tensor, rollout_logprobs_N: torch.Tensor, lengths: Sequence[int]
) -> list[float]:
    """Add a micro-batch's gaps to ``result``; returns the mean gap of each of its sequences of these lengths."""
    gap_N = (rollout_logprobs_N - logprobs_N).double()
    result.add({"num_gaps": gap_N.numel(), "gap": gap_N.abs().sum().item(), "kl_to_rollout": k3(gap_N).sum().item()})
    result.gap_max = max(result.gap_max, gap_N.abs().max().item())
    return [float(gaps.mean()) for gaps in gap_N.abs().cpu().split(list(lengths))]


def _mean_gap(one_N: torch.Tensor, other_N: torch.Tensor) -> float:
    return float((one_N - other_N).abs().mean())


def _exhaust(items: Iterator[object]) -> None:
    for _ in items:
        pass
