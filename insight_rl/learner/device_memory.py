"""Moves everything that a rank keeps on its GPU to host memory and back, so that a rollout engine can have the GPU.

A storage is emptied in place and filled again later. All views of it stay views of it: parameters into the flat buffers
of ZeRO, optimizer states, shards. So one way serves every learner. DeepSpeed has its own, ``engine.offload_states()``,
which does less: it takes the optimizer's state only from its own CUDA Adam at stage 3, and does not exist for stage 0,
nor for stage 1 in bfloat16, nor for parameters that are offloaded already.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

# Pinned memory is handed out in powers of two: large storages are copied in pieces, so that little of it is lost.
_PIECE_BYTES = 64 << 20
_PACKAGES = ("torch", "transformers", "deepspeed", "accelerate", "peft", "insight_rl")


@dataclass(frozen=True, slots=True)
class _Parked:
    storage: torch.UntypedStorage
    pieces: list[torch.Tensor]


class ParkedMemory:
    """The contents of storages that have been emptied, in host memory.

    Example::

        parked = ParkedMemory([optimizer, model], device)   # the GPU is free now
        parked.restore()                                    # everything is as it was
    """

    def __init__(self, owners: object, device: torch.device) -> None:
        """Empty every storage that is reachable from ``owners`` and on a device of the kind of ``device``.

        Nothing may use it until :meth:`restore`: a tensor without its storage reads from nowhere.
        """
        tensors = [tensor for tensor in reachable_tensors(owners) if tensor.device.type == device.type]
        # One that cannot be resized is not the allocator's: on a CPU, weights that are mapped from the model's file.
        storages = {s.data_ptr(): s for s in map(_storage, tensors) if s.nbytes() > 0 and s.resizable()}
        self._device = device
        self._parked = [_Parked(storage, _copy_out(storage)) for storage in storages.values()]
        self.num_bytes = sum(storage.nbytes() for storage in storages.values())
        """How much was given back."""
        _wait(device)
        for parked in self._parked:
            parked.storage.resize_(0)
        gc.collect()
        if device.type == "cuda":
            # The allocator would keep it all for the next tensors of this process.
            torch.cuda.empty_cache()

    def restore(self) -> None:
        """Take the memory again, with the same contents."""
        for parked in self._parked:
            parked.storage.resize_(sum(piece.numel() for piece in parked.pieces))
            for piece, place in zip(parked.pieces, _bytes(parked.storage).split(_PIECE_BYTES), strict=True):
                place.copy_(piece, non_blocking=True)
        _wait(self._device)
        self._parked = []


def reachable_tensors(owner: object) -> Iterator[torch.Tensor]:
    """Every tensor that ``owner`` holds, through containers, modules, optimizers and objects of the training libraries.

    A parameter's gradient, and what DeepSpeed attaches to parameters, are held by it.
    """
    seen: set[int] = set()
    waiting: list[object] = [owner]
    while waiting:
        node = waiting.pop()
        if id(node) in seen or isinstance(node, (str, bytes, type)):
            continue
        seen.add(id(node))
        if isinstance(node, torch.Tensor):
            yield node
            if node.is_leaf:
                waiting.append(node.grad)
        if isinstance(node, Mapping):
            waiting += [*node.keys(), *node.values()]
        elif isinstance(node, (list, tuple, set, frozenset)):
            waiting += node
        if isinstance(node, torch.Tensor) or type(node).__module__.split(".")[0] in _PACKAGES:
            waiting += getattr(node, "__dict__", {}).values()


def _storage(tensor: torch.Tensor) -> torch.UntypedStorage:
    return tensor.untyped_storage()


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """The whole storage as one flat tensor."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _copy_out(storage: torch.UntypedStorage) -> list[torch.Tensor]:
    pieces = []
    for place in _bytes(storage).split(_PIECE_BYTES):
        piece = torch.empty(place.numel(), dtype=torch.uint8, pin_memory=storage.device.type == "cuda")
        pieces.append(piece.copy_(place, non_blocking=True))
    return pieces


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
