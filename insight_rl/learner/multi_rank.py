"""The trainer's side of learning: cuts each step into ranks' shares, sends them out and adds up what comes back.

Behind it stands one rank in this process, or one process per rank; nothing else in the project can tell which. Knows
nothing of tensors: the weights pass through as a source, the batches as arrays.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from insight_rl.algorithm.loss_settings import PolicyLoss
from insight_rl.errors import check
from insight_rl.learner.batch import BatchSettings, StepPlan, plan_step
from insight_rl.learner.processes import MakeWorker, RankProcesses
from insight_rl.learner.settings import LearnerSettings, StartSpec
from insight_rl.types import Group, Metrics
from insight_rl.weight_sync.base import WeightSource

if TYPE_CHECKING:
    import torch

    from insight_rl.learner.worker import RankWorker, StepSums

_STATE = "learner.json"
_DTYPES = ("float32", "bfloat16", "float64")


class MultiRankLearner:
    """What every learner of this project shares. See :class:`~insight_rl.learner.base.Learner`.

    ``make_worker`` builds a rank's worker in the process it runs in. ``in_process`` keeps a single rank in this one.
    """

    def __init__(self, settings: LearnerSettings, *, make_worker: MakeWorker, in_process: bool) -> None:
        self.settings = settings
        self._make_worker = make_worker
        self._in_process = in_process and settings.num_ranks == 1
        self._processes: RankProcesses | None = None
        self._worker: RankWorker | None = None
        self._num_steps_done = 0

    def start(
        self,
        *,
        model_path: Path,
        dtype: str,
        loss: PolicyLoss,
        temperature: float,
        max_completion_tokens: int,
        prompts_per_update: int,
        num_epochs: int,
        num_steps: int,
        seed: int,
    ) -> None:
        """See :meth:`~insight_rl.learner.base.Learner.start`. Started again, it begins anew in the same processes."""
        check(dtype in _DTYPES, "model.dtype", dtype, f"the learner trains in one of {', '.join(_DTYPES)}")
        spec = StartSpec(
            model_path=Path(model_path),
            dtype=dtype,
            loss=loss,
            num_epochs=num_epochs,
            temperature=temperature,
            seed=seed,
        )
        if self._in_process:
            self._worker = self._make_worker()
        elif self._processes is None:
            self._processes = RankProcesses(
                self._make_worker, self.settings.num_ranks, deadline_s=self.settings.deadline_s
            )
        facts = self._everywhere("start", spec)
        self._num_steps_done = 0
        self._num_steps = num_steps
        self._batch_settings = BatchSettings(
            loss=loss,
            max_completion_tokens=max_completion_tokens,
            prompts_per_update=prompts_per_update,
            num_ranks=self.settings.num_ranks,
            tokens_per_micro_batch=self.settings.tokens_per_micro_batch,
            share_prompts=self.settings.share_prompts and facts.can_share_prompts,
            hidden_size=facts.hidden_size,
            vocab_size=facts.vocab_size,
        )

    def step(self, groups_P: Sequence[Group], advantages_P_G: Sequence[np.ndarray]) -> Metrics:
        plan = plan_step(groups_P, advantages_P_G, self._batch_settings)
        self._num_steps_done += 1
        lr = self.settings.lr_at(self._num_steps_done, self._num_steps)
        results = self._call("step", [(rank_plan, lr) for rank_plan in plan.ranks])
        return _metrics(plan, results, lr)

    def weights(self) -> WeightSource:
        return _LearnerWeights(self)

    def save_checkpoint(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._everywhere("save_checkpoint", folder)
        (folder / _STATE).write_text(json.dumps(self._kind() | {"num_steps_done": self._num_steps_done}))

    def load_checkpoint(self, folder: Path) -> None:
        """Raises ``UsageError`` for a checkpoint of another kind of learner or another number of ranks."""
        state = json.loads((folder / _STATE).read_text())
        for key, present in self._kind().items():
            check(state[key] == present, f"learner ({key})", present, f"the checkpoint in {folder} has {state[key]!r}")
        self._everywhere("load_checkpoint", folder)
        self._num_steps_done = state["num_steps_done"]

    def save_model(self, folder: Path) -> None:
        self._everywhere("save_model", folder)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._processes is not None:
            self._processes.close()
        self._worker = self._processes = None

    def _kind(self) -> dict[str, Any]:
        """What a checkpoint must have in common with the learner that loads it."""
        return {"kind": type(self).__name__, "num_ranks": self.settings.num_ranks}

    def _everywhere(self, method: str, *arguments: Any) -> Any:
        """Call ``method`` with the same arguments on every rank; returns rank 0's result."""
        return self._call(method, [arguments] * self.settings.num_ranks)[0]

    def _call(self, method: str, arguments_R: Sequence[tuple[Any, ...]]) -> list[Any]:
        if self._worker is not None:
            return [getattr(self._worker, method)(*arguments_R[0])]
        if self._processes is None:
            raise RuntimeError(f"the learner cannot {method}: it is not started, or already closed")
        return self._processes.call(method, arguments_R)


class _LearnerWeights:
    """The weights as they are when asked for, through memory if the rank is here, else through files in memory."""

    def __init__(self, learner: MultiRankLearner) -> None:
        self._learner = learner

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        if self._learner._worker is not None:
            yield from self._learner._worker.named_tensors()
            return
        from safetensors import safe_open

        folder = Path(tempfile.mkdtemp(prefix="insight_rl_weights_", dir=_memory_folder()))
        try:
            self.save(folder)
            for file in sorted(folder.glob("*.safetensors")):
                with safe_open(file, framework="pt") as tensors:
                    for name in tensors.keys():  # noqa: SIM118 (a file, not a mapping)
                        yield name, tensors.get_tensor(name)
        finally:
            shutil.rmtree(folder)

    def save(self, folder: Path) -> None:
        self._learner._everywhere("save_weights", folder)


def _memory_folder() -> str | None:
    """A file system in memory, where there is one."""
    shared_memory = Path("/dev/shm")
    return str(shared_memory) if shared_memory.is_dir() else None


def _metrics(plan: StepPlan, results: Sequence[StepSums], lr: float) -> Metrics:
    """Add up the ranks' sums. Means are over the completion tokens that went through the model."""
    sums: dict[str, float] = {}
    for result in results:
        for name, value in result.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    grad_norms = results[0].grad_norms
    metrics: Metrics = {
        "learner/lr": lr,
        "learner/num_sequences": plan.num_sequences,
        "learner/num_tokens": plan.num_tokens,
        "learner/num_input_tokens": plan.num_inputs,
        "learner/num_skipped_groups": plan.num_skipped_groups,
        "learner/num_updates": len(grad_norms),
    }
    if not grad_norms:
        return metrics
    num_tokens, num_gaps = sums["num_tokens"], sums["num_gaps"]
    metrics |= {
        "learner/loss": sums["loss"] / len(grad_norms),
        "learner/grad_norm": float(np.mean(grad_norms)),
        "learner/entropy": sums["entropy"] / num_tokens,
        "learner/ratio_mean": sums["ratio"] / num_tokens,
        "learner/clip_fraction_low": sums["clipped_low"] / num_tokens,
        "learner/clip_fraction_high": sums["clipped_high"] / num_tokens,
        "learner/kl_to_rollout": sums["kl_to_rollout"] / num_gaps,
        "rollout/logprob_gap_mean": sums["gap"] / num_gaps,
        "rollout/logprob_gap_max": max(result.gap_max for result in results),
    }
    if "kl_to_reference" in sums:
        metrics["learner/kl_to_reference"] = sums["kl_to_reference"] / num_tokens
    return metrics
