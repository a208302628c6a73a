"""``insight-rl report run_dir=RUN``: a look inside a run, as one HTML file."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from insight_rl.cli.settings import read_settings
from insight_rl.errors import UsageError

_EPILOG = """
examples:
  insight-rl report run_dir=runs/demo                        writes runs/demo/report.html
  insight-rl report run_dir=runs/demo output=demo.html       another file

The run may still be going on, or be somebody else's: nothing in its folder is executed (docs/report.md).
"""

_KEYS = ("run_dir", "output")


def main(argv: Sequence[str]) -> int:
    """Write the page, print where it is, and return the exit code. Raises ``UsageError`` for a folder without a run."""
    parser = argparse.ArgumentParser(
        prog="insight-rl report",
        description="One HTML file without a network: what was trained, curves, what was selected and why, rollouts to "
        "leaf through, worst cases, how right the beliefs were, time and memory.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="run_dir=..., output=...")
    given = read_settings(parser.parse_args(argv).settings, _KEYS)
    if "run_dir" not in given:
        raise UsageError("run_dir has no value: give the folder of a run, e.g. run_dir=runs/demo")

    from insight_rl.report.run_report import REPORT_FILE, write_report

    run_dir = Path(given["run_dir"]).expanduser()
    output = Path(given["output"]).expanduser() if "output" in given else run_dir / REPORT_FILE
    try:
        if "output" in given:
            output.parent.mkdir(parents=True, exist_ok=True)
        write_report(run_dir, output)
    except OSError as error:
        where, reason = error.filename or output, error.strerror
        raise UsageError(f"{where}: cannot be read or written ({reason}); choose another output=FILE") from error
    print(output)
    return 0
