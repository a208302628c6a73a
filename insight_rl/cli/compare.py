"""``insight-rl compare``: a planned comparison of arms over seeds, or the report of one that has run."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.compare.plan import load_plan
from insight_rl.errors import check

_EPILOG = """
examples:
  insight-rl compare compare=smoke                          two arms, two seeds, two steps: does it run?
  insight-rl compare compare=smoke seeds.number=10 processes=2 output_dir=runs/mine
  insight-rl compare compare=smoke output_dir=runs/mine     the same again: goes on where it was cut short
  insight-rl compare report=runs/mine                       make the tables and the report again
  insight-rl compare report=runs/a,runs/b                   and several comparisons on one page, in runs/a
  insight-rl compare --config-dir my_conf compare=my_plan   a plan of your own: my_conf/compare/my_plan.yaml

conf/compare.yaml explains every key of a plan; conf/compare has plans.
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl compare", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to conf/compare.yaml")
    add_own_code_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    allow_own_code(arguments)
    given = [override for override in arguments.overrides if override.startswith("report=")]
    if given:
        check(len(arguments.overrides) == 1, "report", given[0].partition("=")[2], "goes with no other key")
        return _report([Path(name).expanduser().resolve() for name in given[0].partition("=")[2].split(",")])
    plan = load_plan(arguments.overrides, config_dir=arguments.config_dir)
    folder = Path(plan.output_dir or f"runs/compare_{plan.setting}").expanduser().resolve()
    from insight_rl.compare.comparison import Comparison
    from insight_rl.compare.jobs import OwnCode

    own_code = OwnCode(
        config_dir=arguments.config_dir.resolve() if arguments.config_dir else None,
        packages=frozenset(arguments.allow_package),
    )
    comparison = Comparison(plan, folder, _say, own_code)
    _print_files(comparison.run())
    return _code([folder])


def _report(folders: Sequence[Path]) -> int:
    """The tables and the report of finished runs again; several comparisons go on one page."""
    from insight_rl.compare.comparison import finish
    from insight_rl.compare.report import analyse_folders, write_report

    files = [file for folder in folders for file in finish(folder, _say)]
    if len(folders) > 1:
        files += write_report(analyse_folders(folders))
    _print_files(list(dict.fromkeys(files)))
    return _code(folders)


def _code(folders: Sequence[Path]) -> int:
    """1 where a run of the plan has failed."""
    from insight_rl.compare.plan_record import read_status

    return int(any(read_status(folder)["failed"] for folder in folders))


def _say(text: str) -> None:
    print(text, flush=True)


def _print_files(files: Sequence[Path]) -> None:
    for file in files:
        print(file)
