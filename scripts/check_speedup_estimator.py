"""How near the speed-up of a report comes to a true one, and how often its interval holds it.

    python scripts/check_speedup_estimator.py

Draws comparisons of two arms whose curves are known: the arm's accuracy at x is the baseline's at speed * x. Ten seeds
and five evaluations, each with the noise of 512 problems of two samples and of training: 1.3 points. Prints a table.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import numpy as np

from insight_rl.compare import speedup
from insight_rl.compare.results import Curve

SEEDS, EVALUATIONS, NOISE = 10, 5, 0.013
GAINS = (0.02, 0.05)
"""What the baseline learns in all, in accuracy."""
SPEEDS = (1.0, 1.5, 2.0, 3.0)
SHAPES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "straight": lambda x: x,
    "levelling off": lambda x: -np.expm1(-2 * x) / -np.expm1(-2.0),
}


def draw(rng: np.random.Generator, name: str, heights_E: np.ndarray) -> dict[int, Curve]:
    """An arm: the true curve and noise, but at the start, which all runs share."""
    steps = 10.0 * np.arange(EVALUATIONS)
    found = {}
    for seed in range(SEEDS):
        noise = rng.normal(0, NOISE, EVALUATIONS)
        noise[0] = 0.0
        found[seed] = Curve(
            selector=name,
            seed=seed,
            budgets={"steps": steps},
            accuracy=0.3 + heights_E + noise,
            informative_fraction=np.full(EVALUATIONS, np.nan),
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=200, help="comparisons for each row")
    draws = parser.parse_args().draws
    speedup.NUM_RESAMPLES = 200
    x = np.linspace(0, 1, EVALUATIONS)
    print("| curve | learnt | true speed-up | estimate: median (10 to 90 %) | interval holds the truth |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for shape, curve in SHAPES.items():
        for gain in GAINS:
            for speed in SPEEDS:
                rng = np.random.default_rng(0)
                found = []
                for _ in range(draws):
                    arm, base = (draw(rng, name, gain * curve(s * x)) for name, s in (("arm", speed), ("base", 1.0)))
                    (each,) = (e for e in speedup.speed_ups(arm, base, ("steps",)) if e.target == "final")
                    found.append((each.ratio or 0.0, each.interval.holds(speed)))
                low, median, high = np.percentile([ratio for ratio, _ in found], [10, 50, 90])
                held = np.mean([holds for _, holds in found])
                print(
                    f"| {shape} | {100 * gain:.0f} points | {speed:g} | {median:.2f} ({low:.2f} to {high:.2f}) "
                    f"| {held:.0%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
