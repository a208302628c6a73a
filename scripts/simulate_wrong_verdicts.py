"""What wrong verdicts cost each selector in simulation, and what `selector.verifier_error` gives back.

    python scripts/simulate_wrong_verdicts.py --path deepscaler_pass_rates.parquet
    python scripts/simulate_wrong_verdicts.py --table        # the table alone, of the rows there are

Selectors meet the same pools under 0, 5 and 20 % of verdicts flipped, both ways alike; without correction, with the
rates given, and with the rates estimated during the run. Runs go seed by seed and are kept: a call that was cut short
goes on.
The file of pass rates is described in conf/pool/pass_rates.yaml.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from insight_rl.simulation.settings import compose_simulation
from insight_rl.simulation.single_run import run_composed
from insight_rl.simulation.study import estimate

OUTPUT = Path(__file__).parent.parent / "docs" / "results" / "wrong_verdicts.csv"
COLUMNS = ("setting", "selector", "seed", "step", "rollouts", "tokens", "seconds", "accuracy", "informative_fraction")
SHARES = (0.0, 0.05, 0.2)
SELECTORS = {
    "random": ["selector=random"],
    "insight": ["selector=insight"],
    "expected_signal": ["selector=expected_signal"],
    "weight_only": ["selector=weight_only"],
    "mapp_greedy": ["selector=mapp", "selector.greedy=true", "selector.forgetting=0.5"],
}
POOL = ("num_prompts=1000", "num_steps=100", "prompts_per_step=64", "record_every=10")
LEARNER = ("synthetic_learner.own=0.05", "synthetic_learner.transfer=0.1")


def arms() -> Iterator[tuple[str, str, list[str]]]:
    """Setting, name of the arm and its overrides."""
    for share in SHARES:
        flips = [f"synthetic_learner.false_{kind}={share}" for kind in ("positive", "negative")]
        for name, overrides in SELECTORS.items():
            corrections = {"": None, "_given": share or None, "_estimate": "estimate"}
            for suffix, correction in corrections.items():
                if suffix and (correction is None or name == "random"):
                    continue
                own = [] if correction is None else [f"selector.verifier_error={correction}"]
                yield setting(share), name + suffix, [*overrides, *own, *flips]


def setting(share: float) -> str:
    return f"wrong_{round(100 * share):02d}"


def run(path: Path, num_seeds: int, output: Path) -> None:
    done = {(row["setting"], row["selector"], int(row["seed"])) for row in read(output)}
    output.parent.mkdir(parents=True, exist_ok=True)
    shared = ["pool=pass_rates", f"path={path}", *POOL, *LEARNER]
    configs = {(name, arm): compose_simulation([*shared, *overrides]) for name, arm, overrides in arms()}
    for seed in range(num_seeds):
        for (name, arm), config in configs.items():
            if (name, arm, seed) in done:
                continue
            rows = run_composed(config, seed)
            is_new = not output.exists()
            with output.open("a", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
                if is_new:
                    writer.writeheader()
                writer.writerows({"setting": name, "selector": arm, "seed": seed} | rounded(row) for row in rows)
        print(f"seed {seed} done", file=sys.stderr, flush=True)


def rounded(row: dict[str, float | int | None]) -> dict[str, float | int | None]:
    return {key: round(value, 6) if isinstance(value, float) else value for key, value in row.items()}


def read(output: Path) -> list[dict[str, str]]:
    if not output.exists():
        return []
    with output.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table(output: Path) -> list[str]:
    """Markdown: points of mean success gained from first to last step, and paired differences, with 95 % intervals."""
    curves: dict[tuple[str, str], dict[int, list[float]]] = {}
    for row in read(output):
        curves.setdefault((row["setting"], row["selector"]), {}).setdefault(int(row["seed"]), []).append(
            100.0 * float(row["accuracy"])
        )
    seeds = sorted(set.intersection(*(set(by_seed) for by_seed in curves.values())))
    gains = {key: np.array([by[seed][-1] - by[seed][0] for seed in seeds]) for key, by in curves.items()}
    lines = [
        f"{len(seeds)} pools; ± is a 95 % interval over pools, paired where it is a difference",
        "",
        "| selector | gain, no flips | at 5 % | at 20 % | given back at 5 %: given | estimated | at 20 %: given "
        "| estimated | without flips: estimated |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name in SELECTORS:
        cells = [str_of(gains[setting(share), name]) for share in SHARES]
        for share, suffix in (
            (0.05, "_given"),
            (0.05, "_estimate"),
            (0.2, "_given"),
            (0.2, "_estimate"),
            (0.0, "_estimate"),
        ):
            corrected = gains.get((setting(share), name + suffix))
            cells.append("" if corrected is None else str_of(corrected - gains[setting(share), name], sign="+"))
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def str_of(values: np.ndarray, sign: str = "") -> str:
    mean = estimate(values)
    return f"{mean.mean:{sign}.2f} ± {mean.half_width:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", type=Path, help="file of problems and pass rates")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--table", action="store_true", help="print the table of what has run")
    arguments = parser.parse_args()
    if not arguments.table:
        if arguments.path is None:
            parser.error("--path: give the file of pass rates")
        run(arguments.path, arguments.seeds, arguments.output)
    print("\n".join(table(arguments.output)))


if __name__ == "__main__":
    main()
