"""What a repeated prompt teaches, and how far a visit moves other prompts: the bundled tiny model on Countdown.

    python scripts/measure_repeats.py                                               eleven minutes of one core
    python scripts/measure_repeats.py --seeds 2 --sources 6 --output my_folder      a quick look
    python scripts/measure_repeats.py --tables                                      tables and picture from its numbers

All branches start from one common state: the bundled model after a few steps of uniform selection. Momentum is off
(learner.betas=[0.0,0.999]), so that what a step does is done within it; everything else is as in the quickstart.

Success is measured without sampling noise: the probability that the policy gives to the known right completions of a
problem, found by 32 samples at the common state, the rarest left out. It is a lower bound of the success rate at
temperature 1.

Repeats: a set of prompts with success rates from .2 to .8 is visited eight times. Before the 1st, 2nd, 4th and 8th
visit the state is kept, and a branch visits as many fresh prompts instead, each with the present success rate of one of
the set: equal mixed chance, equal rollouts, same start. The gain is that of 256 held-out problems.

Transfer: from the common state the group of one prompt makes one step alone, scaled as if it were one of 32. How far do
its own success rate and those of prompts that were not visited move, by what they have in common with it?

Writes repeats.json (all numbers), repeats.csv (a row for every branch), repeats.png, and the tables in
docs/simulation.md between its markers.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from repeats_analysis import DOCS, MEASURED, VISITS, analyse, draw, write_rows, write_tables
from scipy.optimize import linear_sum_assignment
from transformers import AutoModelForCausalLM

from insight_rl.checkpoint import CheckpointStore
from insight_rl.config import compose_config, parse_config
from insight_rl.rollout.groups import collect_groups, roll_out
from insight_rl.run import RunOutput, assemble, build_parts, open_selector
from insight_rl.run_dir import RunDir
from insight_rl.seeding import derive_seed
from insight_rl.types import Group, Prompt, Sampling

SETTINGS = [
    "experiment=quickstart",
    "selector=random",
    "trainer.prompts_per_step=32",
    "learner.betas=[0.0,0.999]",
    "monitor=jsonl",
    "seed=0",
]
BATCH = 32
"""Prompts of a step."""
WARM_STEPS = 10
NUM_SCREENED = 700
NUM_HELD_OUT = 256
SCREEN_ROLLOUTS = 32
LEARNABLE = (0.2, 0.8)


class Bank:
    """Known right completions of prompts, and the probability that a policy gives to them together."""

    def __init__(self, groups: Sequence[Group]) -> None:
        self.prompts = [group.prompt for group in groups]
        self.sampled_rate = np.array([group.num_successes / group.num_judged for group in groups])
        self.place = {prompt.id: number for number, prompt in enumerate(self.prompts)}
        self.answers = [self._right_ones(group) for group in groups]
        self.operations = [self._operations(group) for group in groups]

    def keep_likely_answers(self, model: Any, share: float = 0.9) -> None:
        """Drop the rarest answers, as long as the others have ``share`` of a prompt's probability: scoring costs."""
        rows = [(number, answer) for number, answers in enumerate(self.answers) for answer in answers]
        probabilities = self._score(model, rows)
        for number, answers in enumerate(self.answers):
            own = np.array([p for (n, _), p in zip(rows, probabilities, strict=True) if n == number])
            order = np.argsort(-own)
            num_kept = int(np.searchsorted(own[order].cumsum(), share * own.sum())) + 1
            self.answers[number] = [answers[place] for place in order[:num_kept]]

    @staticmethod
    def _right_ones(group: Group) -> list[tuple[int, ...]]:
        pairs = zip(group.completions_G, group.rewards_G, strict=True)
        right = (
            tuple(np.asarray(c.token_ids).tolist()) for c, reward in pairs if reward.success and not c.is_truncated
        )
        return sorted(set(right))

    @staticmethod
    def _operations(group: Group) -> str:
        """Of the most frequent right completion, e.g. ``"*+"``; empty without one."""
        pairs = zip(group.completions_G, group.rewards_G, strict=True)
        texts = Counter(c.text for c, reward in pairs if reward.success)
        return "".join(sorted(re.findall(r"[-+*/]", texts.most_common(1)[0][0]))) if texts else ""

    def rates(self, model: Any, which: Sequence[int] | None = None) -> np.ndarray:
        """(P,): probability of the known right completions together; NaN for prompts that are not at ``which``."""
        wanted = range(len(self.prompts)) if which is None else which
        rows = [(number, answer) for number in wanted for answer in self.answers[number]]
        rates = np.full(len(self.prompts), np.nan)
        rates[list(wanted)] = 0.0
        np.add.at(rates, [number for number, _ in rows], self._score(model, rows))
        return rates

    @torch.inference_mode()
    def _score(self, model: Any, rows: Sequence[tuple[int, tuple[int, ...]]]) -> np.ndarray:
        """Probability of each answer after its prompt, the prompt given by its place; batches of like lengths."""
        lengths = [len(self.prompts[number].token_ids) + len(answer) for number, answer in rows]
        order = np.argsort(lengths, kind="stable")
        probabilities = np.zeros(len(rows))
        for start in range(0, len(rows), 256):
            batch = order[start : start + 256]
            pairs = [(self.prompts[rows[place][0]].token_ids, rows[place][1]) for place in batch]
            probabilities[batch] = _probabilities(model, pairs)
        return probabilities

    def gain(self, before: np.ndarray, after: np.ndarray) -> dict[str, float]:
        """In success, and in the mean logarithm of it over the prompts with a known answer."""
        known = np.array([bool(answers) for answers in self.answers])
        log_gain = np.log(np.clip(after[known], 1e-6, 1)) - np.log(np.clip(before[known], 1e-6, 1))
        return {"gain": float(np.mean(after - before)), "log_gain": float(log_gain.mean())}


