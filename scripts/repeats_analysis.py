"""What the numbers of ``measure_repeats.py`` say: ratios, fits, intervals, and the tables and picture of them."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import minimize_scalar

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "simulation.md"
VISITS = 8
MEASURED = (1, 2, 4, 8)
RESAMPLES = 10_000
FITS = 1000
COLUMNS = (
    "seed",
    "visit",
    "arm",
    "gain",
    "log_gain",
    "mixed",
    "signal",
    "rate_before",
    "rate_after",
    "unvisited_move",
    "visited_move",
)


def interval(values: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.percentile(values, [2.5, 97.5])]


def analyse(numbers: dict[str, Any]) -> dict[str, Any]:
    """Ratios, fits and transfer with 95 % intervals by bootstrap over seeds and over visited prompts."""
    rng = np.random.default_rng(0)
    gains = {
        (visit, arm, key): np.array([r[key] for r in numbers["repeats"] if r["visit"] == visit and r["arm"] == arm])
        for visit in MEASURED
        for arm in ("again", "fresh")
        for key in COLUMNS[3:]
    }
    num_seeds = len(gains[1, "again", "gain"])
    draws = rng.integers(num_seeds, size=(RESAMPLES, num_seeds))
    found: dict[str, Any] = {"num_seeds": num_seeds}
    means_of = {}
    for key in ("gain", "log_gain"):
        again, fresh = (np.array([gains[visit, arm, key] for visit in MEASURED]) for arm in ("again", "fresh"))
        drawn = {"again": again[:, draws].mean(-1), "fresh": fresh[:, draws].mean(-1)}
        found[key] = {
            arm: [[float(m), *interval(d)] for m, d in zip(values.mean(-1), drawn[arm], strict=True)]
            for arm, values in (("again", again), ("fresh", fresh))
        }
        means_of[key] = again.mean(-1), fresh.mean(-1), drawn["again"], drawn["fresh"]
    again, fresh, drawn_again, drawn_fresh = means_of["gain"]
    ratios, drawn_ratios = again / fresh, drawn_again / drawn_fresh
    found["gain"]["ratio"] = [[float(r), *interval(d)] for r, d in zip(ratios, drawn_ratios, strict=True)]
    later, drawn_later = again[1:].sum() / fresh[1:].sum(), drawn_again[1:].sum(0) / drawn_fresh[1:].sum(0)
    found["gain"]["later_ratio"] = [float(later), *interval(drawn_later)]
    for name, law in LAWS.items():
        fits = [fit(law, drawn_again[:, draw], drawn_fresh[:, draw]) for draw in range(FITS)]
        found["gain"][name] = [fit(law, again, fresh), *interval(np.array(fits))]
    # At the first visit both arms are fresh: what differs there differs by luck, or between the two sets of prompts.
    by_first = [
        fit(LAWS["exponent"], a / (a[0] / f[0]), f)
        for a, f in ((again, fresh), *zip(drawn_again.T[:FITS], drawn_fresh.T[:FITS], strict=True))
    ]
    found["gain"]["exponent_by_first"] = [by_first[0], *interval(np.array(by_first[1:]))]
    found["means"] = {
        arm: {
            key: [float(gains[visit, arm, key].mean()) for visit in MEASURED]
            for key in ("mixed", "signal", "rate_before", "rate_after", "visited_move")
        }
        for arm in ("again", "fresh")
    }
    found["transfer"] = analyse_transfer(numbers["transfer"], rng)
    return found


LAWS: dict[str, Callable[[np.ndarray, float], np.ndarray]] = {
    "rate": lambda v, d: 1 / (1 + d * v),
    "exponent": lambda v, x: (1 + v) ** -x,
}
"""What a prompt's next visit teaches after v earlier ones, against its first."""


def fit(law: Callable[[np.ndarray, float], np.ndarray], again: np.ndarray, fresh: np.ndarray) -> float:
    """Least squares of the gains of repeats on the law times those of fresh prompts; negative: repeats teach more."""
    earlier = np.array(MEASURED) - 1.0
    best = minimize_scalar(
        lambda value: float(np.sum((again - law(earlier, value) * fresh) ** 2)), bounds=(-0.13, 5.0), method="bounded"
    )
    return float(best.x)


