"""Signs of life: the clock of a wait, and the pipe on which a child process shows that it still runs.

A thread of every child writes a byte every second (:func:`insight_rl.child_main.beat`). It goes on during a long
computation, and stops where the whole process stops: by SIGSTOP, inside the kernel, or in code that never gives up
Python's lock.
"""

from __future__ import annotations

import os
import time

SLICE_S = 0.5
"""How often a wait looks whether the other process still lives; its end usually shows at once, by the closed socket."""
_PIPE_BYTES = 1 << 16


class Patience:
    """The clock of one wait: how long it has lasted, without the time in which this process itself was stopped.

    Somebody who suspends the trainer (Ctrl-Z, a debugger) and lets it go on later must not find its deadlines passed.
    """

    def __init__(self) -> None:
        self.waited_s = 0.0
        self._last = time.monotonic()

    def look(self) -> float:
        """Seconds waited until now. Has to be called at least every ``2 * SLICE_S`` seconds."""
        now = time.monotonic()
        self.waited_s += min(now - self._last, 2 * SLICE_S)
        self._last = now
        return self.waited_s

    def start_again(self) -> None:
        self.waited_s, self._last = 0.0, time.monotonic()


class Heartbeat:
    """The parent's end of the pipe; ``writer`` is the descriptor for the child.

    Example::

        heartbeat = Heartbeat()
        process = start_child(..., heartbeat=heartbeat.writer)
        heartbeat.release_writer()
        heartbeat.has_beaten()   # True, about a second later
    """

    def __init__(self) -> None:
        reader, self.writer = os.pipe()
        # A pipe that nobody reads for hours is full: then beats are dropped, and nobody waits.
        os.set_blocking(reader, False)
        os.set_blocking(self.writer, False)
        self._reader = os.fdopen(reader, "rb", buffering=0)
        self.has_begun = False
        """Whether there has been any beat: before the first one, the child is not to be judged by them."""

    def release_writer(self) -> None:
        """Close the child's end here, once the child has it."""
        os.close(self.writer)

    def has_beaten(self) -> bool:
        """Whether there was a beat since the last call; does not wait."""
        has_beaten = bool(self._reader.read(_PIPE_BYTES))  # None where there is nothing to be read
        self.has_begun |= has_beaten
        return has_beaten

    def close(self) -> None:
        self._reader.close()
