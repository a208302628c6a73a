"""The seam between learner and rollout engine: where the weights of a policy version can be had."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


class WeightSource(Protocol):
    """The learner's present weights under their Hugging Face names; a tied ``lm_head`` is not listed."""

    def named_tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Every tensor, whole (gathered if sharded), detached; valid only until the next one is asked for."""
        ...

    def save(self, folder: Path) -> None:
        """Write a safetensors checkpoint that a model loader can read into ``folder``."""
        ...
