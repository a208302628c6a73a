"""What a verdict costs: two of our worker processes against math-verify called plainly, and Countdown in one process.

    python scripts/benchmark_rewards.py                             # generated responses, within two minutes
    python scripts/benchmark_rewards.py --answers answers.jsonl     # real: {"response", "answer", "expected"} a line

The two take turns within each round, so that a change in the machine's load meets both; figures are medians over the
rounds. Both start warm. ``expected`` (optional, true or false) is what agreement is measured against; without it, only
how often the two agree with each other is known. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np

from insight_rl.reward.countdown import CountdownReward
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.reward.math.reward import MathReward
from insight_rl.types import Completion, Prompt

NUM_WORKERS = 2
DEADLINE_S = 5.0


class Case(NamedTuple):
    response: str
    answer: str
    expected: bool | None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=Path, help="JSON lines with response, answer and, optionally, expected")
    parser.add_argument("--num-answers", type=int, default=1000, help="how many to generate without --answers")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    cases = read_cases(arguments.answers) if arguments.answers else make_cases(arguments.num_answers, arguments.seed)
    print(
        f"{len(cases)} responses of {sum(len(case.response) for case in cases) / len(cases):.0f} characters on average"
    )
    figures = math_figures(cases, arguments.rounds)
    figures |= countdown_figures(arguments.rounds, arguments.seed)
    for key, value in figures.items():
        print(f"{key:24} {value}")
    print(json.dumps(figures))


def read_cases(path: Path) -> list[Case]:
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Case(record["response"], str(record["answer"]), record.get("expected")) for record in records]


# -- mathematics


def math_figures(cases: list[Case], rounds: int) -> dict[str, float | int | None]:
    seconds: dict[str, list[float]] = {"ours": [], "math_verify": []}
    verdicts: dict[str, list[bool]] = {}
    math_verify_verdict(cases[0])
    for _ in range(rounds):
        # New processes each round: the verdicts that they remember would be a head start.
        with JudgeProcesses(MathReward(), num_workers=NUM_WORKERS, deadline_s=DEADLINE_S) as judges:
            judges.start()
            started = time.perf_counter()
            verdicts["ours"] = our_verdicts(judges, cases)
            seconds["ours"].append(time.perf_counter() - started)
        started = time.perf_counter()
        verdicts["math_verify"] = [math_verify_verdict(case) for case in cases]
        seconds["math_verify"].append(time.perf_counter() - started)
    figures: dict[str, float | int | None] = {"num_answers": len(cases), "num_workers": NUM_WORKERS}
    for name, all_seconds in seconds.items():
        figures[f"{name}_per_s"] = round(len(cases) / median(all_seconds), 1)
        figures[f"{name}_agreement"] = agreement(cases, verdicts[name])
    figures["ratio"] = round(median(seconds["math_verify"]) / median(seconds["ours"]), 2)
    pairs = zip(verdicts["ours"], verdicts["math_verify"], strict=True)
    figures["same_verdict"] = round(sum(ours == theirs for ours, theirs in pairs) / len(cases), 4)
    return figures


def our_verdicts(judges: JudgeProcesses, cases: list[Case]) -> list[bool]:
    for case in cases:
        judges.submit(make_prompt(case.answer), [make_completion(case.response)])
    return [group[0].success is True for group in judges.collect()]


def math_verify_verdict(case: Case) -> bool:
    """As its README shows it: parse both, verify, with its own timeouts."""
    from math_verify import parse, verify

    gold = case.answer if "$" in case.answer or "\\boxed" in case.answer else f"${case.answer}$"
    return verify(parse(gold), parse(case.response))


def agreement(cases: list[Case], verdicts: list[bool]) -> float | None:
    known = [
        (case.expected, verdict) for case, verdict in zip(cases, verdicts, strict=True) if case.expected is not None
    ]
    return round(sum(expected == verdict for expected, verdict in known) / len(known), 4) if known else None


def make_prompt(answer: object) -> Prompt:
    return Prompt(id="", task="", text="", token_ids=(), answer=answer)


def make_completion(text: str) -> Completion:
    none = np.array([])
    return Completion(token_ids=none, logprobs=none, text=text, finish_reason="stop", policy_version=0)


# -- responses that look like those of a model

STEPS = (
    "We start from $x^2 - {a}x + {b} = 0$ and complete the square, which gives $(x - \\frac{{{a}}}{{2}})^2 = {c}$.",
    "Since ${a} < {b}$, the sum $\\sum_{{i=1}}^{{{a}}} i$ is at most ${b} \\cdot {c}$, so we may drop the last term.",
    "By the law of cosines, \\[c^2 = {a}^2 + {b}^2 - 2 \\cdot {a} \\cdot {b} \\cos \\theta.\\]",
    "Let's check: for $n = {a}$ we have $n^2 + {b} = {c}$, as expected.",
    "There are ${a}$ ways to pick the first one and ${b}$ ways for the second, {c} in total.",
    "Multiplying both sides by ${a}$ we get ${a}y = {b}x + {c}$. This means that $y$ grows with $x$.",
)
ENDINGS = (
    "Therefore, the answer is $\\boxed{{{answer}}}$.",
    "So the final answer is $\\boxed{{{answer}}}$. I hope it is correct.",
    "\n\n**Final Answer**\n\\[\\boxed{{{answer}}}\\]",
    "Hence the answer is ${answer}$.",
)


def make_cases(num_cases: int, seed: int) -> list[Case]:
    """Right and wrong answers in equal number, a third of the right ones written in another form than the gold."""
    rng = random.Random(seed)
    return [make_case(rng) for _ in range(num_cases)]


def make_case(rng: random.Random) -> Case:
    a, b, c = rng.randrange(2, 40), rng.randrange(2, 40), rng.randrange(41, 90)
    # Two thirds of the answers of MATH and DeepScaleR are plain numbers.
    forms = (
        [(f"{a * b}", f"{a * b}.0", f"{a * b + 1}")] * 6
        + [(f"{c},{a:03d}", f"{c}{a:03d}", f"{c},{a + 1:03d}")]
        + [(f"\\frac{{{a}}}{{{c}}}", f"{a}/{c}", f"\\frac{{{a}}}{{{c + 1}}}")]
        + [(f"{a}\\sqrt{{{c}}}", f"\\sqrt{{{a * a * c}}}", f"{a}\\sqrt{{{c + 1}}}")]
        + [(f"({a}, {c})", f"\\left({a},{c}\\right)", f"({c}, {a})")]
        + [(f"({a}, {c}]", f"\\left({a},{c}\\right]", f"[{a}, {c}]")]
        + [(f"x^2 + {a}x + {c}", f"{c} + {a}x + x^2", f"x^2 + {a}x - {c}")]
        + [(f"{a}, {c}", f"{c}, {a}", f"{a}, {c + 1}")]
        + [(f"\\frac{{{a}\\pi}}{{{c}}}", f"\\frac{{{a}}}{{{c}}}\\pi", f"\\frac{{{a}\\pi}}{{{c - 1}}}")]
    )
    gold, other, wrong = rng.choice(forms)
    expected = rng.random() < 0.5
    answer = wrong if not expected else other if rng.random() < 1 / 3 else gold
    steps = [
        rng.choice(STEPS).format(a=rng.randrange(2, 99), b=rng.randrange(2, 99), c=rng.randrange(99)) for _ in range(8)
    ]
    return Case(" ".join([*steps, rng.choice(ENDINGS).format(answer=answer)]), gold, expected)


# -- Countdown


def countdown_figures(rounds: int, seed: int) -> dict[str, int]:
    """In one process; per second of CPU too, for machines that do something else as well."""
    rng = random.Random(seed)
    reward = CountdownReward(style="bare", format_value=0.1, allow_latex=False)
    jobs = []
    for _ in range(20_000):
        numbers = [rng.randrange(1, 100) for _ in range(rng.choice((3, 4)))]
        expression = "".join(f"{number}{rng.choice('+-*/')}" for number in numbers)[:-1]
        prompt = make_prompt({"numbers": numbers, "target": rng.randrange(1, 100)})
        jobs.append((prompt, make_completion(expression if rng.random() < 0.8 else expression + ")")))
    wall, cpu = [], []
    for _ in range(rounds):
        started, started_cpu = time.perf_counter(), time.process_time()
        for prompt, completion in jobs:
            reward(prompt, completion)
        wall.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
    return {
        "countdown_per_s": round(len(jobs) / median(wall)),
        "countdown_per_cpu_s": round(len(jobs) / median(cpu)),
    }


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    main()
