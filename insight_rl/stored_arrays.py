"""Arrays whose content lies elsewhere: their length is known here, and they are fetched where they are used.

A rollout worker on another machine keeps the tokens that it has sampled in an object store. The trainer needs no more
of them than their number, so they travel from there to the rank that learns from them and not through the trainer.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


class StoredArray(ABC):
    """A one-dimensional array that :meth:`fetch` gets. NumPy takes it for the array itself, by fetching it.

    Example: a completion of 12 tokens has ``token_ids.size == 12`` and ``len(token_ids) == 12`` without a fetch;
    ``np.asarray(token_ids)`` is the int32 array.
    """

    @property
    @abstractmethod
    def size(self) -> int:
        """Number of its elements."""
        ...

    @classmethod
    @abstractmethod
    def fetch(cls, arrays: Sequence[Any]) -> list[np.ndarray]:
        """The contents of several arrays of this class, in one go. They may be read-only."""
        ...

    def __len__(self) -> int:
        return self.size

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        content = self.fetch([self])[0]
        return np.array(content, dtype) if copy else np.asarray(content, dtype)


AnyArray = np.ndarray | StoredArray


def fetch_all(arrays: Sequence[AnyArray]) -> list[np.ndarray]:
    """Every array as NumPy has it; the stored ones are fetched together, class by class."""
    found = {index: array for index, array in enumerate(arrays) if isinstance(array, np.ndarray)}
    stored: dict[type[StoredArray], dict[int, StoredArray]] = {}
    for index, array in enumerate(arrays):
        if isinstance(array, StoredArray):
            stored.setdefault(type(array), {})[index] = array
    for kind, some in stored.items():
        found |= dict(zip(some, kind.fetch(list(some.values())), strict=True))
    return [found[index] for index in range(len(arrays))]


@dataclass(frozen=True, slots=True)
class JoinedArrays:
    """Arrays one after the other, to be put together where they are used.

    Example: ``JoinedArrays((stored, np.array([7])))`` of a stored 5, 6 is 5 6 7 once it is fetched.
    """

    arrays: tuple[AnyArray, ...]


def fetch_joined(*columns: np.ndarray | JoinedArrays) -> list[np.ndarray]:
    """Every column as one array; what has to be fetched for all of them is fetched together."""
    parts = [column.arrays if isinstance(column, JoinedArrays) else (column,) for column in columns]
    content = iter(fetch_all([array for arrays in parts for array in arrays]))
    joined = [[next(content) for _ in arrays] for arrays in parts]
    return [arrays[0] if len(arrays) == 1 else np.concatenate(arrays) for arrays in joined]
