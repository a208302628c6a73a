"""Thousands of responses made to hang, crash, flood, run code or be taken for right, through judging processes.

The corpus is a script's: every family below is a way in which an answer has fooled a verifier, repeated with random
numbers, and mutations of ordinary answers. Each response carries a gold answer that it does *not* give.
"""

from __future__ import annotations

import os
import random
import string
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.reward.countdown import CountdownReward
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.reward.math.reward import MathReward
from insight_rl.reward.multiple_choice import MultipleChoiceReward
from insight_rl.types import Completion, Prompt

pytestmark = pytest.mark.slow

DEADLINE_S = 2.0
MAX_MEMORY_MB = 1024
STATUSES = {"wrong", "unparsable", "no_answer", "timeout", "error"}


class Hostile(NamedTuple):
    response: str
    answer: Any
    prompt: str = ""


def make_prompt(hostile: Hostile, number: int) -> Prompt:
    return Prompt(id=str(number), task="hostile", text=hostile.prompt, token_ids=(1,), answer=hostile.answer)


def make_completion(text: str) -> Completion:
    return Completion(token_ids=(1, 2), logprobs=(0.0, 0.0), text=text, finish_reason="stop", policy_version=0)


# -- mathematics

BOMBS = (
    "9^{9^{9^{9}}}",
    "((10^{10})!)!",
    "10**10**10**10",
    "2^{2^{2^{2^{2^{2}}}}}",
    "\\binom{10^{9}}{10^{8}}",
    "(x+1)^{1000000}",
    "(x+y+z)^{3000} - 1",
    "\\prod_{i=1}^{10^{9}} i",
    "\\sum_{i=1}^{10^{12}} \\frac{1}{i}",
    "\\int_0^1 x^{x^{x}} dx",
    "\\lim_{x \\to 0} \\frac{\\sin(\\tan x)}{x^{100}}",
    "x^{1000} + x^{999} = y^{1001}",
    "\\sin(x)^{50} + \\cos(x)^{51} = \\tan(x)^{52}",
    "1e999999",
    "0." + "0" * 3000 + "1",
    "1" * 3500,
    "\\sqrt[100000]{2^{99999}}",
    "\\gcd(10^{5000}, 10^{4999})",
    "\\det\\begin{pmatrix}" + "1&" * 300 + "1\\end{pmatrix}",
    "\\frac{d^{50}}{dx^{50}} x^{x}",
)
CODE = (
    "__import__('os').system('touch {canary}')",
    "().__class__.__bases__[0].__subclasses__()",
    "open('{canary}','w')",
    "exec(\"open('{canary}','w')\")",
    "eval('__import__(\\'os\\').system(\\'touch {canary}\\')')",
    "{{open('{canary}', 'w')}}",
    "lambda: open('{canary}','w')",
    "\\input{{/etc/passwd}} \\write18{{touch {canary}}}",
    "Symbol('x'); import os; os.system('touch {canary}')",
)


def wrap(rng: random.Random, answer: str) -> str:
    template = rng.choice(
        ("\\boxed{%s}", "The answer is $%s$.", "$$%s$$", "%s", "#### %s", "Answer: %s", "<think>x</think>\\[%s\\]")
    )
    return template % answer


def bombs(rng: random.Random, canary: Path) -> Hostile:
    gold = rng.choice(["3", "x", "\\sqrt{2}", "(1, 2)", "x = 5", "\\{1\\}", "[0, 1)", "n^2 + 1"])
    return Hostile(wrap(rng, rng.choice(BOMBS)), gold)


