"""Checks every request before it is handled: host name, token, rate and body size; and measures it for Prometheus.

Plain ASGI, so that refusing a request costs next to nothing.
"""

from __future__ import annotations

import hmac
import json
import math
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Histogram

OPEN_PATHS = frozenset({"/", "/healthz", "/openapi.json"})
"""Hold nothing secret: the page asks for the token before it asks for data."""
_MAX_CLIENTS = 10_000
_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


@dataclass(frozen=True, kw_only=True)
class Limits:
    token: str | None = None
    """Bearer token; ``None`` lets everybody in."""
    allowed_hosts: frozenset[str] | None = frozenset({"127.0.0.1", "localhost", "[::1]"})
    """Names that the ``Host`` header may have; ``None`` for any. Without a token, this keeps out web pages that let
    their own name resolve to this machine."""
    max_body_bytes: int = 16 * 2**20
    max_requests_per_s: float = 1000.0
    """Of one address, with twice as many at once after a pause."""


class Traffic:
    """Requests counted and timed, by operation."""

    def __init__(self, registry: CollectorRegistry) -> None:
        labels = ["operation", "status"]
        self.requests = Counter("insight_rl_requests", "requests answered", labels, registry=registry)
        self.seconds = Histogram(
            "insight_rl_request_seconds", "time to answer", ["operation"], registry=registry, buckets=_BUCKETS
        )


class Guard:
    """ASGI middleware; everything it refuses is answered with ``{"detail": ...}``."""

    def __init__(self, app: Any, *, limits: Limits, traffic: Traffic) -> None:
        self._app = app
        self._limits = limits
        self._traffic = traffic
        self._token = limits.token.encode() if limits.token is not None else None
        self._allowances: OrderedDict[str, tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def send_noting_status(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        refusal = self._refusal(scope, dict(scope["headers"]))
        try:
            if refusal is None:
                await self._app(scope, self._bounded(receive), send_noting_status)
            else:
                await _answer(send_noting_status, *refusal)
        finally:
            route = scope.get("route")
            operation = getattr(route, "name", None) or "refused"
            self._traffic.requests.labels(operation, str(status)).inc()
            self._traffic.seconds.labels(operation).observe(time.perf_counter() - started)

    def _refusal(self, scope: Any, headers: dict[bytes, bytes]) -> tuple[int, str, dict[str, str]] | None:
        allowed = self._limits.allowed_hosts
        host = headers.get(b"host", b"").decode("latin-1").lower()
        name = host if host.endswith("]") else host.rsplit(":", 1)[0]
        if allowed is not None and name not in allowed:
            return 403, f"this service does not answer to the name {name!r}; ask it by its address", {}
        wait_s = self._wait_s((scope.get("client") or ("", 0))[0])
        if wait_s > 0:
            return 429, f"more than {self._limits.max_requests_per_s:g} requests/s; slow down", _retry_after(wait_s)
        if self._token is not None and scope["path"] not in OPEN_PATHS:
            scheme, _, given = headers.get(b"authorization", b"").partition(b" ")
            if scheme.lower() != b"bearer" or not hmac.compare_digest(given.strip(), self._token):
                return 401, "send the header Authorization: Bearer TOKEN", {"www-authenticate": "Bearer"}
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > self._limits.max_body_bytes:
            return 413, self._too_large(), {"connection": "close"}
        return None

    def _wait_s(self, client: str) -> float:
        """Take one request from the client's allowance; how long it has to wait for the next if there is none."""
        rate, now = self._limits.max_requests_per_s, time.monotonic()
        allowance, last = self._allowances.pop(client, (2 * rate, now))
        allowance = min(2 * rate, allowance + (now - last) * rate)
        granted = allowance >= 1
        self._allowances[client] = (allowance - granted, now)
        if len(self._allowances) > _MAX_CLIENTS:
            self._allowances.popitem(last=False)
        return 0.0 if granted else (1 - allowance) / rate

    def _too_large(self) -> str:
        return f"the body is larger than {self._limits.max_body_bytes} bytes; send it in parts"

    def _bounded(self, receive: Any) -> Any:
        """``receive`` that stops a body without a length, or with a false one, at the limit."""
        total = 0

        async def receive_bounded() -> Any:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self._limits.max_body_bytes:
                raise HTTPException(413, self._too_large())
            return message

        return receive_bounded


def _retry_after(wait_s: float) -> dict[str, str]:
    return {"retry-after": str(math.ceil(wait_s))}


async def _answer(send: Any, status: int, detail: str, headers: dict[str, str]) -> None:
    body = json.dumps({"detail": detail}).encode()
    fields = {"content-type": "application/json", "content-length": str(len(body))} | headers
    raw = [(name.encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
