"""``insight-rl plot RUN_DIR...``: one picture of one or more runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from insight_rl.errors import UsageError, check
from insight_rl.report.runs import find_runs

PICTURES = (".png", ".pdf", ".svg")

_EPILOG = """
examples:
  insight-rl plot runs/demo                                             curves.png in that folder
  insight-rl plot runs/random_1 runs/insight_1 --output compared.svg    a colour each, seeds of one setting averaged
  insight-rl plot runs/sweep                                            all runs in that folder
  insight-rl plot runs/sweep/*                                          the same; what is not a run is left out
"""


def main(argv: Sequence[str]) -> int:
    """Draw, print where the picture is, and return the exit code. Raises ``UsageError`` for folders without metrics."""
    parser = argparse.ArgumentParser(
        prog="insight-rl plot",
        description="Draw accuracy against steps, rollouts and generated tokens, and the informative fraction.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run_dirs", nargs="+", type=Path, metavar="RUN_DIR", help="folder of a run, or of several runs")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help=f"picture to write ({', '.join(PICTURES)}); default: curves.png in the folder; for "
        "several runs comparison.png in the folder that they share",
    )
    arguments = parser.parse_args(argv)
    given: Path | None = arguments.output
    check(
        given is None or given.suffix in PICTURES, "--output", str(given), f"must end in one of {', '.join(PICTURES)}"
    )
    run_dirs, others = find_runs(arguments.run_dirs)
    for path in others:
        print(f"insight-rl plot: {path} is not a run and is left out", file=sys.stderr)
    shared = Path(os.path.commonpath([path.parent.absolute() for path in run_dirs]))
    default = run_dirs[0] / "curves.png" if len(run_dirs) == 1 else shared / "comparison.png"
    output = given or default

    from insight_rl.report.curves import draw_curves

    try:
        draw_curves(run_dirs, output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    print(output)
    return 0
