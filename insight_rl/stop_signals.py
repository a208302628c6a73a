"""SIGINT, SIGTERM and SIGHUP as requests to stop: finish the step, write the checkpoint, then end with 128 + signal.

Ctrl-C sends SIGINT; schedulers, ``docker stop`` and ``timeout`` send SIGTERM; a terminal that closes sends SIGHUP. They
may reach every process of the run, but only the trainer acts on them (:mod:`insight_rl.child_process`).

Who sends SIGTERM or SIGHUP often kills after some time. So those two can be given a grace time, after which the run
gives up its step and ends.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from insight_rl.child_process import end_all_at_once
from insight_rl.errors import Interrupted

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
GRACE_KEY = "runtime.grace_s"


class StopRequest:
    """What to do at the next stop signal: end at once, until :meth:`finish_first` has given something to finish."""

    def __init__(self) -> None:
        self.number: int | None = None
        """The first signal that came, if one did."""
        self.is_grace_over = False
        self._ask: Callable[[], None] | None = None
        self._timer: threading.Timer | None = None

    def finish_first(
        self,
        ask: Callable[[], None],
        say: Callable[[str], None],
        *,
        grace_s: float | None = None,
        may_give_up: Callable[[], bool] = lambda: True,
    ) -> None:
        """From now on the first signal calls ``ask`` (which makes the run end soon) and ``say``; the second ends it.

        Unless the run has ended ``grace_s`` seconds after a first SIGTERM or SIGHUP, ``Interrupted`` is raised with
        ``is_grace_over`` set, while the children still run; ``None``: never. ``may_give_up`` is asked then: what it is
        at must perhaps not be cut short.
        """
        self._ask, self._say, self._grace_s, self._may_give_up = ask, say, grace_s, may_give_up

    def on_signal(self, number: int, _frame: object = None) -> None:
        if number == signal.SIGHUP:
            _forget_lost_terminal()
        if self.is_grace_over and self._timer is not None:
            self._timer = None
            if self._may_give_up():
                raise Interrupted(number)
            return
        if self._ask is None or self.number is not None:
            # Asked for twice, or nothing to lose: no child is given time to end properly, as one may hang.
            end_all_at_once()
            raise Interrupted(number)
        self.number = number
        self._ask()
        limit = self._start_grace(number)
        self._say(
            f"{signal.Signals(number).name}: finishing this step and its checkpoint{limit}; once more to stop at once"
        )

    def _start_grace(self, number: int) -> str:
        """Returns the words about it."""
        if number == signal.SIGINT or self._grace_s is None:
            return ""

        def end_grace() -> None:
            self.is_grace_over = True
            os.kill(os.getpid(), number)  # handled by the main thread, wherever it is

        self._timer = threading.Timer(self._grace_s, end_grace)
        self._timer.daemon = True
        self._timer.start()
        return f", for at most {GRACE_KEY}={self._grace_s:g} s"

    def cancel(self) -> None:
        """The run has ended in time."""
        if self._timer is not None:
            self._timer.cancel()


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Handle the stop signals until the end of the block. A SIGHUP that ``nohup`` has switched off stays off."""
    request = StopRequest()
    with _handling(request.on_signal):
        try:
            yield request
        finally:
            request.cancel()


def run_to_its_end(command: Sequence[str]) -> int:
    """Run ``command`` and return its exit code; stop signals go on to it, so that it can finish its step first."""
    # In a process group of its own, so that a signal to the whole group does not reach it twice.
    process = subprocess.Popen(command, process_group=0, stdin=subprocess.DEVNULL)
    with _handling(lambda number, _frame: process.send_signal(number)):
        return process.wait()


@contextmanager
def _handling(handler: Callable[[int, Any], object]) -> Iterator[None]:
    numbers = [
        number
        for number in STOP_SIGNALS
        if number != signal.SIGHUP or signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
    ]
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _forget_lost_terminal() -> None:
    """Send output nowhere if the terminal it went to is gone: each line would be an error otherwise."""
    for fd in (1, 2):
        if stat.S_ISCHR(os.fstat(fd).st_mode) and not os.isatty(fd):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, fd)
            os.close(null)
