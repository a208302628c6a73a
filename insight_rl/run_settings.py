"""The settings of a finished run as the base of another command: ``insight-rl evaluate run_dir=RUN seed=3``."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config

TYPED = ("model", "trainer", "evaluation", "judge")
PARTS = ("task", "reward", "rollout")


def compose_from_run(run_dir: Path, overrides: Sequence[str], *, config_dir: Path | None = None) -> DictConfig:
    """The configuration of ``insight-rl train``, with the run's own model, task, reward and settings of evaluation.

    ``overrides`` win over the run: an option of a group (``rollout=vllm``) takes its place, a key changes its value.
    Raises ``UsageError`` for a folder without a readable config.yaml, or an override that does not fit it.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import OverrideParseException

    recorded = _load(run_dir)
    try:
        parsed = OverridesParser.create().parse_overrides(list(overrides))
    except OverrideParseException as error:
        raise UsageError(f"{error.override}: not a valid override; write key=value") from error
    sections = [(override.package or override.key_or_group).split(".")[0] for override in parsed]
    replaced = {
        section
        for override, section in zip(parsed, sections, strict=True)
        if override.package is not None or override.key_or_group in (*PARTS, "model", "evaluation")
    }
    if "task" in replaced:
        replaced.add("reward")  # a task brings its own
    kept = [section for section in (*TYPED, *PARTS) if section not in replaced]
    check_addresses(run_dir, {section: recorded[section] for section in kept}, overrides)
    groups = [str(o.input_line) for o, section in zip(parsed, sections, strict=True) if section in replaced]
    if "max_staleness" in (recorded.trainer or {}):
        groups.append("trainer=async")  # whose settings sync does not know
    tree = compose_config(groups, config_dir=config_dir)
    try:
        with open_dict(tree):
            tree.seed = recorded.seed
            for section in kept:
                if section in TYPED:
                    tree.merge_with({section: recorded[section]})
                else:
                    tree[section] = recorded[section]
                if f"{section}_name" in recorded:
                    tree[f"{section}_name"] = recorded[f"{section}_name"]
        if "model" in kept:
            tree.model.path, tree.model.revision = str(_model_of(run_dir)), None
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{run_dir / 'config.yaml'}: {str(error).splitlines()[0]}") from error
    for override, section in zip(parsed, sections, strict=True):
        if section not in replaced:
            _apply(tree, override, run_dir)
    return tree


def _load(run_dir: Path) -> DictConfig:
    file = run_dir / CONFIG_FILE
    recorded = read_recorded_config(run_dir)
    missing = [key for key in ("seed", *TYPED, *PARTS) if key not in recorded]
    if missing:
        raise UsageError(f"{file}: lacks {', '.join(missing)}: not the configuration of a run; restore it")
    engine_args = recorded["rollout"].get("engine_args") if isinstance(recorded["rollout"], dict) else None
    for name, value in (engine_args or {}).items() if isinstance(engine_args, dict) else ():
        # vLLM imports classes and runs a model's own code where its arguments say so.
        if not isinstance(value, (int, float)) or name == "trust_remote_code":
            raise UsageError(
                f"{file}: rollout.engine_args.{name}={value!r} is not taken from a run, since it could make vLLM run "
                f"code; remove it there, and give it on the command line if you want it"
            )
    return OmegaConf.create(recorded)


def check_addresses(run_dir: Path, recorded: Any, overrides: Sequence[str]) -> None:
    """Refuse the address of a judge model that the record of a run names and ``overrides`` do not.

    The record may be somebody else's, and texts and the key of an environment variable would be sent there.
    """
    given = {override.lstrip("+").partition("=")[0] for override in overrides}
    for key, address in _addresses("", recorded):
        if key not in given:
            raise UsageError(
                f"{run_dir / CONFIG_FILE}: {key}={address!r} is not taken from a run, since texts and your key would "
                f"be sent there; give it on the command line if you want that: {key}=..."
            )


def _addresses(key: str, node: Any) -> Iterator[tuple[str, str]]:
    if isinstance(node, (dict, DictConfig)):
        for name, item in node.items():
            where = f"{key}.{name!s}" if key else str(name)
            if name == "base_url":
                yield where, str(item)
            else:
                yield from _addresses(where, item)
    elif isinstance(node, (list, ListConfig)):
        for index, item in enumerate(node):
            yield from _addresses(f"{key}[{index}]", item)


def _model_of(run_dir: Path) -> Path:
    folder = run_dir.expanduser().resolve() / "model"
    check(
        (folder / "config.json").is_file(),
        "run_dir",
        str(run_dir),
        "has no model yet: it is saved when the run ends, or is stopped with Ctrl-C; or give model.path=...",
    )
    return folder


def _apply(tree: DictConfig, override: Any, run_dir: Path) -> None:
    key, line = override.key_or_group, override.input_line
    check(not override.is_delete() and key != "experiment", line.split("=")[0], line, "does not go with run_dir=...")
    try:
        OmegaConf.update(tree, key, override.value(), force_add=override.is_add())
    except OmegaConfBaseException as error:
        parent = OmegaConf.select(tree, key.rpartition(".")[0]) if "." in key else tree
        close = difflib.get_close_matches(key.rpartition(".")[2], map(str, parent or ()), n=2)
        remedy = f"; did you mean {' or '.join(close)}?" if close else ""
        reason = str(error).splitlines()[0]
        raise UsageError(f"{line}: does not fit {run_dir / 'config.yaml'} ({reason}){remedy}") from error
