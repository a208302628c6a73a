"""Errors of the information against mpmath at 50 digits: the table in docs/selectors.md.

    python scripts/check_information.py --points 100000 --processes 2

Checks a logarithmic grid of counts (every pair, several K) and random counts, log-uniform in [1e-3, 1e9] with K uniform
in 1..64. Prints the worst relative errors as a table, and as one JSON object on the last line.
"""

from __future__ import annotations

import argparse
import json
from concurrent.futures import ProcessPoolExecutor

import mpmath
import numpy as np

from insight_rl.selector.information import mutual_information

GRID = np.logspace(-3, 9, 25)
GRID_ROLLOUTS = (1, 2, 8, 16, 64)


def exact_information(point: tuple[float, float, int]) -> mpmath.mpf:
    """H(R_1:K) - K E[h(Phi)], term by term as the definition has it; its cancellation costs 12 of the 50 digits."""
    with mpmath.workdps(50):
        a, b, num_rollouts = mpmath.mpf(point[0]), mpmath.mpf(point[1]), point[2]
        n = a + b
        sequence_mass = mpmath.mpf(1)
        for i in range(num_rollouts):
            sequence_mass *= (b + i) / (n + i)
        entropy = mpmath.mpf(0)
        for s in range(num_rollouts + 1):
            entropy -= mpmath.binomial(num_rollouts, s) * sequence_mass * mpmath.log(sequence_mass)
            if s < num_rollouts:
                sequence_mass *= (a + s) / (b + num_rollouts - s - 1)
        psi_n = mpmath.digamma(n + 1)
        noise = -(a * (mpmath.digamma(a + 1) - psi_n) + b * (mpmath.digamma(b + 1) - psi_n)) / n
        return entropy - num_rollouts * noise


def relative_error(found: float, exact: mpmath.mpf) -> float:
    return float(abs(mpmath.mpf(found) - exact) / abs(exact))


def information_errors(points: list[tuple[float, float, int]]) -> list[float]:
    """Relative error at each point; the points of one K are computed in one call, as a selector would."""
    alpha, beta, num_rollouts = (np.array(column) for column in zip(*points, strict=True))
    found = np.empty(len(points))
    for k in np.unique(num_rollouts):
        rows = num_rollouts == k
        found[rows] = mutual_information(alpha[rows], beta[rows], int(k))
    if not (found >= 0).all():
        raise AssertionError("a mutual information is negative or not a number")
    return [relative_error(value, exact_information(point)) for value, point in zip(found, points, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=100_000, help="random points")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    rng = np.random.default_rng(arguments.seed)
    counts = 10.0 ** rng.uniform(-3, 9, (arguments.points, 2))
    rollouts = rng.integers(1, 65, arguments.points)
    random_points = [(float(a), float(b), int(k)) for (a, b), k in zip(counts, rollouts, strict=True)]
    grid_points = [(float(a), float(b), k) for a in GRID for b in GRID for k in GRID_ROLLOUTS]

    report: dict[str, float] = {}
    with ProcessPoolExecutor(arguments.processes) as pool:
        for name, points in (("grid", grid_points), ("random", random_points)):
            chunks = [points[start : start + 500] for start in range(0, len(points), 500)]
            errors = np.concatenate(list(pool.map(information_errors, chunks)))
            worst = int(np.argmax(errors))
            report[f"information_{name}_points"] = len(points)
            report[f"information_{name}_worst"] = float(errors[worst])
            print(f"mutual_information  {name:6}  {len(points):7} points  worst {errors[worst]:.1e} at {points[worst]}")
    print(json.dumps(report))


if __name__ == "__main__":
    main()
