"""Finds the folders that ship with the package: ``conf`` and ``data``."""

from __future__ import annotations

from pathlib import Path


def _shipped_dir(name: str, marker: str) -> Path:
    """``name``/ inside the package (a wheel) or beside it (a checkout, an editable install)."""
    package = Path(__file__).resolve().parent
    for candidate in (package / name, package.parent / name):
        if (candidate / marker).exists():
            return candidate
    raise FileNotFoundError(f"no {name}/{marker} inside or beside {package}: the installation is incomplete")


def conf_dir() -> Path:
    """The Hydra tree: beside the package in a checkout, inside it in a wheel."""
    return _shipped_dir("conf", "train.yaml")


def data_dir() -> Path:
    """The bundled data sets and the tiny model: beside the package in a checkout, inside it in a wheel."""
    return _shipped_dir("data", "countdown/train.jsonl")
