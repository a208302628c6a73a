"""Checks a ``_target_`` node of the configuration against the class it names, before anything is constructed.

Only names and types of arguments are compared with the signature; the constructor itself checks the values.
"""

from __future__ import annotations

import difflib
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from insight_rl.allowed_code import check_targets, import_target
from insight_rl.errors import UsageError, check

_TYPE_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def check_part(key: str, node: Any) -> None:
    """Check the node at ``key``: a mapping with ``_target_`` and keyword arguments.

    Raises ``UsageError`` for a target that cannot be imported, an argument it does not take, one it lacks, or a value
    of another type than it annotates.
    """
    check(isinstance(node, dict) and "_target_" in node, key, node, "must be a mapping with a _target_ class")
    check_targets(key, node)
    target = import_target(key, node["_target_"])
    parameters = inspect.signature(target).parameters
    hints = typing.get_type_hints(target.__init__ if inspect.isclass(target) else target)
    given = {name: value for name, value in node.items() if not name.startswith("_")}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, value in given.items():
        if name not in parameters and not takes_any:
            close = difflib.get_close_matches(name, parameters, n=2)
            hint = f"did you mean {' or '.join(close)}?" if close else f"it takes {', '.join(parameters) or 'nothing'}"
            raise UsageError(f"{key}.{name}={value!r}: {node['_target_']} takes no such argument; {hint}")
        if name in hints:
            _check_type(f"{key}.{name}", value, hints[name])
        _check_nested(f"{key}.{name}", value)
    for name, parameter in parameters.items():
        is_named = parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        if is_named and parameter.default is parameter.empty and name not in given and not node.get("_partial_"):
            raise UsageError(f"{key}.{name} has no value, and {node['_target_']} needs one: give {key}.{name}=...")


def _check_nested(key: str, value: Any) -> None:
    """Parts within a part's argument: itself, or in lists and mappings of them."""
    if isinstance(value, dict) and "_target_" in value:
        check_part(key, value)
    elif isinstance(value, dict):
        for name, item in value.items():
            _check_nested(f"{key}.{name}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _check_nested(f"{key}[{index}]", item)


def _check_type(key: str, value: Any, hint: Any) -> None:
    """Scalars and unions of them; anything richer is the constructor's business."""
    origin = typing.get_origin(hint)
    options = typing.get_args(hint) if origin in (typing.Union, types.UnionType) else (hint,)
    if not all(option in _TYPE_WORDS or option is type(None) or _is_container(option) for option in options):
        return
    if any(_fits(value, option) for option in options):
        return
    names = [_TYPE_WORDS.get(option, "null" if option is type(None) else "a list or mapping") for option in options]
    raise UsageError(f"{key}={value!r}: must be {' or '.join(names)}")


def _fits(value: Any, option: Any) -> bool:
    if option is type(None):
        return value is None
    if option is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if option is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if option in (bool, str):
        return isinstance(value, option)
    return isinstance(value, (list, tuple, dict))


def _is_container(option: Any) -> bool:
    origin = typing.get_origin(option) or option
    return origin in (list, tuple, dict, Sequence, Mapping)
