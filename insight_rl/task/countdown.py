"""The Countdown task: from problems in files or drawn from a seed to prompts for the model at hand.

Two prompt styles: ``bare`` is ``3,7,12=24:`` (the bundled tiny model answers with an expression, then stops); ``chat``
asks a language model in words to reason and to put the expression into <answer> tags.
"""

from __future__ import annotations

import hashlib
import logging
import random
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.paths import data_dir
from insight_rl.task.base import Messages, PromptEncoder
from insight_rl.task.countdown_problems import (
    MAX_MAGNITUDE,
    MAX_NUMBERS,
    CountdownProblem,
    ProblemKey,
    distinct_problems,
    read_problems,
)
from insight_rl.task.shares import split_by_shares
from insight_rl.types import PROMPT_STYLES, Prompt

logger = logging.getLogger(__name__)


CHAT_INSTRUCTION = (
    "Use each of the numbers {numbers} exactly once, with the operations +, -, *, / and parentheses, to make an "
    "expression that equals {target}. Reason step by step inside <think> </think> tags. Then give only the "
    "expression, without an equals sign, inside <answer> </answer> tags, for example <answer>(1 + 2) / 3</answer>."
)


def bare_prompt(problem: CountdownProblem) -> str:
    """E.g. ``"3,7,12=24:"``."""
    return f"{','.join(map(str, problem.numbers))}={problem.target}:"


def chat_prompt(problem: CountdownProblem) -> Messages:
    """One user message, in the manner of the paper's Countdown prompt (arXiv 2603.01907, appendix)."""
    content = CHAT_INSTRUCTION.format(numbers=list(problem.numbers), target=problem.target)
    return [{"role": "user", "content": content}]


def problem_id(problem: CountdownProblem) -> str:
    """A hash of the content, the order of the numbers included, e.g. ``"countdown/9b0c5e6f21aa"``."""
    return f"countdown/{hashlib.blake2b(bare_prompt(problem).encode(), digest_size=6).hexdigest()}"


def _without_repeats(
    problems: Sequence[CountdownProblem], *, held_out: Collection[ProblemKey], source: object
) -> list[CountdownProblem]:
    """Drop problems that were there before in the same order, or are held out in any order; log how many."""
    kept = [problem for problem in dict.fromkeys(problems) if problem.key not in held_out]
    if len(kept) < len(problems):
        logger.warning(
            "%s: dropped %d of %d problems (repeated, or held out for testing)",
            source,
            len(problems) - len(kept),
            len(problems),
        )
    if not kept:
        raise UsageError(f"{source}: every problem is also a test problem; train and test need different problems")
    return kept


def _make_prompts(
    problems: Sequence[CountdownProblem], *, style: str, encoder: PromptEncoder, metadata: Mapping[str, Any] = {}
) -> list[Prompt]:
    prompts = []
    for problem in problems:
        text, token_ids = encoder.encode(bare_prompt(problem) if style == "bare" else chat_prompt(problem))
        prompts.append(
            Prompt(
                id=problem_id(problem),
                task="countdown",
                text=text,
                token_ids=token_ids,
                answer={"numbers": list(problem.numbers), "target": problem.target},
                metadata={"num_numbers": len(problem.numbers), **metadata},
            )
        )
    return prompts


def _check_integer(key: str, value: object, low: int, high: int) -> None:
    check(type(value) is int and low <= value <= high, key, value, f"use an integer from {low} to {high}")


def _check_path(key: str, value: object) -> Path | None:
    check(value is None or (isinstance(value, str) and value != ""), key, value, "use a path, or null for the bundled")
    return Path(value).expanduser() if isinstance(value, str) else None


def _check_ranges(
    prefix: str, *, num_numbers: Sequence[int], min_number: int, max_number: int, max_target: int
) -> None:
    key = f"{prefix}.num_numbers"
    check(
        isinstance(num_numbers, Sequence) and not isinstance(num_numbers, str) and len(num_numbers) > 0,
        key,
        num_numbers,
        "use a list such as [3, 4]",
    )
    for size in num_numbers:
        _check_integer(key, size, 2, MAX_NUMBERS)
    _check_integer(f"{prefix}.min_number", min_number, 1, MAX_MAGNITUDE)
    _check_integer(f"{prefix}.max_number", max_number, min_number, MAX_MAGNITUDE)
    _check_integer(f"{prefix}.max_target", max_target, 1, MAX_MAGNITUDE)


def _test_problems(path: Path | None) -> list[CountdownProblem]:
    """The held-out problems of ``path``, or of the bundled file."""
    path = path or data_dir() / "countdown" / "test.jsonl"
    return _without_repeats(read_problems(path, key="task.test_path"), held_out=(), source=path)


