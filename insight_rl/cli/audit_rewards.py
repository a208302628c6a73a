"""``insight-rl audit-rewards``: judges the recorded samples of a run again and shows the verdicts worth a look.

The second opinion on mathematics is plain math-verify.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from insight_rl.build import build_part
from insight_rl.cli.judge import build_judge_processes
from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.config import compose_config
from insight_rl.errors import UsageError, check
from insight_rl.monitor.records import SAMPLES_FILE
from insight_rl.recorded_config import read_recorded_config
from insight_rl.reward.base import BaseReward
from insight_rl.reward.judge_processes import Judged, JudgeProcesses
from insight_rl.reward.math.reward import MathReward
from insight_rl.run_settings import check_addresses
from insight_rl.task.base import Messages
from insight_rl.types import Completion, Prompt, Reward

_EPILOG = """
examples:
  insight-rl audit-rewards run_dir=runs/demo                        the samples a training run kept, against its task
  insight-rl audit-rewards samples=samples.jsonl reward=math        what `insight-rl evaluate --samples` wrote
  insight-rl audit-rewards run_dir=runs/demo reward=math            the same samples judged by another reward
  insight-rl audit-rewards run_dir=runs/demo output=audit.json      every finding as JSON too

findings:
  changed     the recorded verdict is not the one reached now (another version, settings or data)
  slow        took more than slow_s seconds (0.1 unless given)
  unjudged    timeout or error
  echo        a wrong, unparsable or missing answer in a response that contains the gold answer: a verdict to check
  opinion     reward=math only: plain math-verify on the whole response says otherwise
"""

_MAX_SHOWN = 5
_OPTIONS = ("run_dir", "samples", "output", "slow_s", "limit")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded completion."""

    prompt: Prompt
    completion: Completion
    status: str
    """As recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    kind: str
    prompt_id: str
    answer: str
    response: str
    recorded: str
    now: str
    seconds: float
    reason: str = ""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl audit-rewards", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="run_dir= or samples=, output=, slow_s=, limit=, reward=..."
    )
    add_own_code_options(parser)
    arguments = parser.parse_args(argv)
    allow_own_code(arguments)
    options = dict(item.split("=", 1) for item in arguments.overrides if item.split("=", 1)[0] in _OPTIONS)
    overrides = [item for item in arguments.overrides if item.split("=", 1)[0] not in _OPTIONS]
    check(
        ("run_dir" in options) != ("samples" in options), "run_dir", options.get("run_dir"), "give run_dir or samples"
    )
    slow_s, limit = _number(options, "slow_s", 0.1), int(_number(options, "limit", 10_000))
    if "run_dir" in options:
        tree, samples = _of_run(Path(options["run_dir"]), overrides, arguments.config_dir)
    else:
        tree, samples = (
            compose_config(overrides, config_name="judge", config_dir=arguments.config_dir),
            _of_file(Path(options["samples"]), {}),
        )
    samples = samples[-limit:]
    with build_judge_processes(tree) as judges:
        judged = judge(judges, samples)
        opinions = _second_opinions(tree, samples)
    findings = list(compare(samples, judged, opinions, slow_s=slow_s))
    _print(samples, judged, findings)
    if "output" in options:
        records = [{field: getattr(finding, field) for field in Finding.__slots__} for finding in findings]
        Path(options["output"]).write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return 0


def _number(options: Mapping[str, str], key: str, default: float) -> float:
    try:
        value = float(options.get(key, default))
    except ValueError as error:
        raise UsageError(f"{key}={options[key]!r}: must be a number") from error
    check(value > 0, key, value, "must be above 0")
    return value


# -- samples


class TextEncoder:
    """Prompts as text only: no model is needed to look up an answer."""

    def encode(self, prompt: str | Messages) -> tuple[str, tuple[int, ...]]:
        return str(prompt), ()


def _of_run(run_dir: Path, overrides: list[str], config_dir: Path | None) -> tuple[DictConfig, list[Sample]]:
    """The run's reward and its samples, with the answers of its task."""
    tree = OmegaConf.create(read_recorded_config(run_dir))
    for key in ("model", "task", "reward"):
        check(isinstance(tree.get(key), DictConfig), "run_dir", str(run_dir), f"its config.yaml has no {key}")
    try:
        tree.merge_with(_chosen_parts(tree, overrides, config_dir))
        tree.merge_with_dotlist([item for item in overrides if not item.startswith("reward=")])
    except (OmegaConfBaseException, ValueError) as error:
        raise UsageError(f"{' '.join(overrides)}: {str(error).splitlines()[0]}") from error
    is_chosen = any(item.startswith("reward=") for item in overrides)
    check_addresses(
        run_dir, {"task": tree.task} if is_chosen else {"task": tree.task, "reward": tree.reward}, overrides
    )
    # Not resolved: what looks like an interpolation in somebody's record is text.
    task = build_part("task", OmegaConf.to_container(tree.task))
    encoder = TextEncoder()
    prompts = [*task.train_prompts(encoder), *task.test_prompts(encoder)]
    return tree, _of_file(run_dir / SAMPLES_FILE, {prompt.id: prompt.answer for prompt in prompts})


def _chosen_parts(tree: DictConfig, overrides: Sequence[str], config_dir: Path | None) -> DictConfig:
    """What takes the place of the run's own: another reward, and judging settings that an older run does not name."""
    names = [item for item in overrides if item.startswith("reward=")]
    style = f"model.prompt_style={tree.model.prompt_style}"
    chosen = compose_config([*names, style], config_name="judge", config_dir=config_dir)
    parts: dict[str, Any] = {"judge": OmegaConf.merge(chosen.judge, tree.get("judge") or {})}
    if names:
        # The settings of the run's reward are not those of the chosen one.
        del tree.reward
        parts["reward"] = chosen.reward
    return OmegaConf.create(parts)


