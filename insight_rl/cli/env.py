"""``insight-rl env``: versions and machine on one screen, to paste into an issue. Imports no library, loads nothing."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from insight_rl import __version__
from insight_rl.redaction import HIDDEN, is_secret_name, with_short_home, without_secrets
from insight_rl.versions import CORE_PACKAGES, EXTRA_PACKAGES, git_commit, package_version

_SHOWN_PREFIXES = (
    "ACCELERATE_",
    "CUDA_",
    "DS_",
    "HF_",
    "HUGGING",
    "INSIGHT_RL_",
    "MKL_",
    "NCCL_",
    "NVIDIA_",
    "OMP_",
    "OPENAI_",
    "PIP_",
    "PYTORCH_",
    "RAY_",
    "SLURM_JOB",
    "TENSORBOARD_",
    "TOKENIZERS_",
    "TORCH",
    "TRACKIO_",
    "TRANSFORMERS_",
    "TRITON_",
    "VLLM_",
    "WANDB_",
)
_SHOWN = (
    "ALL_PROXY",
    "CONDA_DEFAULT_ENV",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "LD_LIBRARY_PATH",
    "LD_PRELOAD",
    "LOCAL_RANK",
    "NO_PROXY",
    "PYTHONPATH",
    "RANK",
    "VIRTUAL_ENV",
    "WORLD_SIZE",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_MAX_VALUE_LENGTH = 160
_NVIDIA_SMI_DEADLINE_S = 5.0


def main(argv: Sequence[str]) -> int:
    """Print the screen and return 0."""
    parser = argparse.ArgumentParser(
        prog="insight-rl env",
        description="Versions, machine and environment on one screen, to paste into an issue. Secrets are hidden, your "
        "home folder is ~; look it through before you post it.",
    )
    parser.parse_args(argv)
    for line in describe_environment(os.environ):
        print(line)
    return 0


def describe_environment(environment: Mapping[str, str]) -> Iterator[str]:
    """The lines of the screen."""
    commit = git_commit()
    where = with_short_home(str(Path(__file__).resolve().parent.parent))
    yield f"insight_rl {__version__}{f', commit {commit}' if commit else ''}, in {where}"
    yield f"Python {platform.python_version()}, {with_short_home(sys.executable)}"
    yield f"{platform.platform()}, {_cores()}, {_memory()}"
    yield from _gpus()
    versions = {name: package_version(name) for name in (*CORE_PACKAGES, *EXTRA_PACKAGES)}
    yield "installed: " + ", ".join(f"{name} {found}" for name, found in versions.items() if found)
    yield "not installed: " + (", ".join(name for name, found in versions.items() if not found) or "none of them")
    shown = sorted(name for name in environment if name in _SHOWN or name.startswith(_SHOWN_PREFIXES))
    yield "environment:" if shown else "environment: nothing that matters here is set"
    for name in shown:
        yield f"  {name}={_shown_value(name, environment[name], environment)}"


def _shown_value(name: str, value: str, environment: Mapping[str, str]) -> str:
    if is_secret_name(name) and value:
        return HIDDEN
    text = with_short_home(without_secrets(value, environment)).encode("unicode_escape").decode()
    return text if len(text) <= _MAX_VALUE_LENGTH else f"{text[:_MAX_VALUE_LENGTH]}..."


def _cores() -> str:
    usable, there = len(os.sched_getaffinity(0)), os.cpu_count()
    return f"{usable} cores" if usable == there else f"{usable} of {there} cores"


def _memory() -> str:
    return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB memory"


def _gpus() -> Iterator[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        yield "GPU: none seen (there is no nvidia-smi)"
        return
    query = [program, "--query-gpu=name,memory.total,driver_version,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_NVIDIA_SMI_DEADLINE_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        yield f"GPU: nvidia-smi does not answer ({type(error).__name__})"
        return
    lines = (done.stdout if done.returncode == 0 else done.stdout + done.stderr).strip().splitlines()
    for line in lines or ["nvidia-smi names none"]:
        yield f"GPU: {line.strip()}"
