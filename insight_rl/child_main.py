"""What runs first in every child process: ``python -m insight_rl.child_main PARENT FD MODULE:FUNCTION [HEARTBEAT]``.

It is a module and not a ``-c`` script because of the processes that the child itself starts. Python's ``spawn`` imports
the main module again in each of them (as ``__mp_main__``), so they are prepared in the same way. vLLM's engine core and
its workers are such processes.
"""

from __future__ import annotations

import ctypes
import faulthandler
import importlib
import os
import signal
import sys
import threading
import time

STACKS_VARIABLE = "INSIGHT_RL_STACKS"
"""Environment variable: the file that the stacks are written to on SIGUSR1."""
HEARTBEAT_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1


def prepare(parent: int) -> None:
    """End with the process ``parent``, even when stopped or in the middle of a computation, and show stacks on SIGUSR1.

    The kernel sends SIGKILL when the parent's thread that started this process ends. Only Linux has this; elsewhere a
    child notices at its next look at the pipe. SIGINT, SIGTERM and SIGHUP are blocked already
    (:func:`insight_rl.child_process.start_process`).
    """
    stacks = os.environ.get(STACKS_VARIABLE)
    if stacks is not None:
        # Not closed: it is needed at any time until the process ends.
        faulthandler.register(signal.SIGUSR1, file=open(stacks, "ab", buffering=0), all_threads=True)  # noqa: SIM115
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it ended before it was watched
            os._exit(1)


def beat(fd: int) -> None:
    """Show on the pipe ``fd``, from a thread of its own, that this process still runs (:mod:`insight_rl.heartbeat`)."""
    os.set_inheritable(fd, False)

    def show() -> None:
        while True:
            try:
                os.write(fd, b".")
            except BlockingIOError:
                pass  # nobody has read the pipe for hours, so it is full
            except OSError:
                return  # the parent has ended
            time.sleep(HEARTBEAT_EVERY_S)

    threading.Thread(target=show, name="heartbeat", daemon=True).start()


def main() -> None:
    parent, fd, path = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    prepare(parent)
    for heartbeat in sys.argv[4:]:
        beat(int(heartbeat))
    module, _, function = path.partition(":")
    getattr(importlib.import_module(module), function)(fd)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":
    prepare(os.getppid())
