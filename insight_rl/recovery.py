"""What a run does so that little is lost: starts its ranks again, and keeps the last step that was done.

Ranks keep a share of one state each, so the loss of one is the loss of all. Then the whole run goes back to its newest
checkpoint (or to its start, if it has none): weights, beliefs, counters and generators together, so that its further
decisions are those of a run in which nothing happened. Rollout workers go on running and get the older weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from insight_rl.errors import Interrupted, RanksLost, RunStopped
from insight_rl.memory import peak_memory
from insight_rl.runtime.settings import MAX_RESTARTS_KEY
from insight_rl.stop_signals import StopRequest
from insight_rl.types import Metrics

if TYPE_CHECKING:
    from insight_rl.trainer import Progress, Trainer

T = TypeVar("T")

_LEARNER_IS_IDLE = ("select", "rollout", "reward", "wait")
"""Phases in which the learner's state is that of the last step that was done."""


class Restarts:
    """Counts the restarts of this process's ranks, of which ``max_restarts`` are allowed; ``say`` tells of each.

    Example::

        restarts = Restarts(1, say=print)
        restarts.count(lost)     # says so
        restarts.count(lost)     # raises RunStopped: once more than allowed
    """

    def __init__(self, max_restarts: int, say: Callable[[str], None]) -> None:
        self._max_restarts = max_restarts
        self._say = say
        self._number = 0

    def count(self, error: RanksLost, *, step: int) -> None:
        """Take note that the ranks were lost, after ``step`` was done.

        Raises ``RunStopped`` if that was once too often; where no restart is allowed, it is ``error`` itself.
        """
        if self._number >= self._max_restarts:
            if self._max_restarts == 0:
                raise error
            times = "once" if self._number == 1 else f"{self._number} times"
            raise RunStopped(
                f"the learner's ranks were lost and started again {times}, and now they are lost once more; if that is "
                f"the machine's fault and not the run's, raise {MAX_RESTARTS_KEY}={self._max_restarts}; the last loss: "
                f"{error}"
            ) from error
        self._number += 1
        self._say(
            f"after step {step}: {error.reason}; all ranks are started again from the newest checkpoint (restart "
            f"{self._number} of at most {self._max_restarts})"
        )

    def metrics(self) -> Metrics:
        return {"runtime/num_restarts": self._number}


class LastStep:
    """A monitor that keeps what the selector knew after each step, for a run that has to give up its next one.

    Weights need no copy: they are those of the last step until the learner begins with the next.
    """

    def __init__(self, trainer: Trainer, *, settle: Callable[[], None]) -> None:
        """``settle`` waits for a checkpoint that is being written, for a bounded time."""
        self._trainer = trainer
        self._settle = settle
        self._progress: Progress | None = None
        self._selector: dict[str, Any] = {}

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        """Nothing is written."""

    def log(self, metrics: Metrics, *, step: int) -> None:
        self.keep()

    def notice(self, text: str) -> None: ...

    def close(self, summary: object | None = None) -> None: ...

    def keep(self) -> None:
        """Keep the present state; also to be called where a run goes on from a checkpoint."""
        self._progress = dataclasses.replace(self._trainer.progress)
        if not self._trainer.saves_rollouts:
            self._selector = self._trainer.selector.state_dict()

    def give_up_next(self, newest_checkpoint: str | None) -> str:
        """Write a checkpoint of the last step that was done, unless it is the newest one; returns a sentence.

        Where the learner was at work when its step was given up, its state is not that of any step: then the newest
        checkpoint stays what the run goes on from.
        """
        trainer, kept = self._trainer, self._progress
        start = "the grace time is over, so this step is given up"
        rest = f"the same command goes on from {newest_checkpoint or 'its start, as it has no checkpoint yet'}"
        if kept is None or trainer.clock.running not in _LEARNER_IS_IDLE or not trainer.progress.step == kept.step > 0:
            return f"{start}; {rest}"
        try:
            if kept.step > int((newest_checkpoint or "_0").rpartition("_")[2]):
                if not trainer.saves_rollouts:
                    trainer.selector.load_state_dict(self._selector)
                trainer.save_checkpoint(kept, {})
                self._settle()
        except (RunStopped, OSError) as error:  # what the run was asked for is to end
            return f"{start}; the step before it has no checkpoint ({error}), so {rest}"
        return f"{start}; the same command goes on after step {kept.step}"


class Recovery:
    """Carries a run to its end, whatever is lost on the way.

    ``go_back`` starts the learner again and takes the run back to its newest checkpoint, or to its start. ``settle``
    waits for a checkpoint that is being written, for a bounded time.
    """

    def __init__(
        self,
        trainer: Trainer,
        *,
        max_restarts: int,
        go_back: Callable[[], None],
        newest_checkpoint: Callable[[], str | None],
        settle: Callable[[], None],
        say: Callable[[str], None],
    ) -> None:
        self._trainer = trainer
        self._restarts = Restarts(max_restarts, say)
        self._last_step = LastStep(trainer, settle=settle)
        self._go_back, self._newest_checkpoint, self._settle, self._say = go_back, newest_checkpoint, settle, say
        trainer.process_metrics = lambda: peak_memory() | self._restarts.metrics()

    def run(self, work: Callable[[], T], stop: StopRequest, *, grace_s: float | None) -> T:
        """``work`` trains and finishes; from now on a stop signal lets it end its step first.

        Raises ``RunStopped`` once the ranks are lost too often, and ``Interrupted`` at the end of the grace time, after
        a checkpoint was written if it could be.
        """
        if grace_s is not None:
            self._trainer.monitors = [*self._trainer.monitors, self._last_step]
        stop.finish_first(
            self._trainer.request_stop,
            self._say,
            grace_s=grace_s,
            # It is the last that the run would do.
            may_give_up=lambda: self._trainer.clock.running != "checkpoint",
        )
        is_lost = False
        while True:
            try:
                if is_lost:
                    self._go_back()
                if grace_s is not None:
                    self._last_step.keep()
                return work()
            except RanksLost as error:
                self._restarts.count(error, step=self._trainer.progress.step)
                is_lost = True
            except Interrupted:
                if stop.is_grace_over:
                    self._settle_and_tell()
                    self._say(self._last_step.give_up_next(self._newest_checkpoint()))
                raise

    def _settle_and_tell(self) -> None:
        """The newest checkpoint may still be on its way to the disk."""
        try:
            self._settle()
        except (RunStopped, OSError) as error:  # what the run was asked for is to end
            self._say(f"the newest checkpoint could not be written ({error})")
