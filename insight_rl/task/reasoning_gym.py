"""``task=reasoning_gym``: pools of known difficulty, made by the generators of reasoning-gym.

Each part of the pool is a generator with settings that fix its difficulty; the prompt says part, generator and level in
its metadata. Which problems are drawn depends on the settings and ``task.seed`` alone, in every process and on every
machine. Which generators are allowed, and why not all: :mod:`insight_rl.reward.reasoning_gym_review`.

Library: https://github.com/open-thought/reasoning-gym ; the import is deferred, so that the package need not be there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import decimal
import difflib
import functools
import hashlib
import json
import signal
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from insight_rl.errors import UsageError, check, is_number
from insight_rl.reward.reasoning_gym_answers import MAX_LENGTH
from insight_rl.reward.reasoning_gym_puzzles import FIELDS as PUZZLE_FIELDS
from insight_rl.reward.reasoning_gym_review import COUNTDOWN, check_generator, check_installed
from insight_rl.seeding import derive_seed
from insight_rl.task.base import Messages, PromptEncoder
from insight_rl.task.countdown import bare_prompt
from insight_rl.task.countdown_problems import CountdownProblem
from insight_rl.task.shares import split_by_shares
from insight_rl.types import PROMPT_STYLES, Prompt

NAME = "reasoning_gym"

INSTRUCTION = (
    "Reason step by step inside <think> </think> tags. Then give only the final answer inside <answer> </answer> tags."
)

MAX_PROBLEMS = 10**6
MAX_DRAWS = 20
"""Draws per problem that is wanted, before the settings count as too narrow for so many different ones."""

MAX_REJECTED = 100
"""Draws in a row that the generator itself rejects."""

MAX_PROBLEM_S = 60.0
"""Seconds for one problem."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """A problem as its generator made it."""

    key: str
    """What makes it a problem of its own: the question, or for Countdown the numbers in any order and the target."""
    question: str
    bare: str
    """The shortest form of the question, for models that know no words."""
    answer: str
    """JSON of ``Prompt.answer``: what several pools share must not change."""


class ReasoningGymTask:
    """A pool of ``num_train`` problems and ``num_test`` held-out ones, in the shares of ``parts``.

    ``parts`` maps a name to ``{generator, level, share, settings}``: a generator's name, the level of difficulty that
    its prompts carry (a number that you choose; higher is harder), its share of the pool (shares add up to 1) and the
    generator's own settings. A part may also have ``pass_rate``, a share of attempts that was measured at this level:
    then its prompts carry it, for ``selector/prior=field``. ``instruction`` follows the question in style ``chat``.

    Example: ``parts={"two_terms": {"generator": "chain_sum", "level": 1, "share": 1.0, "settings": {"min_terms": 2,
    "max_terms": 2}}}`` makes prompts with ``metadata={"part": "two_terms", "generator": "chain_sum", "level": 1}``.
    """

    name = NAME

    def __init__(
        self,
        *,
        style: str,
        num_train: int,
        num_test: int,
        seed: int,
        parts: Mapping[str, Mapping[str, Any]],
        instruction: str = INSTRUCTION,
    ) -> None:
        check(style in PROMPT_STYLES, "task.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        for key, number in (("num_train", num_train), ("num_test", num_test)):
            is_whole = type(number) is int and 1 <= number <= MAX_PROBLEMS
            check(is_whole, f"task.{key}", number, f"use an integer from 1 to {MAX_PROBLEMS}")
        check(type(seed) is int and seed >= 0, "task.seed", seed, "use an integer of at least 0")
        check(isinstance(parts, Mapping) and len(parts) > 0, "task.parts", parts, "name at least one part")
        for name, part in parts.items():
            _check_part(f"task.parts.{name}", part)
        shares = {name: float(part["share"]) for name, part in parts.items()}
        check(abs(sum(shares.values()) - 1) < 1e-6, "task.parts.*.share", shares, "let the shares add up to 1")
        check_installed("task")
        self.style = style
        self.num_train = num_train
        self.num_test = num_test
        self.seed = seed
        self.parts = {name: dict(part) for name, part in parts.items()}
        self.shares = shares
        self.instruction = instruction

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self._prompts(encoder, held_out=False)

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self._prompts(encoder, held_out=True)

    def _prompts(self, encoder: PromptEncoder, *, held_out: bool) -> list[Prompt]:
        num_test = split_by_shares(self.num_test, self.shares)
        num_train = split_by_shares(self.num_train, self.shares)
        prompts: list[Prompt] = []
        seen: set[str] = set()
        for name, part in self.parts.items():
            settings = json.dumps(part["settings"], sort_keys=True)
            wanted = num_test[name] + num_train[name]
            drawn = _draw(name, part["generator"], settings, derive_seed(self.seed, NAME, name), wanted)
            # Test problems first, so that a larger pool leaves them as they are. Two parts may overlap: the first keeps
            # a problem that both have made, whichever half it is in.
            chosen = drawn[: num_test[name]] if held_out else drawn[num_test[name] :]
            metadata = {"part": name, "generator": part["generator"], "level": part["level"]}
            metadata |= {"pass_rate": part["pass_rate"]} if "pass_rate" in part else {}
            prompts += [self._prompt(problem, metadata, encoder) for problem in chosen if problem.key not in seen]
            seen.update(problem.key for problem in drawn)
        return prompts

    def _prompt(self, problem: _Drawn, metadata: Mapping[str, Any], encoder: PromptEncoder) -> Prompt:
        text, token_ids = encoder.encode(self._wording(problem))
        digest = hashlib.blake2b(problem.key.encode(), digest_size=8).hexdigest()
        return Prompt(
            id=f"{NAME}/{metadata['generator']}/{digest}",
            task=NAME,
            text=text,
            token_ids=token_ids,
            answer=json.loads(problem.answer),
            metadata=dict(metadata),
        )

    def _wording(self, problem: _Drawn) -> str | Messages:
        if self.style == "bare":
            return problem.bare
        return [{"role": "user", "content": f"{problem.question}\n\n{self.instruction}"}]


def _check_part(key: str, part: Any) -> None:
    needed = {"generator", "level", "share", "settings"}
    is_whole = isinstance(part, Mapping) and set(part) - {"pass_rate"} == needed
    check(is_whole, key, part, f"give exactly {', '.join(sorted(needed))}, and pass_rate if it is known")
    check_generator(f"{key}.generator", part["generator"])
    check(is_number(part["level"]), f"{key}.level", part["level"], "use a number; higher is harder")
    share = part["share"]
    check(is_number(share) and 0 < share <= 1, f"{key}.share", share, "use a number above 0 and at most 1")
    check(isinstance(part["settings"], Mapping), f"{key}.settings", part["settings"], "use the generator's settings")
    rate = part.get("pass_rate", 0)
    check(is_number(rate) and 0 <= rate <= 1, f"{key}.pass_rate", rate, "use a share from 0 to 1")


@functools.lru_cache(maxsize=64)
def _draw(part: str, generator: str, settings: str, seed: int, wanted: int) -> tuple[_Drawn, ...]:
    """``wanted`` different problems, in the order of their numbers. Kept, since training and test ask for the same."""
    key = f"task.parts.{part}.settings"
    dataset = _dataset(key, generator, json.loads(settings), seed)
    drawn: dict[str, _Drawn] = {}
    num_rejected = 0
    for number in range(MAX_DRAWS * wanted):
        try:
            entry = _entry(key, generator, dataset, number)
        except UsageError:
            raise
        except (ValueError, IndexError):
            # A generator that rejects its own draws gives up after a number of them.
            num_rejected += 1
            if num_rejected == MAX_REJECTED:
                break
            continue
        num_rejected = 0
        problem = _read(generator, entry)
        if problem is not None:
            drawn.setdefault(problem.key, problem)
        if len(drawn) == wanted:
            return tuple(drawn.values())
    raise UsageError(
        f"{key}={json.loads(settings)}: {generator} makes only {len(drawn)} different problems "
        f"with them, and {wanted} are wanted; widen them, or lower task.num_train, task.num_test or the part's share"
    )


class _TooSlow(BaseException):
    """Not an ``Exception``: some generators try again after any."""


def _entry(key: str, generator: str, dataset: Any, number: int) -> Mapping[str, Any]:
    """Problem ``number``. ``UsageError`` after ``MAX_PROBLEM_S``: with some settings a generator searches for ever."""
    fired: list[bool] = []
    try:
        with _time_limit(MAX_PROBLEM_S, fired), _numpy_and_decimal_left_alone():
            entry: Mapping[str, Any] = dataset[number]
            return entry
    except BaseException:
        # Whatever the generator made of the interruption.
        if not fired:
            raise
    raise UsageError(
        f"{key}: {generator} found no problem number {number} in {MAX_PROBLEM_S:g} s with these settings; take a lower "
        "level or wider settings"
    )


@contextlib.contextmanager
def _time_limit(seconds: float, fired: list[bool]) -> Iterator[None]:
    """Raises ``_TooSlow``, again each second where it is caught, and says so in ``fired``.

    A signal does it, so there is no limit outside of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def give_up(number: int, frame: object) -> None:
        fired.append(True)
        raise _TooSlow

    before = signal.signal(signal.SIGALRM, give_up)
    # Somebody else's alarm (pytest-timeout's) goes on afterwards.
    others = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *others)


