"""Child processes of the trainer: started, spoken to, watched and ended in one way, for ranks, rollout and judges.

    child = Child("the vLLM process", "insight_rl.rollout.vllm_worker:serve", key="rollout.deadline_s", deadline_s=1800)
    child.send(("start", {...}), doing="start")
    answer = child.receive(doing="start")
    child.end()

What holds for every child:

- Signals for the whole group (Ctrl-C, SIGTERM from a scheduler, SIGHUP of a terminal) do not end it. Only the trainer
  decides, so that it can finish its step and write its checkpoint.
- It ends when the trainer ends, however that happens, and so do the processes that it has started.
- Every wait for it is bounded by a deadline from the configuration and notices its death. Both end in one sentence, and
  a deadline that has passed also in a file with the Python stacks of all processes (:mod:`insight_rl.stacks`).
- It shows a heartbeat (:mod:`insight_rl.heartbeat`), so that one that is stopped or stuck is soon found.
"""

from __future__ import annotations

import os
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Collection, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any, NoReturn

from insight_rl.child_log import ChildLog
from insight_rl.errors import RunStopped, check
from insight_rl.heartbeat import SLICE_S, Heartbeat, Patience
from insight_rl.process_table import is_stopped, session_of
from insight_rl.stacks import ShowsStacks, write_stacks
from insight_rl.supervision import HEARTBEAT_KEY, present

START_DEADLINE_S = 1800.0
"""A child has at least this long to load its model, also where the configured deadline is shorter."""
GRACE_S = 10.0
"""Children that are asked to end have this long before they are killed."""
_HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_STATE_EVERY_S = 2.0
_HEADER = struct.Struct("!Q")


class ChildLost(RunStopped):
    """A child process died or did not answer in time.

    The message is one sentence, then the end of its log, if any; ``reason`` is the part of it that says what happened.
    """

    def __init__(self, reason: str, log_tail: str) -> None:
        super().__init__(f"{reason}; the run can be resumed from its last checkpoint{log_tail}")
        self.reason = reason


# -- starting


