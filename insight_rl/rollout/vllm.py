"""The vLLM rollout engine: token ids in, token ids and log-probs out, G rollouts a request, weights synced in place.

vLLM runs in a process of its own (:mod:`insight_rl.rollout.vllm_worker`). This module starts that process and talks to
it; it never imports vLLM.

Reproducibility: rollout j of a prompt is drawn with a generator seeded from ``sampling.seed``, the prompt's id and j.
So it does not depend on the rest of the batch, except for rounding: another batch size changes log-probs by about 1e-6
(float32; more in bfloat16), which can flip a rare sample. On CPU, the same sequence of calls gives the same result.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from insight_rl.child_process import Child, Patience, check_deadline, package_folder
from insight_rl.errors import UsageError, check
from insight_rl.rollout.base import RolloutSpec, check_lengths
from insight_rl.rollout.vllm_worker import Request, Sample
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Metrics, Prompt, Sampling
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.base import WeightSource
from insight_rl.weight_sync.memory_folder import check_shared_memory

_TARGET = "insight_rl.rollout.vllm_worker:serve"
_DEADLINE_KEY = "rollout.deadline_s"
# Where the learner's ranks meet; vLLM would join them.
_LEARNERS_OWN = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


class VllmEngine:
    """Samples with vLLM. See :class:`~insight_rl.rollout.base.RolloutEngine`.

    ``engine_args`` go to ``vllm.LLM`` under vLLM's own names and override what this class sets. ``sleep`` gives the
    GPU's memory back at the end of each :meth:`generate` (weights wait in host memory, the cache is dropped) and takes
    it again when needed. ``num_threads`` of the CPU backend: null leaves it to ``OMP_NUM_THREADS``. ``show_log`` lets
    vLLM write to the terminal; otherwise its last lines are part of the error message. ``deadline_s``: seconds without
    a sign of life after which the run stops. Nothing here has been run on a GPU yet, sleeping included.
    """

    def __init__(
        self,
        *,
        engine_args: Mapping[str, Any] | None = None,
        sleep: bool = False,
        num_threads: int | None = None,
        show_log: bool = False,
        deadline_s: float = 1800.0,
    ) -> None:
        check(
            num_threads is None or num_threads >= 1, "rollout.num_threads", num_threads, "must be at least 1, or null"
        )
        check_deadline(_DEADLINE_KEY, deadline_s)
        self.engine_args = dict(engine_args or {})
        self.sleep = sleep
        self.num_threads = num_threads
        self.show_log = show_log
        self.deadline_s = deadline_s
        self._policy_version = 0
        self._process: _WorkerProcess | None = None

    def start(self, spec: RolloutSpec) -> None:
        """Raises ``UsageError`` if vLLM is not installed or refuses the settings, with its reason."""
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "rollout=vllm: vLLM is not installed; install it with `pip install 'insight-rl[cpu]'` (on a GPU: "
                "`pip install 'insight-rl[gpu]'`), or use rollout=transformers"
            )
        check_shared_memory()
        self._tokenizer = ModelTokenizer(spec.model_path)
        self._max_length = spec.max_length
        self._weight_channel = spec.weight_channel or AutoChannel()
        self._process = _WorkerProcess(num_threads=self.num_threads, show_log=self.show_log, deadline_s=self.deadline_s)
        try:
            self._process.start(
                model_path=str(spec.model_path),
                dtype=spec.dtype,
                max_length=spec.max_length,
                seed=spec.seed,
                sleep=self.sleep,
                transfer_backend=self._weight_channel.vllm_backend,
                engine_args=self.engine_args,
            )
            self._weight_channel.check_device(self._process.device)
        except BaseException:
            self.close()
            raise

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """See the protocol. ``top_p`` below 1 renormalises the log-probs over the nucleus: not for training."""
        check_lengths(prompts, sampling, max_length=self._max_length)
        return self._generate(list(prompts), sampling, self._policy_version)

    def _generate(
        self, prompts: list[Prompt], sampling: Sampling, version: int
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        requests = [
            Request(
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
        for index, samples in self._running().stream("generate", requests=requests):
            yield prompts[index], self._completions(samples, version)

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

    def update_weights(self, weights: WeightSource, *, version: int) -> Metrics:
        metrics = self._weight_channel.send(weights, [self._running()])
        self._policy_version = version
        return metrics

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _running(self) -> _WorkerProcess:
        assert self._process is not None, "the engine has not been started, or was closed"
        return self._process


class _WorkerProcess:
    """The process that runs :func:`insight_rl.rollout.vllm_worker.serve`; it ends when the channel is closed."""

    def __init__(self, *, num_threads: int | None, show_log: bool, deadline_s: float) -> None:
        self._child = Child(
            "the vLLM process",
            _TARGET,
            key=_DEADLINE_KEY,
            deadline_s=deadline_s,
            env=_environment(num_threads),
            log=not show_log,
        )
        self.device = "unknown"
        self.num_devices = 1
        self._method = ""
        self._patience = Patience()
        self._is_answering = False

    @property
    def pid(self) -> int:
        return self._child.pid

    def start(self, **arguments: Any) -> None:
        """Load the model; sets ``device`` to vLLM's name for what it runs on, such as ``cpu`` or ``cuda``."""
        ((self.device, self.num_devices),) = self.stream("start", **arguments)

    def call(self, method: str, /, **arguments: Any) -> None:
        """Run ``method`` in the process and wait for it."""
        self.begin(method, **arguments)
        self.finish()

    def stream(self, method: str, /, **arguments: Any) -> Iterator[Any]:
        """Run ``method`` in the process and yield what it yields."""
        self.begin(method, **arguments)
        return self._answers()

    def begin(self, method: str, /, **arguments: Any) -> None:
        """Ask the process to run ``method``; the answer to an earlier request that nobody has waited for is dropped."""
        while self._is_answering:
            self._receive()
        self._child.send((method, arguments), doing=method)
        self._method, self._is_answering, self._patience = method, True, Patience()

    def is_ready(self) -> bool:
        """Whether :meth:`finish` need not wait any more; waits a moment for it, and raises as it does."""
        if Child.ready([self._child]):
            return True
        self._child.look(self._patience, doing=self._method)
        return False

    def finish(self) -> None:
        """Wait for what :meth:`begin` has asked for."""
        for _ in self._answers():
            pass

    def _answers(self) -> Iterator[Any]:
        """What the method yields, until it ends.

        Raises ``UsageError`` for settings that vLLM refused, ``ChildLost`` if the process died or showed no sign of
        life within its deadline, and ``RuntimeError`` for any other failure.
        """
        while True:
            kind, value = self._receive()
            if kind == "done":
                return
            if kind == "refused":
                raise UsageError(f"rollout: vLLM refused its settings (rollout.engine_args and model.*): {value}")
            if kind == "failed":
                raise RuntimeError(f"vLLM failed in {self._method}:\n{value}{self._child.log_tail()}")
            yield value

    def _receive(self) -> tuple[str, Any]:
        kind = "alive"
        while kind == "alive":
            kind, value = self._child.receive(doing=self._method)
        if kind != "item":
            self._is_answering = False
            self._child.answered()
        return kind, value

    def close(self) -> None:
        self._child.end()


def _environment(num_threads: int | None) -> dict[str, str]:
    """The trainer's environment, plus defaults that the user's own settings override."""
    defaults = {
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        # The model is a local folder by now.
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # vLLM would bind its threads to one core per physical core less one: on two hyperthreads, a single one.
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        # Threads that spin while they wait: 42 instead of 390 tokens/s where other processes want the same cores.
        "OMP_WAIT_POLICY": "PASSIVE",
        # A forked engine core would keep a copy of the socket to the trainer, and the state of every library.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        # Handles of shared GPU memory are sent by pickle, between processes of ours on this machine.
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    environment = defaults | {name: value for name, value in os.environ.items() if name not in _LEARNERS_OWN}
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_folder(), environment.get("PYTHONPATH")]))
    return environment
