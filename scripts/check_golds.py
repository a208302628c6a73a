"""Judges every gold answer of local data files as if a model had given it, and lists those that are not found right.

    python scripts/check_golds.py DIR [--min-share 0.995] [--output exceptions.json]

A file is read by the benchmark that its name begins with (``math500.jsonl``, ``gsm8k_train.jsonl``);
rows with numbers, a target and ``a_solution`` are Countdown problems. Ends with code 1 where a file's share is below
``--min-share``: the reward, or the data, needs a look before anybody trains on it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.build import build_judge, build_part
from insight_rl.config import JudgeConfig, compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.reward.countdown import CountdownReward
from insight_rl.types import Completion, Prompt, Reward

BENCHMARKS = ("aime24", "amc23", "math500", "minerva_math", "olympiadbench", "gsm8k", "mmlu", "gpqa")
SAME_FORMAT = {"math_train": "math500", "math_test": "math500", "deepscaler": "math500"}
JUDGE = JudgeConfig(num_workers=None, deadline_s=10.0, max_memory_mb=2048, max_unjudged_fraction=1.0)


class PlainEncoder:
    """The wording as it is: no model is at hand, and rewards do not look at tokens."""

    def encode(self, prompt: Any) -> tuple[str, tuple[int, ...]]:
        return (prompt if isinstance(prompt, str) else prompt[-1]["content"]), (0,)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--min-share", type=float, default=0.995)
    parser.add_argument("--output", type=Path, help="write the exceptions as JSON")
    arguments = parser.parse_args()
    files = sorted(p for p in arguments.folder.iterdir() if p.suffix in (".jsonl", ".json", ".parquet", ".csv"))
    if not files:
        raise UsageError(f"{arguments.folder}: it has no data files")
    exceptions: list[dict[str, Any]] = []
    worst = 1.0
    for file in files:
        started = time.perf_counter()
        golds, judged = _judge_file(file)
        wrong = [
            (prompt, text, reward) for (prompt, text), reward in zip(golds, judged, strict=True) if not reward.success
        ]
        share = 1 - len(wrong) / len(golds)
        worst = min(worst, share)
        print(f"{file.name}: {len(golds)} golds, {share:.2%} verify, {time.perf_counter() - started:.1f} s")
        for prompt, text, reward in wrong:
            record = {"file": file.name, "id": prompt.id, "gold": text, "status": reward.status}
            exceptions.append(record | {"prompt": prompt.text})
            print(f"  {reward.status:<11} {prompt.id}  {text}")
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(exceptions, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0 if worst >= arguments.min_share else 1


def _judge_file(file: Path) -> tuple[list[tuple[Prompt, str]], list[Reward]]:
    """Every gold with its prompt, and its reward."""
    reward, golds = _countdown_golds(file) or _benchmark_golds(file)
    judge = build_judge(reward, JUDGE)
    try:
        for prompt, text in golds:
            judge.submit(prompt, [_completion(text)])
        return golds, [rewards_G[0] for rewards_G in judge.collect()]
    finally:
        judge.close()


def _countdown_golds(file: Path) -> tuple[Any, list[tuple[Prompt, str]]] | None:
    if file.suffix != ".jsonl":
        return None
    with file.open(encoding="utf-8") as lines:
        if not {"numbers", "target", "a_solution"} <= set(json.loads(lines.readline())):
            return None
        lines.seek(0)
        rows = [json.loads(line) for line in lines if line.strip()]
    reward = CountdownReward(style="bare", format_value=0.0, allow_latex=False)
    golds = []
    for number, row in enumerate(rows, start=1):
        answer = {"numbers": row["numbers"], "target": row["target"]}
        prompt = Prompt(id=f"row {number}", task="countdown", text=str(answer), token_ids=(0,), answer=answer)
        golds.append((prompt, row["a_solution"]))
    return reward, golds


def _benchmark_golds(file: Path) -> tuple[Any, list[tuple[Prompt, str]]]:
    name = next((name for stem, name in SAME_FORMAT.items() if file.stem.startswith(stem)), None)
    name = name or next((name for name in BENCHMARKS if file.stem.startswith(name)), None)
    if name is None:
        raise UsageError(f"{file}: its name begins with none of {', '.join((*BENCHMARKS, *SAME_FORMAT))}")
    overrides = [f"+benchmark@evaluation.benchmarks.{name}={name}"]
    node = parse_config(compose_config(overrides)).evaluation.benchmarks[name]
    node["task"]["test_path"] = str(file)
    benchmark: Benchmark = build_part(f"benchmark {name}", node)
    prompts = benchmark.task.test_prompts(PlainEncoder())
    return benchmark.reward, [(prompt, text) for prompt in prompts for text in _responses(prompt.answer)]


def _responses(answer: Any) -> Iterator[str]:
    """What a model that knows the answer would write, once for each acceptable one."""
    if isinstance(answer, dict) and "letter" in answer:
        yield f"\\boxed{{{answer['letter']}}}"
        return
    gold = answer["gold"] if isinstance(answer, dict) else answer
    golds: Sequence[str] = gold if isinstance(gold, list) else [gold]
    for text in golds:
        yield f"\\boxed{{{text}}}"


def _completion(text: str) -> Completion:
    return Completion(token_ids=np.zeros(1), logprobs=np.zeros(1), text=text, finish_reason="stop", policy_version=0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"check_golds: {error}")
