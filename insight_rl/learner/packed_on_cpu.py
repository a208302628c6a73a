"""Attention over rows that stand end to end, on a CPU: parts of like length are computed together.

A CPU has no kernel for packed rows. One call for each part is slow where there are many short ones, and one call under
a mask over the whole line computes mostly what the mask hides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional

# Of a batch's largest part, in pairs of tokens; a smaller one would be mostly padding.
_SMALLEST_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    """C parts, padded on the right to Q queries and K keys."""

    queries: torch.Tensor
    """int64 (C * Q,): tokens of the line; padding repeats the first."""
    keys: torch.Tensor
    """int64 (C * K,)."""
    is_seen: torch.Tensor | None
    """bool (C, 1, Q, K); ``None``: plain causal attention, which never sees padding on the right."""
    num_parts: int


def attend_in_batches(
    query_T: torch.Tensor,
    key_T: torch.Tensor,
    value_T: torch.Tensor,
    query_lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    scale: float,
) -> torch.Tensor:
    """Causal attention of each part, aligned at its last key: (T, heads, size), as the queries are.

    Keys and values stand part after part, as many as ``key_lengths`` says; they may have fewer heads.
    """
    batches, places_T = _batches(query_lengths, key_lengths)
    outputs = []
    for batch in batches:
        query, key, value = (
            tensor.index_select(0, index).unflatten(0, (batch.num_parts, -1)).transpose(1, 2)
            for tensor, index in ((query_T, batch.queries), (key_T, batch.keys), (value_T, batch.keys))
        )
        output = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=batch.is_seen,
            is_causal=batch.is_seen is None,
            scale=scale,
            enable_gqa=query.shape[1] != key.shape[1],
        )
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, places_T)


@lru_cache(maxsize=4)
def _batches(query_lengths: tuple[int, ...], key_lengths: tuple[int, ...]) -> tuple[tuple[_Batch, ...], torch.Tensor]:
    """The batches, and where each token of the line stands in their outputs. Every layer asks for the same."""
    queries, keys = np.array(query_lengths), np.array(key_lengths)
    first_query, first_key = np.cumsum(queries) - queries, np.cumsum(keys) - keys
    batches: list[_Batch] = []
    places_T = np.empty(queries.sum(), dtype=np.int64)
    num_done = 0
    for members in _alike(queries, keys):
        width, depth = queries[members].max(), keys[members].max()
        at_query, at_key = np.arange(width), np.arange(depth)
        is_query = at_query < queries[members, None]
        places = num_done + np.arange(is_query.size).reshape(is_query.shape)
        tokens = np.where(is_query, first_query[members, None] + at_query, 0)
        places_T[tokens[is_query]] = places[is_query]
        before = keys[members] - queries[members]
        seen = at_key <= before[:, None, None] + at_query[:, None] if before.any() else None
        batches.append(
            _Batch(
                queries=torch.from_numpy(tokens.reshape(-1)),
                keys=torch.from_numpy(
                    np.where(at_key < keys[members, None], first_key[members, None] + at_key, 0).reshape(-1)
                ),
                is_seen=None if seen is None else torch.from_numpy(seen[:, None]),
                num_parts=len(members),
            )
        )
        num_done += is_query.size
    return tuple(batches), torch.from_numpy(places_T)


def _alike(queries: np.ndarray, keys: np.ndarray) -> list[np.ndarray]:
    """Numbers of the parts of each batch: with keys before their own or without, the largest first."""
    groups: list[Sequence[int]] = []
    for has_prompt in (False, True):
        members = np.flatnonzero((keys != queries) == has_prompt)
        members = members[np.argsort(-(queries[members] * keys[members]), kind="stable")]
        begun: list[int] = []
        for part in members.tolist():
            if begun and queries[part] * keys[part] < _SMALLEST_SHARE * queries[begun[0]] * keys[begun[0]]:
                groups.append(begun)
                begun = []
            begun.append(part)
        if begun:
            groups.append(begun)
    return [np.array(group) for group in groups]
