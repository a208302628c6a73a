"""Builds the benchmarks of a configuration, and the manifest that identifies an evaluation. Loads no model."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.build import build_part
from insight_rl.config import RunConfig
from insight_rl.errors import UsageError, check
from insight_rl.types import Prompt, Sampling

DATA_SUFFIXES = (".jsonl", ".json", ".parquet", ".csv")
_FINGERPRINT_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class SuiteMember:
    """A benchmark under its name, and the configuration of its reward."""

    name: str
    benchmark: Benchmark
    reward_node: Any


def load_suite(config: RunConfig, *, data_dir: Path | None) -> list[SuiteMember]:
    """The benchmarks of ``evaluation.benchmarks``, or the task itself where there are none.

    ``data_dir`` holds files named after benchmarks (``math500.jsonl``, ``mmlu_test.parquet``), used instead of the hub.
    """
    nodes = config.evaluation.benchmarks
    if not nodes:
        check(data_dir is None, "--data-dir", str(data_dir), "goes with a suite; name a file with task.test_path=...")
        task, reward = build_part("task", config.task), build_part("reward", config.reward)
        return [SuiteMember(name=task.name, benchmark=Benchmark(task=task, reward=reward), reward_node=config.reward)]
    if data_dir is not None:
        nodes = _with_local_files(nodes, data_dir)
    return [
        SuiteMember(
            name=name, benchmark=build_part(f"evaluation.benchmarks.{name}", node), reward_node=node.get("reward")
        )
        for name, node in nodes.items()
    ]


def _with_local_files(nodes: dict[str, Any], data_dir: Path) -> dict[str, Any]:
    check(data_dir.is_dir(), "--data-dir", str(data_dir), "is not a folder")
    nodes = copy.deepcopy(nodes)
    num_found = 0
    for name, node in nodes.items():
        names = [f"{stem}{suffix}" for stem in (name, f"{name}_test") for suffix in DATA_SUFFIXES]
        found = [data_dir / file for file in names if (data_dir / file).is_file()]
        if found and isinstance(node, dict) and isinstance(node.get("task"), dict):
            node["task"]["test_path"] = str(found[0])
            num_found += 1
    if not num_found:
        raise UsageError(
            f"--data-dir={data_dir}: it has no file of any benchmark; name them {next(iter(nodes))}.jsonl and so on "
            f"({', '.join(DATA_SUFFIXES)})"
        )
    return nodes


def model_fingerprint(folder: Path) -> str:
    """A hash of the model's configuration, tokenizer and weights.

    Of large files only the beginning, the middle and the end are read. Training changes every tensor, so two
    checkpoints of one run differ in any of these pieces.
    """
    digest = hashlib.blake2b(digest_size=8)
    for file in sorted(folder.iterdir()):
        if file.suffix not in (".json", ".safetensors", ".jinja", ".bin", ".gguf") or not file.is_file():
            continue
        size = file.stat().st_size
        digest.update(f"{file.name}:{size}:".encode())
        with file.open("rb") as stream:
            for start in sorted({0, max(0, size // 2), max(0, size - _FINGERPRINT_BYTES)}):
                stream.seek(start)
                digest.update(stream.read(_FINGERPRINT_BYTES))
    return digest.hexdigest()


def manifest(
    config: RunConfig,
    member: SuiteMember,
    problems: Sequence[Prompt],
    *,
    model: str,
    sampling: Sampling,
    chunk_size: int,
) -> dict[str, Any]:
    """Everything that the samples and verdicts of a benchmark depend on; ``model`` is its fingerprint."""
    digest = hashlib.blake2b(digest_size=8)
    for prompt in problems:
        digest.update(json.dumps([prompt.id, prompt.token_ids, prompt.answer], default=str).encode())
    return {
        "model": model,
        "dtype": config.model.dtype,
        "max_length": config.model.max_length,
        "engine": config.rollout["_target_"],
        **{f"sampling.{name}": value for name, value in asdict(sampling).items()},
        "chunk_size": chunk_size,
        "reward": member.reward_node,
        "num_problems": len(problems),
        "problems": digest.hexdigest(),
    }


def default_folder(model_path: Path, settings: Sequence[dict[str, Any]]) -> Path:
    """The same for the same model and settings, so that the same command goes on where it was cut short."""
    name = model_path.parent.name if model_path.name == "model" else model_path.name
    digest = hashlib.blake2b(json.dumps(list(settings), default=str).encode(), digest_size=4).hexdigest()
    return Path("runs") / f"evaluation_{name}_{digest}"
