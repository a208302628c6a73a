"""Copies what a comparison came to into docs/: raw numbers, pictures, and a table between the markers of a page.

    python scripts/publish_comparison.py runs/compare_e pass_rates docs/simulation.md

Writes docs/results/pass_rates.csv (the curves), pass_rates_differences.png and pass_rates_curves.png, the rows of the
setting in docs/results/speedup.csv, and the table between ``<!-- comparison pass_rates -->`` and ``<!-- end -->`` of
the page. The report in the folder has more: `insight-rl compare report=FOLDER` makes it again.
"""

from __future__ import annotations

import argparse
import csv
import re
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
from PIL import Image

DOCS = Path(__file__).parents[1] / "docs"
RESULTS = DOCS / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="output_dir of a finished comparison")
    parser.add_argument("name", help="of the files in docs/results, and of the markers in the page")
    parser.add_argument("page", type=Path, help="Markdown file with the markers")
    arguments = parser.parse_args()
    folder, name = arguments.folder, arguments.name
    text = arguments.page.read_text(encoding="utf-8")
    block = re.compile(rf"(<!-- comparison {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not block.search(text):
        parser.error(f"{arguments.page} has no <!-- comparison {name} --> with an <!-- end --> after it")
    shutil.copyfile(folder / "curves.csv", RESULTS / f"{name}.csv")
    for picture in ("differences", "curves"):
        small = Image.open(folder / f"{picture}.png").convert("RGB").quantize(colors=128)
        small.save(RESULTS / f"{name}_{picture}.png", optimize=True)
    merge_speedups(folder / "speedup.csv")
    table = "\n".join(table_of(folder)) + "\n"
    arguments.page.write_text(block.sub(rf"\g<1>{table}\g<2>", text, count=1), encoding="utf-8")


def merge_speedups(path: Path) -> None:
    """The rows of other settings stay as they are; those of this one are replaced."""
    rows, target = read(path), RESULTS / "speedup.csv"
    settings = {row["setting"] for row in rows}
    others = [row for row in read(target) if row["setting"] not in settings] if target.exists() else []
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(sorted(others + rows, key=lambda row: row["setting"]))


def table_of(folder: Path) -> list[str]:
    """A row for each arm, best first.

    Score by the primary metric and paired difference with its verdict, difference at the last evaluation, the same over
    INSIGHT, speed-ups by rollouts, informative groups.
    """
    rows = read(folder / "differences.csv")
    primary = [row for row in rows if row["primary"] == "1"]
    baseline, axis = primary[0]["baseline"], primary[0]["axis"]
    last = {
        row["selector"]: row
        for row in rows
        if (row["metric"], row["axis"], row["baseline"]) == ("final", axis, baseline)
    }
    over_insight = {row["selector"]: row for row in rows if row["baseline"] == "insight" != baseline}
    speed = {
        (row["selector"], row["baseline"]): row for row in read(folder / "speedup.csv") if row["axis"] == "rollouts"
    }
    informative = informative_shares(folder / "curves.csv")
    header = ["arm", f"points over {baseline}", "verdict (Holm)", "at the end"]
    header += ["points over insight", "verdict (Holm)"] if over_insight else []
    header += [f"speed-up over {baseline}", *(["over insight"] if over_insight else []), "informative groups", "seeds"]
    lines = ["| " + " | ".join(header) + " |"]
    lines.append("| --- |" + "".join(" --- |" if cell.startswith("verdict") else " ---: |" for cell in header[1:]))
    for row in sorted(
        (row for row in primary if row["baseline"] == baseline), key=lambda row: -float(row["difference"])
    ):
        name = row["selector"]
        cells = [name, difference(row), verdict(row), difference(last[name])]
        if over_insight:
            other = over_insight.get(name)
            cells += [difference(other), verdict(other)] if other else ["", ""]
        cells.append(ratio(speed.get((name, baseline))))
        cells += [ratio(speed.get((name, "insight")))] if over_insight else []
        lines.append("| " + " | ".join([*cells, f"{informative[name]:.0%}", row["seeds"]]) + " |")
    lines.append(f"| {baseline} |" + " |" * (len(header) - 3) + f" {informative[baseline]:.0%} | |")
    return lines


def informative_shares(path: Path) -> dict[str, float]:
    """Share of informative groups among all that were rolled out, mean over the seeds."""
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for row in read(path):
        found[row["selector"], row["seed"]].append(
            (float(row["rollouts"]), float(row["informative_fraction"] or "nan"))
        )
    shares: dict[str, list[float]] = defaultdict(list)
    for (selector, _), points in found.items():
        rollouts, values = np.array(sorted(points)).T
        shares[selector].append(float(np.average(values[1:], weights=np.diff(rollouts))))
    return {selector: float(np.mean(values)) for selector, values in shares.items()}


def difference(row: dict[str, str]) -> str:
    return f"{100 * float(row['difference']):+.2f} ({100 * float(row['low']):+.2f} to {100 * float(row['high']):+.2f})"


def verdict(row: dict[str, str]) -> str:
    is_small = row["verdict"] in ("better", "worse") and float(row["p_level_holm"]) < 0.05
    return row["verdict"] + (", by less than the smallest effect" if is_small else "")


def ratio(row: dict[str, str] | None) -> str:
    if row is None or not row["high"]:
        return ""
    if not row["median"]:
        return f"not reached (at most {float(row['high']):.2f})"
    return f"{float(row['median']):.2f} ({float(row['low'] or 0):.2f} to {float(row['high']):.2f})"


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    main()
