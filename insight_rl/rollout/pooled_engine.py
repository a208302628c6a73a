"""What rollout engines have in common whose workers are a pool: prompts to requests, answers to completions."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.child_process import check_deadline
from insight_rl.errors import check
from insight_rl.rollout.base import Finished, RolloutSpec, check_lengths
from insight_rl.rollout.pool import MAX_REPLACED_KEY, WorkerPlan, WorkerPool
from insight_rl.rollout.vllm_process import DEADLINE_KEY, VllmProcesses
from insight_rl.rollout.vllm_worker import Request, Sample
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.base import WeightChannel, WeightSource


class PooledEngine:
    """See :class:`~insight_rl.rollout.base.RolloutEngine`; a subclass says what runs in a worker.

    A worker that dies or hangs is replaced, ``max_replaced_workers`` times in a run. ``num_threads`` of a worker on a
    CPU: ``None`` leaves it to ``OMP_NUM_THREADS``; without that, several workers share the cores.
    """

    def __init__(
        self,
        *,
        num_workers: int = 2,
        max_tokens_in_flight: int | None = None,
        max_replaced_workers: int = 8,
        num_threads: int | None = None,
        show_log: bool = False,
        deadline_s: float = 1800.0,
    ) -> None:
        check(num_workers >= 1, "rollout.num_workers", num_workers, "must be at least 1")
        check(
            max_tokens_in_flight is None or max_tokens_in_flight >= 1,
            "rollout.max_tokens_in_flight",
            max_tokens_in_flight,
            "must be at least 1, or null for four times the KV cache of a worker",
        )
        check(max_replaced_workers >= 0, MAX_REPLACED_KEY, max_replaced_workers, "must be at least 0")
        check(
            num_threads is None or num_threads >= 1, "rollout.num_threads", num_threads, "must be at least 1, or null"
        )
        check_deadline(DEADLINE_KEY, deadline_s)
        self.num_workers = num_workers
        self.max_tokens_in_flight = max_tokens_in_flight
        self.max_replaced_workers = max_replaced_workers
        self.num_threads = num_threads
        self.show_log = show_log
        self.deadline_s = deadline_s
        self._pool: WorkerPool[Any] | None = None

    def _start_pool(
        self, spec: RolloutSpec, module: str, start_arguments: Mapping[str, Any], channel: WeightChannel
    ) -> None:
        """Start the workers, in each of which ``module`` runs, and wait until all have loaded their model."""
        self._weight_channel = channel
        self._tokenizer = ModelTokenizer(spec.model_path)
        self._max_length = spec.max_length
        plan = WorkerPlan(
            module=module,
            start_arguments=start_arguments,
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
        texts = [sample.text for sample in samples if sample.text is not None]
        if len(texts) < len(samples):
            texts = self._tokenizer.decode_batch([np.asarray(sample.token_ids) for sample in samples])
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

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        pool = self._running()
        measured = pool.update(self._weight_channel, weights, version=version)
        return {"rollout/num_replaced_workers": pool.num_replaced, **measured}

    def update_while_generating(self, weights: WeightSource, *, version: int) -> Metrics:
        """See :class:`~insight_rl.rollout.base.UpdatesWhileGenerating`."""
        pool = self._running()
        measured = pool.update(self._weight_channel, weights, version=version, goes_on=True)
        return {"rollout/num_replaced_workers": pool.num_replaced, **measured}

    def end_generation(self) -> None:
        """See :class:`~insight_rl.rollout.base.UpdatesWhileGenerating`."""
        self._running().abort()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def _running(self) -> WorkerPool[Any]:
        assert self._pool is not None, "the engine has not been started, or was closed"
        return self._pool
