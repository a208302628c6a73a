"""Makes data/countdown: Countdown-34, solvable problems with 3 or 4 numbers in equal parts.

    python scripts/make_countdown_data.py --seed 0 --output data/countdown

No two problems share target and numbers in any order, so no test problem is in the training set either.
"""

from __future__ import annotations

import argparse
import json
import random
from pathlib import Path

from insight_rl.task.countdown_problems import CountdownProblem, distinct_problems


def write_rows(path: Path, problems: list[CountdownProblem]) -> None:
    rows = [json.dumps({"numbers": list(problem.numbers), "target": problem.target}) for problem in problems]
    path.write_text("\n".join(rows) + "\n", encoding="ascii")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-train", type=int, default=2000)
    parser.add_argument("--num-test", type=int, default=512)
    parser.add_argument("--min-number", type=int, default=1)
    parser.add_argument("--max-number", type=int, default=20)
    parser.add_argument("--max-target", type=int, default=100)
    parser.add_argument("--output", type=Path, default=Path("data/countdown"))
    args = parser.parse_args()
    problems = distinct_problems(
        random.Random(args.seed),
        num_numbers=(3, 4),
        num_problems=args.num_test + args.num_train,
        min_number=args.min_number,
        max_number=args.max_number,
        max_target=args.max_target,
    )
    args.output.mkdir(parents=True, exist_ok=True)
    write_rows(args.output / "test.jsonl", problems[: args.num_test])
    write_rows(args.output / "train.jsonl", problems[args.num_test :])
    print(f"{args.output}: {args.num_train} train, {args.num_test} test")


if __name__ == "__main__":
    main()
