"""What runs in Ray's actors: today's rank worker and today's rollout worker, called by Ray instead of over a socket.

Plain classes; whoever starts them makes actors of them. An environment is set before anything is imported that reads it
(torch, vLLM), so what an actor is to run comes in a later call than the environment.
"""

from __future__ import annotations

import faulthandler
import importlib
import os
import queue
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.errors import RunStopped, UsageError
from insight_rl.heartbeat import SLICE_S
from insight_rl.learner.processes import MakeWorker
from insight_rl.leftovers import remove_at_the_end, remove_now
from insight_rl.rollout.vllm_worker import ALIVE, RefusedError, Sample
from insight_rl.runtime.ray_arrays import get_stored
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.weight_sync.memory_folder import memory_folder


@dataclass(frozen=True, slots=True, kw_only=True)
class Whereabouts:
    """Where an actor runs: ``Whereabouts(node="3f...", address="10.0.0.7", pid=4711)``."""

    node: str
    """Ray's id of it."""
    address: str
    pid: int


class _Actor:
    def __init__(self, is_there: None) -> None:
        """``is_there``: what Ray has to wait for before it makes the actor."""

    def where(self) -> Whereabouts:
        import ray

        context = ray.get_runtime_context()
        return Whereabouts(node=context.get_node_id(), address=ray.util.get_node_ip_address(), pid=os.getpid())

    def print_to(self, file: str) -> None:
        """Append what this process prints to ``file``, which all machines see under this name."""
        log = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        sys.stdout.flush()
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        os.close(log)

    def stacks(self) -> str:
        """The Python stacks of all threads."""
        with tempfile.TemporaryFile() as file:
            faulthandler.dump_traceback(file=file, all_threads=True)
            file.seek(0)
            return file.read().decode(errors="replace")

    def set_environment(self, environment: Mapping[str, str], defaults: Mapping[str, str]) -> None:
        """``defaults`` do not replace what the machine has set already."""
        for name, value in defaults.items():
            os.environ.setdefault(name, value)
        os.environ.update(environment)


class RankActor(_Actor):
    """A rank of the learner. Its other methods run beside :meth:`call`, in threads of their own."""

    def __init__(self, is_there: None) -> None:
        super().__init__(is_there)
        self._make_worker: MakeWorker | None = None
        self._worker: Any = None
        self._lock = threading.Lock()
        self._requests: queue.Queue[Any] = queue.Queue()
        self._replies: queue.Queue[Any] = queue.Queue()
        self._buffers = ""

    def free_port(self) -> int:
        """A port of this machine that nobody listens on now."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return int(probe.getsockname()[1])

    def build(self, make_worker: MakeWorker) -> None:
        """What :meth:`call` calls methods of; it is made by the first call."""
        self._make_worker = make_worker
        # DeepSpeed's collectives on CPU leave their buffers there, even at an orderly end.
        self._buffers = f"/dev/shm/deepspeed_allreduce_buffer_*_{os.environ['MASTER_PORT']}_*"
        remove_at_the_end(self._buffers)

    def call(self, method: str, arguments: Sequence[Any], may_ask: bool) -> tuple[str, Any, str]:
        """``("done", result, "")``, or ``("failed", error if a user can mend it, traceback)``."""
        try:
            if self._worker is None:
                assert self._make_worker is not None
                self._worker = self._make_worker()
            keywords = {"ask": self._ask} if may_ask else {}
            return "done", getattr(self._worker, method)(*arguments, **keywords), ""
        except Exception as error:  # the trainer raises it again
            mendable = error if isinstance(error, (UsageError, RunStopped)) else None
            return "failed", mendable, traceback.format_exc()
        finally:
            if may_ask:
                self._requests.put(None)

    def _ask(self, request: Any) -> Any:
        # From any thread: vLLM's NCCL sender asks from one while another broadcasts.
        with self._lock:
            self._requests.put((request,))
            return self._replies.get()

    def next_request(self) -> tuple[Any] | None:
        """What the method at work asks the trainer for; ``None`` once it has ended."""
        return self._requests.get()

    def reply(self, answer: Any) -> None:
        self._replies.put(answer)

    def close(self) -> None:
        if self._worker is not None:
            self._worker.close()
        if self._buffers:
            remove_now(self._buffers)


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedHead:
    """Of a finished request, all but the arrays. ``parts``: number of tokens, finish reason and text of each sample."""

    key: int
    version: int
    parts: tuple[tuple[int, str, str], ...]


class RolloutActor(_Actor):
    """A rollout worker, one method at a time."""

    def __init__(self, is_there: None) -> None:
        super().__init__(is_there)
        self._worker: Any = None
        self._tokenizer: ModelTokenizer | None = None

    def build(self, module: str) -> None:
        """``module`` is that of a :class:`~insight_rl.rollout.pool.WorkerPlan`."""
        self._worker = importlib.import_module(module).make_worker()

    def run(self, method: str, arguments: Mapping[str, Any]) -> tuple[str, Any]:
        """What the method yields, or why it does not.

        ``("done", items)``, ``("refused", message)``, ``("stopped", exception to raise)`` or ``("failed", traceback)``.
        """
        try:
            if method == "start":
                self._tokenizer = ModelTokenizer(Path(arguments["model_path"]))
            own: Callable[..., Iterator[Any]] = (
                self._load_stored if method == "load_stored" else getattr(self._worker, method)
            )
            return "done", [item for item in own(**arguments) if item is not ALIVE]
        except RefusedError as error:
            return "refused", str(error)
        except RunStopped as error:
            return "stopped", error
        except Exception:  # for the trainer to report
            return "failed", traceback.format_exc()

    def sample(self) -> Iterator[Any]:
        """Go on until a request is finished, or for a moment: the trainer takes the end of it for a sign of life.

        Yields two objects for each finished request: its arrays, which the trainer does not fetch, and then its
        :class:`FinishedHead`. An exception of the engine comes as ``None`` and its traceback.
        """
        end = time.monotonic() + SLICE_S
        is_over = False
        try:
            while self._worker.is_generating and not is_over:
                for item in self._worker.step():
                    if item is ALIVE:
                        continue
                    is_over = True
                    key, samples, version = item
                    yield _arrays(samples)
                    yield FinishedHead(key=key, version=version, parts=self._parts(samples))
                is_over |= time.monotonic() > end
        except Exception:
            yield None
            yield traceback.format_exc()

    def _parts(self, samples: Sequence[Sample]) -> tuple[tuple[int, str, str], ...]:
        texts = [sample.text for sample in samples if sample.text is not None]
        if len(texts) < len(samples):
            assert self._tokenizer is not None
            texts = self._tokenizer.decode_batch([np.asarray(sample.token_ids) for sample in samples])
        return tuple(
            (len(sample.token_ids), sample.finish_reason, text) for sample, text in zip(samples, texts, strict=True)
        )

    def _load_stored(self, *, files: Sequence[tuple[int, Any]]) -> Iterator[None]:
        """Load the checkpoint that the learner has put into the object store, by way of a folder in memory."""
        with memory_folder(sum(num_bytes for num_bytes, _ in files)) as folder:
            for number, (_, reference) in enumerate(files):
                content = get_stored(reference, "the weights")
                (folder / f"model-{number:05d}.safetensors").write_bytes(content.data)
            yield from self._worker.reload(folder=str(folder))


def _arrays(samples: Sequence[Sample]) -> tuple[np.ndarray, np.ndarray]:
    token_ids = [np.asarray(sample.token_ids, dtype=np.int32) for sample in samples]
    return np.concatenate(token_ids), np.concatenate([np.asarray(s.logprobs, dtype=np.float32) for s in samples])
