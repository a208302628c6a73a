"""What a selector reports of itself: pool statistics and the calibration of its beliefs. Never changes a belief."""

from __future__ import annotations

import numpy as np

from insight_rl.selector.belief import predictive_mass
from insight_rl.selector.pool import BeliefPool
from insight_rl.types import Histogram, Metrics

BELIEF_EDGES = np.linspace(0.0, 1.0, 21)
EVIDENCE_EDGES = np.concatenate([[0.0], 2.0 ** np.arange(21)])
"""The last bin also holds everything beyond."""


def pool_metrics(pool: BeliefPool) -> Metrics:
    """Statistics over all N prompts, in time proportional to the number of visited ones."""
    alpha, beta = pool.beliefs(pool.visited)
    evidence = alpha + beta
    mean = alpha / evidence
    prior_alpha, prior_beta, num_unseen = pool.unseen_priors()
    prior_evidence = prior_alpha + prior_beta
    prior_mean = prior_alpha / prior_evidence
    return {
        "selector/mean_belief": float((mean.sum() + num_unseen @ prior_mean) / len(pool)),
        "selector/mean_evidence": float((evidence.sum() + num_unseen @ prior_evidence) / len(pool)),
        "selector/visited_fraction": len(pool.visited) / len(pool),
        "selector/visits_gini": gini(pool.visits, int(num_unseen.sum())),
        "selector/belief_histogram": _histogram(mean, BELIEF_EDGES, prior_mean, num_unseen),
        "selector/evidence_histogram": _histogram(evidence, EVIDENCE_EDGES, prior_evidence, num_unseen),
        **pool.prior.metrics(),
        **pool.drift.metrics(),
    }


def step_metrics(
    alpha: np.ndarray,
    beta: np.ndarray,
    successes: np.ndarray,
    judged: np.ndarray,
    ages: np.ndarray,
    is_informative: np.ndarray | None = None,
) -> dict[str, float]:
    """How well the beliefs *before* an update predicted what was observed, over the P groups of a step.

    ``ages`` are -1 for prompts seen for the first time. ``is_informative`` says which groups hold both verdicts, where
    ``successes`` are sums of grades and do not tell. A figure that the step says nothing about is left out.
    """
    if not len(judged):
        return {}
    if is_informative is None:
        is_informative = (successes > 0) & (successes < judged)
    metrics = {"selector/informative_fraction": float(np.mean(is_informative))}
    if (ages >= 0).any():
        metrics["selector/belief_age"] = float(ages[ages >= 0].mean())
    has_verdict = judged > 0
    if not has_verdict.any():
        return metrics
    alpha, beta, successes, judged = alpha[has_verdict], beta[has_verdict], successes[has_verdict], judged[has_verdict]
    mean = alpha / (alpha + beta)
    squared_errors = successes * (1.0 - mean) ** 2 + (judged - successes) * mean**2
    metrics["selector/brier"] = float(squared_errors.sum() / judged.sum())
    metrics["selector/coverage"] = float(covered(alpha, beta, successes, judged).mean())
    metrics |= _reliability(mean, successes, judged)
    rank_correlation = spearman(mean, successes / judged)
    if rank_correlation is not None:
        metrics["selector/spearman"] = rank_correlation
    return metrics


def _reliability(mean: np.ndarray, successes: np.ndarray, judged: np.ndarray) -> dict[str, float]:
    """Observed success rate by decile of the forecast, over the rollouts; empty deciles are left out."""
    bins = np.minimum((10.0 * mean).astype(np.int64), 9)
    right, all_judged = np.bincount(bins, successes, 10), np.bincount(bins, judged, 10)
    return {f"selector/reliability_{i}": float(right[i] / all_judged[i]) for i in np.flatnonzero(all_judged)}


def covered(
    alpha: np.ndarray, beta: np.ndarray, successes: np.ndarray, judged: np.ndarray, level: float = 0.9
) -> np.ndarray:
    """Whether each S lies in the central predictive interval of its belief (at least ``level``: S is discrete)."""
    result = np.zeros(len(judged), bool)
    tail = (1.0 - level) / 2.0
    for num_rollouts in np.unique(judged):
        rows = np.flatnonzero(judged == num_rollouts)
        mass = predictive_mass(alpha[rows], beta[rows], int(num_rollouts))
        seen = np.arange(len(rows)), np.rint(successes[rows]).astype(np.int64)
        at_most = np.cumsum(mass, axis=1)[seen]
        at_least = np.cumsum(mass[:, ::-1], axis=1)[:, ::-1][seen]
        result[rows] = (at_most >= tail) & (at_least >= tail)
    return result


def spearman(x: np.ndarray, y: np.ndarray) -> float | None:
    """Rank correlation with average ranks for ties; ``None`` where either side does not vary."""
    ranks = [_average_ranks(values) for values in (x, y)]
    deviations = [values - values.mean() for values in ranks]
    scale = float(np.sqrt((deviations[0] ** 2).sum() * (deviations[1] ** 2).sum()))
    return float((deviations[0] * deviations[1]).sum()) / scale if scale > 0.0 else None


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2.0)[inverse]


def gini(visits: np.ndarray, num_unseen: int) -> float:
    """Gini coefficient of the visits over the pool: 0 all prompts alike, near 1 a few take all. 0 before any visit."""
    total = float(visits.sum())
    if total == 0.0:
        return 0.0
    size = len(visits) + num_unseen
    positions = np.arange(num_unseen + 1, size + 1)
    return float((2 * positions - size - 1) @ np.sort(visits) / (size * total))


def _histogram(values: np.ndarray, edges: np.ndarray, prior_values: np.ndarray, num_unseen: np.ndarray) -> Histogram:
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    counts += np.histogram(np.clip(prior_values, edges[0], edges[-1]), edges, weights=num_unseen)[0].astype(np.int64)
    return Histogram(counts=tuple(counts.tolist()), edges=tuple(edges.tolist()))
