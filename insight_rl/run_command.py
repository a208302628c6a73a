"""The command that makes a recorded configuration again: the options that were chosen, then what differs from them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omegaconf import OmegaConf

from insight_rl.config import NAMED_GROUPS, compose_config
from insight_rl.errors import UsageError
from insight_rl.nested import flatten
from insight_rl.paths import data_dir

_NO_MATTER = ("run_dir", "resume", "run_group", "arm", "monitor", "doctor", *(f"{each}_name" for each in NAMED_GROUPS))
"""Where a run lies and who watches it; the options are in the command itself."""
_OPTION = re.compile(r"[\w.+-]+")
_KEY = re.compile(r"[\w-]+(\.[\w-]+)*")
_WORD = re.compile(r"[A-Za-z_/~][\w./~-]*")
_RESERVED = ("null", "true", "false", "nan", "inf", "none", "yes", "no", "on", "off")
_MAX_OVERRIDES = 200
_NO_VALUE = object()


@dataclass(frozen=True, kw_only=True)
class Command:
    """``overrides`` of `insight-rl train`. ``is_exact``: composing them gives the recorded settings, all of them."""

    overrides: tuple[str, ...]
    is_exact: bool

    def __str__(self) -> str:
        return " ".join(["insight-rl train", *map(shlex.quote, self.overrides)])


def command_of(recorded: Mapping[str, Any]) -> Command:
    """The command for the ``config.yaml`` of a run, whoever wrote it: nothing of it is imported or resolved.

    Where its options are not of this package, or its values cannot be written in a command, it is not exact.
    """
    overrides, composed = _options(recorded)
    if composed is None:
        return Command(overrides=tuple(overrides), is_exact=False)
    wanted = _settings(recorded)
    num_options = len(overrides)
    for key in dict.fromkeys([*wanted, *composed]):
        # A mapping that is empty on one side and holds something on the other is settled by what it holds.
        if _has_below(wanted if key in composed else composed, key):
            continue
        override = _override(key, wanted.get(key, _NO_VALUE), composed.get(key, _NO_VALUE))
        overrides += [override] if override else []
    if len(overrides) > _MAX_OVERRIDES:
        return Command(overrides=(), is_exact=False)
    again = composed if len(overrides) == num_options else _compose(overrides)
    is_exact = again is not None and again.keys() == wanted.keys() and all(_same(wanted[k], again[k]) for k in wanted)
    return Command(overrides=tuple(overrides), is_exact=is_exact)


def _has_below(flat: Mapping[str, Any], key: str) -> bool:
    return key not in flat and any(other.startswith(f"{key}.") for other in flat)


def _options(recorded: Mapping[str, Any]) -> tuple[list[str], dict[str, Any] | None]:
    """``experiment=`` and every option that it, or the default, does not choose already; and what they compose to."""
    names = {group: recorded.get(f"{group}_name") for group in NAMED_GROUPS}
    chosen = {group: name for group, name in names.items() if isinstance(name, str) and _OPTION.fullmatch(name)}
    overrides = [f"experiment={chosen.pop('experiment')}"] if "experiment" in chosen else []
    try:
        tree = compose_config(overrides)
    except UsageError:
        overrides, tree = [], compose_config([])
    others = [f"{group}={name}" for group, name in chosen.items() if tree.get(f"{group}_name") != name]
    return overrides + others, _compose(overrides + others) if others else _settings(OmegaConf.to_container(tree))


def _compose(overrides: list[str]) -> dict[str, Any] | None:
    try:
        return _settings(OmegaConf.to_container(compose_config(overrides)))
    except UsageError:
        return None


def _settings(tree: Any) -> dict[str, Any]:
    """The settings that a command has to say, flattened."""
    return {key: value for key, value in flatten(tree).items() if key.split(".")[0] not in _NO_MATTER}


def _override(key: str, wanted: Any, composed: Any) -> str | None:
    """The word that turns one value into the other; ``None`` where they are the same or no word can be written."""
    if _same(wanted, composed) or not _KEY.fullmatch(key):
        return None
    if wanted is _NO_VALUE:
        return f"~{key}"
    text = _written(wanted)
    if text is None:
        return None
    return f"{'+' if composed is _NO_VALUE else ''}{key}={text}"


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, str) and isinstance(other, str) and one != other:
        # The bundled data lie elsewhere in every installation.
        shipped = str(data_dir())
        return other.startswith(shipped) and one.endswith(f"/data{other.removeprefix(shipped)}")
    return type(one) is type(other) and one == other


def _written(value: Any) -> str | None:
    """A plain value in the grammar of Hydra's overrides; ``None`` for one that would be resolved, or is too deep."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _written_text(value)
    if isinstance(value, list):
        items = [_written(item) for item in value]
        return None if None in items else f"[{','.join(map(str, items))}]"
    if isinstance(value, dict):
        pairs = [(key, _written(item)) for key, item in value.items()]
        if any(item is None or not _KEY.fullmatch(str(key)) for key, item in pairs):
            return None
        return f"{{{','.join(f'{key}:{item}' for key, item in pairs)}}}"
    return None


def _written_text(value: str) -> str | None:
    if "$" in value or not value.isprintable():
        return None
    if _WORD.fullmatch(value) and value.lower() not in _RESERVED:
        return value
    quoted = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{quoted}'"