def _of_file(path: Path, answers: Mapping[str, Any]) -> list[Sample]:
    """The samples of a file; those whose answer neither it nor ``answers`` knows are left out."""
    check(path.is_file(), "samples", str(path), "no such file: the run kept no samples (monitor=jsonl keeps them)")
    samples: list[Sample] = []
    # At newlines only: completions may hold other characters that end a line for str.splitlines.
    for number, line in enumerate(path.read_text(encoding="utf-8").rstrip("\n").split("\n"), start=1):
        try:
            record = json.loads(line)
            if "completion" not in record:
                continue
            answer = record["answer"] if "answer" in record else answers.get(record["prompt_id"])
            if answer is not None:
                samples.append(_sample(record, answer))
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} line {number}: not a sample ({type(error).__name__}: {error})") from error
    check(bool(samples), "samples", str(path), "holds no sample whose answer is known")
    return samples


def _sample(record: Mapping[str, Any], answer: Any) -> Sample:
    prompt = Prompt(id=record["prompt_id"], task="", text=str(record.get("prompt", "")), token_ids=(), answer=answer)
    completion = Completion(
        token_ids=np.zeros(int(record.get("num_tokens", 0)), np.int32),
        logprobs=np.zeros(0, np.float32),
        text=record["completion"],
        finish_reason=record.get("finish_reason", "stop"),
        policy_version=0,
    )
    return Sample(prompt=prompt, completion=completion, status=str(record.get("status", "")))


# -- verdicts


def judge(judges: JudgeProcesses, samples: Sequence[Sample]) -> list[Judged]:
    for sample in samples:
        judges.submit(sample.prompt, [sample.completion])
    return [group[0] for group in judges.collect_judged()]


class PlainMathVerify(BaseReward):
    """math-verify as it comes, on the whole response, as a reward function whose time its process bounds."""

    worker_modules = ("insight_rl.reward.math.algebra",)
    """Imported first; it also keeps math-verify from announcing that its timeouts are off."""

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        from math_verify import parse, verify

        from insight_rl.reward.math.reward import read_gold

        answer = parse(completion.text, parsing_timeout=None)
        golds = [parse(f"${text}$", parsing_timeout=None) for text in read_gold(prompt.answer).texts]
        success = any(verify(gold, answer, timeout_seconds=None) for gold in golds)
        return Reward(value=float(success), success=success, status="correct" if success else "wrong")


def _second_opinions(tree: DictConfig, samples: Sequence[Sample]) -> list[Judged]:
    """math-verify's verdicts where the reward is about mathematics; empty otherwise."""
    if not str(tree.reward.get("_target_", "")).endswith(MathReward.__name__):
        return []
    with JudgeProcesses(PlainMathVerify(), num_workers=2) as other:
        return judge(other, samples)


def compare(
    samples: Sequence[Sample], judged: Sequence[Judged], opinions: Sequence[Judged], *, slow_s: float
) -> Iterator[Finding]:
    """Everything worth a look, in the order of the samples."""
    for index, (sample, (reward, seconds)) in enumerate(zip(samples, judged, strict=True)):
        opinion = opinions[index].reward if opinions else None
        kinds = []
        if sample.status and sample.status != reward.status:
            kinds.append("changed")
        if seconds > slow_s:
            kinds.append("slow")
        if not reward.is_judged:
            kinds.append("unjudged")
        if reward.success is False and _contains_gold(sample):
            kinds.append("echo")
        if opinion is not None and opinion.is_judged and reward.is_judged and opinion.success != reward.success:
            kinds.append("opinion")
        for kind in kinds:
            yield Finding(
                kind=kind,
                prompt_id=sample.prompt.id,
                answer=json.dumps(sample.prompt.answer, default=str, ensure_ascii=False),
                response=sample.completion.text[-200:],
                recorded=sample.status,
                now=reward.status,
                seconds=seconds,
                reason=reward.reason,
            )


def _contains_gold(sample: Sample) -> bool:
    answer = sample.prompt.answer
    return isinstance(answer, str) and len(answer) > 2 and answer in sample.completion.text


def _print(samples: Sequence[Sample], judged: Sequence[Judged], findings: Sequence[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console()
    statuses = Counter(reward.status for reward, _ in judged)
    seconds = sorted(seconds for _, seconds in judged)
    console.print(
        f"{len(samples)} samples: {', '.join(f'{count} {status}' for status, count in statuses.most_common())}; "
        f"{sum(seconds) / len(seconds) * 1e3:.2f} ms a verdict, {seconds[-1] * 1e3:.0f} ms at most"
    )
    table = Table("finding", "prompt", "gold", "recorded", "now", "ms", "end of the response")
    for kind, count in Counter(finding.kind for finding in findings).items():
        of_kind = [finding for finding in findings if finding.kind == kind]
        of_kind.sort(key=lambda finding: -finding.seconds if kind == "slow" else 0.0)
        for finding in of_kind[:_MAX_SHOWN]:
            table.add_row(
                f"{kind} ({count})",
                *map(escape, (finding.prompt_id, finding.answer[:40], finding.recorded, finding.now)),
                f"{finding.seconds * 1e3:.1f}",
                escape(finding.response[-60:].replace("\n", " ")),
            )
    console.print(table if findings else "nothing to look at")
