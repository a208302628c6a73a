"""One POST over HTTP, bounded in time and in size, whatever the other side does: it may drip, stall or never end.

No redirect is followed, no proxy is used, nothing is unpacked. The standard library alone, so that every installation
has it.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from insight_rl.errors import UsageError, check

MAX_BYTES = 1 << 20
"""Of a reply; a longer one is no reply."""


class NoReply(Exception):
    """Nothing came that could be read. ``status`` is ``timeout`` or ``error``; ``may_pass``: trying again may help.

    The reasons are few and have no variable parts, since they are counted.
    """

    def __init__(self, status: str, reason: str, *, may_pass: bool) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
        self.may_pass = may_pass


class Unreachable(NoReply):
    """Nobody listens at the address, or it has none."""


class Answered(NamedTuple):
    status: int
    body: bytes
    retry_after_s: float
    """What the server asks to wait; 0 where it says nothing."""


class Address(NamedTuple):
    is_https: bool
    host: str
    port: int
    path: str


def read_address(key: str, url: str) -> Address:
    """The parts of ``url``. Raises ``UsageError`` that names ``key`` for what is no plain http(s) address."""
    remedy = "use an address like http://127.0.0.1:8000/v1 or https://api.example.com/v1"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{key}={url!r}: {error}; {remedy}") from error
    if parts.username is not None or parts.password is not None:
        raise UsageError(f"{key}: holds a user name or password, and it is recorded; name a variable in api_key_env")
    is_plain = parts.scheme in ("http", "https") and parts.hostname and not parts.query and not parts.fragment
    check(bool(is_plain) and re.fullmatch(r"[!-~]+", url) is not None, key, url, remedy)
    is_https = parts.scheme == "https"
    return Address(is_https, parts.hostname or "", port or (443 if is_https else 80), parts.path.rstrip("/"))


def post(address: Address, body: bytes, headers: Mapping[str, str], *, timeout_s: float) -> Answered:
    """Send ``body`` and read the whole answer within ``timeout_s``. Raises :class:`NoReply`."""
    deadline = time.monotonic() + timeout_s
    too_late = NoReply("timeout", "the judge model gave no reply in time (reward.timeout_s)", may_pass=True)
    if timeout_s <= 0:
        raise too_late
    is_late = threading.Event()
    with ExitStack() as cleanup:
        try:
            line = socket.create_connection((address.host, address.port), timeout=timeout_s)
        except TimeoutError:
            raise too_late from None
        except OSError as error:
            reason = f"the judge model cannot be reached ({error.strerror or type(error).__name__})"
            raise Unreachable("error", reason, may_pass=True) from None
        cleanup.callback(line.close)
        # Timeouts of a socket are for one read: who sends a byte a second keeps them all. So the line is cut.
        scissors = line.dup()
        cleanup.callback(scissors.close)
        timer = threading.Timer(max(deadline - time.monotonic(), 0), _cut, (scissors, is_late))
        timer.daemon = True
        timer.start()
        cleanup.callback(timer.join)
        cleanup.callback(timer.cancel)
        try:
            answered = _exchange(address, line, body, headers)
        except (OSError, http.client.HTTPException, ValueError) as error:
            # Not its text: that may hold what was sent or received.
            failure = NoReply("error", f"the line to the judge model broke ({type(error).__name__})", may_pass=True)
            raise (too_late if is_late.is_set() or isinstance(error, TimeoutError) else failure) from None
    # A body without a length ends where the line is cut.
    if is_late.is_set():
        raise too_late
    return answered


def _cut(line: socket.socket, is_late: threading.Event) -> None:
    is_late.set()
    with suppress(OSError):  # the other side has closed it
        line.shutdown(socket.SHUT_RDWR)


def _exchange(address: Address, line: socket.socket, body: bytes, headers: Mapping[str, str]) -> Answered:
    connection = http.client.HTTPConnection(address.host, address.port)
    if address.is_https:
        line = ssl.create_default_context().wrap_socket(line, server_hostname=address.host)
        connection = http.client.HTTPSConnection(address.host, address.port)
    connection.auto_open = 0
    connection.sock = line
    try:
        connection.request("POST", address.path, body, dict(headers))
        response = connection.getresponse()
        content = response.read(MAX_BYTES + 1)
    finally:
        connection.close()
    if len(content) > MAX_BYTES:
        raise NoReply("error", f"the judge model's reply is longer than {MAX_BYTES} bytes", may_pass=False)
    if response.getheader("Content-Encoding", "identity") != "identity":
        raise NoReply("error", "the judge model's reply is packed, though it was asked not to be", may_pass=False)
    retry_after = response.getheader("Retry-After", "")
    seconds = float(retry_after) if re.fullmatch(r"\d{1,4}", retry_after) else 0.0
    return Answered(response.status, content, seconds)
