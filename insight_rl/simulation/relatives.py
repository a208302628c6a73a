"""Which texts are alike: a vector for each, and clusters of neighbours.

    vector     counts of runs of four bytes, hashed to 2^15 places; 1 + ln(count), times ln((1 + N) / (1 + texts that
               have it)), scaled to length 1; projected on the 32 leading singular vectors; scaled to length 1 again
    clusters   k-means (Lloyd's algorithm, ten rounds, from random texts)

Runs of bytes and not words, so that the clusters of a simulation do not rest on the very features that a selector's
prior sees (:mod:`insight_rl.selector.features` has words): a feature prior would look better than it is. Both are made
of the same text all the same, so some of that advantage is left.

The singular vectors come from subspace iteration: Halko, Martinsson and Tropp, arXiv 0909.4061, algorithm 4.4.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy import sparse
from scipy.cluster.vq import kmeans2

Floats = npt.NDArray[np.float64]

_RUN = 4
_PLACES_LOG2 = 15
_MAX_BYTES = 4000
"""Of one text; what comes later hardly says more about its subject."""
_NUM_DIMENSIONS = 32
_NUM_ROUNDS = 10


def text_vectors(texts: Sequence[str]) -> Floats:
    """A vector of length 1 for each text, float64 ``(N, 32)`` (fewer columns for fewer texts); no chance in it."""
    counts = _run_counts(texts)
    counts.data = 1.0 + np.log(counts.data)
    num_texts_with = np.bincount(counts.indices, minlength=counts.shape[1])
    counts.data *= np.log((1 + len(texts)) / (1 + num_texts_with))[counts.indices].astype(np.float32)
    weighted = _scaled_rows(counts)
    num_dimensions = min(_NUM_DIMENSIONS, len(texts))
    start = np.random.default_rng(0).standard_normal((weighted.shape[1], min(num_dimensions + 10, len(texts))))
    basis = weighted @ start.astype(np.float32)
    for _ in range(3):
        basis = weighted @ (weighted.T @ np.linalg.qr(basis)[0])
    basis = np.linalg.qr(basis)[0]
    small = (weighted.T @ basis).T
    rotation, squares, _ = np.linalg.svd(small @ small.T)
    vectors = (basis @ rotation)[:, :num_dimensions] * np.sqrt(squares[:num_dimensions])
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = (vectors / np.maximum(lengths, 1e-9)).astype(np.float64)
    return scaled


def clusters(vectors: Floats, num_clusters: int, seed: int) -> npt.NDArray[np.int64]:
    """The cluster of each vector, int64 [N], in ``[0, num_clusters)``; some clusters may be empty."""
    if num_clusters <= 1:
        return np.zeros(len(vectors), np.int64)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "One of the clusters is empty")  # it stays empty
        _, labels = kmeans2(vectors, num_clusters, iter=_NUM_ROUNDS, minit="points", seed=seed)
    return labels.astype(np.int64)


def _run_counts(texts: Sequence[str]) -> sparse.csr_matrix:
    """How often each hashed run of four bytes occurs in each text: float32 ``(N, 2^15)``."""
    pieces = [f" {text.lower()} ".encode("utf-8", "replace")[:_MAX_BYTES] for text in texts]
    rows = np.repeat(np.arange(len(texts)), [len(piece) for piece in pieces])
    stream = np.frombuffer(b"".join(pieces), np.uint8).astype(np.uint32)
    num_runs = max(len(stream) - _RUN + 1, 0)
    codes = np.zeros(num_runs, np.uint32)
    for offset in range(_RUN):
        codes = codes * np.uint32(257) + stream[offset : num_runs + offset]
    places = (codes * np.uint32(2654435761)) >> np.uint32(32 - _PLACES_LOG2)  # Knuth's multiplicative hashing
    within = rows[:num_runs] == rows[len(stream) - num_runs :]  # not from one text into the next
    entries = np.ones(int(within.sum()), np.float32), (rows[:num_runs][within], places[within].astype(np.int32))
    counts = sparse.coo_matrix(entries, shape=(len(texts), 2**_PLACES_LOG2)).tocsr()
    counts.sum_duplicates()
    return counts


def _scaled_rows(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    lengths = np.sqrt(np.asarray(matrix.multiply(matrix).sum(axis=1)).ravel())
    return sparse.diags((1.0 / np.maximum(lengths, 1e-9)).astype(np.float32)).tocsr() @ matrix
