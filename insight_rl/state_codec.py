"""A ``state_dict`` to bytes and back: nested mappings of JSON-able values and NumPy arrays, without pickle.

Two containers of one encoding: a folder of two files (checkpoints) and one blob (the selector service).
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_ARRAY_KEY = "__array__"
_JSON_ENTRY = "json"
"""Where the blob holds what is not an array; arrays are called ``array_0``, ``array_1``, ..."""


def save_state(folder: Path, state: Mapping[str, Any]) -> None:
    """Write ``state.json`` and ``arrays.npz``; neither is durable before the caller has seen to it."""
    for name, content in state_files(state).items():
        (folder / name).write_bytes(content)


def state_files(state: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of :func:`save_state` by name: a copy, which what becomes of ``state`` later does not change."""
    tree, arrays = _split(state)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return {"state.json": json.dumps(tree).encode(), "arrays.npz": buffer.getvalue()}


def load_state(folder: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote; tuples come back as lists."""
    tree = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        return _join(tree, arrays)


def encode_state(state: Mapping[str, Any]) -> bytes:
    tree, arrays = _split(state)
    buffer = io.BytesIO()
    text = np.frombuffer(json.dumps(tree).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, **arrays, **{_JSON_ENTRY: text})
    return buffer.getvalue()


def decode_state(blob: bytes) -> dict[str, Any]:
    """What :func:`encode_state` encoded; tuples come back as lists."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as arrays:
        return _join(json.loads(arrays[_JSON_ENTRY].tobytes()), arrays)


def _split(state: Mapping[str, Any]) -> tuple[Any, dict[str, np.ndarray]]:
    """``state`` with a reference in place of each array, and the arrays by name."""
    arrays: dict[str, np.ndarray] = {}

    def without_arrays(node: Any) -> Any:
        if isinstance(node, np.ndarray):
            name = f"array_{len(arrays)}"
            arrays[name] = node
            return {_ARRAY_KEY: name}
        if isinstance(node, Mapping):
            return {key: without_arrays(value) for key, value in node.items()}
        return node

    return without_arrays(state), arrays


def _join(tree: Any, arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    def with_arrays(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if node.keys() == {_ARRAY_KEY}:
            return arrays[node[_ARRAY_KEY]]
        return {key: with_arrays(value) for key, value in node.items()}

    return dict(with_arrays(tree))
