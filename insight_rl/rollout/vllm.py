"""The vLLM rollout engine: token ids in, token ids and log-probs out, G rollouts a request, weights synced in place.

vLLM runs in processes of its own, ``num_workers`` of them with a whole model each (data parallel). This module starts
them as a pool (:mod:`insight_rl.rollout.pool`) and never imports vLLM.

Reproducibility: rollout j of a prompt is drawn with a generator seeded from ``sampling.seed``, the prompt's id and j.
So it depends neither on the rest of the batch nor on the worker that it comes to, except for rounding: another batch
size changes log-probs by about 1e-6 (float32; more in bfloat16), which can flip a rare sample. On CPU and with one
worker, the same sequence of calls gives the same result. With several, the clock decides which prompts meet in a batch.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.placement import PLACEMENTS
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.pooled_engine import PooledEngine
from insight_rl.weight_sync.adapter import vllm_rank
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.memory_folder import check_shared_memory

_OURS = {
    "tensor_parallel_size": "rollout.tensor_parallel_size",
    "data_parallel_size": "rollout.num_workers",
    "device_ids": "rollout.placement (and CUDA_VISIBLE_DEVICES for the whole run)",
    "pipeline_parallel_size": "rollout.tensor_parallel_size",
}
"""Settings of vLLM that decide about GPUs, and the keys of this project that do so instead."""


class VllmEngine(PooledEngine):
    """Samples with vLLM. See :class:`~insight_rl.rollout.base.RolloutEngine`.

    ``num_workers`` processes with ``tensor_parallel_size`` GPUs each, which are the learner's (``placement`` is
    ``colocated``) or others (``separate``). ``max_tokens_in_flight`` of one worker, see
    :class:`~insight_rl.rollout.pool.WorkerPool`. ``max_replaced_workers``: a worker that dies or hangs is replaced, so
    many times in a run. ``engine_args`` go to ``vllm.LLM`` under vLLM's own names and override what this class sets.
    ``sleep``: the GPUs are the learner's while it works (:mod:`insight_rl.gpu_turns`): weights wait in host memory, the
    cache is dropped. ``num_threads`` of a worker on the CPU backend: null leaves it to
    ``OMP_NUM_THREADS``; without that, several workers share the cores. ``show_log`` lets vLLM write to the terminal;
    otherwise its last lines are part of the error message. ``deadline_s``: seconds without a sign of life after which a
    worker counts as lost. Nothing here has been run on a GPU yet, sleeping included.
    """

    def __init__(
        self,
        *,
        num_workers: int = 1,
        tensor_parallel_size: int = 1,
        placement: str = "colocated",
        max_tokens_in_flight: int | None = None,
        max_replaced_workers: int = 8,
        engine_args: Mapping[str, Any] | None = None,
        sleep: bool = False,
        num_threads: int | None = None,
        show_log: bool = False,
        deadline_s: float = 1800.0,
    ) -> None:
        super().__init__(
            num_workers=num_workers,
            max_tokens_in_flight=max_tokens_in_flight,
            max_replaced_workers=max_replaced_workers,
            num_threads=num_threads,
            show_log=show_log,
            deadline_s=deadline_s,
        )
        check(
            tensor_parallel_size >= 1,
            "rollout.tensor_parallel_size",
            tensor_parallel_size,
            "must be at least 1 GPU a worker",
        )
        check(placement in PLACEMENTS, "rollout.placement", placement, f"must be one of {', '.join(PLACEMENTS)}")
        check(
            not sleep or placement == "colocated",
            "rollout.sleep",
            sleep,
            "frees GPUs that nobody else uses where rollout.placement=separate; take false",
        )
        for name, key in _OURS.items():
            if name in (engine_args or {}):
                raise UsageError(f"rollout.engine_args.{name}={(engine_args or {})[name]!r}: is set by {key}")
        self.tensor_parallel_size = tensor_parallel_size
        self.placement = placement
        self.engine_args = dict(engine_args or {})
        self.sleep = sleep

    def start(self, spec: RolloutSpec) -> None:
        """Raises ``UsageError`` if vLLM is not installed or refuses the settings, with its reason."""
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "rollout=vllm: vLLM is not installed; install it with `pip install 'insight-rl[cpu]'` (on a GPU: "
                "`pip install 'insight-rl[gpu]'`), or use rollout=transformers"
            )
        channel = spec.weight_channel or AutoChannel()
        channel.check_placement(self.placement)
        check_shared_memory("rollout=vllm", "vLLM")
        arguments = {
            "model_path": str(spec.model_path),
            "dtype": spec.dtype,
            "max_length": spec.max_length,
            "seed": spec.seed,
            "sleep": self.sleep,
            "shares_gpu": self.placement == "colocated",
            "transfer_backend": channel.vllm_backend,
            "engine_args": {
                "tensor_parallel_size": self.tensor_parallel_size,
                # On the worker's own machine: inside one of Ray's actors vLLM would take Ray's executor.
                **({"distributed_executor_backend": "mp"} if self.tensor_parallel_size > 1 else {}),
                **_adapter_args(spec.adapter_rank),
                **self.engine_args,
            },
        }
        self._start_pool(spec, "insight_rl.rollout.vllm_worker", arguments, channel)
        try:
            channel.check_device(self._running().workers[0].device)
        except BaseException:
            self.close()
            raise

    def release_memory(self) -> None:
        """See :class:`~insight_rl.rollout.base.Sleeps`: vLLM sleeps at level 1, so that its weights survive.

        What comes next need not be an update: it may be a checkpoint and then an evaluation.
        """
        if self.sleep:
            self._running().call("sleep")


def _adapter_args(rank: int | None) -> dict[str, Any]:
    """vLLM's settings for LoRA adapters that come in place of weights."""
    return {} if rank is None else {"enable_lora": True, "max_lora_rank": vllm_rank(rank)}
