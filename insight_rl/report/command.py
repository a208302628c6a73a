"""The command that makes a run again, from the configuration that it recorded."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from insight_rl.config import NAMED_GROUPS, compose_config
from insight_rl.errors import UsageError
from insight_rl.nested import flatten
from insight_rl.paths import conf_dir

_LEFT_OUT = ("run_dir", "resume", "run_group", "arm")
_MAX_SETTINGS = 40


def command_of(config: Mapping[str, Any]) -> str | None:
    """``insight-rl train ...`` with every option and setting in which ``config`` differs from the defaults.

    ``None`` where the options are not all of this package (they may be the user's own), or the settings differ in too
    many ways to be typed. Nothing of ``config`` is run: its options are looked up by name.
    """
    names = {group: config.get(f"{group}_name") for group in NAMED_GROUPS}
    given = {group: name for group, name in names.items() if name is not None}
    if not given or not all((conf_dir() / group / f"{name}.yaml") in _options(group) for group, name in given.items()):
        return None
    try:
        experiment = [f"experiment={given['experiment']}"] if "experiment" in given else []
        start = _plain(experiment)
        options = [f"{group}={name}" for group, name in given.items() if start.get(f"{group}_name") != name]
        before = flatten(_plain([*experiment, *options]))
    except UsageError:
        return None
    now = flatten(dict(config))
    settings = []
    for key in sorted(now.keys() | before.keys()):
        if key.endswith("_name") or key.split(".")[0] in (*_LEFT_OUT, "monitor") or now.get(key) == before.get(key):
            continue
        # A recorded setting is resolved: what Hydra would look up now was not written by a run.
        if key not in now or "${" in str(now[key]):
            return None
        settings.append(f"{key if key in before else f'+{key}'}={_value(now[key])}")
    if len(settings) > _MAX_SETTINGS:
        return None
    return shlex.join(["insight-rl", "train", *experiment, *options, *settings])


def _options(group: str) -> set[Any]:
    return set((conf_dir() / group).glob("*.yaml"))


def _plain(overrides: list[str]) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(compose_config(overrides), resolve=True)
    return dict(tree)


def _value(value: Any) -> str:
    """As Hydra reads it back: strings in quotes where they are no plain words."""
    if isinstance(value, str):
        is_plain = value.replace("_", "").replace("-", "").replace("/", "").replace(".", "").isalnum()
        escaped = value.replace("\\", "\\\\").replace("'", "\\'")
        return value if is_plain else f"'{escaped}'"
    return json.dumps(value)
