"""Kernels that need a GPU, by a plain computation of the same."""

from __future__ import annotations

import pytest
import torch


def attend(query, key, value, is_seen, scale):
    """Attention written out: (1, heads, T, size), fewer heads of keys, ``is_seen`` (T, keys)."""
    repeats = query.shape[1] // key.shape[1]
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))
    scores = (query @ key.transpose(-1, -2) * scale).masked_fill(~is_seen, -torch.inf)
    return scores.softmax(-1) @ value


@pytest.fixture
def flex_by_dense_mask(monkeypatch):
    """FlexAttention has no backward pass on a CPU: its block mask as a dense one."""
    from transformers.integrations import flex_attention

    def compute(query, key, value, *, score_mod, block_mask, enable_gqa, scale, **_):
        size = torch.arange(query.shape[2])
        is_seen = block_mask.mask_mod(0, 0, size[:, None], size[None])
        assert enable_gqa or query.shape[1] == key.shape[1]
        return attend(query, key, value, is_seen, scale)

    monkeypatch.setattr(flex_attention, "compile_friendly_flex_attention", compute)
