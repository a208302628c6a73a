"""Why the arms of a comparison came out as they did: where their rollouts went, and what the policy did meanwhile.

    python scripts/look_into_comparison.py runs/compare_b
    python scripts/look_into_comparison.py runs/compare_b --output docs/results/why_b.csv

Reads the run folders of a comparison on Countdown and prints a Markdown table, means over the seeds of each arm:

    informative       share of groups with both outcomes, by quarter of the run's steps
    learnable         share of selections that went to prompts of another part than "hopeless"
    visited           distinct prompts selected, as a share of the pool
    visits            mean number of visits of the learnable prompts that were visited, and the most of any
    first pass        share of selections that were a prompt's first visit, by quarter
    trained tokens    thousands of tokens with a gradient
    entropy           of the policy in the last quarter, nats a token: what sharpening has left
    3 and 4 numbers   gain in held-out accuracy from the start to the last evaluation, in points
"""

from __future__ import annotations

import argparse
import csv
import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.build import build_part
from insight_rl.monitor.records import METRICS_FILE, read_records
from insight_rl.recorded_config import read_recorded_config
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Prompt

QUARTERS = 4
COLUMNS = (
    "selector",
    "seed",
    *(f"informative_{quarter}" for quarter in range(1, QUARTERS + 1)),
    "learnable",
    "visited",
    "mean_visits",
    "most_visits",
    *(f"first_visits_{quarter}" for quarter in range(1, QUARTERS + 1)),
    "trained_tokens",
    "entropy",
    "gain_3",
    "gain_4",
)

Row = dict[str, Any]


def read_prompts(run_dir: Path) -> tuple[list[Prompt], list[Prompt]]:
    """The pool and the held-out problems of a run, made again from its configuration."""
    config = read_recorded_config(run_dir)
    task = build_part("task", config["task"])
    tokenizer = ModelTokenizer(Path(config["model"]["path"]))
    return task.train_prompts(tokenizer), task.test_prompts(tokenizer)


def look_into(run_dir: Path, pool: Sequence[Prompt], problems: Sequence[Prompt]) -> Row:
    arm, _, seed = run_dir.name.rpartition("_seed")
    records = [record for record in read_records(run_dir / METRICS_FILE) if "gate/num_groups" in record]
    selections = [json.loads(line)["prompt_ids"] for line in (run_dir / "selections.jsonl").read_text().splitlines()]
    if len(records) < QUARTERS:
        raise SystemExit(f"{run_dir}: has {len(records)} steps, too few to speak of quarters")
    row: Row = {"selector": arm, "seed": int(seed)}
    groups = np.array([record["gate/num_groups"] for record in records])
    informative = np.array([record["selector/informative_fraction"] for record in records]) * groups
    for quarter, steps in enumerate(np.array_split(np.arange(len(records)), QUARTERS), start=1):
        row[f"informative_{quarter}"] = informative[steps].sum() / groups[steps].sum()
    row |= visits_of(selections, learnable={p.id for p in pool if p.metadata.get("part") != "hopeless"}, size=len(pool))
    row["trained_tokens"] = sum(record["learner/num_tokens"] for record in records) / 1000
    last = records[-(-len(records) * (QUARTERS - 1) // QUARTERS) :]
    row["entropy"] = float(np.mean([record["learner/entropy"] for record in last if "learner/entropy" in record]))
    return row | gains_of((run_dir / "evaluations.jsonl").read_text().splitlines(), problems)


def visits_of(selections: Sequence[Sequence[str]], *, learnable: set[str], size: int) -> Row:
    """From the ids selected in each step."""
    counts: Counter[str] = Counter()
    firsts = []
    for ids in selections:
        firsts.append(sum(each not in counts for each in ids))
        counts.update(ids)
    visits = [count for each, count in counts.items() if each in learnable]
    row: Row = {
        "learnable": sum(visits) / counts.total(),
        "visited": len(counts) / size,
        "mean_visits": float(np.mean(visits)) if visits else 0.0,
        "most_visits": max(counts.values()),
    }
    for quarter, steps in enumerate(np.array_split(np.arange(len(selections)), QUARTERS), start=1):
        row[f"first_visits_{quarter}"] = sum(firsts[s] for s in steps) / sum(len(selections[s]) for s in steps)
    return row


def gains_of(lines: Sequence[str], problems: Sequence[Prompt]) -> Row:
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    row: Row = {}
    for size in (3, 4):
        ids = [problem.id for problem in problems if problem.metadata["num_numbers"] == size]
        before, after = (sum(each["successes"][i] for i in ids) / each["samples"] / len(ids) for each in (first, last))
        row[f"gain_{size}"] = 100 * (after - before)
    return row


def table(rows: Sequence[Row]) -> str:
    by_arm: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_arm[row["selector"]].append(row)
    lines = [
        "| arm | seeds | informative, by quarter | learnable | visited | visits, most | first visits, by quarter "
        "| trained tokens, thousands | entropy | gain, 3 numbers | gain, 4 numbers |",
        "| --- |" + " ---: |" * 10,
    ]
    for arm, of_arm in by_arm.items():
        mean = {key: float(np.mean([row[key] for row in of_arm])) for key in COLUMNS[1:]}
        quarters = range(1, QUARTERS + 1)
        cells = [
            str(len(of_arm)),
            ", ".join(f"{mean[f'informative_{quarter}']:.2f}" for quarter in quarters),
            f"{mean['learnable']:.2f}",
            f"{mean['visited']:.2f}",
            f"{mean['mean_visits']:.1f}, {mean['most_visits']:.0f}",
            ", ".join(f"{mean[f'first_visits_{quarter}']:.2f}" for quarter in quarters),
            f"{mean['trained_tokens']:.0f}",
            f"{mean['entropy']:.2f}",
            f"{mean['gain_3']:+.1f}",
            f"{mean['gain_4']:+.1f}",
        ]
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of a comparison")
    parser.add_argument("--output", type=Path, help="CSV, a row for each run")
    arguments = parser.parse_args()
    finished = [path.parent for path in sorted(arguments.folder.glob("runs/*/outcome.json"))]
    runs = [run for run in finished if json.loads((run / "outcome.json").read_text())["state"] == "finished"]
    if not runs:
        parser.error(f"{arguments.folder} has no finished run")
    pool, problems = read_prompts(runs[0])
    rows = [look_into(run, pool, problems) for run in runs]
    if arguments.output is not None:
        with arguments.output.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            writer.writerows({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()} for row in rows)
    print(table(rows))


if __name__ == "__main__":
    main()
