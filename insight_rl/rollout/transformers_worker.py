"""What runs inside a rollout worker of ``rollout=transformers_workers``: the transformers engine, a prompt at a time.

It answers the same messages as :mod:`insight_rl.rollout.vllm_worker`. A prompt's rollouts follow from its request's
seed and the weights alone, to the last bit: neither the other prompts nor the worker that it comes to matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm_worker import Request, Sample, Started, VersionedWorker, serve_worker
from insight_rl.types import Prompt, Sampling

_ROWS_AHEAD = 16
"""Sequences that a worker says it has room for: enough that it never waits for its next prompt."""

if TYPE_CHECKING:
    import torch

    from insight_rl.rollout.transformers import TransformersEngine


def make_worker() -> _Worker:
    """What runs in a worker, not yet started."""
    return _Worker()


def serve(file_descriptor: int) -> None:
    """See :func:`insight_rl.rollout.vllm_worker.serve_worker`."""
    serve_worker(make_worker(), file_descriptor)


class _Worker(VersionedWorker):
    """The methods that messages name; each is a generator of the items it answers with."""

    def __init__(self) -> None:
        self._engine: TransformersEngine | None = None
        self._at_work: deque[tuple[int, Request]] = deque()
        self._is_paused = False

    def start(self, *, model_path: str, dtype: str, max_length: int, seed: int) -> Iterator[Started]:
        """Load the model."""
        from insight_rl.rollout.transformers import TransformersEngine

        self._engine = TransformersEngine()
        self._engine.start(RolloutSpec(model_path=Path(model_path), dtype=dtype, max_length=max_length, seed=seed))
        yield Started(device=self._engine.device.type, num_devices=1, num_cache_tokens=_ROWS_AHEAD * max_length)

    @property
    def is_generating(self) -> bool:
        return bool(self._at_work) and not self._is_paused

    def generate(self, *, requests: Mapping[int, Request]) -> Iterator[None]:
        """Take ``requests`` in addition to those at work; their samples come from :meth:`step`, under their keys."""
        if self._version is None:
            raise RuntimeError("the version of the weights that have arrived has not been told")
        self._at_work.extend(requests.items())
        yield from ()

    def step(self) -> Iterator[Any]:
        """Sample all rollouts of one request; yields ``(key, samples, version of the weights)``."""
        assert self._engine is not None
        key, request = self._at_work.popleft()
        prompt = Prompt(id=request.prompt_id, task="", text="", token_ids=tuple(request.token_ids), answer=None)
        sampling = Sampling(
            num_rollouts=request.num_rollouts,
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            top_p=request.top_p,
            seed=request.seed,
        )
        ((_, completions_G),) = self._engine.generate([prompt], sampling=sampling)
        samples = tuple(
            Sample(token_ids=each.token_ids, logprobs=each.logprobs, finish_reason=each.finish_reason)
            for each in completions_G
        )
        yield key, samples, self._version

    def pause(self) -> Iterator[None]:
        """Sample no further until :meth:`resume`. A request is never in the middle then: each is one step."""
        self._is_paused = True
        yield from ()

    def resume(self) -> Iterator[None]:
        self._is_paused = False
        yield from ()

    def abort(self) -> Iterator[None]:
        """Drop the requests at work."""
        self._at_work.clear()
        yield from ()

    def reload(self, *, folder: str) -> Iterator[None]:
        """Load the safetensors checkpoint in ``folder`` in place."""
        assert self._engine is not None
        self._version = None
        self._engine.load(_read_tensors(Path(folder)), version=0)
        yield from ()

    def checksum(self) -> Iterator[str]:
        """Of the weights as they are loaded: see :mod:`insight_rl.weight_sync.checksum`."""
        from insight_rl.weight_sync.checksum import checksum

        assert self._engine is not None
        yield checksum(self._engine.named_tensors())

    def shut_down(self) -> None:
        """The process ends, and all of its memory with it."""


def _read_tensors(folder: Path) -> Iterator[tuple[str, torch.Tensor]]:
    """Those of a safetensors checkpoint, one at a time."""
    from safetensors import safe_open

    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                yield name, file.get_tensor(name)
