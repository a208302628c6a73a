"""Selected prompts for frameworks that draw them one after another and bring groups back in any order, or never.

    queue = PromptQueue(selection, prompts_per_selection=64, patience=1024)
    rows = queue.draw(3)                        # rows of the data set to roll out
    queue.finish(rows[1], [True, False, None])  # in any order; beliefs learn of it before the next selection
    queue.give_up([rows[0]])                    # its rollouts were thrown away before they were judged

``prompts_per_selection`` prompts are selected together, when the queue is empty, after everything that has finished by
then was observed in the order of the draws. So a loop that draws so many, rolls them out and goes on decides as our own
trainer does with ``trainer.prompts_per_step`` prompts.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.errors import check
from insight_rl.integration.selection import Selection, read_state, write_state


class PromptQueue:
    """Draws, verdicts and what is under way between them. May be called from several threads."""

    def __init__(
        self,
        selection: Selection,
        *,
        prompts_per_selection: int | None,
        patience: int | None = None,
        key: str = "prompts_per_selection",
    ) -> None:
        """``prompts_per_selection``: ``None`` selects as many as each :meth:`draw` asks for. A row that is not back
        after ``patience`` further draws is given up (``None``: never). Errors name ``key``, the framework's setting.
        """
        self.selection = selection
        self._size = prompts_per_selection
        self._patience = patience
        self._key = key
        if prompts_per_selection is not None:
            self._check_size(prompts_per_selection)
        self._waiting: list[int] = []
        """Selected and not yet drawn, best first."""
        self._drawn: dict[int, int] = {}
        """Rows under way, in the order of the draws: the number of the draw."""
        self._finished: dict[int, Sequence[bool | None]] = {}
        """Verdicts that the selector has not yet been told; their rows are no longer under way."""
        self._late: dict[int, list[bool | None]] = {}
        """Verdicts that came when their row was given up already; observed with the others."""
        self._num_draws = 0
        self.num_given_up = 0
        self.num_late = 0
        self._lock = threading.RLock()

    @property
    def under_way(self) -> list[int]:
        """Rows drawn and neither finished nor given up, in the order of the draws."""
        return list(self._drawn)

    def is_under_way(self, row: int) -> bool:
        return row in self._drawn

    def draw(self, num_prompts: int = 1, *, prompts_per_selection: int | None = None) -> list[int]:
        """``num_prompts`` rows, never fewer: the oldest rows under way are given up where the pool has no others.

        ``prompts_per_selection`` replaces that of the constructor for this draw.
        """
        with self._lock:
            size = prompts_per_selection or self._size or 0
            if len(self._waiting) < num_prompts:
                self._select(max(size, num_prompts - len(self._waiting)))
            rows, self._waiting = self._waiting[:num_prompts], self._waiting[num_prompts:]
            for row in rows:
                self._num_draws += 1
                self._drawn[row] = self._num_draws
            return rows

    def finish(self, row: int, verdicts: Iterable[bool | None]) -> None:
        """Take the verdicts of a row's rollouts; ``None`` is not judged. If it was given up they count all the same."""
        with self._lock:
            if row in self._drawn:
                self._finished[row] = list(verdicts)
                del self._drawn[row]
            else:
                self._late.setdefault(row, []).extend(verdicts)
                self.num_late += 1

    def give_up(self, rows: Iterable[int]) -> None:
        """These rows come back no more: they may be selected again, and nothing is learnt of them."""
        with self._lock:
            for row in rows:
                if row in self._drawn:
                    self.finish(row, [])
                    self.num_given_up += 1

    def metrics(self) -> dict[str, float]:
        """The selector's metrics, and what is under way; keyed ``selector/name``."""
        with self._lock:
            return {
                **self.selection.metrics(),
                "selector/under_way": float(len(self._drawn)),
                "selector/given_up": float(self.num_given_up),
                "selector/late": float(self.num_late),
            }

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, as JSON-able values and NumPy arrays."""
        with self._lock:
            return {
                "selection": self.selection.state_dict(),
                "waiting": list(self._waiting),
                "drawn": list(self._drawn),
                "finished": [[row, list(verdicts)] for row, verdicts in self._finished.items()],
                "late": [[row, list(verdicts)] for row, verdicts in self._late.items()],
                "num_given_up": self.num_given_up,
                "num_late": self.num_late,
            }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`. Rows that were under way are drawn again, before all others: their rollouts
        went with the process that made them."""
        with self._lock:
            self.selection.load_state_dict(state["selection"])
            self._waiting = [*state["drawn"], *state["waiting"]]
            self._finished = {row: list(verdicts) for row, verdicts in state["finished"]}
            self._late = {row: list(verdicts) for row, verdicts in state["late"]}
            self.num_given_up, self.num_late = int(state["num_given_up"]), int(state["num_late"])
            self._drawn, self._num_draws = {}, 0

    def save(self, folder: str | Path) -> None:
        """Write :meth:`state_dict` into the folder of a checkpoint."""
        write_state(Path(folder), self.state_dict())

    def load(self, folder: str | Path, *, key: str = "checkpoint") -> None:
        """Go on from what :meth:`save` wrote. Raises ``UsageError`` naming ``key`` if the folder holds no such state,
        ``ValueError`` if it is that of another data set."""
        self.load_state_dict(read_state(Path(folder), key=key))

    def _select(self, num_prompts: int) -> None:
        if self._patience is not None:
            oldest = self._num_draws - self._patience
            self.give_up([row for row, number in self._drawn.items() if number <= oldest])
        num_free = len(self.selection) - len(self._drawn) - len(self._waiting)
        if num_free < num_prompts:
            self._check_size(num_prompts + len(self._waiting))
            self.give_up(list(self._drawn)[: num_prompts - num_free])
        self._observe()
        self._waiting += self.selection.select(num_prompts)

    def _observe(self) -> None:
        """Tell the selector of everything that has finished, in the order of the draws."""
        outstanding = self.selection.outstanding
        finished = {row: self._finished[row] for row in outstanding if row in self._finished}
        late = {row: verdicts for row, verdicts in self._late.items() if row not in set(outstanding)}
        if finished or late:
            self.selection.observe(finished, late=late)
        self._finished = {}
        self._late = {row: verdicts for row, verdicts in self._late.items() if row not in late}

    def _check_size(self, size: int) -> None:
        check(
            1 <= size <= len(self.selection),
            self._key,
            size,
            f"must be at least 1 and at most the number of different prompts, {len(self.selection)}",
        )
