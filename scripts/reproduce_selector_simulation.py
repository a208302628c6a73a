"""The numbers and pictures of docs/simulation.md: every selector on five synthetic pools, 20 seeds each.

    python scripts/reproduce_selector_simulation.py                        all five, ten minutes of two cores
    python scripts/reproduce_selector_simulation.py realistic --seeds 4    a quick look at one
    python scripts/reproduce_selector_simulation.py --tables               rewrite the tables from the stored numbers

Writes docs/results/simulation_<pool>.json and .png, and the tables in docs/simulation.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from insight_rl.simulation.picture import draw_study
from insight_rl.simulation.settings import load
from insight_rl.simulation.study import ORACLE, MeanOverSeeds, Study, estimate, run_study
from insight_rl.simulation.table import raw_numbers

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "simulation.md"
POOLS = {
    "realistic": (
        "30 % easy, 40 % learnable, 30 % hopeless; 2,000 prompts, 100 steps of 256",
        ["synthetic_learner=realistic"],
    ),
    "hopeless80": (
        "8 % easy, 12 % learnable, 80 % hopeless; 2,000 prompts, 200 steps of 32",
        ["synthetic_learner=hopeless80"],
    ),
    "quick": ("realistic with twice the transfer; 2,000 prompts, 100 steps of 256", ["synthetic_learner.transfer=0.2"]),
    "memorising": (
        "realistic shares, prompts wear out; 2,000 prompts, 100 steps of 256",
        ["synthetic_learner=memorising"],
    ),
    "large": ("realistic learner; 10,000 prompts, 200 steps of 64", ["synthetic_learner=large"]),
}
"""Title of the picture and overrides of conf/simulate.yaml."""

DRAWN = [
    "random",
    "inverse_evidence",
    "mopps",
    "expected_difficulty",
    "insight",
    "insight:forgetting=0.5",
    "mapp",
    "mapp:greedy=true",
]
TABLED = [*DRAWN, "dps", "bots", "information_only", "weight_only", "insight_sampled"]
"""The picture would hold no more lines than the first of these."""
ORDER = [("insight", "random"), ("random", "inverse_evidence"), ("expected_difficulty", "mopps"), ("insight", "mopps")]
"""Who the paper has above whom."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", nargs="*", choices=[*POOLS, []], help="default: all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=DOCS / "results", help="folder of numbers and pictures")
    parser.add_argument("--tables", action="store_true", help="run nothing")
    arguments = parser.parse_args()
    if not arguments.tables:
        for pool in arguments.pools or POOLS:
            simulate(pool, arguments.seeds, arguments.output)
    write_tables(arguments.output)


def simulate(pool: str, seeds: int, output: Path) -> None:
    started = time.perf_counter()
    title, overrides = POOLS[pool]
    config, variants = load([*overrides, f"num_seeds={seeds}", f"selectors={','.join(TABLED)}"])
    study = run_study(config, variants)
    output.mkdir(parents=True, exist_ok=True)
    drawn = Study({label: study.curves[label] for label in [*DRAWN, ORACLE]})
    picture = output / f"simulation_{pool}.png"
    draw_study(drawn, picture, title=f"{pool}: {title}, {seeds} seeds")
    Image.open(picture).convert("RGB").quantize(colors=128).save(picture, optimize=True)  # a third of the size
    numbers = raw_numbers(study, config)
    for label, selector in numbers["selectors"].items():
        # The file stays small: means of the two curves that the page speaks of, every seed's figures.
        kept = ("mean_success", "informative_fraction") if label in drawn.labels else ()
        selector["curves"] = {name: selector["curves"][name]["mean"] for name in kept}
    lines = [json.dumps(name) + ": " + json.dumps(entry) for name, entry in numbers["selectors"].items()]
    selectors = ",\n  ".join(lines)
    text = f'{{"settings": {json.dumps(numbers["settings"])},\n "selectors": {{\n  {selectors}}}}}\n'
    (output / f"simulation_{pool}.json").write_text(text, encoding="utf-8")
    print(f"{pool}: {time.perf_counter() - started:.0f} s", flush=True)


def write_tables(output: Path) -> None:
    """Fill docs/simulation.md: what stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced."""
    numbers = {}
    for pool in POOLS:
        path = output / f"simulation_{pool}.json"
        if path.exists():
            numbers[pool] = json.loads(path.read_text(encoding="utf-8"))["selectors"]
    blocks = {pool: results_table(selectors) for pool, selectors in numbers.items()}
    blocks["order"] = order_table(numbers)
    page = PAGE.read_text(encoding="utf-8")
    for name, block in blocks.items():
        page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{block}\g<2>", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


def results_table(selectors: dict[str, Any]) -> str:
    rows = ["| selector | success at the end | less random | all along | informative groups | lost to the oracle |"]
    rows.append("| --- | ---: | ---: | ---: | ---: | ---: |")
    for label in sorted(selectors, key=lambda label: -np.mean(selectors[label]["figures"]["mean_success_at_end"])):
        cells = [percent(estimate(figure(selectors, label, "mean_success_at_end"))), percent(gain(selectors, label))]
        others = ("area_under_curve", "informative_fraction", "regret")
        cells += [percent(estimate(figure(selectors, label, name))) for name in others]
        rows.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def order_table(numbers: dict[str, dict[str, Any]]) -> str:
    rows = ["| above, in the paper | " + " | ".join(numbers) + " |", "| --- |" + " ---: |" * len(numbers)]
    for above, below in ORDER:
        cells = [verdict(gain(selectors, above, below)) for selectors in numbers.values()]
        rows.append(f"| {above} over {below} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def verdict(difference: MeanOverSeeds) -> str:
    word = "yes" if difference.mean > difference.half_width else "no"
    return f"{'equal' if abs(difference.mean) <= difference.half_width else word}, {percent(difference, '+')}"


def figure(selectors: dict[str, Any], label: str, name: str) -> np.ndarray:
    return np.array(selectors[label]["figures"][name])


def gain(selectors: dict[str, Any], label: str, other: str = "random") -> MeanOverSeeds:
    name = "mean_success_at_end"
    return estimate(figure(selectors, label, name) - figure(selectors, other, name))


def percent(value: MeanOverSeeds, sign: str = "") -> str:
    return f"{100 * value.mean:{sign}.2f} ± {100 * value.half_width:.2f}"


if __name__ == "__main__":
    main()
