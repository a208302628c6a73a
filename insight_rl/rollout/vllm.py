"""The vLLM rollout engine: token ids in, token ids and log-probs out, n = G requests, weights synced in place.

Owns the process in which vLLM runs (:mod:`insight_rl.rollout.vllm_worker`) and the pipe to it. Never imports vLLM and
knows nothing of rewards, selection or the optimizer.

What holds for reproducibility: rollout j of a prompt is drawn with a generator seeded from ``sampling.seed``, the
prompt's id and j, so it depends neither on its place in the batch nor on the other prompts, up to the rounding of the
log-probs: matrix products over another number of rows round differently (about 1e-6 in float32), and a draw that falls
into that gap comes out differently. Equal calls on equal weights after equal histories are equal on CPU; bfloat16
widens the gap.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.rollout.vllm_worker import Request, Sample
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Completion, Prompt, Sampling
from insight_rl.weight_sync.base import WeightSource
from insight_rl.weight_sync.channel import WeightChannel
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel
from insight_rl.weight_sync.vllm_transfer import IpcChannel

_SHUTDOWN_S = 20.0
_LOG_TAIL_BYTES = 3000
# Where the learner's ranks meet; vLLM would join them.
_LEARNERS_OWN = frozenset({"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"})


class VllmEngine:
    """Samples with vLLM. See :class:`~insight_rl.rollout.base.RolloutEngine`.

    ``engine_args`` go to ``vllm.LLM`` under vLLM's own names and override what this class sets. ``sleep`` gives the
    GPU's memory back at the end of each :meth:`generate` (weights wait in host memory, the cache is dropped) and takes
    it again when needed. ``num_threads`` of the CPU backend: null leaves it to ``OMP_NUM_THREADS``. ``show_log`` lets
    vLLM write to the terminal; its last lines are part of the error otherwise. ``weight_channel``: null takes shared
    memory on CPU and CUDA IPC on a GPU; the GPU paths, sleeping included, have not been run on a GPU yet.
    """

    def __init__(
        self,
        *,
        engine_args: Mapping[str, Any] | None = None,
        sleep: bool = False,
        num_threads: int | None = None,
        show_log: bool = False,
        weight_channel: WeightChannel | None = None,
    ) -> None:
        check(
            num_threads is None or num_threads >= 1, "rollout.num_threads", num_threads, "must be at least 1, or null"
        )
        self.engine_args = dict(engine_args or {})
        self.sleep = sleep
        self.num_threads = num_threads
        self.show_log = show_log
        self.weight_channel = weight_channel
        self._policy_version = 0
        self._process: _WorkerProcess | None = None

    def start(self, *, model_path: Path, dtype: str, max_length: int, seed: int) -> None:
        """Raises ``UsageError`` if vLLM is not installed or refuses the settings, with its reason."""
        if importlib.util.find_spec("vllm") is None:
            raise UsageError(
                "rollout=vllm: vLLM is not installed; install it with `pip install 'insight-rl[cpu]'` (on a GPU: "
                "`pip install 'insight-rl[gpu]'`), or use rollout=transformers"
            )
        self._tokenizer = ModelTokenizer(model_path)
        self._max_length = max_length
        channel = self.weight_channel
        self._process = _WorkerProcess(num_threads=self.num_threads, show_log=self.show_log)
        try:
            (device,) = self._process.stream(
                "start",
                model_path=str(model_path),
                dtype=dtype,
                max_length=max_length,
                seed=seed,
                sleep=self.sleep,
                transfer_backend=channel.vllm_backend if channel is not None else IpcChannel.vllm_backend,
                engine_args=self.engine_args,
            )
        except BaseException:
            self.close()
            raise
        if channel is None:
            self.weight_channel = SharedMemoryChannel() if device == "cpu" else IpcChannel()

    def generate(
        self, prompts: Sequence[Prompt], *, sampling: Sampling
    ) -> Iterator[tuple[Prompt, tuple[Completion, ...]]]:
        """See the protocol. Raises ``UsageError`` naming a prompt that does not fit, before anything is generated.

        ``top_p`` below 1 renormalises the log-probs over the nucleus: fit for evaluation, not for training.
        """
        for prompt in prompts:
            if not 0 < len(prompt.token_ids) <= self._max_length - sampling.max_tokens:
                raise UsageError(
                    f"prompt {prompt.id}: {len(prompt.token_ids)} tokens and a completion of {sampling.max_tokens} do "
                    f"not fit in model.max_length={self._max_length}; raise it or lower the completion's length"
                )
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

    def update_weights(self, weights: WeightSource, *, version: int) -> None:
        assert self.weight_channel is not None, "update_weights comes after start"
        self.weight_channel.send(weights, self._running().call)
        self._policy_version = version

    def close(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None

    def _running(self) -> _WorkerProcess:
        assert self._process is not None, "the engine has not been started, or was closed"
        return self._process


class _WorkerProcess:
    """The process that runs :func:`insight_rl.rollout.vllm_worker.serve`; it ends when the pipe is closed."""

    def __init__(self, *, num_threads: int | None, show_log: bool) -> None:
        self._connection, theirs = Pipe()
        self._log = None if show_log else tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as the process)
        # Not multiprocessing's spawn: that would run the user's script again if it lacks an `if __name__` guard.
        code = f"from insight_rl.rollout.vllm_worker import serve; serve({theirs.fileno()})"
        self._process = subprocess.Popen(
            # -P: a folder called vllm in the user's working directory is not the package.
            [sys.executable, "-P", "-c", code],
            pass_fds=[theirs.fileno()],
            env=_environment(num_threads),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            # Ctrl-C is the trainer's to handle; it also makes the process and its children one group to end.
            start_new_session=True,
        )
        theirs.close()
        self._unread = False
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)

    def call(self, method: str, /, **arguments: Any) -> None:
        """Run ``method`` in the process and wait for it."""
        for _ in self.stream(method, **arguments):
            pass

    def stream(self, method: str, /, **arguments: Any) -> Iterator[Any]:
        """Run ``method`` in the process and yield what it yields.

        Raises ``UsageError`` for settings that vLLM refused and ``RuntimeError`` for any other failure.
        """
        try:
            while self._unread:  # the last caller stopped early
                self._receive()
            self._connection.send((method, arguments))
            self._unread = True
            while True:
                kind, value = self._receive()
                if kind == "done":
                    return
                if kind == "refused":
                    raise UsageError(f"rollout: vLLM refused its settings (rollout.engine_args and model.*): {value}")
                if kind == "failed":
                    raise RuntimeError(f"vLLM failed in {method}:\n{value}")
                yield value
        except (EOFError, BrokenPipeError, ConnectionResetError) as error:
            raise RuntimeError(
                f"the vLLM process ended during {method} (exit code {self._process.wait()})\n{self._log_tail()}"
            ) from error

    def _receive(self) -> tuple[str, Any]:
        kind, value = self._connection.recv()
        self._unread = kind == "item"
        return kind, value

    def _log_tail(self) -> str:
        if self._log is None:
            return ""
        size = os.fstat(self._log.fileno()).st_size
        # pread: the process writes through the same file offset.
        tail = os.pread(self._log.fileno(), _LOG_TAIL_BYTES, max(0, size - _LOG_TAIL_BYTES))
        return tail.decode(errors="replace")

    def close(self) -> None:
        self._finalizer()
        if self._log is not None:
            self._log.close()


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    """Close the pipe, which ends the process; make sure of it and of the processes it has started."""
    connection.close()
    try:
        process.wait(timeout=_SHUTDOWN_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        _kill_group(process.pid)
        process.wait()


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, 9)
    except ProcessLookupError:
        return  # all of them have ended


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
        # Handles of shared GPU memory are sent by pickle, between processes of ours on this machine.
        "VLLM_ALLOW_INSECURE_SERIALIZATION": "1",
    }
    environment = defaults | {name: value for name, value in os.environ.items() if name not in _LEARNERS_OWN}
    if num_threads is not None:
        environment["OMP_NUM_THREADS"] = str(num_threads)
    # This very package, also when it is used from a checkout.
    package_parent = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package_parent, environment.get("PYTHONPATH")]))
    return environment
