"""Tokens in Ray's object store: the trainer has references and lengths, the rank that needs them has them fetched."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from insight_rl.errors import RanksLost
from insight_rl.stored_arrays import StoredArray

_IDS = re.compile(r"\b[0-9a-f]{16,} ?")


def get_stored(references: Any, what: str) -> Any:
    """As ``ray.get``; raises ``RanksLost`` where ``what`` (in the plural) is gone with the machine that had it.

    With a machine go its own objects, and those that others had from its processes.
    """
    import ray
    from ray.exceptions import RayError

    try:
        return ray.get(references)
    except RayError as error:
        reason = f"{what} are gone with the machine that kept them ({first_sentence(error)})"
        raise RanksLost(reason, f"{reason}; the run can be resumed from its last checkpoint") from error


def first_sentence(error: Exception) -> str:
    """What Ray says of an error, without the numbers of its parts and what gRPC has to add."""
    text = _IDS.sub("", str(error).strip().partition("\n")[0])
    return re.split(r": |\. |\.$", text)[0][:200] or type(error).__name__


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
        """See :meth:`~insight_rl.stored_arrays.StoredArray.fetch`. Raises ``RanksLost`` where they are gone."""
        references = list(dict.fromkeys(array.reference for array in arrays))
        contents = dict(zip(references, get_stored(references, "rollouts"), strict=True))
        return [contents[array.reference][array.column][array.start : array.stop] for array in arrays]
