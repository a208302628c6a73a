"""``insight-rl doctor``: what a training command takes of memory and time, before anything is downloaded."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.config import RunConfig, compose_config, parse_config
from insight_rl.errors import UsageError

_EPILOG = """
examples:
  insight-rl doctor experiment=quickstart                                       on this machine
  insight-rl doctor experiment=paper_countdown doctor.gpu=h100-80gb doctor.num_gpus=8
  insight-rl doctor rollout=vllm model.path=models/mine --rollout               and sixteen prompts rolled out

It takes what `insight-rl train` takes, needs neither a network nor a GPU, and ends with code 2 where the run cannot
work. GPUs by name: {cards}.
"""


def main(argv: Sequence[str]) -> int:
    from insight_rl.doctor.cards import CARDS

    parser = argparse.ArgumentParser(
        prog="insight-rl doctor",
        description="What a training run takes of memory and time, and what it lacks here.",
        epilog=_EPILOG.format(cards=", ".join(CARDS)),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="as for insight-rl train")
    add_own_code_options(parser)
    parser.add_argument(
        "--rollout",
        action="store_true",
        help="also load the model and roll out 16 prompts: cut off, informative, speed",
    )
    arguments = parser.parse_intermixed_args(argv)
    allow_own_code(arguments)
    config = parse_config(compose_config(arguments.overrides, config_dir=arguments.config_dir))
    reasons = _examine(config)
    if reasons and config.doctor.mode == "strict":
        raise UsageError(". ".join(reasons))
    for reason in reasons:
        print(f"note: {reason}")
    if arguments.rollout:
        from insight_rl.build import quiet_libraries
        from insight_rl.doctor.trial import describe, try_out

        quiet_libraries()
        for line in describe(try_out(config)):
            print(line)
    return 0


def _examine(config: RunConfig) -> tuple[str, ...]:
    """Print the findings; returns why the run cannot work."""
    from rich.console import Console

    from insight_rl.build import build_part
    from insight_rl.config import PARTS
    from insight_rl.doctor.checkup import check_up
    from insight_rl.doctor.machine import look_around
    from insight_rl.doctor.screen import show, show_machine
    from insight_rl.target_check import check_part

    for part in PARTS:
        for key, node in config.monitor.items() if part == "monitor" else [("", getattr(config, part))]:
            check_part(f"{part}.{key}" if key else part, node)
    # Their settings are checked as they are constructed; none of them loads anything before it is started.
    build_part("learner", config.learner)
    found = check_up(config)
    console = Console()
    if found is None:
        console.print(
            f"{config.model.path}: its sizes are not known here; put its config.json into the hub's cache (hf download "
            f"{config.model.path} config.json), or give model.path=FOLDER",
            highlight=False,
            markup=False,
        )
        show_machine(console, look_around(config, None, has_gpu=False))
        return ()
    show(console, found, look_around(config, found.work, has_gpu=found.card is not None))
    return found.reasons
