"""The real rollout worker, its messages included, with an engine in the place of vLLM's that needs no model.

A rollout's tokens follow from the request's seed and the weights alone, as they do with vLLM but for rounding. A prompt
may hold tokens that do damage.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from insight_rl.rollout import vllm_worker
from insight_rl.rollout.vllm_worker import Request, Sample, Started

NUM_CACHE_TOKENS = 1000
DEADLY, FAILING, ENDLESS = 666, 667, 668


def samples_of(request: Request, weights: int) -> tuple[Sample, ...]:
    """What :class:`Engine` makes of a request, whatever else is at work. Tuples and no arrays: they can be compared."""
    return tuple(
        Sample(token_ids=(request.seed % 97, j, weights), logprobs=(-0.5, -0.25, -1.0), finish_reason="stop")
        for j in range(request.num_rollouts)
    )


class EngineDeadError(Exception):
    """As vLLM's."""


class Engine:
    """``vllm.LLM`` and its ``llm_engine``, as far as the worker uses them."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.pause_s, self.weights = pause_s, 0
        self.at_work: dict[str, tuple[Request, int]] = {}
        self.is_paused = False
        self.llm_engine = self
        self.engine_core = SimpleNamespace(shutdown=lambda: None)

    def add_request(self, request_id: str, prompt: Any, params: Request, *, lora_request: Any = None) -> None:
        self.at_work[request_id] = (params, 1 + params.seed % 5)

    def has_unfinished_requests(self) -> bool:
        return bool(self.at_work)

    def abort_request(self, request_ids: list[str]) -> None:
        for request_id in request_ids:
            self.at_work.pop(request_id, None)

    def sleep(self, *, level: int, mode: str) -> None:
        assert (level, mode) == (0, "keep")
        self.is_paused = True

    def wake_up(self, *, tags: list[str]) -> None:
        assert tags == ["scheduling"]
        self.is_paused = False

    def step(self) -> list[Any]:
        assert not self.is_paused
        time.sleep(self.pause_s)
        outputs = []
        for request_id, (request, num_left) in list(self.at_work.items()):
            if DEADLY in request.token_ids:
                os.kill(os.getpid(), signal.SIGKILL)
            if FAILING in request.token_ids:
                print("tried to allocate 2 GiB", file=sys.stderr, flush=True)
                self.at_work.clear()
                raise MemoryError("CUDA out of memory")
            if ENDLESS in request.token_ids:
                continue
            self.at_work[request_id] = (request, num_left - 1)
            if num_left == 1:
                del self.at_work[request_id]
                outputs.append(SimpleNamespace(finished=True, request_id=request_id, weights=self.weights))
        return outputs

    def collective_rpc(self, method: str, kwargs: Mapping[str, Any]) -> None:
        assert method == "reload_weights"
        assert self.is_paused or not self.at_work, "what is at work has to wait for the new weights"
        self.weights = int((Path(kwargs["weights_path"]) / "weights.txt").read_text())

    def reset_prefix_cache(self, *, reset_running_requests: bool) -> bool:
        return reset_running_requests or not self.at_work


class Worker(vllm_worker._Worker):
    def start(self, *, pause_s: float = 0.0, **arguments: Any) -> Iterator[Started]:  # type: ignore[override]
        if arguments.get("dtype") == "float8":
            raise vllm_worker.RefusedError("float8 is no dtype")
        self._llm = Engine(pause_s)
        yield Started(device="cpu", num_devices=1, num_cache_tokens=NUM_CACHE_TOKENS)

    def hang(self) -> Iterator[None]:
        time.sleep(600)
        yield None

    def lose_engine(self) -> Iterator[None]:
        raise EngineDeadError("EngineCore encountered an issue")
        yield None

    def fork(self) -> Iterator[None]:
        """A grandchild with a copy of the socket, as a forked engine core has."""
        if os.fork() == 0:
            time.sleep(600)
        yield from ()

    def write_environment(self, *, file: str) -> Iterator[None]:
        Path(file).write_text("\n".join(f"{name}={value}" for name, value in os.environ.items()))
        yield from ()


STUBS: dict[str, Any] = {
    "_Worker": Worker,
    "_ALIVE_EVERY_S": 0.2,
    "_sampling_params": lambda request: request,
    "_samples": lambda output, request: samples_of(request, output.weights),
}
"""What of :mod:`insight_rl.rollout.vllm_worker` has to be replaced so that it reaches no further than the engine."""
MODULES: dict[str, Any] = {"vllm": SimpleNamespace(), "vllm.inputs": SimpleNamespace(TokensPrompt=dict)}


def make_worker() -> Any:
    vars(vllm_worker).update(STUBS)
    sys.modules.update(MODULES)
    return vllm_worker.make_worker()


def serve(file_descriptor: int) -> None:
    vllm_worker.serve_worker(make_worker(), file_descriptor)