def _probabilities(model: Any, rows: Sequence[tuple[Sequence[int], Sequence[int]]]) -> np.ndarray:
    """Of each completion after its prompt, end-of-sequence token included."""
    longest = max(len(prompt) + len(answer) for prompt, answer in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)
    is_answer_BT = torch.zeros(len(rows), longest, dtype=torch.bool)
    for row, (prompt, answer) in enumerate(rows):
        ids_BT[row, : len(prompt) + len(answer)] = torch.tensor([*prompt, *answer])
        is_answer_BT[row, len(prompt) : len(prompt) + len(answer)] = True
    # Padded on the right, where a causal model does not look.
    logprobs_BTV = model(input_ids=ids_BT).logits[:, :-1].float().log_softmax(-1)
    of_token_BT = logprobs_BTV.gather(2, ids_BT[:, 1:, None]).squeeze(2)
    sums_B = (of_token_BT * is_answer_BT[:, 1:]).sum(1)
    return sums_B.double().exp().numpy()


class Lab:
    """A policy in training that can be put back to an earlier state."""

    def __init__(self, cleanup: ExitStack) -> None:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory()))
        config = parse_config(compose_config(SETTINGS))
        self.lr = float(config.learner["lr"])
        parts = build_parts(config)
        open_selector(config, parts)
        run_dir = RunDir(folder / "run")
        cleanup.callback(run_dir.close)
        store = CheckpointStore(folder / "run" / "checkpoints", keep_last=1)
        self.trainer = assemble(config, parts, run_dir, store, 0, cleanup, RunOutput())
        self.pool = list(np.random.default_rng(0).permutation(np.array(parts.data.pool, dtype=object)))
        self.problems = list(parts.data.problems)
        self.model = AutoModelForCausalLM.from_pretrained(parts.model_path, dtype=torch.float32).eval()
        self._folder = folder
        self._cache: tuple[int, Any] = (-1, None)
        self._version = 0

    def sample(self, prompts: Sequence[Prompt], num_rollouts: int, *names: int | str) -> list[Group]:
        sampling = Sampling(num_rollouts=num_rollouts, max_tokens=24, temperature=1.0, seed=derive_seed(0, *names))
        finished = roll_out(self.trainer.rollout, self.trainer.judge, prompts, sampling)
        return collect_groups(self.trainer.judge, prompts, finished)

    def learn(self, groups: Sequence[Group], *, scale: float = 1.0) -> None:
        advantages = self.trainer.algorithm.advantages(groups)
        self.trainer.learner.step(groups, [scale * advantage for advantage in advantages])
        self._sync()

    def visit(self, prompts: Sequence[Prompt], *names: int | str) -> list[Group]:
        """Roll out and learn, a step for every 32 prompts."""
        groups = []
        for start in range(0, len(prompts), BATCH):
            new = self.sample(prompts[start : start + BATCH], 8, *names, start)
            self.learn(new)
            groups += new
        return groups

    def keep(self, name: str) -> None:
        shutil.rmtree(self._folder / name, ignore_errors=True)
        writing = self.trainer.learner.save_checkpoint(self._folder / name)
        if writing is not None:
            writing.write(threading.Event())

    def back_to(self, name: str) -> None:
        self.trainer.learner.load_checkpoint(self._folder / name)
        self._sync()

    def _sync(self) -> None:
        self._version += 1
        self.trainer.rollout.update_weights(self.trainer.learner.weights(), version=self._version)
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, tensor in self.trainer.learner.weights().named_tensors():
                parameters[name].copy_(tensor)


