"""Shows that no module of insight_rl imports one above it, and that no imports go in a circle: by reading, not running.

    python scripts/check_layers.py

Prints the layers, the number of imports between packages, and every import that should not be; ends with 1 if any is.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "insight_rl"

LAYERS = (
    (
        "__init__",
        "child_log",
        "child_main",
        "errors",
        "heartbeat",
        "hub_access",
        "nested",
        "paths",
        "process_table",
        "redaction",
        "seeding",
        "state_codec",
        "stored_arrays",
        "supervision",
        "types",
    ),
    (
        "allowed_code",
        "child_process",
        "clock",
        "device_time",
        "disk_failures",
        "files",
        "hashed_files",
        "recorded_config",
        "stacks",
        "target_check",
        "versions",
    ),
    (
        "config",
        "leftovers",
        "memory",
        "model_folder",
        "placement",
        "run_command",
        "run_stops",
        "step_metrics",
        "stop_signals",
    ),
    ("algorithm", "gate", "reward", "weight_sync", "selector"),
    ("learner", "task", "tokenizer", "checkpoint", "monitor"),
    ("rollout", "report", "rollout_log", "run_dir", "build"),
    (
        "doctor",
        "evaluation",
        "evaluation_log",
        "gpu_turns",
        "reward_fit",
        "run_identity",
        "run_settings",
        "runtime",
        "sync_check",
    ),
    ("hub", "simulation", "selector_service", "integration"),
    ("benchmark", "recovery", "run_notices", "trainer", "trainer_async", "trainer_choice"),
    ("run",),
    ("compare",),
    ("cli",),
    ("__main__",),
)
"""The lowest first. A package or module may import those of lower layers, and of its own layer where no circle comes of
it. A new one is entered here."""

Graph = dict[str, set[str]]


def imports(package: Path = PACKAGE) -> Graph:
    """Every module of the package and the modules of it that it imports, those inside functions included."""
    root = package.name
    modules = {_module(path, package): path for path in sorted(package.rglob("*.py"))}
    graph: Graph = {}
    for name, path in modules.items():
        graph[name] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == root:
                candidates = [f"{node.module}.{alias.name}" for alias in node.names]
                graph[name] |= {each if each in modules else str(node.module) for each in candidates}
            elif isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names if alias.name in modules}
    return {name: targets - {name} for name, targets in graph.items()}


def problems(graph: Graph, layers: tuple[tuple[str, ...], ...] = LAYERS) -> list[str]:
    """Imports that run upward, circles, and packages without a layer, one line each."""
    layer_of = {part: number for number, parts in enumerate(layers) for part in parts}
    parts = {_part(module) for module in graph}
    found = [f"{part} has no layer; enter it in scripts/check_layers.py" for part in sorted(parts - layer_of.keys())]
    found += [f"{part} is in the layers but not in the package" for part in sorted(layer_of.keys() - parts)]
    for module, targets in graph.items():
        for target in sorted(targets):
            own, other = layer_of.get(_part(module)), layer_of.get(_part(target))
            if own is not None and other is not None and other > own:
                found.append(f"{module} imports {target}, which is above it")
    found += [f"circle of modules: {' -> '.join(circle)}" for circle in circles(graph)]
    found += [f"circle of packages: {' -> '.join(circle)}" for circle in circles(by_part(graph))]
    return found


def by_part(graph: Graph) -> Graph:
    """The same between packages and single modules of the root."""
    merged: Graph = {}
    for module, targets in graph.items():
        merged.setdefault(_part(module), set()).update(_part(target) for target in targets)
    return {part: targets - {part} for part, targets in merged.items()}


def circles(graph: Graph) -> list[list[str]]:
    """One circle for each import that closes one, found by a depth-first walk."""
    found: list[list[str]] = []
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> None:
        if node in path:
            found.append([*path[path.index(node) :], node])
            return
        if node in done:
            return
        for target in sorted(graph.get(node, ())):
            walk(target, [*path, node])
        done.add(node)

    for node in sorted(graph):
        walk(node, [])
    return found


def _module(path: Path, package: Path) -> str:
    parts = (package.name, *path.relative_to(package).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else "__init__"


def main() -> int:
    graph = imports()
    for number, parts in reversed(list(enumerate(LAYERS))):
        print(f"{number:2}  {'  '.join(parts)}")
    found = problems(graph)
    num_arrows = sum(map(len, by_part(graph).values()))
    print(f"{len(graph)} modules, {num_arrows} imports between packages, {len(found)} of them upward or in a circle")
    for problem in found:
        print(problem)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