class CountdownTask:
    """Countdown from JSONL files (``source="files"``, by default the bundled Countdown-34) or from a seed.

    ``source="generated"`` draws ``num_train + num_test`` different solvable problems; which ones depends on the
    settings and ``seed`` alone. Training problems that are test problems in any order of their numbers are dropped.
    """

    name = "countdown"

    def __init__(
        self,
        *,
        style: str,
        source: str,
        train_path: str | None,
        test_path: str | None,
        num_train: int,
        num_test: int,
        num_numbers: Sequence[int],
        min_number: int,
        max_number: int,
        max_target: int,
        seed: int,
    ) -> None:
        check(style in PROMPT_STYLES, "task.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        check(source in ("files", "generated"), "task.source", source, "use files or generated")
        _check_integer("task.num_train", num_train, 1, 10**7)
        _check_integer("task.num_test", num_test, 1, 10**7)
        _check_ranges(
            "task", num_numbers=num_numbers, min_number=min_number, max_number=max_number, max_target=max_target
        )
        _check_integer("task.seed", seed, 0, 2**63 - 1)
        self.style = style
        self.source = source
        self.train_path = _check_path("task.train_path", train_path)
        self.test_path = _check_path("task.test_path", test_path)
        self.num_train = num_train
        self.num_test = num_test
        self.num_numbers = tuple(num_numbers)
        self.min_number = min_number
        self.max_number = max_number
        self.max_target = max_target
        self.seed = seed

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        if self.source == "generated":
            problems = self._generated()[self.num_test :]
        else:
            path = self.train_path or data_dir() / "countdown" / "train.jsonl"
            held_out = {problem.key for problem in _test_problems(self.test_path)}
            problems = _without_repeats(read_problems(path, key="task.train_path"), held_out=held_out, source=path)
        return _make_prompts(problems, style=self.style, encoder=encoder)

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        problems = self._generated()[: self.num_test] if self.source == "generated" else _test_problems(self.test_path)
        return _make_prompts(problems, style=self.style, encoder=encoder)

    def _generated(self) -> list[CountdownProblem]:
        """Test problems first, so that a larger pool leaves them as they are."""
        return distinct_problems(
            random.Random(self.seed),
            num_numbers=self.num_numbers,
            num_problems=self.num_test + self.num_train,
            min_number=self.min_number,
            max_number=self.max_number,
            max_target=self.max_target,
        )


class MixedCountdownTask:
    """A generated pool made of parts of unlike difficulty, to see what a selector does with what it cannot learn from.

    ``parts`` maps a name to ``{share, num_numbers, min_number, max_number, max_target}``; shares add up to 1. The name
    is kept as ``metadata["part"]``. Tested on a file (by default the bundled Countdown-34), so that runs on different
    mixtures can be compared; its problems are never in the pool.
    """

    name = "countdown"

    def __init__(
        self,
        *,
        style: str,
        num_train: int,
        test_path: str | None,
        seed: int,
        parts: Mapping[str, Mapping[str, Any]],
    ) -> None:
        check(style in PROMPT_STYLES, "task.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        _check_integer("task.num_train", num_train, 1, 10**7)
        _check_integer("task.seed", seed, 0, 2**63 - 1)
        check(isinstance(parts, Mapping) and len(parts) > 0, "task.parts", parts, "name at least one part")
        for name, part in parts.items():
            key = f"task.parts.{name}"
            needed = {"share", "num_numbers", "min_number", "max_number", "max_target"}
            check(isinstance(part, Mapping) and set(part) == needed, key, part, f"give exactly {sorted(needed)}")
            share = part["share"]
            check(type(share) in (int, float) and 0 <= share <= 1, f"{key}.share", share, "use a number from 0 to 1")
            _check_ranges(key, **{setting: value for setting, value in part.items() if setting != "share"})
        shares = {name: part["share"] for name, part in parts.items()}
        check(abs(sum(shares.values()) - 1) < 1e-6, "task.parts.*.share", shares, "let the shares add up to 1")
        self.style = style
        self.num_train = num_train
        self.test_path = _check_path("task.test_path", test_path)
        self.seed = seed
        self.parts = {name: dict(part) for name, part in parts.items()}

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        rng = random.Random(self.seed)
        taken = {problem.key for problem in _test_problems(self.test_path)}
        prompts = []
        shares = {name: part["share"] for name, part in self.parts.items()}
        for name, num_problems in split_by_shares(self.num_train, shares).items():
            ranges = {setting: value for setting, value in self.parts[name].items() if setting != "share"}
            problems = distinct_problems(rng, num_problems=num_problems, exclude=taken, **ranges)
            taken.update(problem.key for problem in problems)
            prompts += _make_prompts(problems, style=self.style, encoder=encoder, metadata={"part": name})
        return prompts

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return _make_prompts(_test_problems(self.test_path), style=self.style, encoder=encoder)
