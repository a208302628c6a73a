"""Checks every generator of reasoning-gym that may be used: right answers, hostile answers, and success by level.

    python scripts/check_reasoning_gym.py                                            some five minutes of one core
    python scripts/check_reasoning_gym.py --generators gcd maze --golds 5 --output my_folder
    python scripts/check_reasoning_gym.py --measure data/tiny_countdown models/smollm2   nothing else: success by level

* Right answers: the one that the generator gives, judged as if a model had written it, with the default settings and at
  the first levels of the library's curriculum; in worker processes with the deadline of conf/train.yaml.
* Hostile answers: texts of no meaning, text that is code, text without end, every option at once, the question, the
  right answer with something added, in digits of another script. None may pass, none may reach the deadline, and the
  file that the code would make may not be there.
* Guessing: the share of problems of a level that the most frequent right answer gets right.
* Success by level (--measure): models in folders, sampled at temperature 1; where one has no chat template, also the
  parts of conf/task/reasoning_gym_countdown.yaml, which the bundled tiny model was trained to read.

Writes reasoning_gym_check.json (what was found, and what did not pass), reasoning_gym_check.csv (a row for each
generator and level), and with the default folder the tables in docs/reasoning_gym.md. Ends with code 1 where a right
answer fails or a hostile one passes.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from insight_rl.build import build_judge
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.reward.base import Judge
from insight_rl.reward.reasoning_gym import ReasoningGymReward
from insight_rl.reward.reasoning_gym_answers import MAX_LENGTH, number
from insight_rl.reward.reasoning_gym_review import ALLOWED, COUNTDOWN, LIBRARY, OWN, REFUSED
from insight_rl.seeding import derive_seed
from insight_rl.task import reasoning_gym
from insight_rl.task.reasoning_gym_levels import level_settings, num_levels
from insight_rl.types import Completion, Prompt, Reward, Sampling

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "reasoning_gym.md"

NUM_LEVELS = 4
"""Levels that are looked at, from 0 on."""
MAX_DRAW_S, MAX_PROBLEM_S = 10.0, 4.0
"""Seconds for the problems of one level, and for one of them: some levels of the library are as good as empty."""
NUM_GUESSED, MIN_GUESSED = 50, 10
"""Problems of a level that guessing is measured on; with fewer than the second, the page has no number."""
SEEDS = (1, 2)

MEASURED = (
    *("aiw", "basic_arithmetic", "chain_sum", "coin_flip", "complex_arithmetic", "count_bits", "family_relationships"),
    *("gcd", "lcm", "leg_counting", "letter_counting", "needle_haystack", "number_format", "number_sequence"),
    *("prime_factorization", "products", "simple_equations", "spell_backward", "syllogism", "word_sorting"),
)
"""Twenty generators with short prompts and short answers."""
NUM_PROBLEMS, NUM_SAMPLES, MAX_TOKENS = 16, 2, 24
NUM_COUNTDOWN, NUM_COUNTDOWN_SAMPLES = 60, 8
ONLY_THE_ANSWER = "Reply with the final answer only."


class PlainEncoder:
    """The wording as it is: no model is at hand, and rewards do not look at tokens."""

    def encode(self, prompt: Any) -> tuple[str, tuple[int, ...]]:
        return (prompt if isinstance(prompt, str) else prompt[-1]["content"]), (0,)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generators", nargs="+", default=list(ALLOWED), metavar="NAME")
    parser.add_argument("--golds", type=int, default=20, help="problems with the default settings and of each level")
    parser.add_argument("--measure", nargs="+", type=Path, default=[], metavar="FOLDER", help="models")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    unknown = sorted(set(arguments.generators) - set(ALLOWED))
    if unknown:
        raise UsageError(f"--generators {unknown[0]}: {REFUSED.get(unknown[0], 'reasoning-gym has no such generator')}")
    arguments.output.mkdir(parents=True, exist_ok=True)
    file = arguments.output / "reasoning_gym_check.json"
    found: dict[str, Any] = {"generators": {}, "code_has_run": False, "measured": []}
    if file.exists():
        found |= json.loads(file.read_text(encoding="utf-8"))
    if arguments.measure:
        found["measured"] = []
        for folder in arguments.measure:
            for row in measure(folder):
                found["measured"].append(row)
                print(f"{row['model']:<16} {row['part']:<24} {row['successes']}/{row['attempts']}", flush=True)
    else:
        found |= check_all(arguments.generators, arguments.golds)
    write(found, arguments.output)
    if arguments.output == RESULTS:
        write_page(found)
    bad = [name for name, row in found["generators"].items() if row["not_right"] or row["passed"] or row["not_judged"]]
    print(f"{len(found['generators'])} generators; with something to look at: {', '.join(bad) or 'none'}")
    return 1 if bad or found["code_has_run"] else 0


def check_all(generators: Sequence[str], num_golds: int) -> dict[str, Any]:
    """What :func:`check` finds of each of them, and whether code in an answer was ever run."""
    reasoning_gym.MAX_PROBLEM_S = MAX_PROBLEM_S
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        mark = Path(folder) / "mark"
        judge = build_judge(ReasoningGymReward(style="bare", format_value=0.1), parse_config(compose_config([])).judge)
        try:
            for generator in generators:
                rows[generator] = check(generator, num_golds, judge, mark)
                print(f"{generator:<24} {summary(rows[generator])}", flush=True)
        finally:
            judge.close()
        return {"generators": rows, "code_has_run": mark.exists()}


def check(generator: str, num_golds: int, judge: Judge, mark: Path) -> dict[str, Any]:
    """Right and hostile answers of one generator, and what guessing comes to."""
    started = time.perf_counter()
    levels = range(min(num_levels(generator), NUM_LEVELS))
    sets = {"default": problems(generator, {}, max(num_golds, 3))}
    sets |= {
        str(level): problems(generator, level_settings(generator, level), max(num_golds, NUM_GUESSED))
        for level in levels
    }
    right: list[tuple[Prompt, str]] = []
    for drawn in sets.values():
        right += [(prompt, gold_of(prompt)) for prompt in drawn[:num_golds]]
    drawn_s = time.perf_counter() - started
    verdicts = verdicts_of(judge, right)
    hostile = [
        (prompt, text) for prompt in sets["default"][:3] for text in hostile_texts(prompt, sets["default"], mark)
    ]
    started = time.perf_counter()
    answers = verdicts_of(judge, hostile)
    hostile_s = time.perf_counter() - started
    return {
        "judge": "library" if generator in LIBRARY else "ours",
        "num_levels": num_levels(generator),
        "golds": len(right),
        "golds_right": sum(verdict.success is True for verdict in verdicts),
        "not_right": [gold for (_, gold), v in zip(right, verdicts, strict=True) if v.success is not True][:3],
        "hostile": len(hostile),
        "passed": [text[:80] for (_, text), v in zip(hostile, answers, strict=True) if v.success is True][:3],
        "not_judged": [
            f"{v.status}: {text[:80]}" for (_, text), v in zip(hostile, answers, strict=True) if v.success is None
        ][:3],
        "guess": {name: round(guess(drawn), 3) for name, drawn in sets.items()},
        "problems": {name: len(drawn) for name, drawn in sets.items()},
        "draw_ms": round(1e3 * drawn_s / sum(map(len, sets.values())), 1),
        "hostile_s": round(hostile_s, 2),
    }


def problems(
    generator: str,
    settings: Mapping[str, Any],
    wanted: int,
    *,
    encoder: Any = None,
    style: str = "bare",
    level: int = 0,
) -> list[Prompt]:
    """Up to ``wanted`` different problems, by the two seeds in turns, as many as come in time."""
    part = {"generator": generator, "level": level, "share": 1.0, "settings": dict(settings)}
    task = reasoning_gym.ReasoningGymTask(
        style=style, num_train=1, num_test=1, seed=0, parts={"only": part}, instruction=ONLY_THE_ANSWER
    )
    try:
        made = [reasoning_gym._dataset("settings", generator, settings, derive_seed(seed, generator)) for seed in SEEDS]
    except UsageError:
        # The library's own level is outside of what its own generator takes.
        return []
    found: dict[str, Prompt] = {}
    started = time.perf_counter()
    for index in range(10 * wanted):
        if len(found) == wanted or time.perf_counter() - started > MAX_DRAW_S:
            break
        try:
            entry = reasoning_gym._entry("settings", generator, made[index % len(SEEDS)], index // len(SEEDS))
        except UsageError:
            break
        except (ValueError, IndexError):
            continue
        problem = reasoning_gym._read(generator, entry)
        if problem is not None:
            metadata = {"part": f"{generator}_{level}", "generator": generator, "level": level}
            metadata["question"] = problem.question
            prompt = task._prompt(problem, metadata, encoder or PlainEncoder())
            found.setdefault(prompt.id, prompt)
    return list(found.values())


def gold_of(prompt: Prompt) -> str:
    """What the generator gives as the answer. For Countdown, which has no such field, a search finds one."""
    if prompt.answer["generator"] != COUNTDOWN:
        return str(prompt.answer["answer"])
    return solve_countdown([(n, str(n)) for n in prompt.answer["numbers"]], prompt.answer["target"]) or "none found"


def solve_countdown(terms: list[tuple[Any, str]], target: int) -> str | None:
    """An expression of all the numbers, by trying the operations on every pair."""
    if len(terms) == 1:
        return terms[0][1] if terms[0][0] == target else None
    for i, (a, left) in enumerate(terms):
        for j, (b, right) in enumerate(terms):
            if i == j:
                continue
            rest = [term for k, term in enumerate(terms) if k not in (i, j)]
            results = [(a - b, f"({left}-{right})")]
            results += [(a + b, f"({left}+{right})"), (a * b, f"{left}*{right}")] if i < j else []
            results += [(a // b, f"({left}/({right}))")] if b and a % b == 0 else []
            for result in results:
                if (found := solve_countdown([*rest, result], target)) is not None:
                    return found
    return None


def hostile_texts(prompt: Prompt, others: Sequence[Prompt], mark: Path) -> Iterator[str]:
    """Texts that are no right answer to ``prompt``, whatever the generator."""
    code = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    fixed = [
        *("", " ", "\x00", "\ud800", "\u202e17\u0000", "nan", "-nan", "sNaN", "inf", "-Infinity", "None", "null", "{}"),
        *("9**9**9**9", "1e999999999999", "1e-999999999999", "10^10^10", "1/0", "0x" + "f" * 900, "1_0", "--1", "+-1"),
        *(code, f"[{code}]", f"eval({code!r})", f"{{{code}}}", f"lambda: {code}", f'f"{{{code}}}"'),
        *("[" * 5_000, "(" * 5_000, '{"a":' * 2_000, "[" * 2_000 + "]" * 2_000, "-" * 9_000, "9" * 9_999, "1," * 4_999),
        *(
            "a" * (MAX_LENGTH + 1),
            "7 " * 50_000,
            "<answer>" * 2_000,
            "\n" * 9_999 + "x",
            "1" * 4_999 + "e" + "1" * 4_999,
        ),
        *("Yes No", "True False", "True or False", "A B C D", "0 1 2 3 4 5 6 7 8 9", "red, green, blue, yellow"),
        *(
            "0 or 1 or 2 or 3",
            "any",
            "*",
            ".*",
            "%s",
            "${answer}",
            "{answer}",
            "<script>alert(1)</script>",
            "\\boxed{}",
        ),
        *('{"answer": NaN}', "[NaN, Infinity]", "[[[]]]", "[null]", "\N{FULLWIDTH DIGIT ONE}" * 90),
    ]
    gold, question = gold_of(prompt), prompt.metadata["question"]
    if number(gold) != 0:
        fixed += ["-0", "0.0", "-0.0e0"]
    near = [
        f"not {gold}",
        f"{gold} ({gold}) or else",
        f"{gold}\n\n{code}",
        f"?{gold}?",
        f"{gold} " * 40,
        gold + "\u0660",
    ]
    near += [f"{gold} | {gold_of(other)}" for other in others[:3]]
    near += (
        [gold.translate({ord("0") + digit: 0x660 + digit for digit in range(10)})] if re.search("[0-9]", gold) else []
    )
    yield from fixed
    yield from (text for text in [question, question + " " + gold, *near] if text.strip() != gold.strip())


def verdicts_of(judge: Judge, answers: Sequence[tuple[Prompt, str]]) -> list[Reward]:
    for prompt, text in answers:
        judge.submit(prompt, [completion(text)])
    return [rewards_G[0] for rewards_G in judge.collect()]


def completion(text: str) -> Completion:
    return Completion(
        token_ids=np.zeros(1, np.int32),
        logprobs=np.zeros(1, np.float32),
        text=text,
        finish_reason="stop",
        policy_version=0,
    )


def guess(drawn: Sequence[Prompt]) -> float:
    """The share that the most frequent right answer gets right."""
    counts = Counter(json.dumps(prompt.answer, sort_keys=True) for prompt in drawn)
    return counts.most_common(1)[0][1] / len(drawn) if drawn else 0.0


def measure(folder: Path) -> Iterator[dict[str, Any]]:
    """Success of a model by level, with its own chat template where it has one."""
    from insight_rl.rollout.base import RolloutSpec
    from insight_rl.rollout.transformers import TransformersEngine
    from insight_rl.tokenizer import ModelTokenizer

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    about = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    is_chat = "chat_template" in about or (folder / "chat_template.jinja").exists()
    max_length = min(int(config["max_position_embeddings"]), 1024)
    encoder, engine = ModelTokenizer(folder), TransformersEngine(max_batch_size=64)
    engine.start(RolloutSpec(model_path=folder, dtype="float32", max_length=max_length, seed=0))
    reward = ReasoningGymReward(style="bare", format_value=0.0)
    parts: dict[str, list[Prompt]] = {}
    if not is_chat:
        tree = compose_config(["task=reasoning_gym_countdown", "model=tiny"])
        countdown: Any = OmegaConf.to_container(tree.task.parts, resolve=True)
        for name, part in countdown.items():
            wanted = {"encoder": encoder, "level": part["level"]}
            parts[name] = problems(COUNTDOWN, part["settings"], NUM_COUNTDOWN, **wanted)
    for generator in MEASURED:
        for level in range(min(num_levels(generator), NUM_LEVELS)):
            wanted = {"encoder": encoder, "level": level, "style": "chat" if is_chat else "bare"}
            settings = level_settings(generator, level)
            parts[f"{generator}_{level}"] = problems(generator, settings, NUM_PROBLEMS, **wanted)
    for part, prompts in parts.items():
        if prompts:
            num_samples = NUM_SAMPLES if part.startswith(prompts[0].metadata["generator"]) else NUM_COUNTDOWN_SAMPLES
            fitting = [prompt for prompt in prompts if len(prompt.token_ids) + MAX_TOKENS <= max_length]
            sampling = Sampling(
                num_rollouts=num_samples, max_tokens=MAX_TOKENS, temperature=1.0, seed=derive_seed(0, part)
            )
            rollouts = engine.generate(fitting, sampling=sampling) if fitting else []
            successes = sum(reward(prompt, each).success is True for prompt, group in rollouts for each in group)
            first = prompts[0].metadata
            yield {
                "model": folder.name,
                "part": part,
                "generator": first["generator"],
                "level": first["level"],
                "problems": len(prompts),
                "do_not_fit": len(prompts) - len(fitting),
                "attempts": num_samples * len(fitting),
                "successes": successes,
            }
    engine.close()


def summary(row: Mapping[str, Any]) -> str:
    text = f"{row['golds_right']}/{row['golds']} right answers, {row['hostile']} hostile in {row['hostile_s']} s"
    found = [*row["not_right"], *row["passed"], *row["not_judged"]]
    return text + (f"  LOOK: {found}" if found else "")


def write(found: Mapping[str, Any], folder: Path) -> None:
    (folder / "reasoning_gym_check.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    fields = ("source", "generator", "part", "level", "problems", "attempts", "successes", "rate")
    with (folder / "reasoning_gym_check.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, fields, lineterminator="\n")
        writer.writeheader()
        for generator, row in found["generators"].items():
            for level, rate in row["guess"].items():
                count = row["problems"][level]
                given = {"source": "guess", "generator": generator, "part": f"{generator}_{level}", "level": level}
                writer.writerow(
                    given | {"problems": count, "attempts": count, "successes": round(rate * count), "rate": rate}
                )
        for row in found["measured"]:
            rate = round(row["successes"] / row["attempts"], 4) if row["attempts"] else ""
            kept = {name: row[name] for name in ("generator", "part", "level", "problems", "attempts", "successes")}
            writer.writerow({"source": row["model"], **kept, "rate": rate})


def write_page(found: Mapping[str, Any]) -> None:
    """The tables between the markers of docs/reasoning_gym.md."""
    tables = {
        "generators": table_of_generators(found),
        "refused": table_of_refused(),
        "success": table_of_success(found),
    }
    text = PAGE.read_text(encoding="utf-8")
    for name, lines in tables.items():
        block = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not block.search(text):
            raise UsageError(f"{PAGE.name} has no <!-- {name} --> with an <!-- end --> after it")
        table = "".join(f"{line}\n" for line in lines)
        text = block.sub(rf"\g<1>{table}\g<2>", text, count=1)
    PAGE.write_text(text, encoding="utf-8")


def table_of_generators(found: Mapping[str, Any]) -> list[str]:
    lines = [
        "| generator | judged by | why | levels | right answers | guessing, default and levels 0 to 3 |",
        "| --- | --- | --- | ---: | ---: | --- |",
    ]
    for name, row in found["generators"].items():
        why = (LIBRARY | OWN)[name]
        shown = {level: rate for level, rate in row["guess"].items() if row["problems"][level] >= MIN_GUESSED}
        guesses = [f"{100 * shown[level]:.0f}" if level in shown else "-" for level in row["guess"]]
        cells = [f"`{name}`", row["judge"], why, row["num_levels"], f"{row['golds_right']} of {row['golds']}"]
        lines.append(f"| {' | '.join(map(str, cells))} | {', '.join(guesses)} % |")
    return lines


def table_of_refused() -> list[str]:
    return ["| generator | why not |", "| --- | --- |", *(f"| `{name}` | {why} |" for name, why in REFUSED.items())]


def table_of_success(found: Mapping[str, Any]) -> list[str]:
    """A row for each generator and model: successes of attempts, level by level."""
    rates: dict[tuple[str, str], list[str]] = {}
    for row in found["measured"]:
        name = (
            row["part"].rsplit("_", 1)[0] if row["part"].endswith(f"_{row['level']}") else "countdown, 2 to 5 numbers"
        )
        share = f"{100 * row['successes'] / row['attempts']:.0f}" if row["attempts"] else "-"
        rates.setdefault((name, row["model"]), []).append(share)
    lines = ["| generator | model | success, level by level |", "| --- | --- | --- |"]
    return lines + [f"| `{name}` | {model} | {', '.join(cells)} % |" for (name, model), cells in rates.items()]


if __name__ == "__main__":
    try:
        sys.exit(main())
    except UsageError as error:
        sys.exit(f"check_reasoning_gym: {error}")
