from __future__ import annotations

import numpy as np

from insight_rl.simulation.relatives import clusters, text_vectors

SUMS = [f"What is the sum of {a} and {b}?" for a in range(1, 7) for b in range(1, 7)]
TRIANGLES = [f"In the triangle ABC with side {a}, find the angle at {v}." for a in range(1, 13) for v in "ABC"]


def test_texts_of_one_kind_are_neighbours():
    vectors = text_vectors([*SUMS, *TRIANGLES])
    alike = vectors @ vectors.T
    assert alike[:36, :36].mean() > alike[:36, 36:].mean() + 0.3
    assert alike[36:, 36:].mean() > alike[:36, 36:].mean() + 0.3


def test_clusters_separate_the_kinds_and_follow_the_seed():
    vectors = text_vectors([*SUMS, *TRIANGLES])
    labels = clusters(vectors, 2, seed=1)
    assert sorted(np.unique(labels[:36]).tolist() + np.unique(labels[36:]).tolist()) == [0, 1]
    assert np.array_equal(labels, clusters(vectors, 2, seed=1))
    assert not clusters(vectors, 1, seed=0).any()


def test_vectors_depend_on_the_texts_only():
    texts = [*SUMS, *TRIANGLES]
    assert np.array_equal(text_vectors(texts), text_vectors(texts))
    assert np.allclose(np.linalg.norm(text_vectors(texts), axis=1), 1.0)


def test_any_text_has_a_vector():
    texts = ["", "a", "ab", "\ud800", "$\\frac{1}{2}$", "長い問題", "x" * 100_000]
    vectors = text_vectors(texts)
    assert vectors.shape == (7, 7)
    assert np.isfinite(vectors).all()
