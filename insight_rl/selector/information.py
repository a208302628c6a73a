"""Information that K rollouts of a prompt carry about its success rate, in nats. Pure maths over arrays.

Compiled code does the work (:mod:`insight_rl.selector.information_kernel`); it is loaded at the first use, so that
importing this module stays cheap. Integer counts, which is what beliefs hold while nothing is forgotten, are looked up
in a table that the same code fills; large arrays are spread over the cores.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial

import numpy as np
from numpy.typing import ArrayLike

from insight_rl.selector.belief import Floats

TABLE_SIZE = 256
"""Counts up to this are in the table: 512 KiB for each K, filled in a few milliseconds."""

CHUNK = 16384
"""Beliefs handled at a time: their temporaries stay in the second-level cache."""


def mutual_information(alpha: ArrayLike, beta: ArrayLike, num_rollouts: int) -> Floats:
    """I(R_1:K ; Phi): what K = ``num_rollouts`` Bernoulli rewards tell about Phi ~ Beta(alpha, beta), in nats.

    Shape as ``alpha`` and ``beta`` broadcast. Relative error at most 1e-9 for counts in [1e-3, 1e9] and K up to 64
    (1e-12 measured); never negative. Time grows with K squared. InSight, arXiv 2603.01907, equation of the score.
    """
    if num_rollouts < 1:
        raise ValueError(f"num_rollouts={num_rollouts}: must be at least 1")
    return in_chunks(partial(_chunk_information, num_rollouts=num_rollouts), alpha, beta)


def in_chunks(function: Callable[[Floats, Floats], Floats], alpha: ArrayLike, beta: ArrayLike) -> Floats:
    """``function`` of the broadcast counts, computed chunk by chunk, on all cores where there are many chunks.

    ``function`` takes and gives contiguous float64 arrays of one dimension. Raises ``ValueError`` unless every count
    is positive and finite.
    """
    a, b = _counts(alpha, beta)
    shape, a, b = a.shape, np.ascontiguousarray(a).ravel(), np.ascontiguousarray(b).ravel()
    result = np.empty(a.shape)

    def fill(start: int) -> None:
        chunk = slice(start, start + CHUNK)
        result[chunk] = function(a[chunk], b[chunk])

    starts = range(0, len(a), CHUNK)
    if len(starts) <= 4:
        for start in starts:
            fill(start)
    else:
        with ThreadPoolExecutor(_num_cores()) as pool:
            for _ in pool.map(fill, starts):
                pass
    return result.reshape(shape)


def _chunk_information(alpha: Floats, beta: Floats, num_rollouts: int) -> Floats:
    from insight_rl.selector import information_kernel

    result = np.empty(len(alpha))
    if len(alpha) < 1024 or not information_kernel.looked_up(alpha, beta, _table(num_rollouts), result):
        information_kernel.information(alpha, beta, num_rollouts, result)
    return result


@lru_cache(maxsize=8)
def _table(num_rollouts: int) -> Floats:
    """I(i + 1, j + 1) at [i, j]."""
    from insight_rl.selector import information_kernel

    counts = np.arange(1.0, TABLE_SIZE + 1.0)
    alpha, beta = np.repeat(counts, TABLE_SIZE), np.tile(counts, TABLE_SIZE)
    result = np.empty(TABLE_SIZE**2)
    information_kernel.information(alpha, beta, num_rollouts, result)
    return result.reshape(TABLE_SIZE, TABLE_SIZE)


def _counts(alpha: ArrayLike, beta: ArrayLike) -> tuple[Floats, Floats]:
    a, b = np.broadcast_arrays(np.asarray(alpha, np.float64), np.asarray(beta, np.float64))
    for name, counts in (("alpha", a), ("beta", b)):
        if counts.size and not (counts.min() > 0.0 and counts.max() < np.inf):
            wrong = counts[~((counts > 0.0) & (counts < np.inf))].flat[0]
            raise ValueError(f"{name}={wrong}: the counts of a Beta belief must be positive and finite")
    return a, b


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
