"""Hands the weights from a rank's process to the trainer's through memory that has no name.

An anonymous file exists as long as a process has it open. So nothing is left behind, however the processes end, and
neither the size of ``/dev/shm`` nor permission to write there matters.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from insight_rl.errors import RunStopped

_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorPlace:
    """Where a tensor's bytes are."""

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HandedWeights:
    """What the trainer needs to read the weights; small enough for a pipe."""

    path: str
    """``/proc/<process>/fd/<number>``: valid while the rank has the file open."""
    tensors: tuple[TensorPlace, ...]


def write_to_memory(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> tuple[BinaryIO, HandedWeights]:
    """The open file with every tensor's bytes, and how to read it. Raises ``RunStopped`` where memory is short."""
    file = _anonymous_file()
    places: list[TensorPlace] = []
    try:
        for name, tensor in named_tensors:
            offset = -(-file.tell() // _ALIGNMENT) * _ALIGNMENT
            file.seek(offset)
            file.write(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            places.append(TensorPlace(name=name, dtype=tensor.dtype, shape=tuple(tensor.shape), offset=offset))
        file.flush()
    except OSError as error:
        with suppress(OSError):
            file.close()
        raise RunStopped(
            f"no room for a copy of the weights on their way to the rollout engine ({error}); "
            "give the run more memory, or set TMPDIR to a folder with more space"
        ) from error
    return file, HandedWeights(path=f"/proc/{os.getpid()}/fd/{file.fileno()}", tensors=tuple(places))


def map_memory(weights: HandedWeights) -> mmap.mmap:
    """The file's content, which from then on lives as long as the returned object, whatever the rank does."""
    with Path(weights.path).open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)


def read_from_memory(content: mmap.mmap, weights: HandedWeights) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors, without a further copy."""
    for place in weights.tensors:
        count = torch.Size(place.shape).numel()
        flat = torch.frombuffer(content, dtype=place.dtype, count=count, offset=place.offset)
        yield place.name, flat.view(place.shape)


def _anonymous_file() -> BinaryIO:
    try:
        return os.fdopen(os.memfd_create("insight_rl_weights"), "w+b")
    except OSError:
        # A kernel or sandbox without memfd: a file in TMPDIR that is removed while it is open.
        return tempfile.TemporaryFile(prefix="insight_rl_weights_")
