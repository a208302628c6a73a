"""Which worker gets which request, and when: bookkeeping alone, without processes, so that it can be reasoned about."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping


class Dispatch:
    """Hands out requests to workers as they have room, and knows at any time where each of them is.

    A request is waiting, at work on exactly one worker, or finished. ``sizes`` has the tokens that each request may
    come to, by its key: prompt and completions at their longest. Requests and workers are numbers.

    Example::

        dispatch = Dispatch({0: 100, 1: 100, 2: 100})
        dispatch.hand_out({0: 150, 1: 100})   # {0: [0, 2], 1: [1]}
        dispatch.finish(0, 2)
        dispatch.lose(0)                      # [0]: waits again
    """

    def __init__(self, sizes: Mapping[int, int]) -> None:
        self._sizes = dict(sizes)
        self._waiting = deque(self._sizes)
        self._at_work: dict[int, set[int]] = {}
        self._num_losses: Counter[int] = Counter()

    @property
    def is_done(self) -> bool:
        return not self._waiting and not any(self._at_work.values())

    def hand_out(self, limits: Mapping[int, float]) -> dict[int, list[int]]:
        """The requests that each worker of ``limits`` is to be given now, at once put down as at work there.

        A worker takes requests as long as those at work on it have fewer tokens than its limit: it may exceed the
        limit by one request, so that one larger than any limit is served too. The least loaded is served first.
        """
        load = {worker: self._load(worker) for worker in limits}
        given: dict[int, list[int]] = {}
        while self._waiting:
            free = [worker for worker in limits if load[worker] < limits[worker]]
            if not free:
                break
            worker = min(free, key=lambda worker: (load[worker], worker))
            key = self._waiting.popleft()
            given.setdefault(worker, []).append(key)
            self._at_work.setdefault(worker, set()).add(key)
            load[worker] += self._sizes[key]
        return given

    def finish(self, worker: int, key: int) -> None:
        """Raises ``RuntimeError`` for a request that is not at work on this worker: it would be counted twice."""
        if key not in self._at_work.get(worker, ()):
            raise RuntimeError(f"rollout worker {worker} answered request {key}, which it does not have")
        self._at_work[worker].remove(key)

    def lose(self, worker: int) -> list[int]:
        """The worker is gone: its unfinished requests, in order, wait again before all others."""
        lost = sorted(self._at_work.pop(worker, ()))
        self._waiting.extendleft(reversed(lost))
        self._num_losses.update(lost)
        return lost

    def num_losses(self, key: int) -> int:
        """How many workers were lost with this request at work."""
        return self._num_losses[key]

    def _load(self, worker: int) -> int:
        return sum(self._sizes[key] for key in self._at_work.get(worker, ()))
