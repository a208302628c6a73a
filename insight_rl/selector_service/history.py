"""What the page shows of a run's past: its steps, across the runs it was forked from, and its latest selection."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from insight_rl.selector.base import Selector
from insight_rl.selector_service import schema
from insight_rl.selector_service.store import Store
from insight_rl.selector_service.translation import beliefs_of

MAX_PICKS = 50
MAX_STRETCHES = 300
"""Points of the page's curve: longer runs are shown as means of as many stretches of steps."""


class RunHistory:
    """What was observed in each step of one run. Not thread-safe: the run's lock is held."""

    def __init__(self, store: Store, run_id: int) -> None:
        self._store = store
        self._run_id = run_id
        self._lineage: list[tuple[int, int | None]] | None = None
        self._read_to: dict[int, int] = {}
        self._steps: dict[int, tuple[int, int, int, int]] = {}
        """By step: groups, informative groups, judged rollouts, successes."""

    def num_steps(self) -> int:
        self._catch_up()
        return len(self._steps)

    def stretches(self) -> list[schema.StepSummary]:
        self._catch_up()
        steps = sorted(self._steps)
        parts = np.array_split(np.array(steps, np.int64), min(len(steps), MAX_STRETCHES)) if steps else []
        summaries = []
        for part in parts:
            groups, informative, judged, successes = np.sum([self._steps[step] for step in part.tolist()], axis=0)
            summaries.append(
                schema.StepSummary(
                    step=int(part[-1]),
                    num_groups=int(groups),
                    informative_fraction=float(informative / groups) if groups else None,
                    success_rate=float(successes / judged) if judged else None,
                )
            )
        return summaries

    def accuracies(self) -> list[schema.AccuracyPoint]:
        """As reported to this run, or to those it was forked from."""
        points: dict[int, float] = {}
        for run_id, last in self._runs():
            rows = self._store.read(
                "SELECT step, accuracy FROM accuracies WHERE run_id = ?1 AND (?2 IS NULL OR step <= (SELECT max(step) "
                "FROM operations WHERE run_id = ?1 AND kind = 'observe' AND version <= ?2))",
                *(run_id, last),
            )
            points |= dict(rows)
        return [schema.AccuracyPoint(step=step, accuracy=points[step]) for step in sorted(points)]

    def _runs(self) -> list[tuple[int, int | None]]:
        """This run and those it was forked from, the oldest first, each with the last version that counts here."""
        if self._lineage is None:
            lineage: list[tuple[int, int | None]] = [(self._run_id, None)]
            rows = self._store.read("SELECT forked_from FROM runs WHERE id = ?", self._run_id)
            while rows and rows[0][0] is not None:
                parent, _, version = rows[0][0].rpartition("@")
                rows = self._store.read("SELECT forked_from, id FROM runs WHERE run = ?", parent)
                if not rows or any(rows[0][1] == run_id for run_id, _ in lineage):
                    break  # deleted since, perhaps with another of that name in its place
                lineage.insert(0, (rows[0][1], int(version)))
            self._lineage = lineage
        return self._lineage

    def _catch_up(self) -> None:
        for run_id, last in self._runs():
            start = self._read_to.get(run_id, 0)
            rows = self._store.read(
                "SELECT version, step, request FROM operations WHERE run_id = ? AND kind = 'observe' AND version > ? "
                "AND version <= ? ORDER BY version",
                *(run_id, start, 2**62 if last is None else last),
            )
            for version, step, request in rows:
                seen = json.loads(request)["observations"]
                counts = [(each["num_successes"], each["num_judged"]) for each in seen]
                self._steps[step] = (
                    len(counts),
                    sum(0 < right < judged for right, judged in counts),
                    sum(judged for _, judged in counts),
                    sum(right for right, _ in counts),
                )
                self._read_to[run_id] = version


def latest_picks(
    store: Store, run_id: int, selector: Selector, beliefs_then: Mapping[str, list[float]]
) -> tuple[int | None, list[schema.Pick]]:
    """Step and picks of the latest selection, with what came of them so far."""
    rows = store.read(
        "SELECT step, version, result FROM operations WHERE run_id = ? AND kind = 'select' "
        "ORDER BY version DESC LIMIT 1",
        run_id,
    )
    if not rows:
        return None, []
    step, version, result = rows[0]
    latest = json.loads(result)
    ids = latest["ids"][:MAX_PICKS]
    observed = store.read(
        "SELECT request FROM operations WHERE run_id = ? AND kind = 'observe' AND version > ? LIMIT 1",
        *(run_id, version),
    )
    outcomes = {each["id"]: each for each in json.loads(observed[0][0])["observations"]} if observed else {}
    return step, [
        schema.Pick(
            id=prompt_id,
            score=score,
            belief=beliefs_then.get(prompt_id),
            num_successes=outcomes.get(prompt_id, {}).get("num_successes"),
            num_judged=outcomes.get(prompt_id, {}).get("num_judged"),
            belief_now=list(belief_now),
        )
        for prompt_id, score, belief_now in zip(ids, latest["scores"], beliefs_of(selector, ids), strict=False)
    ]
