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
    """``f[s] = psi(x + s + 1) - ln(x + s)`` for s < num, of shape [num, LANES]; ``running`` is scratch."""
    steps = max(num, ASYMPTOTIC_FROM)
    for lane in range(LANES):
        r = 1.0 / (x[lane] + steps)
        q = r * r
        tail = 1 / 240 - q * (1 / 132 - q * (691 / 32760 - q * (1 / 12)))
        running[lane] = r * (0.5 - r * (1 / 12 - q * (1 / 120 - q * (1 / 252 - q * tail))))
    for s in range(steps - 1, 0, -1):
        f_s = f[min(s, num - 1)]
        for lane in range(LANES):
            running[lane] += _step(x[lane] + s)
            f_s[lane] = running[lane]
    for lane in range(LANES):
        f[0, lane] = running[lane] + _step(x[lane])
    for lane in range(LANES):
        if x[lane] < 1.0:
            f[0, lane] = running[lane] + (np.log1p(1.0 / x[lane]) - 1.0 / (x[lane] + 1.0))


@compiled()
def _add_rollout(
    k: int,
    u: Floats,
    v: Floats,
    f_n: Floats,
    rising_a: Floats,
    rising_b: Floats,
    n: Floats,
    scale: Floats,
    mass: Floats,
    total: Floats,
) -> None:
    """Add what rollout k + 1 tells on top of the first k to ``total``, and carry ``mass`` on to the next."""
    expected = np.zeros(LANES)
    for s in range(k + 1):
        for lane in range(LANES):
            expected[lane] += rising_a[s, lane] * rising_b[k - s, lane] * (u[s, lane] + v[k - s, lane])
    for lane in range(LANES):
        total[lane] += expected[lane] / (mass[lane] * (n[lane] + k)) - f_n[lane]
        mass[lane] *= (n[lane] + k) * scale[lane] * (1.0 / (k + 1))


@compiled(types.void(_ARRAY, _ARRAY, types.int64, _RESULT))
def information(alpha: Floats, beta: Floats, num_rollouts: int, result: Floats) -> None:
    """I(R_1:K ; Phi) in nats of each belief into ``result``; all of one length, contiguous."""
    a, b, n = np.ones(LANES), np.ones(LANES), np.empty(LANES)
    scale, mass, total = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    shape = (num_rollouts, LANES)
    u, v, f_n = np.empty(shape), np.empty(shape), np.empty(shape)
    rising_a, rising_b = np.empty(shape), np.empty(shape)
    for start in range(0, len(alpha), LANES):
        width = min(LANES, len(alpha) - start)
        for lane in range(width):
            a[lane] = alpha[start + lane]
            b[lane] = beta[start + lane]
        for lane in range(LANES):
            n[lane] = a[lane] + b[lane]
            scale[lane] = 1.0 / (n[lane] + 1.0)
        _excess(a, num_rollouts, u, total)
        _excess(b, num_rollouts, v, total)
        _excess(n, num_rollouts, f_n, total)
        # P(S = s) of BetaBinomial(k) is rising_a[s] rising_b[k - s] / mass; the scale keeps all three within range.
        for s in range(num_rollouts):
            for lane in range(LANES):
                u[s, lane] *= a[lane] + s
                v[s, lane] *= b[lane] + s
            if s == 0:
                rising_a[0] = 1.0
                rising_b[0] = 1.0
            else:
                for lane in range(LANES):
                    rising_a[s, lane] = rising_a[s - 1, lane] * ((a[lane] + (s - 1)) * scale[lane] * (1.0 / s))
                    rising_b[s, lane] = rising_b[s - 1, lane] * ((b[lane] + (s - 1)) * scale[lane] * (1.0 / s))
        mass[:] = 1.0
        total[:] = 0.0
        for k in range(num_rollouts):
            _add_rollout(k, u, v, f_n[k], rising_a, rising_b, n, scale, mass, total)
        for lane in range(width):
            result[start + lane] = max(total[lane], 0.0)


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