def start_process(
    command: Sequence[str], *, env: Mapping[str, str] | None = None, pass_fds: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """``subprocess.Popen`` in a session of its own and with SIGINT, SIGTERM and SIGHUP blocked, from its first moment.

    A blocked signal stays blocked in every thread and every process that the child starts, whatever handlers the
    libraries in it install. SIGKILL is the way to end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
    try:
        return subprocess.Popen(command, env=env, pass_fds=pass_fds, start_new_session=True, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def start_child(
    target: str, fd: int, *, env: Mapping[str, str], heartbeat: int | None = None, **options: Any
) -> subprocess.Popen[bytes]:
    """A Python process that runs ``target`` (``module:function``) with the file descriptor ``fd`` as its argument.

    ``heartbeat``: the pipe that it shows its heartbeat on. Not ``multiprocessing``'s spawn: that would run the user's
    script again if it lacks an ``if __name__`` guard.
    """
    beats = [] if heartbeat is None else [heartbeat]
    # -P: a folder in the user's working directory that is called like a package does not hide it.
    command = [sys.executable, "-P", "-m", "insight_rl.child_main", str(os.getpid()), str(fd), target, *map(str, beats)]
    return start_process(command, env=env, pass_fds=[fd, *beats], stdin=subprocess.DEVNULL, **options)


def package_folder() -> str:
    """The folder that holds this package: first in a child's import path, also when it is used from a checkout."""
    return str(Path(__file__).resolve().parents[1])


def import_path() -> str:
    """A ``PYTHONPATH`` with which a child imports what this process can."""
    paths = [package_folder(), *(path or os.getcwd() for path in sys.path)]
    return os.pathsep.join(dict.fromkeys(paths))


# -- talking


class Channel:
    """Pickled messages, both ways, over a socket. The child's side: it waits without a limit, for it ends with us."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection

    @classmethod
    def from_fd(cls, fd: int) -> Channel:
        return cls(socket.socket(fileno=fd))

    def send(self, message: Any) -> None:
        """Raises ``OSError`` if the other side is gone."""
        self._write(_pickled(message), lambda: None)

    def receive(self) -> Any:
        """The next message; raises ``EOFError`` or ``OSError`` if the other side is gone."""
        return self._read(lambda: None)

    def _write(self, data: Any, on_wait: Callable[[], None]) -> None:
        for part in (_HEADER.pack(len(data)), data):
            view = memoryview(part)
            while view:
                try:
                    view = view[self._socket.send(view) :]
                except TimeoutError:
                    on_wait()

    def _read(self, on_wait: Callable[[], None]) -> Any:
        (size,) = _HEADER.unpack(self._read_exactly(_HEADER.size, on_wait))
        return pickle.loads(self._read_exactly(size, on_wait))

    def _read_exactly(self, size: int, on_wait: Callable[[], None]) -> bytearray:
        data = bytearray(size)
        view = memoryview(data)
        while view:
            try:
                count = self._socket.recv_into(view)
            except TimeoutError:
                on_wait()
                continue
            if count == 0:
                raise EOFError("the other side has closed the socket")
            view = view[count:]
        return data

    def has_message(self) -> bool:
        """Whether there is something to receive, the end of the other side included; does not wait."""
        return bool(wait([self._socket.fileno()], timeout=0))

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()


def _pickled(message: Any) -> Any:
    # Protocol 5 writes arrays from where they lie; the default before Python 3.14 copies them once more.
    return ForkingPickler.dumps(message, 5)


class Child:
    """A running child process and the channel to it.

    ``name`` is how messages call it (``learner rank 0``), ``key`` the setting that ``deadline_s`` comes from. ``log``:
    keep what it prints for error messages instead of letting it write to the terminal.
    """

    def __init__(
        self, name: str, target: str, *, key: str, deadline_s: float, env: Mapping[str, str], log: bool
    ) -> None:
        check_deadline(key, deadline_s)
        self.name, self.key, self.deadline_s = name, key, deadline_s
        self._log = ChildLog(name, present().run_dir) if log else None
        self._stacks = ShowsStacks(name)
        self._heartbeat = Heartbeat()
        ours, theirs = socket.socketpair()
        ours.settimeout(SLICE_S)
        self.channel = Channel(ours)
        with theirs:
            self._process = start_child(
                target,
                theirs.fileno(),
                env={**env, **self._stacks.environment},
                heartbeat=self._heartbeat.writer,
                stdout=self._log and self._log.file,
                stderr=self._log and self._log.file,
            )
        self._heartbeat.release_writer()
        self._stacks.watch(self.pid)
        self._waiting_for: str | None = None
        self._silence = Patience()
        self._state_seen_s, self._was_stopped = 0.0, False
        _children.add(self)
        self._finalizer = weakref.finalize(self, _end, self._process, self.channel, 0.0)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def is_dead(self) -> bool:
        return self._process.poll() is not None

    def send(self, message: Any, *, doing: str) -> None:
        """Raises :class:`ChildLost` if the child is dead, or does not read the message within the deadline."""
        self._waiting_for = doing
        patience = Patience()
        try:
            self.channel._write(_pickled(message), lambda: self.look(patience, doing=doing))
        except OSError as error:
            self.fail_as_dead(doing, error)

    def receive(self, *, doing: str, patience: Patience | None = None) -> Any:
        """The next message. Raises :class:`ChildLost` if there is none within the deadline, or the child died."""
        patience = patience or Patience()
        try:
            message = self.channel._read(lambda: self.look(patience, doing=doing))
        except (EOFError, OSError) as error:
            self.fail_as_dead(doing, error)
        return message

    @staticmethod
    def ready(children: Collection[Child], *, timeout_s: float = SLICE_S) -> list[Child]:
        """Those of ``children`` that have something to be received (or have closed their socket); waits a moment."""
        by_fd = {child.channel.fileno(): child for child in children}
        return [by_fd[fd] for fd in wait(list(by_fd), timeout=timeout_s)]  # type: ignore[index]

    def answered(self) -> None:
        """The child has done what it was asked; nothing is lost if it is ended now."""
        self._waiting_for = None

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal (or a debugger) and has not been told to go on."""
        return is_stopped(self.pid)

    def _is_stopped_in_part(self, *, max_age_s: float) -> bool:
        """The same of it and of all that it has started, e.g. vLLM's engine core; looked up again after ``max_age_s``.

        Looking it up takes milliseconds where there are many processes.
        """
        now = time.monotonic()
        if now - self._state_seen_s >= max_age_s:
            self._state_seen_s, self._was_stopped = now, any(map(is_stopped, session_of(self.pid)))
        return self._was_stopped

    def look(self, patience: Patience, *, doing: str, names: str | None = None) -> None:
        """Raise :class:`ChildLost` if the child is dead, or if the wait has lasted for its deadline.

        To be called again and again during a wait. It is lost too when it has shown no heartbeat for
        ``runtime.heartbeat_deadline_s``. At a deadline the stacks of all processes are written first.
        ``names``: what to call all the children that are waited for, if it is not known which of them is to blame.
        """
        # A grandchild may hold a copy of the child's end of the socket, so that its death does not close it.
        if self.is_dead and not self.channel.has_message():
            self.fail_as_dead(doing, None)
        limit = max(self.deadline_s, START_DEADLINE_S) if doing == "start" else self.deadline_s
        silent_s, longest_silence_s = self._silence_s(doing), present().heartbeat_deadline_s
        waited_s, key, value = patience.look(), self.key, self.deadline_s
        if silent_s >= longest_silence_s:
            waited_s, key, value, names = silent_s, HEARTBEAT_KEY, longest_silence_s, self.name
        elif waited_s < limit:
            return
        state = ""
        if self._is_stopped_in_part(max_age_s=0.0):
            names, state = self.name, "it is stopped, e.g. by SIGSTOP; "
        raise ChildLost(
            f"{names or self.name} gave no sign of life for {waited_s:.0f} s in {doing}; {state}{write_stacks()}; if "
            f"it only needs more time, raise {key}={value:g}",
            self.log_tail(),
        )

    def _silence_s(self, doing: str) -> float:
        """Seconds of waiting since the last heartbeat; those in which it was stopped count, whatever it shows.

        While a model is loaded, libraries keep Python's lock for long: then no heartbeat is asked for.
        """
        has_beaten = self._heartbeat.has_beaten() or not self._heartbeat.has_begun or doing == "start"
        if has_beaten and not self._is_stopped_in_part(max_age_s=_STATE_EVERY_S):
            self._silence.start_again()
        return self._silence.look()

    def fail_as_dead(self, doing: str, cause: BaseException | None) -> NoReturn:
        """Raise :class:`ChildLost` with the exit code of a child that is dead or has closed its socket."""
        try:
            code = describe_exit(self._process.wait(timeout=5))
        except subprocess.TimeoutExpired:
            code = "it closed its socket but still runs"
        raise ChildLost(f"{self.name} died in {doing} ({code})", self.log_tail()) from cause

    def log_tail(self) -> str:
        """The end of what it has printed, on lines of its own, and errors from further up; empty if there is none."""
        return "" if self._log is None else self._log.end()

    def dump_stacks(self) -> str:
        """The Python stacks of the child and of the processes it has started, as far as they can be had."""
        return self._stacks.dump()

    def end(self, *, grace_s: float = GRACE_S) -> None:
        """As :func:`end_children`, for this one."""
        end_children([self], grace_s=grace_s)

    def _end(self, end_time: float) -> None:
        if self._finalizer.detach() is None:
            return
        grace_s = 0.0 if self._waiting_for is not None else end_time - time.monotonic()
        _end(self._process, self.channel, max(grace_s, 0.0))
        _children.discard(self)
        self._stacks.close()
        self._heartbeat.close()
        if self._log is not None:
            self._log.close()


_children: weakref.WeakSet[Child] = weakref.WeakSet()


def check_deadline(key: str, value: float) -> None:
    """Raise ``UsageError`` for a deadline that no run could work with."""
    check(0 < value < float("inf"), key, value, "must be a number of seconds above 0")


def end_all_at_once() -> None:
    """Kill every child, without any grace: for a user who has asked twice."""
    for child in list(_children):
        _kill_group(child.pid)


def process_groups() -> dict[str, list[int]]:
    """Ids of processes by name: ``trainer`` is this one; a child's name has also those that the child has started."""
    groups = {"trainer": [os.getpid()]}
    for child in sorted(_children, key=lambda child: child.pid):
        groups[child.name] = session_of(child.pid)
    return groups


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now, for processes that are to meet there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def describe_exit(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


# -- ending


def end_children(children: Sequence[Child], *, grace_s: float = GRACE_S) -> None:
    """Close their channels, which asks them to end, and make sure of it and of all processes they have started.

    Together they are given ``grace_s`` seconds; one in the middle of something that nobody waits for any more, none.
    """
    for child in children:
        child.channel.close()  # all at once: ranks may have to meet in order to end
    end_time = time.monotonic() + grace_s
    for child in children:
        child._end(end_time)


def _end(process: subprocess.Popen[bytes], channel: Channel, grace_s: float) -> None:
    channel.close()
    try:
        process.wait(timeout=grace_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    # Its own children end with it (child_main.prepare). What is left then are Python's resource trackers, which remove
    # their processes' semaphores and shared memory and end by themselves.
    end = time.monotonic() + 2
    while session_of(process.pid) and time.monotonic() < end:
        time.sleep(0.02)
    _kill_group(process.pid)


def _kill_group(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return  # all of them have ended
