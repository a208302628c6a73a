"""Compiled kernel of :mod:`insight_rl.selector.expected_signal`. Importing this compiles it (or loads the cached code).

The expectation of a table v[0..N] under a Beta-Binomial, by the ratios of neighbouring masses:

    P(s + 1) / P(s) = (N - s) (a + s) / ((s + 1) (b + N - s - 1)),     E[v] = sum_s P(s) v[s] / sum_s P(s)

Only positive terms are added, and the recurrence starts at the end that is more probable (a <= b, else a and b change
places and the table is read backwards): so no mass overflows whatever the counts are, and one that underflows is too
small to matter.
"""

from __future__ import annotations

import numpy as np
from numba import types

from insight_rl.selector.belief import Floats
from insight_rl.selector.information_kernel import LANES, compiled

_ARRAY = types.Array(types.float64, 1, "C", readonly=True)
_RESULT = types.float64[::1]


@compiled()
def _expectation(low: Floats, high: Floats, swapped: Floats, table: Floats, mass: Floats, result: Floats) -> None:
    """E[table[S]], S ~ BetaBinomial(len(table) - 1), of LANES beliefs; ``mass`` [2, LANES] is scratch."""
    num = len(table) - 1
    each, total = mass[0], mass[1]
    for i in range(LANES):
        each[i] = 1.0
        total[i] = 1.0
        result[i] = table[num] if swapped[i] > 0.0 else table[0]
    for s in range(num):
        forwards, backwards = table[s + 1], table[num - s - 1]
        factor, rest = (num - s) / (s + 1.0), num - s - 1.0
        for i in range(LANES):
            each[i] *= factor * (low[i] + s) / (high[i] + rest)
            total[i] += each[i]
            result[i] += each[i] * (backwards if swapped[i] > 0.0 else forwards)
    for i in range(LANES):
        result[i] /= total[i]


@compiled(types.void(_ARRAY, _ARRAY, _ARRAY, _ARRAY, _RESULT, _RESULT))
def moments(alpha: Floats, beta: Floats, first: Floats, second: Floats, mean: Floats, mean_square: Floats) -> None:
    """E[first[S]] into ``mean`` and E[second[S']] into ``mean_square``, S and S' Beta-Binomial with as many trials as
    the tables have steps; beliefs and results are of one length, contiguous."""
    low, high, swapped = np.ones(LANES), np.ones(LANES), np.zeros(LANES)
    mass, result = np.empty((2, LANES)), np.empty(LANES)
    for start in range(0, len(alpha), LANES):
        width = min(LANES, len(alpha) - start)
        for i in range(width):
            a, b = alpha[start + i], beta[start + i]
            low[i], high[i] = min(a, b), max(a, b)
            swapped[i] = 1.0 if a > b else 0.0
        _expectation(low, high, swapped, first, mass, result)
        for i in range(width):
            mean[start + i] = result[i]
        _expectation(low, high, swapped, second, mass, result)
        for i in range(width):
            mean_square[start + i] = result[i]