def logit(rates: np.ndarray) -> np.ndarray:
    clipped = np.clip(rates, 1e-4, 1 - 1e-4)
    return np.log(clipped / (1 - clipped))


def mean_or_none(values: np.ndarray) -> float | None:
    return float(values.mean()) if values.size else None


def in_reach(rates: np.ndarray) -> np.ndarray:
    return (rates >= LEARNABLE[0]) & (rates <= LEARNABLE[1])


def matched(rates: np.ndarray, of: np.ndarray, among: np.ndarray) -> np.ndarray:
    """For each prompt at ``of`` another one at ``among`` with nearly its rate, so that the sum of the gaps is least."""
    gaps = np.abs(rates[of][:, None] - rates[among][None, :])
    return among[linear_sum_assignment(gaps)[1]]


def signal_of(groups: Sequence[Group]) -> dict[str, float]:
    """Share of mixed groups, and the mean of sqrt(s (1 - s)), the mean size of a GRPO advantage."""
    share = np.array([group.num_successes / group.num_judged for group in groups])
    mixed = (share > 0) & (share < 1)
    return {"mixed": float(mixed.mean()), "signal": float(np.sqrt(share * (1 - share)).mean())}


def measure_repeats(lab: Lab, bank: Bank, held_out: Bank, *, seed: int, set_size: int) -> list[dict[str, Any]]:
    """Rows of ``COLUMNS``: two for each visit of ``MEASURED``."""
    lab.back_to("start")
    now, success = bank.rates(lab.model), held_out.rates(lab.model)
    rng = np.random.default_rng(derive_seed(seed, "set"))
    shuffled = rng.permutation(np.flatnonzero(in_reach(now)))
    of, bystanders = shuffled[:set_size], shuffled[set_size:][:40]
    others = np.setdiff1d(np.arange(len(now)), of)
    rows = []
    for visit in range(1, VISITS + 1):
        arms = [("again", of)]
        if visit in MEASURED:
            if visit > 1:
                now, success = bank.rates(lab.model), held_out.rates(lab.model)
            # What an undone branch visited is fresh again.
            arms = [("fresh", matched(now, of, others)), ("again", of)]
            lab.keep("branch")
        for arm, chosen in arms:
            groups = lab.visit([bank.prompts[n] for n in rng.permutation(chosen)], "repeats", seed, visit, arm)
            if visit not in MEASURED:
                continue
            unvisited = np.setdiff1d(bystanders, chosen)
            rates = bank.rates(lab.model, [*chosen, *unvisited])
            row = {"seed": seed, "visit": visit, "arm": arm} | held_out.gain(success, held_out.rates(lab.model))
            row |= signal_of(groups)
            row |= {"rate_before": float(np.mean(now[chosen])), "rate_after": float(np.mean(rates[chosen]))}
            moves = logit(rates) - logit(now)
            row |= {"visited_move": float(moves[chosen].mean()), "unvisited_move": mean_or_none(moves[unvisited])}
            rows.append(row)
            if arm == "fresh":
                lab.back_to("branch")
    return rows


