"""``insight-rl plot RUN_DIR...``: one picture of one or more runs. Knows nothing of how a run is made."""

from __future__ import annotations

import argparse
from pathlib import Path

from insight_rl.errors import check

PICTURES = (".png", ".pdf", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = "Draw accuracy against steps, rollouts and generated tokens, and the informative fraction."
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run, or of several runs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"picture to write ({', '.join(PICTURES)}); default: curves.png in the folder, comparison.png for several",
    )


def run(args: argparse.Namespace) -> int:
    """Draw, print where the picture is, and return the exit code. Raises ``UsageError`` for folders without metrics."""
    output: Path | None = args.output
    if output is None:
        output = args.run_dirs[0] / "curves.png" if len(args.run_dirs) == 1 else Path("comparison.png")
    check(output.suffix in PICTURES, "--output", str(output), f"must end in one of {', '.join(PICTURES)}")

    from insight_rl.monitor.report import draw_curves

    draw_curves(args.run_dirs, output)
    print(output)
    return 0
