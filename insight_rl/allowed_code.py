"""Which code a configuration may name in ``_target_``: this package's parts, and what the command line allows.

A configuration is data: it may come with a run folder from somebody else. So nothing is imported because a
configuration names it, and no configuration can add to what is allowed.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check

PART_MODULES = (
    "insight_rl.algorithm",
    "insight_rl.benchmark",
    "insight_rl.gate",
    "insight_rl.learner",
    "insight_rl.monitor",
    "insight_rl.reward",
    "insight_rl.rollout",
    "insight_rl.runtime",
    "insight_rl.selector",
    "insight_rl.selector_service.client",
    "insight_rl.simulation.pass_rate_learner",
    "insight_rl.simulation.pass_rates",
    "insight_rl.simulation.synthetic_learner",
    "insight_rl.task",
    "insight_rl.weight_sync",
)
"""Where the parts of a run lie. Other modules of this package write files or run commands."""

FUNCTION_MODULES = ("insight_rl.selector.acquisition", "insight_rl.algorithm")
"""Pure formulas. Everywhere else in this package a target is a class with keyword-only settings."""

_EXTRA_OF_MODULE = {"vllm": "cpu", "deepspeed": "cpu", "ray": "ray", "trl": "trl", "fastapi": "serve", "httpx": "serve"}
CONTROL_KEYS = ("_target_", "_partial_")


@dataclass
class Allowed:
    """What the user has allowed in this process; sent to worker processes as it is."""

    packages: set[str] = field(default_factory=set)
    folders: set[Path] = field(default_factory=set)

    def allow(self, packages: Iterable[str] = (), folders: Iterable[Path] = ()) -> None:
        """Allow ``packages`` (top-level modules) by name, and the modules that lie directly in ``folders``.

        A folder also becomes importable, behind everything else, so that its modules replace none.
        """
        for name in packages:
            check(name.isidentifier(), "--allow-package", name, "must be the name of a top-level package or module")
            self.packages.add(name)
        for folder in folders:
            self.folders.add(folder.resolve())
            if str(folder.resolve()) not in sys.path:
                sys.path.append(str(folder.resolve()))

    def holds(self, path: Any) -> bool:
        """Whether a target may lie at the dotted ``path``. Imports nothing."""
        if not isinstance(path, str) or not re.fullmatch(r"[A-Za-z]\w*(\.[A-Za-z_]\w*)+", path):
            return False
        package = path.partition(".")[0]
        if package == __package__:
            return _lies_in(path, PART_MODULES)
        return package in self.packages or (bool(self.folders) and _folder_of(package) in self.folders)


allowed = Allowed()


def check_targets(key: str, node: Any) -> None:
    """Refuse a tree that names code anywhere that is not allowed, before any of it is imported.

    Raises ``UsageError`` naming the key, and what to type for code that the user trusts.
    """
    if isinstance(node, dict):
        for name, item in node.items():
            where = f"{key}.{name}" if key else str(name)
            is_control = isinstance(name, str) and name.startswith("_") and name.endswith("_")
            check(not is_control or name in CONTROL_KEYS, where, item, f"only {', '.join(CONTROL_KEYS)} have a meaning")
            if name == "_target_":
                check(allowed.holds(item), where, item, _how_to_allow(item))
            elif name == "_partial_":
                check(isinstance(item, bool), where, item, "must be true or false")
            else:
                check_targets(where, item)
    elif isinstance(node, list):
        for index, item in enumerate(node):
            check_targets(f"{key}[{index}]", item)


def import_target(key: str, path: str) -> Callable[..., Any]:
    """The class or function that is defined at a dotted ``path``.

    Raises ``UsageError`` with the reason and remedy if it is not allowed, not there, or merely imported there.
    """
    key = f"{key}._target_"
    check(allowed.holds(path), key, path, _how_to_allow(path))
    module_name, _, attribute = path.rpartition(".")
    try:
        target = getattr(importlib.import_module(module_name), attribute)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = _EXTRA_OF_MODULE.get(package)
        remedy = (
            f"install it with `pip install 'insight-rl[{extra}]'`" if extra else "check the spelling and PYTHONPATH"
        )
        raise UsageError(f"{key}={path!r}: module {error.name} is not installed; {remedy}") from error
    except (AttributeError, ValueError) as error:
        raise UsageError(f"{key}={path!r}: there is no {attribute!r} in {module_name!r}") from error
    check(inspect.isclass(target) or inspect.isfunction(target), key, path, "must name a class or a function")
    home = f"{target.__module__}.{target.__qualname__}"
    check(allowed.holds(home), key, path, f"is {home}, which is only imported there; {_how_to_allow(home)}")
    if home.startswith(f"{__package__}."):
        check(_is_part(target, home), key, path, "is not a part of a run; name a class that an option of conf/ names")
    return typing.cast("Callable[..., Any]", target)


def _is_part(target: Any, home: str) -> bool:
    if inspect.isfunction(target):
        return _lies_in(home, FUNCTION_MODULES)
    kinds = {parameter.kind for parameter in inspect.signature(target).parameters.values()}
    return kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}


def _lies_in(path: str, modules: Iterable[str]) -> bool:
    return any(path.startswith(f"{module}.") for module in modules)


def _folder_of(package: str) -> Path | None:
    """The folder that a top-level module or package would be imported from; imports nothing."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        folders = {Path(location).resolve().parent for location in spec.submodule_search_locations}
        return folders.pop() if len(folders) == 1 else None
    return Path(spec.origin).resolve().parent if spec.has_location and spec.origin else None


def _how_to_allow(path: Any) -> str:
    package = path.partition(".")[0] if isinstance(path, str) else ""
    if package == __package__:
        return "is not a part of a run; name a class that an option of conf/ names"
    if not package.isidentifier():
        return "must be the dotted path of a class or function"
    return (
        f"{package} is not among the code that this command may run; if it is yours, or you trust it, add "
        f"--allow-package {package}, or keep the module in the folder of --config-dir"
    )