def measure_transfer(lab: Lab, bank: Bank, *, sources: int, targets: int) -> dict[str, Any]:
    lab.back_to("start")
    start = bank.rates(lab.model)
    rng = np.random.default_rng(derive_seed(0, "transfer"))
    shuffled = rng.permutation(np.flatnonzero(in_reach(start)))
    target_numbers = shuffled[:targets]
    pairs: list[list[Any]] = []
    own: list[float] = []
    for source in shuffled[targets:]:
        (group,) = lab.sample([bank.prompts[source]], 8, "transfer", int(source))
        if not group.is_informative:
            continue
        lab.learn([group], scale=1 / BATCH)
        after = bank.rates(lab.model, [*target_numbers, source])
        move = logit(after) - logit(start)
        for target in target_numbers:
            pairs.append([len(own), *relation(bank, source, target), float(move[target])])
        own.append(float(move[source]))
        lab.back_to("start")
        if len(own) == sources:
            break
    names = ["source", "same_count", "shared_numbers", "same_target", "same_operations", "move"]
    return {"own": own, "columns": names, "pairs": pairs}


def relation(bank: Bank, one: int, other: int) -> tuple[bool, int, bool, bool]:
    """Whether they have equally many numbers, how many numbers they share, and whether target and operations agree."""
    first, second = bank.prompts[one].answer, bank.prompts[other].answer
    shared = sum((Counter(first["numbers"]) & Counter(second["numbers"])).values())
    same_count = len(first["numbers"]) == len(second["numbers"])
    same_operations = bank.operations[one] == bank.operations[other]
    return same_count, shared, first["target"] == second["target"], same_operations


def measure(arguments: argparse.Namespace, stored: Path) -> dict[str, Any]:
    started = time.process_time()

    def say(text: str) -> None:
        print(f"{time.process_time() - started:6.0f} s  {text}", flush=True)

    with ExitStack() as cleanup:
        lab = Lab(cleanup)
        warm, screened = lab.pool[: WARM_STEPS * BATCH], lab.pool[WARM_STEPS * BATCH :][:NUM_SCREENED]
        lab.visit(warm, "warm")
        lab.keep("start")
        say("warm")
        bank = Bank(lab.sample(screened, SCREEN_ROLLOUTS, "screen"))
        held_out = Bank(lab.sample(lab.problems[:NUM_HELD_OUT], SCREEN_ROLLOUTS, "held out"))
        say("screened")
        for each in (bank, held_out):
            each.keep_likely_answers(lab.model)
        known, sampled = held_out.rates(lab.model), held_out.sampled_rate
        say(f"held-out success {sampled.mean():.4f} by sampling, {known.mean():.4f} by known completions")
        facts = {
            "held_out_sampled": float(sampled.mean()),
            "held_out_known": float(known.mean()),
            "screened_learnable": float(np.mean(in_reach(bank.rates(lab.model)))),
            "set_size": arguments.set_size,
            "lr": lab.lr,
        }
        transfer = measure_transfer(lab, bank, sources=arguments.sources, targets=arguments.targets)
        say(f"transfer of {len(transfer['own'])} prompts")
        numbers: dict[str, Any] = {"facts": facts, "transfer": transfer, "repeats": []}
        for seed in range(arguments.seeds):
            rows = measure_repeats(lab, bank, held_out, seed=seed, set_size=arguments.set_size)
            numbers["repeats"] += rows
            numbers["processor_seconds"] = time.process_time() - started
            # After each seed, so that a run that is cut short leaves its whole seeds.
            stored.write_text(json.dumps(numbers) + "\n", encoding="utf-8")
            gains = ", ".join(f"{row['visit']} {row['arm']} {100 * row['gain']:+.2f}" for row in rows)
            say(f"seed {seed}: {gains}")
    return numbers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--set-size", type=int, default=96, help="prompts of the set that is visited again and again")
    parser.add_argument("--sources", type=int, default=32, help="prompts whose transfer is measured")
    parser.add_argument("--targets", type=int, default=120, help="prompts that it is measured on")
    parser.add_argument("--output", type=Path, default=DOCS / "results")
    parser.add_argument("--tables", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    stored = arguments.output / "repeats.json"
    if not arguments.tables:
        arguments.output.mkdir(parents=True, exist_ok=True)
        numbers = measure(arguments, stored)
    numbers = json.loads(stored.read_text(encoding="utf-8"))
    write_rows(numbers["repeats"], arguments.output / "repeats.csv")
    found = analyse(numbers)
    draw(found, arguments.output / "repeats.png")
    if arguments.output == DOCS / "results":
        write_tables(found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