def nesting(rng: random.Random, canary: Path) -> Hostile:
    depth = rng.choice((50, 500, 5_000, 20_000))
    opening, closing = rng.choice(
        (
            ("(", ")"),
            ("\\frac{", "}{2}"),
            ("\\sqrt{", "}"),
            ("{", "}"),
            ("\\left(", "\\right)"),
            ("x^{", "}"),
            ("[", "]"),
        )
    )
    middle = str(rng.randrange(10, 99))
    return Hostile(wrap(rng, opening * depth + middle + closing * rng.choice((depth, depth // 2, 0))), "123456")


def floods(rng: random.Random, canary: Path) -> Hostile:
    unit = rng.choice(
        (
            "\\boxed{",
            "\\boxed{1} ",
            "answer is ",
            "answer",
            " ",
            "\n",
            "$",
            "$$ 1",
            "\\(",
            "#### ",
            "<answer>",
            "1, ",
            "(1,2),",
            "and ",
            "{",
            "}",
            "\\",
            "-",
            "1+",
            "\\text{",
            "\\begin{pmatrix}",
            "</think>",
            "<|im_start|>",
            "答案",
            "Final Answer",
            "9",
            "=",
            "\\frac",
            "%",
            ".",
        )
    )
    size = rng.choice((3_000, 30_000, 300_000))
    text = unit * (size // len(unit))
    return Hostile(rng.choice(("", "so \\boxed{7} ")) + text + rng.choice(("", "7", "}", "\\boxed{7}")), "123456")


def unicode_noise(rng: random.Random, canary: Path) -> Hostile:
    alphabet = "٣४５²½√∑∫∞≤≈\u00d7÷\u2212\u202e\u200b\u0301\x00\ud800🙂一十"
    noise = "".join(rng.choice(alphabet) for _ in range(rng.randrange(1, 60)))
    return Hostile(wrap(rng, noise), "123456")


def code(rng: random.Random, canary: Path) -> Hostile:
    return Hostile(wrap(rng, rng.choice(CODE).replace("{canary}", str(canary))), rng.choice(("1", "0", "x")))


def listed(rng: random.Random, canary: Path) -> Hostile:
    gold = rng.randrange(100, 999)
    guesses = [gold + offset for offset in range(-3, rng.choice((1, 3)))]
    rng.shuffle(guesses)
    how: Callable[[], str] = rng.choice(
        (
            lambda: "The answer is " + " or ".join(map(str, guesses)),
            lambda: "\\boxed{" + ", ".join(map(str, guesses)) + "}",
            lambda: " ".join(f"\\boxed{{{guess}}}" for guess in guesses),
            lambda: "\n".join(f"\\boxed{{{guess}}}" for guess in guesses),
            lambda: "\\boxed{" + " \\text{ or } ".join(map(str, guesses)) + "}",
            lambda: "It is one of " + ", ".join(map(str, guesses)) + ".",
            lambda: "x = " + ", x = ".join(map(str, guesses)),
            lambda: " or maybe ".join(f"$\\boxed{{{guess}}}$" for guess in guesses),
        )
    )
    return Hostile(how(), str(gold))


def hidden(rng: random.Random, canary: Path) -> Hostile:
    gold = rng.randrange(10_000, 99_999)
    other = gold + rng.randrange(1, 9)
    text = rng.choice(
        (
            "<think>\\boxed{%d}</think> so \\boxed{%d}",
            "%d is what one may think, but it is \\boxed{%d}",
            "The answer is %d? No. The answer is %d.",
            "\\boxed{%d}? On reflection \\boxed{%d}",
            "The answer is not %d; it is %d.",
            "I was given %d and get %d",
        )
    )
    return Hostile(text % (gold, other), str(gold))


def echoes(rng: random.Random, canary: Path) -> Hostile:
    gold = rng.randrange(10_000, 99_999)
    prompt = f"Example. Q: what is it? The answer is \\boxed{{{gold}}}. Now solve the next one in the same way."
    return Hostile(rng.choice(("", "  ")) + prompt + rng.choice(("", " ...", "\n")), str(gold), prompt)


def near_misses(rng: random.Random, canary: Path) -> Hostile:
    """An ordinary answer with one thing changed."""
    n, k = rng.randrange(2, 60), rng.randrange(2, 9)
    gold, wrong = rng.choice(
        (
            (f"\\frac{{{n}}}{{{n + k}}}", f"\\frac{{{n}}}{{{n + k + 1}}}"),
            (f"{n}\\sqrt{{{k}}}", f"{k}\\sqrt{{{n + 60}}}"),
            (f"({n}, {k})", f"({k - 1}, {n})"),
            (f"[{n}, {n + k})", f"({n}, {n + k}]"),
            (f"x^2 - {n}x + {k}", f"x^2 + {n}x + {k}"),
            (f"{n}\\text{{ cm}}", f"{n}\\text{{ m}}"),
            (f"{n}.{k}", f"{n}{k}"),
            (f"{n}\\%", f"{n * 100}\\%"),
            (f"\\{{{n}, {n + k}\\}}", f"\\{{{n}\\}}"),
            (f"\\begin{{pmatrix}} {n} \\\\ {k} \\end{{pmatrix}}", f"\\begin{{pmatrix}} {n} & {k} \\end{{pmatrix}}"),
            (f"x = {n}", f"y = {n}"),
            (f"{n}e-9", f"{n + 1}e-9"),
            (f"10^{{{n * 1000}}}", f"10^{{{n * 1000}}} + 1"),
            (f"x < {n}", f"x \\le {n}"),
            (f"{n} + {k}i", f"{n} - {k}i"),
            (f"{n}_{{{k + 1}}}", f"{n}_{{{k + 2}}}"),
            (f"-{n}", f"{n}"),
            (f"\\text{{{chr(64 + k)}}}", f"\\text{{{chr(65 + k)}}}"),
        )
    )
    return Hostile(wrap(rng, wrong), gold)


def mutations(rng: random.Random, canary: Path) -> Hostile:
    """An ordinary response, cut, doubled, shuffled and sprinkled; its gold is a number that no mutation can make."""
    text = rng.choice(
        (
            "We have $x^2 = 16$, so $x = \\pm 4$. The answer is $\\boxed{4}$.",
            "Adding up, 12 + 13 = 25 apples.\n\nFinal Answer: 25",
            "\\[\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}\\] hence $\\boxed{(-2, \\frac{3}{2}]}$",
            "<think>Let me see: 3/4 of 100 is 75.</think>\\boxed{75\\%}",
        )
    )
    for _ in range(rng.randrange(1, 6)):
        start, end = sorted(rng.randrange(len(text) + 1) for _ in range(2))
        piece = text[start:end]
        text = (
            rng.choice(
                (
                    text[:start] + text[end:],
                    text[:end] + piece + text[end:],
                    text[:start] + piece[::-1] + text[end:],
                    text[:start] + rng.choice(string.printable) + text[start:],
                    text[:start]
                    + rng.choice(("\\boxed{", "}", "$", "{", "\\frac", "^", "_", "answer is "))
                    + text[start:],
                )
            )[:5_000]
            or "x"
        )
    return Hostile(text, "8675309867530986753098")


MATH_FAMILIES = (bombs, nesting, floods, unicode_noise, code, listed, hidden, echoes, near_misses, mutations)


# -- multiple choice and Countdown


def choices(rng: random.Random, canary: Path) -> Hostile:
    letters = rng.sample("BCDEFGH", 3)
    gold, other, third = letters
    response = rng.choice(
        (
            f"Answer: {gold}, {other}",
            f"\\boxed{{{gold}}} or \\boxed{{{other}}}",
            f"The answer is {gold} and {other}.",
            f"Final answer: {gold}\nFinal answer: {other}",
            f"Final answer: {other}\nFinal answer: {gold}",
            f"\\boxed{{{gold}}}\nAnswer: {other}",
            f"The answer is not {gold}.",
            f"Answer: {gold} is wrong, it is {other}",
            "A, B, C, D, E, F, G, H",
            "Because I Always Choose A Good Option",
            f"Answer: {gold}{other}{third}",
            f"<think>Answer: {gold}</think>",
            "Answer: " * 5_000,
            "(" * 50_000 + gold + other,
            "\\text{" * 5_000 + gold + other,
            f"{third}{gold.lower()}{other}" * 1_000,
        )
    )
    return Hostile(response, {"letter": gold, "num_choices": 8})


def countdowns(rng: random.Random, canary: Path) -> Hostile:
    expression = rng.choice(
        ("9**9**9", "(" * 20_000 + "1", "__import__('os').system('touch {canary}')", "1" * 300_000, "24", "3*8", "٣*٨")
    ).replace("{canary}", str(canary))
    tags = rng.choice(("<answer>%s</answer>", "<answer>" * 20_000 + "%s", "%s", "<answer>%s"))
    return Hostile(tags % expression, {"numbers": [3, 5, 7], "target": 24})


def corpus(families: tuple[Any, ...], num: int, canary: Path) -> Iterator[Hostile]:
    rng = random.Random(20_260_301)
    for index in range(num):
        yield families[index % len(families)](rng, canary)


def worker_pids(judges: JudgeProcesses) -> list[int]:
    return [worker.process.pid for worker in list(judges._workers)]


def peak_memory_mb(pid: int) -> float:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


@pytest.mark.parametrize(
    ("reward", "families", "num"),
    [
        (MathReward(), MATH_FAMILIES, 2_400),
        (MultipleChoiceReward(), (choices,), 320),
        (CountdownReward(style="bare", format_value=0.1, allow_latex=True), (countdowns,), 320),
    ],
    ids=["math", "multiple_choice", "countdown"],
)
def test_nothing_hangs_crashes_runs_or_passes(tmp_path, monkeypatch, reward, families, num):
    # Workers start in this folder, so the responses need not name it: where the test runs is none of their text.
    monkeypatch.chdir(tmp_path)
    canary = Path("canary")
    hostiles = list(corpus(families, num, canary))
    peaks: dict[int, float] = {}
    with JudgeProcesses(reward, num_workers=2, deadline_s=DEADLINE_S, max_memory_mb=MAX_MEMORY_MB) as judges:
        judges.start()
        for number, hostile in enumerate(hostiles):
            judges.submit(make_prompt(hostile, number), [make_completion(hostile.response)])
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.02):
                for pid in worker_pids(judges):
                    peaks[pid] = max(peaks.get(pid, 0.0), peak_memory_mb(pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        judged = judges.collect_judged()
        done.set()
        watcher.join()

    assert len(judged) == num
    for hostile, ((reward_given, seconds),) in zip(hostiles, judged, strict=True):
        shown = f"{hostile.response[:200]!r} against {hostile.answer!r}"
        assert reward_given.success is not True, f"passed: {shown}"
        assert reward_given.status in STATUSES, shown
        assert (reward_given.success is None) == (reward_given.status in ("timeout", "error")), shown
        assert seconds <= DEADLINE_S, shown
    unjudged = [r.status for ((r, _),) in judged if r.success is None]
    assert len(unjudged) <= 0.02 * num, f"{len(unjudged)} of {num} without a verdict"
    assert not canary.exists()
    assert peaks and max(peaks.values()) < MAX_MEMORY_MB


@settings(max_examples=600, deadline=None)
@given(text=st.text(max_size=300), gold=st.sampled_from(["8675309", "\\sqrt{8675309}", "(8675309, 1)"]))
def test_text_of_any_kind_gets_a_verdict_and_not_the_right_one(text, gold):
    verdict = MathReward(last_expression=True).judge(f"\\boxed{{{text}}}", gold)
    assert verdict.success is not True
    choice = MultipleChoiceReward(lone_letter=False).judge(text, {"letter": "Q", "num_choices": 26})
    assert choice.success is not True or "Q" in text.upper()


def test_killing_workers_loses_and_reorders_nothing():
    rng = random.Random(3)
    groups = [(number, [number, number + 1, number, -1]) for number in range(400)]
    with JudgeProcesses(MathReward(), num_workers=2, deadline_s=20.0) as judges:
        stop = threading.Event()
        num_killed = 0

        def kill() -> None:
            nonlocal num_killed
            while num_killed < 10 and not stop.wait(rng.uniform(0.05, 0.6)):
                for pid in rng.sample(pids := worker_pids(judges), k=min(1, len(pids))):
                    os.kill(pid, 9)
                    num_killed += 1

        killer = threading.Thread(target=kill)
        killer.start()
        started = time.monotonic()
        for number, answers in groups:
            prompt = make_prompt(Hostile("", f"\\sqrt{{{number}}} + {number}x"), number)
            judges.submit(prompt, [make_completion(f"\\boxed{{{a}x + \\sqrt{{{a}}}}}") for a in answers])
            time.sleep(0.005)
        rewards = judges.collect()
        stop.set()
        killer.join()
        assert time.monotonic() - started < 60
    assert num_killed >= 3
    assert [[reward.success for reward in group] for group in rewards] == [
        [answer == number for answer in answers] for number, answers in groups
    ]
