"""The loop of :mod:`insight_rl.trainer`, with rollouts of later steps made while the learner works on earlier ones.

    a thread for the rollouts, steps u <= t + max_staleness    the learner, each step t
        tau_1..M    ~ selector                                     groups   <- those of step t, once they are there
        o_1..K(tau) ~ the policy that the engine has by then       policy_t <- learner
        kept        = gate(groups)                                 engine   <- policy_t
        belief(tau) <- observe, then on to step u + 1

Capacity: the rollouts of step u begin once the engine has the weights of version u - 1 - ``max_staleness`` or later.
So no completion is trained on that began more than ``max_staleness`` versions before. Nothing else holds rollouts back,
and none are dropped, however long they take: what would be too old is not begun. (Only ``trainer.max_device_s`` may end
a run with rollouts that nobody trains on.) Their age is corrected by importance weights (``algorithm.importance``).

Everything that decides is in the one thread of the rollouts, and in the order of the steps: the outcomes of a step are
in the beliefs before the next prompts are chosen, each once, whatever the learner does meanwhile. A prompt under way is
pending, as in any run. What follows from the seed:

- ``max_staleness=0``: nothing overlaps, and all decisions are those of the other loop.
- ``weight_update=wait``, or an engine that cannot go on with what it has begun: new weights wait until all rollouts
  that were allowed have been made. Those of step u then come from version max(0, u - 1 - ``max_staleness``), so that
  all decisions follow from the seed, also in a run that was killed and resumed. They depend on no clock.
- ``weight_update=keep`` with an engine that can: a selection follows from the outcomes before it as always, but at
  which token of a completion the new weights come in is a matter of time. Two runs of one seed differ from there on. A
  run that was killed goes on with the same prompts: those of them that were finished are not rolled out again.

A run that is given more steps after its end begins them with fresh rollouts.

Sources: bounded staleness, and going on with interrupted rollouts: AReaL (arXiv 2505.24298); one step off-policy:
Noukhovitch et al. (arXiv 2410.18252).
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

from insight_rl.clock import PerThreadClock, Stopwatch, phase
from insight_rl.reward.base import Judge
from insight_rl.rollout.base import UpdatesWhileGenerating
from insight_rl.rollout.batch import Batch, Flight
from insight_rl.rollout.groups import roll_out
from insight_rl.run_stops import stop_if_logprobs_diverge
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import ChoosesRollouts, KnowsVersionLags
from insight_rl.step_metrics import gate_metrics, reward_metrics, rollout_metrics, staleness_metrics
from insight_rl.trainer import Progress, Trainer
from insight_rl.types import Completion, Group, Metrics, Prompt, Reward


class SyncChecks(Protocol):
    """The check of a weight sync, which needs the engine for itself."""

    def is_due(self, version: int) -> bool: ...

    def __call__(self, version: int) -> Metrics: ...


class AsyncTrainer(Trainer):
    """As :class:`~insight_rl.trainer.Trainer`, with two more settings (``conf/trainer/async.yaml``)."""

    saves_rollouts = True

    def __init__(self, *, max_staleness: int, weight_update: str, sync_check: SyncChecks, **parts: Any) -> None:
        """``parts``: the other arguments of :class:`~insight_rl.trainer.Trainer`."""
        super().__init__(sync_check=sync_check, **parts)
        self.max_staleness = max_staleness
        self.goes_on = weight_update == "keep" and isinstance(self.rollout, UpdatesWhileGenerating)
        self.clock = PerThreadClock()
        self._check = sync_check
        self._tasks: deque[Future[None]] = deque()
        self._ready: deque[Batch] = deque()
        self._flight: Flight | None = None
        self._collected = Progress()
        self._allowed = 0
        self._waited_s = 0.0
        self._is_busy = Stopwatch()
        self._is_ending = False
        self._state = threading.Lock()
        """Held while the selector and what is on its way to the learner change, and while they are saved."""
        self._turn = threading.Lock()
        """Held by whoever samples and judges: a round of rollouts, an evaluation, the check of a sync."""

    def train(self) -> None:
        """See :meth:`~insight_rl.trainer.Trainer.train`. What is under way at its end is in the last checkpoint.

        May be called again, for a run that has gone back to a checkpoint.
        """
        self._tasks.clear()
        self._is_ending = False
        self._collected = dataclasses.replace(self.progress)
        for batch in self._ready:
            self._collect(batch)
        self._allowed = self._collected.step
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="rollouts") as self._thread:
            try:
                super().train()
            finally:
                self._end_rollouts()

    # -- the thread of the learner

    def train_step(self, step: int) -> Metrics:
        began_s = time.perf_counter()
        self._waited_s = 0.0
        self._is_busy.take()
        self.allow(step + self.max_staleness)
        batch = self.take()
        queues = self._queues()
        staleness = staleness_metrics(batch.groups, version=step - 1, max_staleness=self.max_staleness)
        advantages_P_G = self.algorithm.advantages(batch.kept, batch.beliefs_P)
        learned = self.learn(batch.kept, advantages_P_G)
        if staleness.get("async/staleness_max", 0) == 0:  # older rollouts differ from the policy as they should
            stop_if_logprobs_diverge(learned, max_mean_gap=self.settings.max_mean_logprob_gap)
        if not self.goes_on:
            self.wait_for_rollouts()
        synced = self.sync(step)
        self.progress.count(batch.groups)
        cost = {"rollout/num_rollouts": self.progress.num_rollouts, "rollout/num_tokens": self.progress.num_tokens}
        groups, kept = batch.groups, batch.kept
        of_groups = reward_metrics(groups) | rollout_metrics(groups) | gate_metrics(groups, kept, batch.num_rounds)
        overlap = staleness | queues | self._idle_shares(time.perf_counter() - began_s)
        return batch.metrics | of_groups | learned | cost | synced | overlap

    def allow(self, step: int) -> None:
        """Have the rollouts of the steps up to this one made, one step after the other; does not wait for them."""
        while self._allowed < min(step, self.settings.num_steps):
            self._allowed += 1
            self._tasks.append(self._thread.submit(self.collect_next, self._allowed))

    def take(self) -> Batch:
        """The groups of the next step, waited for. Raises what went wrong with them."""
        began_s = time.perf_counter()
        self.clock.running = "wait"
        while not self._ready or (self._tasks and self._tasks[0].done()):
            self._tasks.popleft().result()
        self.clock.running = None
        self._waited_s += time.perf_counter() - began_s
        batch = self._ready.popleft()
        for name, seconds in batch.seconds.items():
            self.clock.add(name, seconds)
        return batch

    def wait_for_rollouts(self) -> None:
        """Until all that were allowed are made. Raises what went wrong with them."""
        began_s = time.perf_counter()
        for task in self._tasks:
            task.result()
        self._waited_s += time.perf_counter() - began_s

    @phase("sync")
    def sync(self, version: int) -> Metrics:
        weights = self.learner.weights()
        if isinstance(self.rollout, UpdatesWhileGenerating) and self._is_under_way:
            metrics = self.rollout.update_while_generating(weights, version=version)
        else:
            metrics = self.rollout.update_weights(weights, version=version)
        if not self._check.is_due(version):
            return metrics
        with self._turn:
            return metrics | self._check(version)

    @phase("evaluate")
    def evaluate(self) -> Metrics:
        with self._turn:
            return self.evaluator.evaluate(self.rollout, self.judge, step=self.progress.step)

    @phase("checkpoint")
    def checkpoint(self, metrics: Metrics) -> None:
        with self._state:
            self.save_checkpoint(self.progress, metrics)

    @property
    def _is_under_way(self) -> bool:
        return any(not task.done() for task in self._tasks)

    def _queues(self) -> Metrics:
        flight = self._flight
        return {
            "async/num_ready_steps": len(self._ready),
            "async/num_prompts_in_flight": 0 if flight is None else flight.num_unfinished,
        }

    def _idle_shares(self, seconds: float) -> Metrics:
        return {
            "async/learner_idle_share": self._waited_s / seconds,
            "async/rollout_idle_share": max(0.0, 1 - self._is_busy.take() / seconds),
        }

    def _end_rollouts(self) -> None:
        """No task is begun any more, and the one that is under way ends as soon as the engine lets it."""
        self._is_ending = True
        for task in self._tasks:
            task.cancel()
        if isinstance(self.rollout, UpdatesWhileGenerating):
            self.rollout.end_generation()

    # -- the thread of the rollouts

    def collect_next(self, step: int) -> None:
        """Roll out the groups of ``step``, have the selector observe them and put them in line for the learner."""
        with self._is_busy:
            with self._state:
                if self.settings.is_over(self._collected):  # the step before has used up a budget
                    return
                flight = self._flight = self._flight or Flight(step=step)
            while self._has_round(flight):
                with self._turn:
                    groups = self.finish_round(flight)
                with self._state:
                    flight.close_round(groups, self.gate)
            with self._state:
                batch = self.observe(flight)
                self._collect(batch)
                self._ready.append(batch)
                self._flight = None

    def _has_round(self, flight: Flight) -> bool:
        """Whether there are prompts to be rolled out: those of a round under way, or of a new one."""
        with self._state:
            num_missing = self.settings.prompts_per_step - len(flight.kept)
            if flight.prompts or flight.num_rounds == self.gate.max_rounds or num_missing == 0:
                return bool(flight.prompts)
            flight.num_rounds += 1
            prompts = self.select(num_missing)
            if prompts:
                rollouts_P = self.selector.last_rollouts() if isinstance(self.selector, ChoosesRollouts) else None
                flight.open_round(prompts, rollouts_P, self.selector.last_scores())
            return bool(prompts)

    def finish_round(self, flight: Flight) -> list[Group]:
        """Roll out what is not yet, and judge it all."""
        if self._is_ending:
            raise _Ended
        for prompt, completions_G in flight.finished:  # of a run that was interrupted
            self.judge.submit(prompt, completions_G)
        try:
            self._roll_out_rest(flight)
        except BaseException:
            self.judge.collect()  # whoever goes on from here submits them again
            raise
        return self.reward(flight.prompts, flight.finished)

    @phase("rollout")
    def _roll_out_rest(self, flight: Flight) -> None:
        prompts, rollouts_P = flight.unfinished()
        seed = derive_seed(self.settings.seed, "rollout", flight.step, flight.num_rounds)
        sampling = dataclasses.replace(self.settings.sampling, seed=seed)
        roll_out(self.rollout, _Recording(self.judge, flight, lambda: self._is_ending), prompts, sampling, rollouts_P)

    def observe(self, flight: Flight) -> Batch:
        """Let the selector learn from all groups of a step, which are now in its beliefs, and never again."""
        self.selection_log.log(flight.step, flight.groups, flight.scores)
        if isinstance(self.selector, KnowsVersionLags):
            self.selector.expect_lags(version_lags(flight.groups, version=flight.step - 1))
        self.selector.observe(flight.groups)
        return Batch(
            step=flight.step,
            groups=flight.groups,
            kept=flight.kept,
            beliefs_P=[self.selector.belief(group.prompt.id) for group in flight.kept],
            num_rounds=flight.num_rounds,
            metrics=self.selector.metrics(),
            seconds=self.clock.take(),
        )

    def _collect(self, batch: Batch) -> None:
        self._collected.step = batch.step
        self._collected.count(batch.groups)

    # -- checkpoints

    def state_dict(self) -> dict[str, Any]:
        """What is on its way to the learner, for :meth:`checkpoint`, which lets nothing of it change meanwhile."""
        return {
            "ready": {str(batch.step): batch.state_dict() for batch in self._ready},
            "flight": None if self._flight is None else self._flight.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], pool: Sequence[Prompt]) -> None:
        """Go on with it, before :meth:`train`. Raises ``ValueError`` for prompts that are not in ``pool``."""
        prompts = {prompt.id: prompt for prompt in pool}
        self._ready = deque(Batch.from_state(each, prompts) for each in state["ready"].values())
        self._flight = None if state["flight"] is None else Flight.from_state(state["flight"], prompts)


class _Ended(Exception):
    """The run is over, and nobody waits for the rollouts."""


class _Recording:
    """A judge that notes what is finished in the flight."""

    def __init__(self, judge: Judge, flight: Flight, is_ending: Callable[[], bool]) -> None:
        self._judge, self._flight, self._is_ending = judge, flight, is_ending

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        self._judge.submit(prompt, completions_G)
        self._flight.finished.append((prompt, tuple(completions_G)))
        if self._is_ending():
            raise _Ended

    def collect(self) -> list[tuple[Reward, ...]]:
        return self._judge.collect()

    def close(self) -> None:
        self._judge.close()


def version_lags(groups: Sequence[Group], *, version: int) -> dict[str, int]:
    """By how many versions the oldest completion of each group's prompt lags behind ``version``."""
    return {
        group.prompt_id: version - min((each.policy_version for each in group.completions_G), default=version)
        for group in groups
    }