def analyse_transfer(transfer: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """Mean move of unvisited prompts by relation, in logits a visit and as a share of the visited prompt's own."""
    source, same_count, shared, same_target, same_operations, move = np.array(transfer["pairs"], np.float64).T
    own = np.array(transfer["own"])
    classes = {
        "all (random pairs)": np.ones(len(move), bool),
        "as many numbers": same_count == 1,
        "another count of numbers": same_count == 0,
        "no number shared": shared == 0,
        "one number shared": shared == 1,
        "two numbers shared": shared == 2,
        "three or more numbers shared": shared >= 3,
        "same target": same_target == 1,
        "same operations": same_operations == 1,
        "other operations": same_operations == 0,
        "operations, count and two numbers shared": (same_operations == 1) & (same_count == 1) & (shared >= 2),
    }
    draws = rng.integers(len(own), size=(RESAMPLES, len(own)))
    rows = []
    for name, chosen in classes.items():
        sums = np.bincount(source[chosen].astype(int), weights=move[chosen], minlength=len(own))
        counts = np.bincount(source[chosen].astype(int), minlength=len(own))
        drawn = sums[draws].sum(1) / np.maximum(counts[draws].sum(1), 1)
        row = {"relation": name, "pairs": int(chosen.sum())}
        if chosen.any():
            mean = float(move[chosen].mean())
            row |= {
                "move": [mean, *interval(drawn)],
                "share_of_own": [mean / float(own.mean()), *interval(drawn / own[draws].mean(1))],
                "rises": float(np.mean(move[chosen] > 0)),
            }
        rows.append(row)
    rows.append(
        {
            "relation": "the visited prompt itself",
            "pairs": len(own),
            "move": [float(own.mean()), *interval(own[draws].mean(1))],
            "share_of_own": [1.0, 1.0, 1.0],
            "rises": float(np.mean(own > 0)),
        }
    )
    return rows


def repeats_table(found: dict[str, Any]) -> str:
    lines = [
        "| visit | gain, same prompts again | gain, fresh prompts instead | ratio "
        "| gain in log-probability, again and fresh | mixed groups, again and fresh "
        "| success before, again and fresh |",
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    means = found["means"]
    for row, visit in enumerate(MEASURED):
        cells = [ranged(found["gain"][arm][row], 100, "+.2f") for arm in ("again", "fresh")]
        cells.append(ranged(found["gain"]["ratio"][row], 1, ".2f"))
        cells.append(", ".join(f"{found['log_gain'][arm][row][0]:+.3f}" for arm in ("again", "fresh")))
        cells += [
            ", ".join(f"{means[arm][key][row]:.2f}" for arm in ("again", "fresh")) for key in ("mixed", "rate_before")
        ]
        lines.append(f"| {visit} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def relatedness_table(found: dict[str, Any]) -> str:
    lines = [
        "| relation to the visited prompt | pairs | move a visit, 0.001 logits "
        "| share of the visited prompt's own move | pairs that rise |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in found["transfer"]:
        if "move" in row:
            cells = [
                ranged(row["move"], 1000, "+.2f"),
                ranged(row["share_of_own"], 1, ".3f"),
                f"{100 * row['rises']:.0f} %",
            ]
            lines.append(f"| {row['relation']} | {row['pairs']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def ranged(estimate: Sequence[float], scale: float, form: str) -> str:
    mean, low, high = (scale * value for value in estimate)
    return f"{mean:{form}} ({low:{form}} to {high:{form}})"


def write_tables(found: dict[str, Any]) -> None:
    """Fill docs/simulation.md: what stands between ``<!-- NAME -->`` and ``<!-- end -->`` is replaced."""
    page = PAGE.read_text(encoding="utf-8")
    for name, block in (("repeats", repeats_table(found)), ("relatedness", relatedness_table(found))):
        page = re.sub(rf"(<!-- {name} -->\n).*?(<!-- end -->)", rf"\g<1>{block}\g<2>", page, flags=re.DOTALL)
    PAGE.write_text(page, encoding="utf-8")


def draw(found: dict[str, Any], path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    ratio = np.array(found["gain"]["ratio"])
    bars = np.abs(ratio[:, 1:].T - ratio[:, 0])
    left.errorbar(MEASURED, ratio[:, 0], bars, fmt="o", capsize=3, label="held-out success, 95 % interval")
    visits = np.linspace(1, VISITS, 100)
    for name, text in (("rate", "1 / (1 + {:.2f} v)"), ("exponent", "(1 + v)^-{:.2f}")):
        value = found["gain"][name][0]
        left.plot(visits, LAWS[name](visits - 1, value), label=text.format(value), lw=1)
    left.axhline(1, color="grey", lw=0.8)
    left.set(
        xlabel="visit of the same prompts (v = visits before it)", ylabel="gain against fresh prompts", xticks=MEASURED
    )
    left.legend(fontsize=8)
    rows = [row for row in found["transfer"] if "move" in row][:-1]
    shares = np.array([row["share_of_own"] for row in rows])
    right.barh(range(len(rows)), shares[:, 0], xerr=np.abs(shares[:, 1:].T - shares[:, 0]), capsize=2)
    right.set_yticks(range(len(rows)), [row["relation"] for row in rows], fontsize=8)
    right.invert_yaxis()
    right.set(xlabel="move / visited prompt's own (logits)")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows({k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
