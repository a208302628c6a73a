"""``--config-dir`` and ``--allow-package``: the two ways to bring code of one's own, the same for every command."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from insight_rl.allowed_code import allowed
from insight_rl.errors import check


def add_own_code_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config-dir",
        type=Path,
        help="a folder with options of your own, laid out like conf/; its Python modules may be named too",
    )
    parser.add_argument(
        "--allow-package",
        action="append",
        default=[],
        metavar="NAME",
        help="a package or module of yours, on PYTHONPATH or installed, that _target_ may name; can be repeated",
    )


def allow_own_code(arguments: argparse.Namespace) -> None:
    """From here on ``_target_`` may name what the command line allows. Raises ``UsageError`` for what it cannot be."""
    folder: Path | None = arguments.config_dir
    check(folder is None or folder.is_dir(), "--config-dir", str(folder), "is not a folder")
    allowed.allow(arguments.allow_package, [folder] if folder is not None else [])


def own_code_words(arguments: argparse.Namespace) -> Sequence[str]:
    """The same options again, for a command that starts another."""
    words = ["--config-dir", str(arguments.config_dir)] if arguments.config_dir else []
    return [*words, *(word for name in arguments.allow_package for word in ("--allow-package", name))]
