"""Where the hub is and whether it can be reached: asked before its libraries, which wait half a minute for it."""

from __future__ import annotations

import os
import socket
from urllib.parse import urlsplit

_CONNECT_S = 5.0
_TRUE = ("1", "ON", "YES", "TRUE")


def hub_endpoint() -> str:
    """Its address: ``HF_ENDPOINT``, as everywhere in the hub's libraries, or the public one."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def is_told_offline() -> bool:
    """Whether ``HF_HUB_OFFLINE`` says that the hub is not to be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def why_unreachable() -> str | None:
    """Why the hub cannot be reached, in a clause; ``None`` where it can, or where a proxy has to be asked."""
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return None
    endpoint = urlsplit(hub_endpoint())
    port = endpoint.port or (80 if endpoint.scheme == "http" else 443)
    try:
        socket.create_connection((endpoint.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as error:
        return f"the hub at {endpoint.hostname} cannot be reached ({error})"
    return None
