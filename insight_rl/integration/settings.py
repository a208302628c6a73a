"""The settings of an integration that is switched on by a command: from a mapping to what the selector takes."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.integration.selection import Verdict, first_reward_is_full

_NAMES = ("selector", "selector_settings", "verdict", "patience")


@dataclass(frozen=True, slots=True, kw_only=True)
class IntegrationSettings:
    """What a user may set; every part has a default."""

    selector: str = "insight"
    """An option of conf/selector."""

    selector_settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings over that option."""

    verdict: Verdict = first_reward_is_full

    patience: int | None = None
    """Further draws after which a prompt that is not back counts as lost; ``None``: the integration's own."""


def read_settings(given: Any, *, key: str) -> IntegrationSettings:
    """From a mapping, ``verdict`` being the path of a function; ``None`` is all defaults. Errors name ``key``."""
    given = {} if given is None else given
    check(isinstance(given, Mapping), key, given, f"must be a mapping with some of {', '.join(_NAMES)}")
    for name in given:
        check(name in _NAMES, f"{key}.{name}", given[name], f"is no setting; there are {', '.join(_NAMES)}")
    patience = given.get("patience")
    is_count = isinstance(patience, int) and not isinstance(patience, bool) and patience >= 1
    check(patience is None or is_count, f"{key}.patience", patience, "must be an int of at least 1")
    changes = dict(given)
    if "verdict" in given:
        changes["verdict"] = _load_verdict(given["verdict"], key=f"{key}.verdict")
    return IntegrationSettings(**changes)


def judge(verdict: Verdict, values: Sequence[float]) -> bool | None:
    """``verdict`` of ``values``, and ``None`` where the first of them is missing (NaN)."""
    return None if math.isnan(values[0]) else verdict(values)


def _load_verdict(path: object, *, key: str) -> Verdict:
    module, _, name = str(path).rpartition(".")
    try:
        verdict: Verdict = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{key}={path!r}: must be the path module.function of a function ({error})") from error
    return verdict
