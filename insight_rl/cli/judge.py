"""``insight-rl judge``: verdicts on responses from standard input, one JSON line each, in order."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TextIO

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from insight_rl.build import build_part
from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.config import JudgeConfig, compose_config
from insight_rl.errors import UsageError
from insight_rl.reward.base import check_reward, check_start
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.types import Completion, Prompt, Reward

_EPILOG = """
each line of the input:   {"response": "... so the answer is \\\\boxed{12}", "answer": "12"}
each line of the output:  {"value": 1.0, "success": true, "status": "correct"}

status is correct, wrong, unparsable, no_answer, timeout or error; success is null for the last two, and "reason" then
says why. A line that cannot be read is an error too, and the rest goes on.

answers:
  reward=math             text or a number; a list of acceptable ones; {"gold": ..., "tolerance": 0.01}
  reward=countdown        {"numbers": [3, 7, 12], "target": 24}
  reward=multiple_choice  {"letter": "C", "num_choices": 4, "choices": [...]}, choices optional

A line may also have "prompt", to recognise where a response only echoes it, and "num_tokens" and "truncated" for
rewards with shaping. Any key of conf/reward/<name>.yaml can be overridden, e.g. reward.last_expression=false.
"""

_WINDOW = 2048


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl judge", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="reward=NAME and changes to conf/judge.yaml")
    add_own_code_options(parser)
    arguments = parser.parse_intermixed_args(argv)
    allow_own_code(arguments)
    if not any(override.startswith("reward=") for override in arguments.overrides):
        raise UsageError("reward has no value: say which, e.g. `insight-rl judge reward=math < in.jsonl`")
    tree = compose_config(arguments.overrides, config_name="judge", config_dir=arguments.config_dir)
    with build_judge_processes(tree) as judges:
        counts = judge_lines(judges, sys.stdin.buffer, sys.stdout)
    print(", ".join(f"{count} {status}" for status, count in counts.most_common()) or "no lines", file=sys.stderr)
    return 0


def build_judge_processes(tree: DictConfig) -> JudgeProcesses:
    """What ``reward`` and ``judge`` of a configuration describe; nothing stops it, however many are not judged."""
    reward = build_part("reward", OmegaConf.to_container(tree.reward))
    check_reward("reward", reward)
    try:
        judge = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(JudgeConfig), tree.judge))
    except OmegaConfBaseException as error:
        raise UsageError(f"judge.{error.key}={tree.judge.get(error.key)!r}: {str(error).splitlines()[0]}") from error
    assert isinstance(judge, JudgeConfig)
    check_start(reward, judge_deadline_s=judge.deadline_s)
    return JudgeProcesses(
        reward,
        num_workers=2 if judge.num_workers is None else judge.num_workers,
        deadline_s=judge.deadline_s,
        max_memory_mb=judge.max_memory_mb,
    )


def judge_lines(judges: JudgeProcesses, lines: BinaryIO, output: TextIO) -> Counter[str]:
    """Judge every line; returns how often each status came up."""
    counts: Counter[str] = Counter()
    for window in _windows(lines):
        verdicts = [_submit(judges, line) for line in window]
        judged = iter(judges.collect())
        for verdict in verdicts:
            reward = next(judged)[0] if verdict is None else verdict
            counts[reward.status] += 1
            output.write(json.dumps(_record(reward)) + "\n")
        output.flush()
    return counts


def _windows(lines: BinaryIO) -> Iterator[list[bytes]]:
    """The first line alone, then windows of many lines, so that the first verdict comes soon."""
    size = 1
    rest = iter(lines)
    while window := list(itertools.islice(rest, size)):
        yield window
        size = min(4 * size, _WINDOW)


def _submit(judges: JudgeProcesses, line: bytes) -> Reward | None:
    """Hand the line over to be judged, or say what is wrong with it."""
    try:
        prompt, completion = read_line(line)
    except UsageError as error:
        return Reward(value=0.0, success=None, status="error", reason=str(error))
    judges.submit(prompt, [completion])
    return None


def read_line(line: bytes) -> tuple[Prompt, Completion]:
    """A line of the input. Raises ``UsageError`` naming what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"not valid JSON: {error}") from error
    if not isinstance(record, dict):
        raise UsageError("not a JSON object")
    for key in ("response", "answer"):
        if key not in record:
            raise UsageError(f'no key "{key}"')
    if not isinstance(record["response"], str):
        raise UsageError(f'"response" is {type(record["response"]).__name__}, not text')
    return _as_rollout(record)


def _as_rollout(record: dict[str, Any]) -> tuple[Prompt, Completion]:
    num_tokens = record.get("num_tokens", 0)
    if not isinstance(num_tokens, int) or not 0 <= num_tokens <= 10_000_000:
        raise UsageError(f'"num_tokens" is {num_tokens!r}, not a count')
    prompt = Prompt(id="", task="", text=str(record.get("prompt", "")), token_ids=(), answer=record["answer"])
    completion = Completion(
        token_ids=np.zeros(num_tokens, np.int32),
        logprobs=np.zeros(0, np.float32),
        text=record["response"],
        finish_reason="length" if record.get("truncated") else "stop",
        policy_version=0,
    )
    return prompt, completion


def _record(reward: Reward) -> dict[str, Any]:
    record: dict[str, Any] = {"value": reward.value, "success": reward.success, "status": reward.status}
    if reward.reason:
        record["reason"] = reward.reason
    if reward.parts:
        record["parts"] = dict(reward.parts)
    return record
