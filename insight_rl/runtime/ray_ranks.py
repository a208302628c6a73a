"""The learner's ranks as Ray actors, called as the processes of one machine are (:mod:`insight_rl.learner.processes`).

They meet on the machine of rank 0, as ``torchrun`` would have them: each is told ``RANK`` and ``WORLD_SIZE``, and its
place among the ranks of its own machine. Accelerate and DeepSpeed find nothing changed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from insight_rl.child_process import GRACE_S, START_DEADLINE_S
from insight_rl.errors import RanksLost, RunStopped, UsageError
from insight_rl.heartbeat import SLICE_S, Patience
from insight_rl.learner.processes import Answer, MakeWorker, RankFailed
from insight_rl.runtime.ray_actors import RankActor, Whereabouts
from insight_rl.runtime.ray_arrays import first_sentence
from insight_rl.runtime.ray_pulse import BESIDE, WatchedActor
from insight_rl.stacks import write_stacks
from insight_rl.supervision import present


class RayRanks:
    """See :class:`~insight_rl.learner.processes.Ranks`. ``start_actor(class, rank)``: an actor in the rank's bundle."""

    def __init__(
        self,
        make_worker: MakeWorker,
        num_ranks: int,
        *,
        start_actor: Callable[[type, int], Any],
        end_actor: Callable[[Any], None],
        visible_gpus: Callable[[Sequence[int]], dict[str, str]],
        environment: Mapping[str, str],
        deadline_s: float,
    ) -> None:
        self._deadline_s = deadline_s
        self._end_actor = end_actor
        self._actors: list[Any] = []
        self._names = [f"learner rank {rank}" for rank in range(num_ranks)]
        self._watched: list[WatchedActor] = []
        try:
            for rank in range(num_ranks):
                self._actors.append(start_actor(RankActor, rank))
                self._watched.append(WatchedActor(self._names[rank], self._actors[-1], shows_log=False))
            where_R: list[Whereabouts] = self._everywhere("where", [()] * num_ranks)
            port = self._get(self._actors[0].free_port.remote(), 0, "start")
            environments = rank_environments(where_R, port=port, visible_gpus=visible_gpus)
            self._everywhere("set_environment", [({**environment, **own}, {}) for own in environments])
            self._everywhere("build", [(make_worker,)] * num_ranks)
        except BaseException:
            self.close(grace_s=0)
            raise

    def _everywhere(self, method: str, arguments_R: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Of the actor itself, before there is a worker in it."""
        references = [getattr(a, method).remote(*args) for a, args in zip(self._actors, arguments_R, strict=True)]
        patience = Patience()
        while len(ray.wait(references, num_returns=len(references), timeout=SLICE_S)[1]):
            self._check_patience(patience, "start", range(len(self._actors)))
        return [self._get(reference, rank, "start") for rank, reference in enumerate(references)]

    def call(self, method: str, arguments_R: Sequence[tuple[Any, ...]], *, answer: Answer | None = None) -> list[Any]:
        """See :meth:`~insight_rl.learner.processes.RankProcesses.call`: it raises the same, and ends all ranks then."""
        try:
            return _Call(self, method, arguments_R, answer).finish()
        except Exception:
            # The others may wait in a collective for a rank that will not come.
            self.close(grace_s=0)
            raise

    def _get(self, reference: Any, rank: int, doing: str) -> Any:
        try:
            return ray.get(reference)
        except RayTaskError as error:  # the actor's own code
            raise RankFailed(f"{self._names[rank]} failed in {doing}:\n{error}") from error
        except RayError as error:
            raise self._lost(rank, f"{self._names[rank]} died in {doing} ({first_sentence(error)})") from error

    def _check_patience(self, patience: Patience, doing: str, silent: Sequence[int]) -> None:
        """Raise ``RanksLost`` if one of the ranks waited for shows no heartbeat, or the deadline has passed."""
        for rank in silent if doing != "start" else ():
            complaint = self._watched[rank].complaint()
            if complaint:
                raise self._lost(rank, f"{self._names[rank]} {complaint}")
        limit = max(self._deadline_s, START_DEADLINE_S) if doing == "start" else self._deadline_s
        if patience.look() >= limit:
            names = ", ".join(self._names[rank] for rank in silent)
            raise self._lost(
                silent[0],
                f"{names} gave no sign of life for {patience.waited_s:.0f} s in {doing}; {write_stacks()}; if it only "
                f"needs more time, raise learner.deadline_s={self._deadline_s:g}",
            )

    def _check_all_live(self, doing: str) -> None:
        """Raise ``RanksLost`` unless every rank gives a sign of life.

        That a machine is gone Ray itself sees only after a while, and until then leaves questions to it unanswered.
        """
        signs = [actor.where.options(concurrency_group=BESIDE).remote() for actor in self._actors]
        end = time.monotonic() + present().heartbeat_deadline_s
        while len(ray.wait(signs, num_returns=len(signs), timeout=SLICE_S)[0]) < len(signs) and time.monotonic() < end:
            continue
        for rank, sign in enumerate(signs):
            if not ray.wait([sign], timeout=0)[0]:
                raise self._lost(rank, f"{self._names[rank]} is stopped, or out of reach, in {doing}")
            self._get(sign, rank, doing)

    def _lost(self, rank: int, reason: str) -> RanksLost:
        tail = self._watched[rank].log_tail()
        return RanksLost(reason, f"{reason}; the run can be resumed from its last checkpoint{tail}")

    def close(self, *, grace_s: float = GRACE_S) -> None:
        """End every rank. Those that are asked (``grace_s`` above 0) leave their process group together first."""
        actors, self._actors = self._actors, []
        if grace_s > 0 and actors:
            ray.wait([actor.close.remote() for actor in actors], num_returns=len(actors), timeout=grace_s)
        for actor in actors:
            self._end_actor(actor)
        for watched in self._watched:
            watched.close()


class _Call:
    """One method at work on all ranks."""

    def __init__(
        self, ranks: RayRanks, method: str, arguments_R: Sequence[tuple[Any, ...]], answer: Answer | None
    ) -> None:
        self._ranks, self._method, self._answer = ranks, method, answer
        self._patience = Patience()
        self._results: dict[int, Any] = {}
        self._working: dict[Any, int] = {}
        self._asking: dict[Any, int] = {}
        for rank, (actor, arguments) in enumerate(zip(ranks._actors, arguments_R, strict=True)):
            self._working[actor.call.remote(method, arguments, answer is not None)] = rank
            if answer is not None:
                self._listen(rank)

    def finish(self) -> list[Any]:
        """The results, in order of rank."""
        while self._working or self._asking:
            self._look(SLICE_S)
        return [self._results[rank] for rank in range(len(self._results))]

    def _listen(self, rank: int) -> None:
        actor = self._ranks._actors[rank]
        self._asking[actor.next_request.options(concurrency_group=BESIDE).remote()] = rank

    def _look(self, timeout_s: float = 0.0) -> None:
        """Take what the ranks have to say, and see whether they have been silent for too long."""
        ready, _ = ray.wait([*self._working, *self._asking], timeout=timeout_s)
        for reference in ready:
            if reference in self._working:
                rank = self._working.pop(reference)
                self._results[rank] = self._result(rank, self._ranks._get(reference, rank, self._method))
            elif reference in self._asking:  # not taken while another's request was answered
                self._reply(self._asking.pop(reference), reference)
        if self._working:
            self._ranks._check_patience(self._patience, self._method, sorted(self._working.values()))

    def _reply(self, rank: int, reference: Any) -> None:
        request = self._ranks._get(reference, rank, self._method)
        if request is None:
            return
        assert self._answer is not None
        answer = self._answer(request[0], self._look)
        self._ranks._actors[rank].reply.options(concurrency_group=BESIDE).remote(answer)
        self._listen(rank)

    def _result(self, rank: int, value: tuple[str, Any, str]) -> Any:
        kind, result, trace = value
        if kind == "done":
            return result
        if isinstance(result, (UsageError, RunStopped)):
            raise result
        # Another that has died is the cause, and what this one raised only a consequence.
        self._ranks._check_all_live(self._method)
        tail = self._ranks._watched[rank].log_tail()
        raise RankFailed(f"{self._ranks._names[rank]} failed in {self._method}:\n{trace}{tail}")


def rank_environments(
    where_R: Sequence[Whereabouts], *, port: int, visible_gpus: Callable[[Sequence[int]], dict[str, str]]
) -> list[dict[str, str]]:
    """What each rank is told of the others. ``visible_gpus(ranks)``: what makes the GPUs of these ranks visible.

    All ranks of a machine see the GPUs of all of them, and take the one of their ``LOCAL_RANK``.
    """
    by_node: dict[str, list[int]] = {}
    for rank, where in enumerate(where_R):
        by_node.setdefault(where.node, []).append(rank)
    sizes = Counter(where.node for where in where_R)
    return [
        {
            "MASTER_ADDR": where_R[0].address,
            "MASTER_PORT": str(port),
            "RANK": str(rank),
            "WORLD_SIZE": str(len(where_R)),
            "LOCAL_RANK": str(by_node[where.node].index(rank)),
            "LOCAL_WORLD_SIZE": str(sizes[where.node]),
            **visible_gpus(by_node[where.node]),
        }
        for rank, where in enumerate(where_R)
    ]
