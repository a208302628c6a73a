"""Connections that send nothing, or a request that never ends, cannot keep others out: a limit and a deadline.

uvicorn has neither: its ``limit_concurrency`` counts requests that have arrived, and ``timeout_keep_alive`` ends with
the first byte of the next request.
"""

from __future__ import annotations

import logging
import resource
import time
from typing import Any

_log = logging.getLogger("uvicorn.error")  # the logger that the server has set up
_RESERVED_FILES = 64
"""Open files that are not connections: the database, libraries, the listener."""
_LOG_EVERY_S = 10.0


def allowed_connections(wanted: int) -> int:
    """``wanted``, or fewer where the limit on open files (``ulimit -n``) leaves no room for so many."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft - _RESERVED_FILES))


def bounded_protocol(*, max_connections: int, request_timeout_s: float) -> Any:
    """uvicorn's HTTP protocol, for its setting ``http``, with these two limits.

    A request must have arrived, body included, ``request_timeout_s`` after its connection began (or, on a connection
    that is kept open, after its first byte); else it is answered 408 and the connection closed. A connection beyond
    ``max_connections`` takes the place of the one that has been waited for longest; if none is waited for, it is
    closed itself. Both are logged, at most once in ten seconds.
    """
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    shared = _Shared(max_connections, request_timeout_s)
    return type("BoundedProtocol", (_Bounded, AutoHTTPProtocol), {"shared": shared})


class _Shared:
    """What the connections of one service have in common."""

    def __init__(self, max_connections: int, request_timeout_s: float) -> None:
        self.max_connections = max_connections
        self.request_timeout_s = request_timeout_s
        self.waited_for: dict[Any, None] = {}
        """Connections whose request has not arrived, in the order in which they began."""
        self.log = _Log(max_connections, request_timeout_s)


class _Bounded:
    """Mixed into a protocol of uvicorn, which is Any here: two of them have the same attributes and no common type."""

    shared: _Shared
    _timer: Any = None

    def connection_made(self: Any, transport: Any) -> None:
        super().connection_made(transport)  # type: ignore[misc]
        if len(self.connections) > self.shared.max_connections:
            self.shared.log.note("full", self.client)
            if not self.shared.waited_for:
                transport.abort()
                return
            next(iter(self.shared.waited_for)).drop()
        self._wait()

    def data_received(self: Any, data: bytes) -> None:
        if self._timer is None:
            self._wait()
        super().data_received(data)  # type: ignore[misc]
        if self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body:
            self._stop_waiting()  # the request is complete and being answered

    def connection_lost(self: Any, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)  # type: ignore[misc]

    def drop(self: Any) -> None:
        self._stop_waiting()
        self.connections.discard(self)
        self.transport.abort()

    def _wait(self: Any) -> None:
        self.shared.waited_for[self] = None
        self._timer = self.loop.call_later(self.shared.request_timeout_s, self._on_timeout)

    def _stop_waiting(self: Any) -> None:
        self.shared.waited_for.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _on_timeout(self: Any) -> None:
        self.shared.log.note("slow", self.client)
        self._stop_waiting()
        if not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self.transport.close()


class _Log:
    """One line for many connections of a kind."""

    def __init__(self, max_connections: int, request_timeout_s: float) -> None:
        self._reasons = {
            "full": f"more than {max_connections} were open at once",
            "slow": f"their requests had not arrived after {request_timeout_s:g} s",
        }
        self._counts = dict.fromkeys(self._reasons, 0)
        self._last = dict.fromkeys(self._reasons, -_LOG_EVERY_S)

    def note(self, kind: str, client: Any) -> None:
        self._counts[kind] += 1
        now = time.monotonic()
        if now - self._last[kind] >= _LOG_EVERY_S:
            address = client[0] if client else "unknown"
            _log.warning(
                "connections closed: %d, because %s; the last was from %s",
                self._counts[kind],
                self._reasons[kind],
                address,
            )
            self._counts[kind], self._last[kind] = 0, now
