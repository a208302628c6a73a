"""Signs of life of Ray's actors: a call that is answered at once, asked for again and again beside their work.

Ray itself tells of a process that has died. One that is stopped, or never gives up Python's lock, is alive to it.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError

from insight_rl.child_log import ChildLog
from insight_rl.heartbeat import Patience
from insight_rl.stacks import hide, show, write_stacks
from insight_rl.supervision import HEARTBEAT_KEY, present

BESIDE = "beside"
"""The group of an actor's methods that run while another is at work (Ray's concurrency groups)."""
_EVERY_S = 1.0
_STACKS_S = 3.0


class WatchedActor:
    """What is known of an actor besides its answers: heartbeat, stacks, and what it prints (``logs/`` of the run)."""

    order = 0

    def __init__(self, name: str, actor: Any, *, shows_log: bool) -> None:
        self._name, self._actor = name, actor
        self._asked: Any = None
        self._asked_at = 0.0
        self._patience = Patience()
        run_dir = None if shows_log else present().run_dir
        self._log = None if run_dir is None else ChildLog(name, run_dir)
        if self._log is not None:
            actor.print_to.remote(str(Path(self._log.file.name).resolve()))
        show(self)

    def complaint(self) -> str:
        """What is wrong, in a clause; empty where there was a sign of life not too long ago.

        To be called again and again during a wait. Of an actor that has died nothing is said here: whoever waits for
        its answer hears of that.
        """
        if self._asked is None:
            if time.monotonic() - self._asked_at >= _EVERY_S:
                self._asked = self._actor.where.options(concurrency_group=BESIDE).remote()
                self._asked_at = time.monotonic()
        elif ray.wait([self._asked], timeout=0)[0]:
            self._take_beat()
        limit_s = present().heartbeat_deadline_s
        if self._patience.look() < limit_s:
            return ""
        return (
            f"has shown no heartbeat for {self._patience.waited_s:.0f} s, so it is stopped or stuck; {write_stacks()} "
            f"({HEARTBEAT_KEY}={limit_s:g})"
        )

    def _take_beat(self) -> None:
        asked, self._asked = self._asked, None
        try:
            ray.get(asked)
        except RayError:
            return
        self._patience.start_again()

    def dump(self) -> str:
        """See :class:`~insight_rl.stacks.Shows`."""
        head = f"---- {self._name} ----\n"
        asked = self._actor.stacks.options(concurrency_group=BESIDE).remote()
        if not ray.wait([asked], timeout=_STACKS_S)[0]:
            return f"{head}(no stack within {_STACKS_S:.0f} s: it is stopped or stuck)\n"
        try:
            return head + str(ray.get(asked))
        except RayError:
            return f"{head}(it has ended)\n"

    def log_tail(self) -> str:
        """The end of what it has printed, on lines of its own; empty if there is none."""
        return "" if self._log is None else self._log.end()

    def close(self) -> None:
        hide(self)
        if self._log is not None:
            self._log.close()
