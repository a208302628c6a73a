"""``insight-rl dashboard``: a workspace and a report on Weights & Biases, or their definition as a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from insight_rl.errors import UsageError
from insight_rl.files import write_atomically

_EPILOG = """
examples:
  insight-rl dashboard                                all runs of the project insight_rl, in your W&B account
  insight-rl dashboard --group sweep                  the runs of one sweep or comparison (run_group)
  insight-rl dashboard --output dashboard.json        the definition as a file; needs no account

TensorBoard and Trackio need no such command: tensorboard --logdir runs, and trackio show (docs/training.md).
"""


def main(argv: Sequence[str]) -> int:
    """Save both and print where they are. Raises ``UsageError`` without the package or without an account."""
    parser = argparse.ArgumentParser(
        prog="insight-rl dashboard",
        description="Accuracy by steps, rollouts and tokens for each arm with its seeds averaged, informative share, "
        "beliefs, calibration, throughput and cost, of the runs that monitor=wandb has recorded.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--project", default="insight_rl", help="W&B project of the runs; default: insight_rl")
    parser.add_argument("--entity", help="user or team that owns it; default: your account's default entity")
    parser.add_argument("--group", help="run_group of the runs to show; default: all runs of the project")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the definition there and save nothing")
    arguments = parser.parse_args(argv)

    from insight_rl.monitor.wandb_dashboard import Dashboard, check_installed, find_entity

    check_installed()
    output: Path | None = arguments.output
    entity = find_entity(arguments.entity) if output is None else arguments.entity or ""
    dashboard = Dashboard(project=arguments.project, entity=entity, group=arguments.group)
    if output is None:
        for name, url in zip(("workspace", "report"), dashboard.save(), strict=True):
            print(f"{name}: {url}")
        return 0
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(output, json.dumps(dashboard.definition(), indent=1) + "\n")
    except OSError as error:
        raise UsageError(f"{output}: cannot be written ({error.strerror}); choose another --output") from error
    print(output)
    return 0
