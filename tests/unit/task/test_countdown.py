"""Countdown data: the bundled files, generated problems, ids, leaks, and errors that name file, row and remedy."""

from __future__ import annotations

import itertools
import json
import logging
import random
from collections import Counter
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.paths import data_dir
from insight_rl.reward.countdown import judge_countdown
from insight_rl.task.base import Messages
from insight_rl.task.countdown import CountdownTask, MixedCountdownTask, problem_id
from insight_rl.task.countdown_problems import CountdownProblem, distinct_problems, random_problem, read_problems


class CharacterEncoder:
    """One id a character; a chat becomes its contents."""

    def encode(self, prompt: str | Messages) -> tuple[str, tuple[int, ...]]:
        text = prompt if isinstance(prompt, str) else "\n".join(message["content"] for message in prompt)
        return text, tuple(map(ord, text))


ENCODER = CharacterEncoder()

FROM_FILES: dict[str, Any] = {
    "style": "bare",
    "source": "files",
    "train_path": None,
    "test_path": None,
    "num_train": 60,
    "num_test": 20,
    "num_numbers": [3, 4],
    "min_number": 1,
    "max_number": 20,
    "max_target": 100,
    "seed": 0,
}
GENERATED = {**FROM_FILES, "source": "generated"}

SMALL_RANGES: dict[str, Any] = {"num_numbers": [2], "min_number": 1, "max_number": 20, "max_target": 100}
MIXED: dict[str, Any] = {
    "style": "bare",
    "num_train": 50,
    "test_path": None,
    "seed": 0,
    "parts": {
        "easy": {"share": 0.25, **SMALL_RANGES},
        "learnable": {"share": 0.25, **SMALL_RANGES, "num_numbers": [3, 4]},
        "hopeless": {"share": 0.5, **SMALL_RANGES, "num_numbers": [6], "max_number": 99, "max_target": 999},
    },
}


def write_rows(path: Path, *rows: object) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return str(path)


def row(*numbers: int, target: int) -> dict[str, object]:
    return {"numbers": list(numbers), "target": target}


def reachable(numbers: tuple[Fraction, ...]) -> set[Fraction]:
    """Every value that an expression over all of ``numbers`` can take, by trying each pair first."""
    if len(numbers) == 1:
        return {numbers[0]}
    values = set()
    for i, j in itertools.permutations(range(len(numbers)), 2):
        rest = tuple(number for k, number in enumerate(numbers) if k not in (i, j))
        a, b = numbers[i], numbers[j]
        for value in {a + b, a - b, a * b} | ({a / b} if b else set()):
            values |= reachable((*rest, value))
    return values


# ---------------------------------------------------------------------------------------------------------------------
# the bundled data


def test_bundled_sets_are_balanced_distinct_and_apart() -> None:
    task = CountdownTask(**FROM_FILES)
    train, test = task.train_prompts(ENCODER), task.test_prompts(ENCODER)
    assert (len(train), len(test)) == (2000, 512)
    assert Counter(prompt.metadata["num_numbers"] for prompt in train) == {3: 1000, 4: 1000}
    assert Counter(prompt.metadata["num_numbers"] for prompt in test) == {3: 256, 4: 256}
    keys = [(tuple(sorted(prompt.answer["numbers"])), prompt.answer["target"]) for prompt in [*train, *test]]
    assert len(set(keys)) == len(keys)
    assert len({prompt.id for prompt in [*train, *test]}) == len(keys)


def test_a_sample_of_the_bundled_problems_is_solvable() -> None:
    problems = read_problems(data_dir() / "countdown" / "test.jsonl", key="test_path")
    for problem in problems[:40]:
        assert problem.target in reachable(tuple(map(Fraction, problem.numbers)))


def test_the_bundled_files_are_what_the_script_makes() -> None:
    problems = distinct_problems(
        random.Random(0), num_numbers=(3, 4), num_problems=2512, min_number=1, max_number=20, max_target=100
    )
    folder = data_dir() / "countdown"
    assert read_problems(folder / "test.jsonl", key="test_path") == problems[:512]
    assert read_problems(folder / "train.jsonl", key="train_path") == problems[512:]


