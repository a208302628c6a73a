"""Nested mappings, as configurations are: read by dotted keys, flattened to them, and merged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted key: ``{"a": {"b": 1}, "c": {}}`` gives ``{"a.b": 1, "c": {}}``."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def value_at(node: object, key: str) -> Any:
    """The value at a dotted key: 1 for ``"a.b"`` in ``{"a": {"b": 1}}``; ``None`` where there is none."""
    for name in key.split("."):
        node = node.get(name) if isinstance(node, Mapping) else None
    return node


def merged(node: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """``node`` with ``changes`` over it, mapping by mapping; neither is altered."""
    result = dict(node)
    for key, value in changes.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result
