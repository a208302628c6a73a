"""``insight-rl train``: compose, check, run; with ``-m`` one process for every combination."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from insight_rl.cli.own_code import add_own_code_options, allow_own_code, own_code_words
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.stop_signals import STOP_SIGNALS, run_to_its_end

_EPILOG = """
examples:
  insight-rl train experiment=quickstart                     the demo: Countdown with the bundled tiny model
  insight-rl train selector=mopps seed=3 run_dir=runs/mopps  another selector, seed and folder
  insight-rl train run_dir=runs/mopps selector=mopps seed=3  the same again: goes on where it was cut short
  insight-rl train -m selector=random,insight seed=1,2       four runs, one after the other
  insight-rl train --cfg selector=insight                    print the composed configuration and stop

Every key of the configuration can be overridden as key=value; groups (task, selector, gate, rollout, weight_sync,
reward, algorithm, learner, trainer, runtime, model, evaluation, monitor, doctor, experiment) choose a file of conf/.
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl train", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    parser.add_argument("-m", "--multirun", action="store_true", help="run every combination of comma-separated values")
    add_own_code_options(parser)
    parser.add_argument("--cfg", action="store_true", help="print the composed configuration and stop")
    arguments = parser.parse_intermixed_args(argv)
    allow_own_code(arguments)
    if arguments.multirun:
        return run_combinations(arguments.overrides, arguments.config_dir, own_code=own_code_words(arguments))
    tree = compose_config(arguments.overrides, config_dir=arguments.config_dir)
    if arguments.cfg:
        from omegaconf import OmegaConf

        print(OmegaConf.to_yaml(tree), end="")
        return 0
    from insight_rl.run import train

    train(tree)
    return 0


def run_combinations(overrides: Sequence[str], config_dir: Path | None, *, own_code: Sequence[str] = ()) -> int:
    """Run each combination in a process of its own, so that no GPU memory or engine state carries over.

    All are checked before the first one starts. Returns the first code that is not 0; the rest still run,
    except after a stop signal.
    """
    base, combinations = expand_combinations(overrides)
    named = name_for_trackers([combination for combination, _ in combinations], base)
    combinations = list(zip(named, [label for _, label in combinations], strict=True))
    for combination, _ in combinations:
        parse_config(compose_config(combination, config_dir=config_dir))
    codes = []
    for number, (combination, label) in enumerate(combinations, start=1):
        run_dir = base / (label or "run")
        print(f"[{number}/{len(combinations)}] {label} -> {run_dir}", flush=True)
        command = [sys.executable, "-m", "insight_rl", "train", *own_code, *combination, f"run_dir={run_dir}"]
        codes.append(run_to_its_end(command))
        if codes[-1] in {128 + number for number in STOP_SIGNALS}:
            return codes[-1]
    _print_accuracies([base / (label or "run") for _, label in combinations])
    print(f"compare them: insight-rl plot {base}/*")
    return next((code for code in codes if code), 0)


def name_for_trackers(combinations: Sequence[Sequence[str]], base: Path) -> list[list[str]]:
    """Each combination with the sweep's name and its arm, that in which it differs but for the seed; the user's win.

    Example: ``["selector=random", "seed=1"]`` of ``-m selector=random,insight seed=1,2 run_dir=runs/x`` gets
    ``run_group=x arm=random``.
    """
    common = set.intersection(*map(set, combinations))
    named = []
    for combination in combinations:
        given = {item.split("=")[0] for item in combination}
        varied = [item.removeprefix("selector=") for item in combination if item not in common]
        arm = _label([item for item in varied if not item.startswith("seed=")])
        words = {"run_group": _label([base.name]), "arm": arm}
        named.append([*combination, *(f"{key}={word}" for key, word in words.items() if word and key not in given)])
    return named


def _print_accuracies(run_dirs: Sequence[Path]) -> None:
    from rich.console import Console

    from insight_rl.monitor.records import METRICS_FILE
    from insight_rl.report.accuracies import accuracy_table
    from insight_rl.report.runs import load_runs

    # A run that was refused or died early has left no metrics.
    begun = [folder for folder in run_dirs if (folder / METRICS_FILE).is_file()]
    if begun:
        Console().print(accuracy_table(load_runs(begun)))


def expand_combinations(overrides: Sequence[str]) -> tuple[Path, list[tuple[list[str], str]]]:
    """The sweep's folder, and for each combination its overrides and a folder name such as ``selector-random_seed-1``.

    The name has no ``=`` or comma, so that it can be given as ``run_dir=`` again.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UsageError(f"{error.override}: not a valid override; write key=value or key=value,value") from error
    swept = [override.get_key_element() for override in parsed if override.is_sweep_override()]
    folder = next((o.value() for o in parsed if o.key_or_group == "run_dir" and not o.is_sweep_override()), None)
    base = Path(str(folder) if folder else f"runs/sweep-{datetime.now():%Y%m%d-%H%M%S}").expanduser().resolve()
    kept = [override for override in parsed if override.key_or_group != "run_dir"]
    (jobs,) = BasicSweeper.split_arguments(kept, max_batch_size=None)
    labels = [_label([item for item in job if item.split("=")[0] in swept]) for job in jobs]
    return base, [(list(job), label) for job, label in zip(jobs, labels, strict=True)]


def _label(items: Sequence[str]) -> str:
    return re.sub(r"[^\w.+-]", "-", "_".join(items))