# ---------------------------------------------------------------------------------------------------------------------
# generating


@settings(max_examples=100)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 30), st.integers(0, 30), st.integers(30, 999))
def test_random_problems_keep_their_ranges_and_their_solution_solves_them(
    seed: int, num_numbers: int, min_number: int, span: int, max_target: int
) -> None:
    problem, solution = random_problem(
        random.Random(seed),
        num_numbers=num_numbers,
        min_number=min_number,
        max_number=min_number + span,
        max_target=max_target,
    )
    assert len(problem.numbers) == num_numbers
    assert all(min_number <= number <= min_number + span for number in problem.numbers)
    assert 1 <= problem.target <= max_target
    assert judge_countdown(solution, problem.numbers, problem.target) == "correct"


def test_generated_prompts_depend_on_the_seed_alone() -> None:
    first, second = CountdownTask(**GENERATED), CountdownTask(**GENERATED)
    assert first.train_prompts(ENCODER) == second.train_prompts(ENCODER)
    assert first.train_prompts(ENCODER) == first.train_prompts(ENCODER)
    assert CountdownTask(**{**GENERATED, "seed": 1}).train_prompts(ENCODER) != first.train_prompts(ENCODER)


def test_generated_sizes_and_separation() -> None:
    task = CountdownTask(**{**GENERATED, "num_numbers": [2, 3], "max_number": 9})
    train, test = task.train_prompts(ENCODER), task.test_prompts(ENCODER)
    assert Counter(prompt.metadata["num_numbers"] for prompt in train) == {2: 30, 3: 30}
    assert len(test) == 20
    train_keys = {(tuple(sorted(prompt.answer["numbers"])), prompt.answer["target"]) for prompt in train}
    assert not any((tuple(sorted(p.answer["numbers"])), p.answer["target"]) in train_keys for p in test)


def test_a_larger_generated_pool_keeps_the_test_set() -> None:
    larger = CountdownTask(**{**GENERATED, "num_train": 100})
    assert larger.test_prompts(ENCODER) == CountdownTask(**GENERATED).test_prompts(ENCODER)


def test_ranges_without_enough_problems_are_an_error() -> None:
    task = CountdownTask(**{**GENERATED, "num_numbers": [2], "max_number": 2, "max_target": 4})
    with pytest.raises(UsageError, match=r"only \d+ of 80 different Countdown problems.*widen the ranges"):
        task.train_prompts(ENCODER)


# ---------------------------------------------------------------------------------------------------------------------
# prompts and ids


