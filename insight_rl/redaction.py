"""Takes out of a text what should not leave this machine: tokens, passwords, and where files lie.

It knows names (``HF_TOKEN``, ``api_key``), the shapes of common tokens, passwords in addresses, and the values that
secret variables of the environment have now. A secret under an innocent name and without a shape is not recognised.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HIDDEN = "[hidden]"

_SECRET_WORDS = frozenset(
    {
        *("token", "tokens", "key", "keys", "apikey", "secret", "secrets"),
        *("password", "passwords", "passwd", "pass", "pwd", "passphrase"),
        *("credential", "credentials", "auth", "authorization", "bearer", "cookie"),
    }
)
_MIN_SECRET_LENGTH = 8
"""A shorter value of a secret variable is not looked for in texts: it could be any word."""
_SHAPES = re.compile(
    r"\bhf_[A-Za-z0-9]{20,}|\b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}|\bgh[opsur]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}"
    r"|\bglpat-[\w-]{16,}|\bA[KS]IA[0-9A-Z]{16}\b|\bxox[abprs]-[\w-]{10,}|\bpypi-[\w-]{16,}"
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]{8,}|\bwandb_v\d_\w{20,}"
)
"""Hugging Face, OpenAI and their like, GitHub, GitLab, AWS, Slack, PyPI, JSON web tokens, W&B. Its older keys, 40 hex
digits, look like commits, which are to be read: their variables have a name."""
_ADDRESS = re.compile(r"(?P<scheme>\b[a-zA-Z][\w+.-]*://)[^/\s@'\"]+@")
_ASSIGNMENT = re.compile(r"(?P<name>[A-Za-z_][\w.-]*)(?P<sign>\s*[=:]\s*)(?P<value>\"[^\"]*\"|'[^']*'|[^\s,;}\]]+)")
_PATH = re.compile(r"(?<![\w.:/~-])(?:~[\w.-]*)?/(?:[^\s/'\",:;()\[\]{}=<>|`]+/)+(?P<last>[^\s/'\",:;()\[\]{}=<>|`]*)")


def is_secret_name(name: str) -> bool:
    """Whether a variable or setting of this name holds a secret: ``HF_TOKEN`` does, ``trainer.max_tokens`` does not."""
    words = [word for word in re.split(r"[^a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()) if word]
    # Numbers of tokens are settings, and PWD is the folder that a shell is in.
    if "max" in words or "num" in words or words == ["pwd"]:
        return False
    last = words[-1:] or [""]
    return last[0] in _SECRET_WORDS or any(word in _SECRET_WORDS - {"tokens", "key", "keys", "pass"} for word in words)


def without_secrets(text: str, environment: Mapping[str, str] | None = None) -> str:
    """``text`` with ``[hidden]`` in the place of every secret that is recognised; ``environment``: this process's."""
    environment = os.environ if environment is None else environment
    for name, value in environment.items():
        if is_secret_name(name) and len(value) >= _MIN_SECRET_LENGTH:
            text = text.replace(value, HIDDEN)
    text = _ADDRESS.sub(rf"\g<scheme>{HIDDEN}@", text)
    text = _ASSIGNMENT.sub(_hide_value, text)
    return _SHAPES.sub(HIDDEN, text)


def _hide_value(match: re.Match[str]) -> str:
    value = match["value"].strip("\"'")
    if not is_secret_name(match["name"]) or value.lower() in ("", "null", "none", "true", "false"):
        return match[0]
    return f"{match['name']}{match['sign']}{HIDDEN}"


def without_paths(text: str) -> str:
    """``text`` in which an absolute path is its last part alone: ``/home/me/data/x.jsonl`` becomes ``x.jsonl``."""
    return _PATH.sub(lambda match: match["last"] or "...", text)


def with_short_home(text: str) -> str:
    """``text`` in which the user's home folder is ``~``."""
    home = str(Path.home())
    return text if home == "/" else re.sub(rf"{re.escape(home)}(?=/|:|$|\s)", "~", text)


def plain_values_redacted(node: Any, name: str = "") -> Any:
    """A tree of plain values for others to read: secrets hidden, absolute paths shortened to their last part."""
    if isinstance(node, Mapping):
        return {key: plain_values_redacted(value, str(key)) for key, value in node.items()}
    if isinstance(node, list):
        return [plain_values_redacted(value, name) for value in node]
    if isinstance(node, str):
        return HIDDEN if node and is_secret_name(name) else without_paths(without_secrets(node))
    return node
