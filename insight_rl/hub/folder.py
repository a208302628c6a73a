"""Writes what is to be sent into a local folder: ``model/`` and, on request, ``records/``, each with its card."""

from __future__ import annotations

import fnmatch
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from insight_rl.errors import UsageError
from insight_rl.hub.card import model_card, records_card
from insight_rl.hub.facts import Facts
from insight_rl.hub.records import write_records
from insight_rl.hub.run_files import MAX_TEXT_BYTES, RunFiles, take
from insight_rl.model_folder import count_parameters
from insight_rl.redaction import plain_values_redacted
from insight_rl.versions import VERSIONS_FILE, read_versions

WEIGHTS = "*.safetensors"
TEXTS = (
    "config.json",
    "generation_config.json",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "chat_template.jinja",
    "chat_template.json",
)
"""What a text model's folder holds. Nothing else is sent: no code, and no pickled weights."""
ADAPTER_TEXTS = ("adapter_config.json",)
_SETTINGS = re.compile(r".*config\.json")
_PATH_KEYS = re.compile(r".*(_path|_file|name_or_path)")


@dataclass(frozen=True, kw_only=True)
class Sources:
    """Where the model comes from: files of the run, or of an export. ``what``: in words, for the card."""

    what: str
    model: Mapping[str, Path]
    adapter: Mapping[str, Path]


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A folder that is ready to be sent. ``left_out``: files of the run's model folder that are not."""

    folder: Path
    sizes: Mapping[str, int]
    left_out: tuple[str, ...] = ()


def find_sources(files: RunFiles, *, what: str) -> Sources:
    """``model/`` and ``adapter/`` of a folder. Raises ``UsageError`` where there is no model in it."""
    model = files.folder("model")
    if "config.json" not in model or not fnmatch.filter(model, WEIGHTS):
        raise UsageError(
            f"run_dir={str(files.root)!r}: has no model yet, which is saved when the run ends or is stopped with "
            "Ctrl-C; take one of its checkpoints: checkpoint=latest"
        )
    return Sources(what=what, model=model, adapter=files.folder("adapter"))


def write_model(
    folder: Path, files: RunFiles, facts: Facts, sources: Sources, *, repo: str, license_name: str | None
) -> Prepared:
    """The model's folder; ``folder`` is new."""
    left_out = _write_files(sources.model, folder, TEXTS, facts, repo)
    left_out += [
        f"adapter/{each}" for each in _write_files(sources.adapter, folder / "adapter", ADAPTER_TEXTS, facts, repo)
    ]
    training = folder / "training"
    training.mkdir(parents=True)
    settings = yaml.safe_dump(plain_values_redacted(dict(facts.config)), sort_keys=False, allow_unicode=True)
    (training / "config.yaml").write_text(settings, encoding="utf-8")
    versions = read_versions(files.root)
    if versions:
        (training / VERSIONS_FILE).write_text(json.dumps(plain_values_redacted(versions), indent=1), encoding="utf-8")
    card = model_card(
        facts,
        repo=repo,
        model=sources.what,
        license_name=license_name,
        num_parameters=count_parameters(folder),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")
    return Prepared(folder=folder, sizes=_sizes(folder), left_out=tuple(left_out))


def write_records_folder(folder: Path, files: RunFiles, facts: Facts, *, repo: str) -> Prepared:
    """The folder of the data set; ``folder`` is new."""
    num_decisions, num_prompts = write_records(files, folder)
    card = records_card(facts, repo=repo, num_decisions=num_decisions, num_prompts=num_prompts)
    (folder / "README.md").write_text(card, encoding="utf-8")
    return Prepared(folder=folder, sizes=_sizes(folder))


def _write_files(
    source: Mapping[str, Path], target: Path, texts: tuple[str, ...], facts: Facts, repo: str
) -> list[str]:
    """Those that belong to a model; returns the names of the others."""
    left_out = []
    for name, path in source.items():
        if fnmatch.fnmatchcase(name, WEIGHTS):
            take(path, target / name)
        elif name not in texts:
            left_out.append(name)
        elif path.stat().st_size > MAX_TEXT_BYTES:
            raise UsageError(f"{path}: has more than {MAX_TEXT_BYTES} bytes, which no such file has; restore it")
        elif _SETTINGS.fullmatch(name):
            target.mkdir(parents=True, exist_ok=True)
            text = json.dumps(_clean(_settings(path), facts, repo), indent=2, ensure_ascii=False)
            (target / name).write_text(text + "\n", encoding="utf-8")
        else:
            take(path, target / name)
    return left_out


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: is no JSON ({error}); restore it") from error
    if not isinstance(settings, dict):
        raise UsageError(f"{path}: holds no settings by name; restore it")
    return settings


def _clean(settings: Mapping[str, Any], facts: Facts, repo: str) -> dict[str, Any]:
    """Without what would make a reader run code, and without where files lay on this machine."""
    cleaned = {key: value for key, value in settings.items() if key not in ("auto_map", "custom_pipelines")}
    for key, value in settings.items():
        if not isinstance(value, str) or not _PATH_KEYS.fullmatch(key):
            continue
        if key == "base_model_name_or_path":
            # The merged model is another one: an adapter belongs to the model that the run began with.
            cleaned[key] = facts.base_model or facts.base_folder or repo
        elif value.startswith(("/", "~", ".")):
            cleaned[key] = value.rstrip("/").rpartition("/")[2]
    return cleaned


def _sizes(folder: Path) -> dict[str, int]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
