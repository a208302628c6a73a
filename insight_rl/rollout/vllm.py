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
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from insight_rl.child_process import check_deadline
from insight_rl.errors import UsageError, check
from insight_rl.placement import PLACEMENTS
from insight_rl.rollout.base import Finished, RolloutSpec, check_lengths
from insight_rl.rollout.pool import MAX_REPLACED_KEY, WorkerPlan, WorkerPool
from insight_rl.rollout.vllm_process import DEADLINE_KEY, VllmProcesses
from insight_rl.rollout.vllm_worker import Request, Sample
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.adapter import vllm_rank
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.base import WeightSource
from insight_rl.weight_sync.memory_folder import check_shared_memory

_OURS = {
    "tensor_parallel_size": "rollout.tensor_parallel_size",
    "data_parallel_size": "rollout.num_workers",
    "device_ids": "rollout.placement (and CUDA_VISIBLE_DEVICES for the whole run)",
    "pipeline_parallel_size": "rollout.tensor_parallel_size",
}
"""Settings of vLLM that decide about GPUs, and the keys of this project that do so instead."""


class VllmEngine:
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
        check(num_workers >= 1, "rollout.num_workers", num_workers, "must be at least 1")
        check(
            tensor_parallel_size >= 1,
            "rollout.tensor_parallel_size",
            tensor_parallel_size,
            "must be at least 1 GPU a worker",
        )
        check(placement in PLACEMENTS, "rollout.placement", placement, f"must be one of {', '.join(PLACEMENTS)}")
        check(
            max_tokens_in_flight is None or max_tokens_in_flight >= 1,
            "rollout.max_tokens_in_flight",
            max_tokens_in_flight,
            "must be at least 1, or null for four times the KV cache of a worker",
        )
        check(
            not sleep or placement == "colocated",
            "rollout.sleep",
            sleep,
            "frees GPUs that nobody else uses where rollout.placement=separate; take false",
        )
        check(max_replaced_workers >= 0, MAX_REPLACED_KEY, max_replaced_workers, "must be at least 0")
        check(
            num_threads is None or num_threads >= 1, "rollout.num_threads", num_threads, "must be at least 1, or null"
        )
        check_deadline(DEADLINE_KEY, deadline_s)
        for name, key in _OURS.items():
            if name in (engine_args or {}):
                raise UsageError(f"rollout.engine_args.{name}={(engine_args or {})[name]!r}: is set by {key}")
        self.num_workers = num_workers
        self.tensor_parallel_size = tensor_parallel_size
        self.placement = placement
        self.max_tokens_in_flight = max_tokens_in_flight
        self.max_replaced_workers = max_replaced_workers
        self.engine_args = dict(engine_args or {})
        self.sleep = sleep
        self.num_threads = num_threads
        self.show_log = show_log
        self.deadline_s = deadline_s
        self._pool: WorkerPool[Any] | None = None

    def start(self, spec: RolloutSpec) -> None:
        """Raises ``UsageError`` if vLLM is not installed or refuses the settings, with its reason."""
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "rollout=vllm: vLLM is not installed; install it with `pip install 'insight-rl[cpu]'` (on a GPU: "
                "`pip install 'insight-rl[gpu]'`), or use rollout=transformers"
            )
        self._weight_channel = spec.weight_channel or AutoChannel()
        self._weight_channel.check_placement(self.placement)
        check_shared_memory()
        self._tokenizer = ModelTokenizer(spec.model_path)
        self._max_length = spec.max_length
        plan = WorkerPlan(
            module="insight_rl.rollout.vllm_worker",
            start_arguments={
                "model_path": str(spec.model_path),
                "dtype": spec.dtype,
                "max_length": spec.max_length,
                "seed": spec.seed,
                "sleep": self.sleep,
                "shares_gpu": self.placement == "colocated",
                "transfer_backend": self._weight_channel.vllm_backend,
                "engine_args": {
                    "tensor_parallel_size": self.tensor_parallel_size,
                    **_adapter_args(spec.adapter_rank),
                    **self.engine_args,
                },
            },
            devices=spec.worker_devices or [()] * self.num_workers,
            num_threads=self._threads_per_worker(),
            show_log=self.show_log,
            deadline_s=self.deadline_s,
        )
        self._pool = WorkerPool(
            (spec.make_host or VllmProcesses)(plan),
            num_workers=self.num_workers,
            max_tokens=self.max_tokens_in_flight,
            max_replaced=self.max_replaced_workers,
            say=spec.say,
        )
        try:
            self._weight_channel.check_device(self._pool.workers[0].device)
        except BaseException:
            self.close()
            raise

    def _threads_per_worker(self) -> int | None:
        if self.num_threads is not None or self.num_workers == 1 or "OMP_NUM_THREADS" in os.environ:
            return self.num_threads
        return max(1, len(os.sched_getaffinity(0)) // self.num_workers)

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """See the protocol. ``top_p`` below 1 renormalises the log-probs over the nucleus: not for training."""
        check_lengths(prompts, sampling, max_length=self._max_length)
        return self._generate(list(prompts), sampling)

    def generate_on_each(self, prompts: Sequence[Prompt], *, sampling: Sampling) -> Sequence[Finished]:
        """See :class:`~insight_rl.rollout.base.SamplesOnEach`."""
        check_lengths(prompts, sampling, max_length=self._max_length)
        return [list(self._generate(list(prompts), sampling, only=worker)) for worker in range(self.num_workers)]

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, *, only: int | None = None
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        requests = [
            Request(
                prompt_id=prompt.id,
                token_ids=list(prompt.token_ids),
                num_rollouts=sampling.num_rollouts,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=derive_seed(sampling.seed, prompt.id),
                stop_token_ids=list(self._tokenizer.eos_token_ids),
            )
            for prompt in prompts
        ]
        for index, answer in self._running().generate(requests, only=only):
            yield prompts[index], self._completions(answer.samples, answer.version)

    def _completions(self, samples: Sequence[Sample], version: int) -> tuple[Completion, ...]:
        texts = self._tokenizer.decode_batch([sample.token_ids for sample in samples])
        return tuple(
            Completion(
                token_ids=sample.token_ids,
                logprobs=sample.logprobs,
                text=text,
                finish_reason=sample.finish_reason,
                policy_version=version,
            )
            for sample, text in zip(samples, texts, strict=True)
        )

    def release_memory(self) -> None:
        """See :class:`~insight_rl.rollout.base.Sleeps`: vLLM sleeps at level 1, so that its weights survive.

        What comes next need not be an update: it may be a checkpoint and then an evaluation.
        """
        if self.sleep:
            self._running().call("sleep")

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        pool = self._running()
        measured = pool.update(self._weight_channel, weights, version=version)
        return {"rollout/num_replaced_workers": pool.num_replaced, **measured}

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _running(self) -> WorkerPool[Any]:
        assert self._pool is not None, "the engine has not been started, or was closed"
        return self._pool


def _adapter_args(rank: int | None) -> dict[str, Any]:
    """vLLM's settings for LoRA adapters that come in place of weights."""
    return {} if rank is None else {"enable_lora": True, "max_lora_rank": vllm_rank(rank)}
