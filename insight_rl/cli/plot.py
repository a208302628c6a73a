"""``insight-rl plot RUN_DIR...``: one picture of one or more runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from insight_rl.errors import UsageError, check

PICTURES = (".png", ".pdf", ".svg")

_EPILOG = """
examples:
  insight-rl plot runs/demo                                             curves.png in that folder
  insight-rl plot runs/random_1 runs/insight_1 --output compared.svg    a colour each, seeds of one setting averaged
  insight-rl plot runs/sweep                                            all runs in that folder
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
        help=f"picture to write ({', '.join(PICTURES)}); default: curves.png in the folder, comparison.png for several",
    )
    arguments = parser.parse_args(argv)
    run_dirs: list[Path] = arguments.run_dirs
    default = run_dirs[0] / "curves.png" if len(run_dirs) == 1 else Path("comparison.png")
    output: Path = arguments.output or default
    check(output.suffix in PICTURES, "--output", str(output), f"must end in one of {', '.join(PICTURES)}")

    from insight_rl.report.curves import draw_curves

    try:
        draw_curves(run_dirs, output)
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    print(output)
    return 0
