"""Pure functions between the messages of the interface (JSON) and the arguments and results of selectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from insight_rl.selector.base import ReadsManyBeliefs, Selector
from insight_rl.selector_service import schema
from insight_rl.types import Counts, Histogram, Metrics, Table


def beliefs_of(selector: Selector, ids: Sequence[str]) -> list[tuple[float, float]]:
    if isinstance(selector, ReadsManyBeliefs):
        return selector.beliefs(ids)
    return [selector.belief(prompt_id) for prompt_id in ids]


def counts_of(observation: schema.Observation) -> Counts:
    return Counts(prompt_id=observation.id, num_judged=observation.num_judged, num_successes=observation.num_successes)


def reliability_curve(forecasts: Iterable[tuple[float, int, int]], num_bins: int = 10) -> list[schema.ReliabilityBin]:
    rows = np.array([row for row in forecasts if row[2] > 0], np.float64).reshape(-1, 3)
    bins = np.minimum((rows[:, 0] * num_bins).astype(int), num_bins - 1)
    curve = []
    for number in np.unique(bins).tolist():
        mean, successes, judged = rows[bins == number].T
        total = float(judged.sum())
        predicted, observed = float(mean @ judged) / total, float(successes.sum()) / total
        curve.append(schema.ReliabilityBin(predicted=predicted, observed=observed, num_rollouts=int(total)))
    return curve


def to_json(metrics: Metrics) -> schema.MetricValues:
    """Metrics as JSON can carry them: NaN and infinities become null."""

    def number(value: Any) -> Any:
        return None if isinstance(value, float) and not np.isfinite(value) else value

    answer: schema.MetricValues = {}
    for name, value in metrics.items():
        if isinstance(value, Histogram):
            answer[name] = {"counts": list(value.counts), "edges": [number(edge) for edge in value.edges]}
        elif isinstance(value, Table):
            rows = [[number(cell) for cell in row] for row in value.rows]
            answer[name] = {"columns": list(value.columns), "rows": rows}
        else:
            answer[name] = number(value)
    return answer


def state_digest(state: Mapping[str, Any]) -> str:
    """A hash of a ``state_dict``, the same before and after a round trip through a snapshot."""
    digest = hashlib.blake2b(digest_size=16)

    def walk(node: Any) -> None:
        if isinstance(node, Mapping):
            for key in sorted(node):
                digest.update(key.encode())
                walk(node[key])
        elif isinstance(node, np.ndarray):
            digest.update(f"{node.dtype}{node.shape}".encode() + node.tobytes())
        else:
            digest.update(json.dumps(node).encode())

    walk(state)
    return digest.hexdigest()
