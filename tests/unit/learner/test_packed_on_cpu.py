"""Batches of parts against attention written out part by part; who shares a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from insight_rl.learner.packed_on_cpu import _alike, attend_in_batches


def written_out(query_T, key_T, value_T, query_lengths, key_lengths, scale):
    outputs = []
    parts = zip(query_T.split(query_lengths), key_T.split(key_lengths), value_T.split(key_lengths), strict=True)
    for query, key, value in parts:
        group = query.shape[1] // key.shape[1]
        scores = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(group, 1)) * scale
        is_seen = torch.ones(len(query), len(key), dtype=torch.bool).tril(len(key) - len(query))
        weights = scores.masked_fill(~is_seen, float("-inf")).softmax(-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, value.repeat_interleave(group, 1)))
    return torch.cat(outputs)


@pytest.mark.parametrize("seed", range(4))
def test_batches_compute_what_parts_say(seed):
    rng = np.random.default_rng(seed)
    query_lengths = tuple(rng.integers(1, 20, size=9).tolist())
    key_lengths = tuple(n + (int(rng.integers(1, 9)) if i % 3 else 0) for i, n in enumerate(query_lengths))
    generator = torch.Generator().manual_seed(seed)
    shapes = ((sum(query_lengths), 4, 8), (sum(key_lengths), 2, 8), (sum(key_lengths), 2, 8))
    inputs = [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]
    found = attend_in_batches(*inputs, query_lengths, key_lengths, 0.3)
    expected = written_out(*inputs, query_lengths, key_lengths, 0.3)
    assert torch.allclose(found, expected, atol=1e-6)
    slopes = torch.randn(expected.shape, generator=generator)
    ours, theirs = (torch.autograd.grad((each * slopes).sum(), inputs) for each in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_every_part_is_in_one_batch_with_others_like_it():
    queries = np.array([5, 60, 6, 7, 58, 5])
    keys = queries + np.array([0, 0, 3, 3, 0, 0])
    groups = [group.tolist() for group in _alike(queries, keys)]
    assert groups == [[1, 4], [0, 5], [3, 2]]