def test_bare_prompt(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", row(3, 7, 12, target=24))
    (prompt,) = CountdownTask(**{**FROM_FILES, "train_path": path}).train_prompts(ENCODER)
    assert prompt.text == "3,7,12=24:"
    assert prompt.token_ids == tuple(map(ord, "3,7,12=24:"))
    assert prompt.answer == {"numbers": [3, 7, 12], "target": 24}
    assert prompt.task == "countdown"


def test_chat_prompt_asks_for_tags(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", row(3, 7, 12, target=24))
    settings = {**FROM_FILES, "style": "chat", "train_path": path}
    (prompt,) = CountdownTask(**settings).train_prompts(ENCODER)
    assert all(part in prompt.text for part in ("[3, 7, 12]", "24", "<think>", "<answer>"))
    (bare,) = CountdownTask(**{**settings, "style": "bare"}).train_prompts(ENCODER)
    assert prompt.id == bare.id


def test_ids_are_the_same_on_every_machine() -> None:
    assert problem_id(CountdownProblem((3, 7, 12), 24)) == "countdown/fb3011b2d48f"


def test_ids_tell_orders_and_boundaries_apart() -> None:
    problems = [
        CountdownProblem((3, 7, 12), 24),
        CountdownProblem((7, 3, 12), 24),
        CountdownProblem((37, 12), 24),
        CountdownProblem((3, 7, 1), 224),
    ]
    assert len(set(map(problem_id, problems))) == len(problems)


# ---------------------------------------------------------------------------------------------------------------------
# files


def test_repeats_and_leaks_are_dropped_and_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_path = write_rows(
        tmp_path / "train.jsonl",
        row(3, 7, 1, target=24),
        row(3, 7, 1, target=24),  # a repeat
        row(7, 3, 1, target=24),  # another prompt
        row(4, 4, 5, target=21),  # held out, in another order
        row(4, 4, 5, target=13),
    )
    test_path = write_rows(tmp_path / "test.jsonl", row(5, 4, 4, target=21), "", row(5, 4, 4, target=21))
    task = CountdownTask(**{**FROM_FILES, "train_path": train_path, "test_path": test_path})
    with caplog.at_level(logging.WARNING):
        train, test = task.train_prompts(ENCODER), task.test_prompts(ENCODER)
    assert [prompt.text for prompt in train] == ["3,7,1=24:", "7,3,1=24:", "4,4,5=13:"]
    assert [prompt.text for prompt in test] == ["5,4,4=21:"]
    assert "dropped 2 of 5 problems" in caplog.text
    assert "dropped 1 of 2 problems" in caplog.text


def test_training_on_the_test_file_is_an_error(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "both.jsonl", row(3, 7, 1, target=24))
    task = CountdownTask(**{**FROM_FILES, "train_path": path, "test_path": path})
    with pytest.raises(UsageError, match=r"both\.jsonl.*every problem is also a test problem"):
        task.train_prompts(ENCODER)


@pytest.mark.parametrize(
    ("bad_row", "reason"),
    [
        ("{", "not JSON"),
        ("3,7,1=24:", "not JSON"),
        ("[" * 100_000, "recursion"),
        ([3, 7, 1, 24], "no object"),
        ({"nums": [3], "target": 24}, '"numbers" is missing'),
        ({"numbers": [3, 7, 1]}, '"target" is missing'),
        ({"numbers": "3,7,1", "target": 24}, "use a list of 1 to 10"),
        ({"numbers": [], "target": 24}, "use a list of 1 to 10"),
        ({"numbers": [1] * 11, "target": 24}, "use a list of 1 to 10"),
        ({"numbers": [3, "7"], "target": 24}, "'7' is not an integer"),
        ({"numbers": [3, 7.5], "target": 24}, "7.5 is not an integer"),
        ({"numbers": [3, True], "target": 24}, "True is not an integer"),
        ({"numbers": [3, -7], "target": 24}, "-7 is not an integer from 0"),
        ({"numbers": [3, 10**7], "target": 24}, "not an integer from 0 to 1000000"),
        ({"numbers": [3, 7, 1], "target": "24"}, "target='24'"),
        ({"numbers": [3, 7, 1], "target": None}, "target=None"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, bad_row: object, reason: str) -> None:
    path = write_rows(tmp_path / "bad.jsonl", row(3, 7, 1, target=24), "", bad_row)
    task = CountdownTask(**{**FROM_FILES, "train_path": path})
    with pytest.raises(UsageError) as caught:
        task.train_prompts(ENCODER)
    message = str(caught.value)
    assert "task.train_path=" in message
    assert "bad.jsonl row 3: " in message
    assert reason in message


def test_unusable_files_are_named(tmp_path: Path) -> None:
    empty = write_rows(tmp_path / "empty.jsonl", "", "  ")
    binary = tmp_path / "binary.jsonl"
    binary.write_bytes(b"\xff\xfe\x00")
    for path, reason in [
        (str(tmp_path / "absent.jsonl"), "No such file"),
        (str(tmp_path), "Is a directory"),
        (empty, "holds no problem"),
        (str(binary), "not UTF-8"),
    ]:
        for key, prompts in (("train_path", "train_prompts"), ("test_path", "test_prompts")):
            task = CountdownTask(**{**FROM_FILES, key: path})
            with pytest.raises(UsageError) as caught:
                getattr(task, prompts)(ENCODER)
            assert f"task.{key}={path}: " in str(caught.value)
            assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("style", "prose"),
        ("source", "hub"),
        ("train_path", ""),
        ("test_path", 3),
        ("num_train", 0),
        ("num_test", "20"),
        ("num_numbers", []),
        ("num_numbers", 3),
        ("num_numbers", [1]),
        ("num_numbers", [3, 11]),
        ("min_number", 0),
        ("min_number", 21),
        ("max_number", True),
        ("max_target", 0),
        ("seed", -1),
    ],
)
def test_wrong_settings_are_named(key: str, value: object) -> None:
    named = "max_number" if (key, value) == ("min_number", 21) else key
    with pytest.raises(UsageError, match=f"task.{named}="):
        CountdownTask(**{**FROM_FILES, key: value})


# ---------------------------------------------------------------------------------------------------------------------
# the mixed pool


def test_mixed_pool_has_the_stated_shares_and_nothing_held_out() -> None:
    task = MixedCountdownTask(**MIXED)
    train, test = task.train_prompts(ENCODER), task.test_prompts(ENCODER)
    sizes = Counter((prompt.metadata["part"], prompt.metadata["num_numbers"]) for prompt in train)
    assert sizes[("hopeless", 6)] == 25
    # 12.5 each: the odd one goes to one of the two
    assert sorted([sizes[("easy", 2)], sizes[("learnable", 3)] + sizes[("learnable", 4)]]) == [12, 13]
    assert len(train) == len({prompt.id for prompt in train}) == 50
    assert [prompt.id for prompt in test] == [p.id for p in CountdownTask(**FROM_FILES).test_prompts(ENCODER)]
    test_keys = {(tuple(sorted(prompt.answer["numbers"])), prompt.answer["target"]) for prompt in test}
    assert not any((tuple(sorted(p.answer["numbers"])), p.answer["target"]) in test_keys for p in train)


def test_mixed_pool_avoids_the_test_problems(tmp_path: Path) -> None:
    """Parts so narrow that without the exclusion the test problem would have to be drawn."""
    narrow = {"share": 1.0, "num_numbers": [2], "min_number": 1, "max_number": 2, "max_target": 100}
    settings = {**MIXED, "parts": {"all": narrow}}
    everything = {prompt.text for prompt in MixedCountdownTask(**{**settings, "num_train": 6}).train_prompts(ENCODER)}
    held_out = CountdownProblem((1, 2), 3)
    assert everything & {"1,2=3:", "2,1=3:"}
    test_path = write_rows(tmp_path / "test.jsonl", row(*held_out.numbers, target=held_out.target))
    task = MixedCountdownTask(**{**settings, "num_train": 5, "test_path": test_path})
    assert not {prompt.text for prompt in task.train_prompts(ENCODER)} & {"1,2=3:", "2,1=3:"}


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ({}, "task.parts="),
        ({"easy": {"share": 1.0}}, "task.parts.easy="),
        ({"easy": {"share": 0.9, **SMALL_RANGES}}, "add up to 1"),
        ({"easy": {"share": "1", **SMALL_RANGES}}, "task.parts.easy.share="),
        ({"easy": {"share": 1.0, **SMALL_RANGES, "num_numbers": [99]}}, "task.parts.easy.num_numbers="),
    ],
)
def test_wrong_parts_are_named(parts: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=named):
        MixedCountdownTask(**{**MIXED, "parts": parts})


# ---------------------------------------------------------------------------------------------------------------------
# the tiny model's tokenizer


def test_tiny_tokenizer_is_one_token_a_character_and_gives_back_the_text() -> None:
    from transformers import AutoTokenizer  # slow to import, and the only test here that needs it

    tokenizer = AutoTokenizer.from_pretrained(data_dir() / "tiny_countdown")
    text = "3,17,12=24: (17-3)/-2*12"
    token_ids = tokenizer.encode(text)
    assert len(token_ids) == len(text)
    assert tokenizer.decode(token_ids) == text
    assert tokenizer.unk_token_id not in token_ids
    assert tokenizer.decode([*token_ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
