"""``evaluations.jsonl``: the successes of every held-out problem, one line an evaluation.

    {"step": 25, "samples": 4, "successes": {"9f3c...": 4, "01ab...": 2}}

The evaluation before training is the same for all runs that start from the same weights and evaluate on the same
problems with the same sampling seed. Runs of a comparison share it through a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from insight_rl.evaluation import Evaluation
from insight_rl.files import write_atomically
from insight_rl.monitor.records import drop_records_from, to_lines

EVALUATIONS_FILE = "evaluations.jsonl"


class EvaluationLog:
    """See :class:`~insight_rl.evaluation.EvaluationStore`."""

    def __init__(self, path: Path, *, first_step: int, start: Path | None = None) -> None:
        """Drops the records of ``first_step`` and later, which a killed run left behind. ``start``: the shared file."""
        drop_records_from(path, step=first_step)
        self._path, self._start = path, start

    def log(self, step: int, evaluation: Evaluation) -> None:
        drop_records_from(self._path, step=step)
        record = {"step": step, "samples": evaluation.samples, "successes": evaluation.successes}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_lines([record]))
        if step == 0 and self._start is not None and not self._start.exists():
            content = {"samples": evaluation.samples, "successes": evaluation.successes, "metrics": evaluation.metrics}
            self._start.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._start, json.dumps(content))

    def known(self, step: int) -> Evaluation | None:
        if step != 0 or self._start is None or not self._start.is_file():
            return None
        content = json.loads(self._start.read_text(encoding="utf-8"))
        return Evaluation(metrics=content["metrics"], samples=content["samples"], successes=content["successes"])


def start_file(folder: Path, identity: Mapping[str, Any]) -> Path:
    """Where in ``folder`` the evaluation before training lies; ``identity`` is all that it depends on."""
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return folder / f"{digest}.json"
