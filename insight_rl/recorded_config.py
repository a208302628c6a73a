"""Reads the ``config.yaml`` of a run folder, which may come from anybody: plain values, in bounded time and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from insight_rl.errors import UsageError

CONFIG_FILE = "config.yaml"
MAX_BYTES = 256 * 1024
"""A hundred times what a run records."""


class _PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
    """No tags but YAML's own, and no aliases: a few of them can stand for gigabytes, and no run records any."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="an alias, which no run records", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


def read_recorded_config(run_dir: Path) -> dict[str, Any]:
    """The configuration that a run recorded, as plain values; nothing in it is resolved or run.

    Raises ``UsageError`` naming the file and the reason if it is not there or is not a record of a run.
    """
    file = run_dir / CONFIG_FILE
    if not file.is_file():
        raise UsageError(f"run_dir={str(run_dir)!r}: has no {CONFIG_FILE}: not the folder of a run; check the path")
    return read_plain_yaml(file)


def read_plain_yaml(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file of a run or a comparison. Raises ``UsageError`` naming the file and the reason."""
    remedy = "restore it, or take another folder"
    try:
        with file.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise UsageError(f"{file}: is larger than {MAX_BYTES // 1024} KiB, which no run records; {remedy}")
        config = yaml.load(content.decode("utf-8"), Loader=_PlainLoader)
    except OSError as error:
        raise UsageError(f"{file}: cannot be read ({error.strerror}); {remedy}") from error
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UsageError(f"{file}: {line}{error.problem}; {remedy}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        if isinstance(error, UsageError):
            raise
        raise UsageError(f"{file}: is not plain YAML ({type(error).__name__}); {remedy}") from error
    if not isinstance(config, dict) or not all(isinstance(key, str) for key in config):
        raise UsageError(f"{file}: holds no settings by name; {remedy}")
    return config
