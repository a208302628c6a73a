"""The files of an evaluation: every sample with its verdict, in chunks. A chunk is complete or does not exist.

``<folder>/<benchmark>/manifest.json`` says what the chunks were made with, so that a continued evaluation never joins
samples of different models or settings.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.benchmark.figures import ProblemOutcome
from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.types import Group

Record = dict[str, Any]
"""One problem: ``prompt_id, prompt, answer, group`` and ``samples``, each ``completion, num_tokens, finish_reason,
value, success, status``."""


def to_record(group: Group, benchmark: Benchmark) -> Record:
    return {
        "prompt_id": group.prompt.id,
        "prompt": group.prompt.text,
        "answer": group.prompt.answer,
        "group": benchmark.group_of(group.prompt),
        "samples": [
            {
                "completion": completion.text,
                "num_tokens": len(completion.token_ids),
                "finish_reason": completion.finish_reason,
                "value": reward.value,
                "success": reward.success,
                "status": reward.status,
            }
            for completion, reward in zip(group.completions_G, group.rewards_G, strict=True)
        ],
    }


def to_outcome(record: Record) -> ProblemOutcome:
    samples = record["samples"]
    return ProblemOutcome(
        group=record["group"],
        num_samples=len(samples),
        num_correct=sum(sample["success"] is True for sample in samples),
        num_unjudged=sum(sample["success"] is None for sample in samples),
        num_truncated=sum(sample["finish_reason"] == "length" for sample in samples),
        num_tokens=sum(sample["num_tokens"] for sample in samples),
    )


class MemoryStore:
    """Keeps the chunks in memory, for an evaluation that cannot be continued."""

    def __init__(self) -> None:
        self._chunks: dict[int, list[Record]] = {}

    def has(self, number: int) -> bool:
        return number in self._chunks

    def read(self, number: int) -> list[Record]:
        return self._chunks[number]

    def write(self, number: int, records: Sequence[Record]) -> None:
        self._chunks[number] = list(records)


class DiskStore:
    """Chunks of one benchmark in ``folder``. Raises ``UsageError`` if it holds those of another ``manifest``."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]) -> None:
        self.folder = folder
        file = folder / "manifest.json"
        # As a JSON file gives it back, so that the two can be compared.
        wanted = json.loads(json.dumps(manifest))
        if not file.exists():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(file, json.dumps(wanted, indent=1))
            except OSError as error:
                raise UsageError(f"--output-dir={folder.parent}: cannot be written ({error.strerror})") from error
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UsageError(f"{file}: not valid JSON ({error}); remove the folder {folder}") from error
        different = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
        if different:
            diff = "; ".join(f"{key} was {_short(found.get(key))}, now {_short(wanted.get(key))}" for key in different)
            raise UsageError(
                f"--output-dir={folder.parent}: {folder.name} was evaluated otherwise ({diff}); take another"
            )

    def has(self, number: int) -> bool:
        return self._file(number).is_file()

    def read(self, number: int) -> list[Record]:
        file = self._file(number)
        try:
            # A file ends its lines at \n only; str.splitlines would also split at characters that completions hold.
            with file.open(encoding="utf-8") as lines:
                return [json.loads(line) for line in lines]
        except ValueError as error:
            raise UsageError(f"{file}: not valid JSON lines ({error}); remove it to have it made again") from error

    def write(self, number: int, records: Sequence[Record]) -> None:
        write_atomically(
            self._file(number), "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        )

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:05d}.jsonl"


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
