"""The ``insight-rl`` command: finds the sub-command and turns errors that a user can mend into one line and a code.

Exit codes: 0 done, 1 the run stopped itself with a reason, 2 bad input, 128 + N stopped by signal N (129 SIGHUP,
130 SIGINT, 143 SIGTERM), for a training run after its step and checkpoint. Imports nothing heavy: every
sub-command's module is loaded when it is asked for.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence

from insight_rl import __version__
from insight_rl.errors import Interrupted, RunStopped, UsageError, interruption_behind

COMMANDS = {
    "train": ("insight_rl.cli.train", "train a model: insight-rl train selector=insight seed=1"),
    "doctor": ("insight_rl.cli.doctor", "memory and time of a training command, before anything is downloaded"),
    "evaluate": ("insight_rl.cli.evaluate", "accuracy on held-out problems: avg@k and pass@k"),
    "export": ("insight_rl.cli.export", "a Hugging Face model from any checkpoint of a run"),
    "push": ("insight_rl.cli.push", "a run's model with its card to the Hugging Face hub, or what would be sent"),
    "data": ("insight_rl.cli.data", "look into a task's prompts before a run, or prepare data sets as local files"),
    "plot": ("insight_rl.cli.plot", "draw the curves of one or several runs in one picture"),
    "report": ("insight_rl.cli.report", "a look inside a run, as one HTML file: rollouts, selections, worst cases"),
    "dashboard": ("insight_rl.cli.dashboard", "a W&B workspace and report of all runs, or its definition as a file"),
    "serve-selector": ("insight_rl.cli.serve_selector", "host selectors over HTTP for trainers of any framework"),
    "judge": ("insight_rl.cli.judge", "judge answers from standard input with a reward function"),
    "simulate": ("insight_rl.cli.simulate", "try selectors on synthetic learners, or on a run's decision log"),
    "compare": ("insight_rl.cli.compare", "a planned, paired comparison over seeds, with a report"),
    "explain": ("insight_rl.cli.explain", "why a step's prompts were chosen, or one was not"),
    "audit-rewards": ("insight_rl.cli.audit_rewards", "look into the verdicts of a run"),
    "env": ("insight_rl.cli.env", "versions and machine on one screen, to paste into an issue"),
    "completion": (
        "insight_rl.cli.completion",
        "the script with which bash, zsh or fish complete commands and settings",
    ),
}

_FORMER_NAMES = {"score": "judge"}
"""Names that commands had before; they work, and say the present name."""

_USAGE = f"""insight-rl {__version__}: GRPO training that picks the prompts that teach the model most

usage: insight-rl COMMAND [arguments]

commands:
{{commands}}

`insight-rl COMMAND --help` tells more. First steps: insight-rl train experiment=quickstart
"""


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    name, *rest = arguments
    if name in _FORMER_NAMES:
        print(f"insight-rl {name}: this command is now `insight-rl {_FORMER_NAMES[name]}`", file=sys.stderr)
        name = _FORMER_NAMES[name]
    if name not in COMMANDS:
        print(f"insight-rl: there is no command {name!r}; choose one of {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    make_threads_wait()
    try:
        return int(importlib.import_module(COMMANDS[name][0]).main(rest))
    except UsageError as error:
        print(f"insight-rl {name}: {error}", file=sys.stderr)
        return 2
    except RunStopped as error:
        print(f"insight-rl {name}: stopped: {error}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, Exception) as error:
        stopped = interruption_behind(error)
        if stopped is None:
            raise
        number = stopped.number if isinstance(stopped, Interrupted) else signal.SIGINT
        print(f"insight-rl {name}: interrupted by {signal.Signals(number).name}", file=sys.stderr)
        return 128 + number


def make_threads_wait() -> None:
    """Let OpenMP threads sleep while they wait for each other, in this process and in every one that it starts.

    OpenMP's default is to spin for a while first. Beside any other work that made a training step of the tiny model 5
    to 7 times slower. The OpenMP library reads the variable once, as torch loads it; what the user has set stays.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def _usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    commands = "\n".join(f"  {name:<{width}}{text}" for name, (_, text) in COMMANDS.items())
    return _USAGE.format(commands=commands).rstrip()


if __name__ == "__main__":
    sys.exit(main())
