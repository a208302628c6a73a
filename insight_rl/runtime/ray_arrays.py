"""Tokens in Ray's object store: the trainer has references and lengths, the rank that needs them has them fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insight_rl.stored_arrays import StoredArray


@dataclass(frozen=True, slots=True, eq=False)
class RayArray(StoredArray):
    """Elements ``start`` to ``stop`` of column ``column`` in an object that is a tuple of arrays.

    All rollouts of a prompt are one object, ``(token ids, log-probs)``: Ray keeps objects of less than 100 kB in the
    memory of whoever asked for them, and thousands of those would all lie with the trainer.
    """

    reference: Any
    column: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @classmethod
    def fetch(cls, arrays: Sequence[RayArray]) -> list[np.ndarray]:
        import ray

        references = list(dict.fromkeys(array.reference for array in arrays))
        contents = dict(zip(references, ray.get(references), strict=True))
        return [contents[array.reference][array.column][array.start : array.stop] for array in arrays]
