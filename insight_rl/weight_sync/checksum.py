"""One number for all weights, to see that two processes hold the same ones, bit by bit."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def checksum(named_tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
    """SHA-256 over names, types, shapes and bytes; the order of the tensors does not matter."""
    import torch

    digests = []
    for name, tensor in named_tensors:
        content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        head = f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode()
        digests.append(hashlib.sha256(head + content.tobytes()).digest())
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()
