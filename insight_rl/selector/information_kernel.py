"""Compiled kernels of :mod:`insight_rl.selector.information`. Importing this compiles them (or loads the cached code).

Mutual information by the chain rule, which adds nothing but positive terms, so that no digit is lost at any evidence:

    I_K(a, b) = sum_{k<K} E[I_1(a + S, b + k - S)],   S ~ BetaBinomial(k, a, b)
    I_1(a, b) = (a f(a) + b f(b)) / n - f(n),         n = a + b,   f(x) = psi(x + 1) - ln x

f falls like 1 / (2x). At x >= 8 it is its asymptotic series; from there it climbs down to x by the positive steps

    f(x) - f(x + 1) = ln((x + 1) / x) - 1 / (x + 1)
                  = 1 / ((2x + 1) (x + 1)) + 2 (z^3 / 3 + z^5 / 5 + ...),  z = 1 / (2x + 1)

whose own series in z^2 <= 1/9 serves from x = 1 on. Below 1 the step is taken with log1p.

Everything runs over blocks of LANES prompts, one after another through the same code: the compiler turns each inner
loop into vector instructions, and a belief has the same information wherever it stands in an array.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
from numba import njit, types

from insight_rl.selector.belief import Floats

LANES = 128
ASYMPTOTIC_FROM = 8
"""The series of f is cut after x^-14; at 8 what is left out is below 3e-14 of f."""

Function = TypeVar("Function", bound=Callable[..., object])
_ARRAY = types.Array(types.float64, 1, "C", readonly=True)
_TABLE = types.Array(types.float64, 2, "C", readonly=True)
_RESULT = types.float64[::1]


def compiled(*signature: object) -> Callable[[Function], Function]:
    """Multiply-add may be fused (it rounds once instead of twice); nothing else is reordered. Releases the GIL."""
    options = {"nogil": True, "error_model": "numpy", "fastmath": {"contract"}}

    def decorate(function: Function) -> Function:
        try:
            return cast(Function, njit(*signature, cache=True, **options)(function))
        except RuntimeError:  # no folder that the compiled code can be kept in: compile anew in each process
            return cast(Function, njit(*signature, **options)(function))

    return decorate


@compiled()
def _step(x: float) -> float:
    """f(x) - f(x + 1) for x >= 1."""
    r = 1.0 / ((2.0 * x + 1.0) * (x + 1.0))
    z = r * (x + 1.0)
    w = z * z
    high = 1 / 15 + w * (1 / 17 + w * (1 / 19 + w * (1 / 21 + w * (1 / 23 + w * (1 / 25)))))
    low = 1 / 3 + w * (1 / 5 + w * (1 / 7 + w * (1 / 9 + w * (1 / 11 + w * (1 / 13 + w * high)))))
    return r + 2.0 * z * w * low


@compiled()
def _excess(x: Floats, num: int, f: Floats, running: Floats) -> None:
    """``f[s] = psi(x + s + 1) - ln(x + s)`` for s < num, of shape [num, len(x)]; ``running`` is scratch."""
    steps = max(num, ASYMPTOTIC_FROM)
    for i in range(len(x)):
        r = 1.0 / (x[i] + steps)
        q = r * r
        tail = 1 / 240 - q * (1 / 132 - q * (691 / 32760 - q * (1 / 12)))
        running[i] = r * (0.5 - r * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * tail))))
    for s in range(steps - 1, 0, -1):
        f_s = f[min(s, num - 1)]
        for i in range(len(x)):
            value = running[i] + _step(x[i] + s)
            running[i] = value
            f_s[i] = value
    for i in range(len(x)):
        f[0, i] = running[i] + _step(x[i])
    for i in range(len(x)):
        if x[i] < 1.0:
            f[0, i] = running[i] + (np.log1p(1.0 / x[i]) - 1.0 / (x[i] + 1.0))


@compiled()
def _sum_rollouts(x: Floats, f: Floats, rising: Floats, scale: Floats, total: Floats) -> None:
    """Add up in ``total`` what rollout k + 1 tells on top of the first k, for each k."""
    mass, expected = np.ones(LANES), np.empty(LANES)
    total[:] = 0.0
    for k in range(len(f)):
        expected[:] = 0.0
        for s in range(k + 1):
            for i in range(LANES):
                chance = rising[s, i] * rising[k - s, LANES + i]
                expected[i] += chance * (f[s, i] + f[k - s, LANES + i])
        f_k, per_rollout = f[k], 1.0 / (k + 1)
        for i in range(LANES):
            n_k = x[2 * LANES + i] + k
            total[i] += expected[i] / (mass[i] * n_k) - f_k[2 * LANES + i]
            mass[i] *= n_k * scale[i] * per_rollout


@compiled(types.void(_ARRAY, _ARRAY, types.int64, _RESULT))
def information(alpha: Floats, beta: Floats, num_rollouts: int, result: Floats) -> None:
    """I(R_1:K ; Phi) in nats of each belief into ``result``; all of one length, contiguous."""
    x = np.ones(3 * LANES)  # a, b and n side by side: what all three need is one loop
    f, running = np.empty((num_rollouts, 3 * LANES)), np.empty(3 * LANES)
    rising, scale = np.empty((num_rollouts, 2 * LANES)), np.empty(2 * LANES)
    total = np.empty(LANES)
    for start in range(0, len(alpha), LANES):
        width = min(LANES, len(alpha) - start)
        for i in range(width):
            x[i] = alpha[start + i]
            x[LANES + i] = beta[start + i]
        for i in range(LANES):
            x[2 * LANES + i] = x[i] + x[LANES + i]
            scale[i] = 1.0 / (x[2 * LANES + i] + 1.0)
            scale[LANES + i] = scale[i]
        _excess(x, num_rollouts, f, running)
        # P(S = s) of BetaBinomial(k) is rising a_s rising b_(k-s) / mass_k; the scale keeps all three within range.
        rising[0] = 1.0
        for s in range(num_rollouts):
            f_s, before, after = f[s], rising[s - 1], rising[s]
            for i in range(2 * LANES):
                f_s[i] *= x[i] + s
            if s > 0:
                for i in range(2 * LANES):
                    after[i] = before[i] * ((x[i] + (s - 1)) * scale[i] * (1.0 / s))
        _sum_rollouts(x, f, rising, scale, total)
        for i in range(width):
            result[start + i] = max(total[i], 0.0)


@compiled(types.boolean(_ARRAY, _ARRAY, _TABLE, _RESULT))
def looked_up(alpha: Floats, beta: Floats, table: Floats, result: Floats) -> bool:
    """Fill ``result`` from ``table[alpha - 1, beta - 1]``; False as soon as a count is no integer within the table."""
    size = table.shape[0]
    for i in range(len(alpha)):
        a, b = alpha[i], beta[i]
        if not (a <= size and b <= size):
            return False
        row, column = int(a), int(b)
        if row != a or column != b or row < 1 or column < 1:
            return False
        result[i] = table[row - 1, column - 1]
    return True