@contextlib.contextmanager
def _numpy_and_decimal_left_alone() -> Iterator[None]:
    """One generator seeds NumPy's global numbers, another sets the precision of decimals, for the whole process."""
    state = np.random.get_state()
    with decimal.localcontext():
        try:
            yield
        finally:
            np.random.set_state(state)


def _dataset(key: str, generator: str, settings: Mapping[str, Any], seed: int) -> Any:
    from reasoning_gym.factory import DATASETS

    dataset, config = DATASETS[check_generator(key, generator)]
    allowed = [field.name for field in dataclasses.fields(config) if field.name not in ("seed", "size")]
    for name in settings:
        close = difflib.get_close_matches(name, allowed, n=1) or allowed
        check(name in allowed, f"{key}.{name}", settings[name], f"{generator} has {', '.join(close)}")
    try:
        # The size is a number that the library keeps and does not need.
        made = config(**settings, seed=seed, size=MAX_PROBLEMS)
        return dataset(made)
    except (AssertionError, TypeError, ValueError) as error:
        raise UsageError(f"{key}={dict(settings)}: {generator} does not take them: {error}") from error


def _read(generator: str, entry: Mapping[str, Any]) -> _Drawn | None:
    """The problem, or ``None`` if it has no right answer, or none that a reward can judge against."""
    question = entry["question"]
    if generator == COUNTDOWN:
        numbers, target = entry["metadata"]["numbers"], entry["metadata"]["target"]
        answer = {"generator": generator, "numbers": numbers, "target": target}
        problem = CountdownProblem(tuple(numbers), target)
        key, bare = json.dumps(problem.key), bare_prompt(problem)
        return _Drawn(key=key, question=question, bare=bare, answer=json.dumps(answer))
    right = _right_answer(generator, entry)
    if not right.strip() or len(right) > MAX_LENGTH or (generator == "jugs" and "No solution" in right):
        return None
    answer = {"generator": generator, "answer": right}
    if fields := PUZZLE_FIELDS.get(generator):
        answer["puzzle"] = {name: entry["metadata"][name] for name in fields}
    return _Drawn(key=question, question=question, bare=f"{question}\n\nAnswer:\n", answer=json.dumps(answer))


def _right_answer(generator: str, entry: Mapping[str, Any]) -> str:
    if generator == "graph_color":
        return json.dumps({str(vertex): color for vertex, color in entry["metadata"]["possible_answer"].items()})
    return str(entry["answer"])
