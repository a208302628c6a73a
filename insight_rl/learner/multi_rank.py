"""The trainer's side of learning: cuts each step into the ranks' shares, sends them out and adds up the results.

The work is done by one rank in this process, or by one process per rank; nothing else in the project can tell which.
"""

from __future__ import annotations

import json
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from insight_rl.checkpoint import PartWriting
from insight_rl.errors import check
from insight_rl.hashed_files import Digest, hashed_file
from insight_rl.learner.learner_state import STATE_FILE, LearnerState
from insight_rl.learner.plan import BatchSettings, plan_step
from insight_rl.learner.processes import Answer, MakeWorker, RankHost, RankProcesses, Ranks
from insight_rl.learner.rank_files import RankFiles
from insight_rl.learner.schedule import lr_at
from insight_rl.learner.settings import LearnerSettings, StartSpec
from insight_rl.learner.step_sums import gaps_by_prompt, to_metrics
from insight_rl.model_folder import fingerprint
from insight_rl.types import Group, Metrics, Prompt
from insight_rl.weight_sync.base import CallAll, SenderSpec, SyncSeconds, TensorInfo, WeightSource

if TYPE_CHECKING:
    import torch

    from insight_rl.learner.worker import RankWorker


class MultiRankLearner(LearnerSettings, ABC):
    """What every learner of this project shares. See :class:`~insight_rl.learner.base.Learner`."""

    settings_type: ClassVar[type[LearnerSettings]] = LearnerSettings
    single_rank_in_process: ClassVar[bool]
    """Whether a single rank runs in the trainer's own process; several ranks never do."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention != "auto" or self.head != "chunked":
            import torch

            from insight_rl.learner.attention import check_attention
            from insight_rl.learner.head import check_head

            has_gpu = torch.cuda.is_available()
            check_attention(self.attention, has_gpu=has_gpu)
            check_head(self.head, has_gpu=has_gpu)
        self._host: RankHost | None = None
        self._processes: Ranks | None = None
        self._worker: RankWorker | None = None
        self._num_steps_done = 0
        self._base: str | None = None
        self._is_released = False
        self._gaps: dict[str, np.ndarray] = {}

    @abstractmethod
    def _make_worker(self) -> MakeWorker:
        """What builds a rank's worker, in the process that the rank runs in; it can be pickled."""

    @property
    def settings(self) -> Any:
        """The settings alone, of ``settings_type``: what is sent to the ranks."""
        return self.settings_type(**{field.name: getattr(self, field.name) for field in fields(self.settings_type)})

    def run_on(self, host: RankHost) -> None:
        """See :meth:`~insight_rl.learner.base.HasRanks.run_on`."""
        self._host = host

    def start(self, spec: StartSpec) -> None:
        """See :meth:`~insight_rl.learner.base.Learner.start`. Started again, it begins anew in the same processes."""
        is_here = self._host is None or self._host.is_here
        if is_here and self.single_rank_in_process and self.num_ranks == 1:
            self._worker = self._make_worker()()
        elif self._processes is None:
            start_ranks = RankProcesses if self._host is None else self._host.start_ranks
            self._processes = start_ranks(self._make_worker(), self.num_ranks, deadline_s=self.deadline_s)
        facts = self._everywhere("start", spec)
        self._model_path = spec.model_path
        # An adapter's checkpoints do not hold the model that it belongs to.
        self._base = None if self.adapter is None else fingerprint(spec.model_path)
        self._peak_flops = facts.peak_flops * self.num_ranks
        self._num_steps_done = 0
        self._num_steps = spec.num_steps
        self._batch_settings = BatchSettings(
            loss=spec.loss,
            max_completion_tokens=spec.max_completion_tokens,
            prompts_per_update=spec.prompts_per_update,
            num_ranks=self.num_ranks,
            tokens_per_micro_batch=self.tokens_per_micro_batch,
            share_prompts=self.share_prompts and facts.can_share_prompts,
            hidden_size=facts.hidden_size,
            kernel=facts.kernel,
        )

    def step(self, groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        began = time.perf_counter()
        plan = plan_step(groups_P, advantages_P_G, self._batch_settings)
        self._num_steps_done += 1
        lr = lr_at(
            self._num_steps_done,
            num_steps=self._num_steps,
            peak=self.lr,
            warmup_steps=self.warmup_steps,
            schedule=self.lr_schedule,
        )
        sums_R = self._call("step", [(rank_plan, lr) for rank_plan in plan.ranks])
        metrics = to_metrics(plan, sums_R, lr)
        self._gaps = gaps_by_prompt(plan, sums_R, groups_P)
        flops = sum(of_rank.flops for of_rank in sums_R)
        if metrics["learner/num_updates"] and flops:
            metrics["learner/mfu"] = flops / (time.perf_counter() - began) / self._peak_flops
        return metrics

    def completion_gaps(self) -> dict[str, np.ndarray]:
        """See :meth:`~insight_rl.learner.base.MeasuresCompletions.completion_gaps`."""
        return self._gaps

    def weights(self) -> WeightSource:
        return _LearnerWeights(self)

    def logprobs(self, completions: Sequence[tuple[Prompt, np.ndarray]]) -> list[np.ndarray]:
        """See :meth:`~insight_rl.learner.base.ScoresCompletions.logprobs`. Every rank scores all: they are few."""
        pairs = [(prompt.token_ids, token_ids) for prompt, token_ids in completions]
        scored: list[np.ndarray] = self._everywhere("logprobs", pairs)
        return scored

    def release_memory(self) -> None:
        """See :meth:`~insight_rl.learner.base.ReleasesMemory.release_memory`."""
        if not self._is_released:
            self._everywhere("release_memory")
            self._is_released = True

    def save_checkpoint(self, folder: Path) -> PartWriting:
        """See :meth:`~insight_rl.learner.base.Learner.save_checkpoint`. The ranks write in the background."""
        folder.mkdir(parents=True, exist_ok=True)
        self._everywhere("begin_checkpoint", folder)
        return _LearnerWriting(self, folder, self._state().content())

    def load_checkpoint(self, folder: Path) -> None:
        """Raises ``UsageError`` for a damaged checkpoint, or one of another kind of learner.

        Any number of ranks, and any stage of ZeRO, goes on from what any other has written.
        """
        found, present = LearnerState.read(folder), self._state()
        for key in ("kind", "lora"):
            wanted, there = getattr(present, key), getattr(found, key)
            check(there == wanted, f"learner ({key})", wanted, f"the checkpoint in {folder} has {there!r}")
        check(
            found.base == present.base,
            "model.path",
            str(self._model_path),
            f"is another model than the one that the adapter in {folder} was trained beside; give that one",
        )
        self._everywhere("load_checkpoint", folder)
        self._num_steps_done = found.num_steps_done

    def save_model(self, folder: Path) -> None:
        self._everywhere("save_model", folder)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._processes is not None:
            self._processes.close()
        self._worker = self._processes = None
        self._is_released = False

    def _state(self) -> LearnerState:
        lora = None if self.adapter is None else json.loads(json.dumps(asdict(self.adapter)))
        return LearnerState(kind=type(self).__name__, lora=lora, base=self._base, num_steps_done=self._num_steps_done)

    def _everywhere(self, method: str, *arguments: Any, answer: Answer | None = None) -> Any:
        """Call ``method`` with the same arguments on every rank; returns rank 0's result."""
        return self._call(method, [arguments] * self.num_ranks, answer=answer)[0]

    def _call(self, method: str, arguments_R: Sequence[tuple[Any, ...]], *, answer: Answer | None = None) -> list[Any]:
        """See :meth:`~insight_rl.learner.processes.RankProcesses.call`. Memory that was released is taken again."""
        if self._is_released and method not in ("describe", "check_checkpoint"):
            self._is_released = False
            self._everywhere("take_memory")
        if self._worker is not None:
            keywords = {} if answer is None else {"ask": lambda request: answer(request, _nothing_to_see)}
            return [getattr(self._worker, method)(*arguments_R[0], **keywords)]
        if self._processes is None:
            raise RuntimeError(f"the learner cannot {method}: it is not started, or already closed")
        return self._processes.call(method, arguments_R, answer=answer)


def _nothing_to_see() -> None:
    """The only rank is in this process: it waits for the answer."""


class _LearnerWriting:
    """See :class:`~insight_rl.checkpoint.PartWriting`."""

    def __init__(self, learner: MultiRankLearner, folder: Path, state: bytes) -> None:
        self._learner, self._folder, self._state = learner, folder, state
        self._of_ranks = RankFiles(folder, learner.num_ranks, deadline_s=learner.deadline_s)

    def write(self, cancelled: threading.Event) -> dict[str, Digest]:
        digests: dict[str, Digest] = {}
        with hashed_file(self._folder / STATE_FILE, cancelled, digests) as file:
            file.write(self._state)
        return digests | self._of_ranks.write(cancelled)

    def check(self) -> None:
        self._learner._everywhere("check_checkpoint")


class _LearnerWeights:
    """See :class:`~insight_rl.weight_sync.base.WeightSource`. Tensors are a rank's own if it is in this process."""

    def __init__(self, learner: MultiRankLearner) -> None:
        self._learner = learner

    def describe(self) -> list[TensorInfo]:
        described: list[TensorInfo] = self._learner._everywhere("describe")
        return described

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._learner._worker is not None:
            yield from self._learner._worker.named_tensors()
            return
        from insight_rl.learner.weight_handover import map_memory, read_from_memory

        weights = self._learner._everywhere("hand_over_weights")
        try:
            content = map_memory(weights)
        finally:
            # From here on this process alone keeps the memory, and frees it by dropping ``content``.
            self._learner._everywhere("drop_handed_weights")
        yield from read_from_memory(content, weights)

    def save(self, folder: Path) -> SyncSeconds:
        seconds: SyncSeconds = self._learner._everywhere("save_weights", folder)
        return seconds

    def describe_adapter(self) -> list[TensorInfo]:
        described: list[TensorInfo] = self._learner._everywhere("describe_adapter")
        return described

    def save_adapter(self, folder: Path) -> SyncSeconds:
        seconds: SyncSeconds = self._learner._everywhere("save_adapter", folder)
        return seconds

    def send(self, spec: SenderSpec | None, call_all: CallAll) -> SyncSeconds:
        def answer(request: tuple[str, Any], meanwhile: Callable[[], None]) -> None:
            call_all(*request, meanwhile)

        seconds: SyncSeconds = self._learner._everywhere("send_weights", spec, answer=answer)
        return seconds
