"""``plan.yaml`` and ``plan.sha256``: what was planned before the first run, and whether the runs still match it.

``versions.json`` beside them has the versions of this package, of its sources and of the libraries. ``status.json`` is
rewritten as the comparison goes on: runs that failed, changes made in the open, and whether the plan was intact at the
end.
"""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from insight_rl import __version__
from insight_rl.compare.plan import Plan, parse_plan
from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.nested import flatten
from insight_rl.paths import conf_dir
from insight_rl.recorded_config import read_plain_yaml

PLAN_FILE, HASH_FILE, VERSIONS_FILE, STATUS_FILE = "plan.yaml", "plan.sha256", "versions.json", "status.json"
NOT_PLANNED = ("processes", "output_dir", "keep_models")
"""Keys that change neither the runs nor what is said of them."""
OPEN_KEYS = ("seeds.number", "exclusions")
"""What may change in a comparison that has begun: the change is written to ``status.json`` and told in the report."""
_PACKAGES = ("torch", "transformers", "accelerate", "numpy", "scipy", "numba", "vllm", "deepspeed", "tokenizers")


def plan_text(plan: Plan) -> str:
    """The plan as it is hashed: YAML, in a fixed order, without the keys of :data:`NOT_PLANNED`."""
    content = {key: value for key, value in asdict(plan).items() if key not in NOT_PLANNED}
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120)


def plan_hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def read_plan(folder: Path) -> Plan:
    """The plan of a comparison that has begun. Raises ``UsageError`` where there is none, or it was edited by hand."""
    file = folder / PLAN_FILE
    if not file.is_file():
        raise UsageError(f"{folder}: has no {PLAN_FILE}: not the folder of a comparison; check the path")
    check_hash(folder)
    content = read_plain_yaml(file)
    schema = OmegaConf.structured(Plan)
    try:
        defaults = {"processes": None, "output_dir": None, "keep_models": False}
        return parse_plan(OmegaConf.merge(schema, OmegaConf.create({**content, **defaults})))  # type: ignore[arg-type]
    except UsageError:
        raise
    except Exception as error:  # OmegaConf's errors have no common base that says more
        raise UsageError(f"{file}: is not a plan ({str(error).splitlines()[0]}); restore it") from error


def check_hash(folder: Path) -> str:
    """The hash of ``plan.yaml``. Raises ``UsageError`` where it is not the one that was recorded."""
    try:
        found = plan_hash((folder / PLAN_FILE).read_text(encoding="utf-8"))
        recorded = (folder / HASH_FILE).read_text(encoding="utf-8").split()[:1]
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read ({error.strerror}); restore it") from error
    if recorded != [found]:
        raise UsageError(
            f"{folder / PLAN_FILE}: its hash is {found[:12]}..., but {HASH_FILE} records "
            f"{(recorded or ['nothing'])[0][:12]}...: the plan was edited after the first run; restore it, or start "
            "again with another output_dir"
        )
    return found


def record_plan(plan: Plan, folder: Path) -> list[str]:
    """Write the plan before the first run, or compare it with the one that is there.

    Returns notices: what has changed in the open. Raises ``UsageError`` naming the first other difference.
    """
    text = plan_text(plan)
    versions = current_versions()
    if not (folder / PLAN_FILE).exists():
        _write_plan(folder, text)
        write_atomically(folder / VERSIONS_FILE, json.dumps(versions, indent=1))
        write_status(folder, {"plan_sha256": plan_hash(text), "changes": [], "failed": {}, "plan_intact": None})
        return []
    before, now = (_flat(one) for one in (plan_text(read_plan(folder)), text))
    changes = []
    for key in sorted(before.keys() | now.keys(), key=lambda key: (key in OPEN_KEYS, key)):
        if before.get(key) == now.get(key):
            continue
        grows = key != "seeds.number" or now[key] > before[key]
        if key not in OPEN_KEYS or not grows:
            raise UsageError(
                f"{key}={now.get(key)!r}: the comparison in {folder} was planned with {before.get(key)!r}; keep "
                "that to go on, or take another output_dir"
            )
        changes.append(f"{key} was changed from {before.get(key)!r} to {now.get(key)!r} after the first run")
    changes += _changed_versions(folder, versions)
    status = read_status(folder)
    new = [change for change in changes if change not in status["changes"]]
    write_status(folder, {**status, "plan_sha256": plan_hash(text), "changes": [*status["changes"], *new]})
    _write_plan(folder, text)
    return new


def current_versions() -> dict[str, str]:
    """Versions of Python, of this package and its sources, and of the libraries that runs depend on."""
    found = {"python": platform.python_version(), "insight_rl": __version__, "sources": sources_digest()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def sources_digest() -> str:
    """Hash of this package's Python files and of ``conf``: tells two states of the code apart without git."""
    digest = hashlib.sha256()
    package = Path(__file__).parents[1]
    for root, pattern in ((package, "*.py"), (conf_dir(), "*.yaml")):
        for path in sorted(root.rglob(pattern)):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def read_status(folder: Path) -> dict[str, Any]:
    """``plan_sha256``, ``changes`` (sentences), ``failed`` (run to reason), ``plan_intact`` (None until the end)."""
    file = folder / STATUS_FILE
    empty: dict[str, Any] = {"plan_sha256": "", "changes": [], "failed": {}, "plan_intact": None}
    try:
        found = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except ValueError as error:
        raise UsageError(f"{file}: is damaged ({error}); delete it") from error
    if not isinstance(found, dict):
        raise UsageError(f"{file}: holds no mapping; delete it")
    return empty | found


def write_status(folder: Path, status: Mapping[str, Any]) -> None:
    write_atomically(folder / STATUS_FILE, json.dumps(status, indent=1, ensure_ascii=False))


def _flat(text: str) -> dict[str, Any]:
    """The settings by dotted key; the exclusions stay one."""
    plan = yaml.safe_load(text)
    exclusions = plan.pop("exclusions")
    return {**flatten(plan), "exclusions": exclusions}


def _write_plan(folder: Path, text: str) -> None:
    write_atomically(folder / PLAN_FILE, text)
    write_atomically(folder / HASH_FILE, f"{plan_hash(text)}  {PLAN_FILE}\n")


def _changed_versions(folder: Path, now: Mapping[str, str]) -> list[str]:
    try:
        before = json.loads((folder / VERSIONS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return [f"{VERSIONS_FILE} is lost: the versions of the first runs are not known"]
    return [
        f"{name} was {before.get(name)} at the first run and is {now.get(name)} now"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
