"""How much of a prompt's difficulty its features tell, on a file of problems with known pass rates.

    python scripts/check_features.py PASS_RATES.parquet

The file has the columns question, answer and pass_rate; 30,000 problems take a minute. Ridge regression of the logit of
the pass rate, five folds, on each kind of feature and on all together (`insight_rl/selector/features.py`). Prints R2 of
the logit, the area under the ROC curve for being learnable (a pass rate between 0.05 and 0.95), the chance of a mixed
group of 8 among the sixteenth of the pool that the features rate best (by a regression of that chance), and processor
seconds. `--train 500 2000` also learns from that few problems. `--online` then plays first visits: steps of 256 prompts
in random order with 8 rollouts each at the known rates, foretold by each prior of `conf/selector/prior` before it
learns from them; mean log-likelihood in nats a group, of steps 1 to 20 and 81 to 100.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from scipy.stats import betabinom, rankdata

from insight_rl.selector.feature_prior import FeaturePrior
from insight_rl.selector.features import answer_form, prompt_features, standardised, surface, text_components
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.selector.prior import Prior, PriorSource
from insight_rl.types import Prompt

NUM_FOLDS = 5
RIDGE = 100.0
NUM_ROLLOUTS = 8


def read(path: Path, attempts: int) -> tuple[list[Prompt], np.ndarray]:
    """The problems without repeats of a text, and how many of the attempts were right: float64 [N]."""
    rows = pq.read_table(path, columns=["question", "answer", "pass_rate"]).to_pylist()
    unique = {row["question"].strip(): row for row in reversed(rows)}
    prompts = [
        Prompt(id=str(index), task="math", text=text, token_ids=(), answer=row["answer"])
        for index, (text, row) in enumerate(unique.items())
    ]
    return prompts, np.array([round(row["pass_rate"] * attempts) for row in unique.values()], np.float64)


def predicted(features: np.ndarray, target: np.ndarray, folds: np.ndarray, num_train: int | None = None) -> np.ndarray:
    """Of each problem, by the ridge regression of the folds it is not in (or of the first ``num_train`` of those)."""
    inputs = np.column_stack([np.ones(len(features)), features])
    penalty = RIDGE * np.eye(inputs.shape[1])
    penalty[0, 0] = 0.0
    result = np.empty(len(target))
    for fold in range(NUM_FOLDS):
        rows = np.flatnonzero(folds != fold)[:num_train]
        x, y = inputs[rows], target[rows]
        weights = np.linalg.solve(x.T @ x + penalty, x.T @ y)
        result[folds == fold] = inputs[folds == fold] @ weights
    return result


def explained(target: np.ndarray, prediction: np.ndarray) -> float:
    return float(1.0 - ((target - prediction) ** 2).sum() / ((target - target.mean()) ** 2).sum())


def roc_area(positive: np.ndarray, score: np.ndarray) -> float:
    """By the rank sum of Mann and Whitney."""
    num = positive.sum()
    ranks = rankdata(score)[positive].sum()
    return float((ranks - num * (num + 1) / 2) / (num * (len(score) - num)))


def foretold(source: PriorSource | None, prompts: list[Prompt], rates: np.ndarray, steps: int = 100) -> np.ndarray:
    """Mean log-likelihood of the first visits of each step under the prior before it: float64 [steps]."""
    rng = np.random.default_rng(0)
    prior = Prior(source=source).of(prompts, NUM_ROLLOUTS)
    visits = np.array_split(rng.permutation(len(prompts))[: steps * 256], steps)
    result = []
    for indices in visits:
        right = rng.binomial(NUM_ROLLOUTS, rates[indices]).astype(np.float64)
        result.append(betabinom.logpmf(right, NUM_ROLLOUTS, *prior.counts(indices)).mean())
        prior.observe(indices, right, np.full(len(indices), float(NUM_ROLLOUTS)))
    return np.array(result)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--attempts", type=int, default=128, help="attempts behind each pass rate")
    parser.add_argument("--train", type=int, nargs="*", default=[], help="numbers of problems to learn from as well")
    parser.add_argument("--online", action="store_true", help="also foretell first visits step by step")
    options = parser.parse_args(arguments)
    prompts, right = read(options.path, options.attempts)
    rate = right / options.attempts
    logits = np.log((right + 0.5) / (options.attempts - right + 0.5))
    mixed = 1.0 - rate**NUM_ROLLOUTS - (1.0 - rate) ** NUM_ROLLOUTS
    learnable = (rate > 0.05) & (rate < 0.95)
    folds = np.random.default_rng(0).permutation(len(rate)) % NUM_FOLDS
    print(f"{len(prompts)} problems, mean pass rate {rate.mean():.3f}, chance of a mixed group {mixed.mean():.3f}")
    print(f"{'features':10} {'number':>6} {'R2 logit':>9} {'AUC learnable':>14} {'best 1/16':>10} {'CPU s':>6}")
    kinds: dict[str, Callable[[], np.ndarray]] = {
        "surface": lambda: standardised(surface(prompts)),
        "answer": lambda: standardised(answer_form(prompts)),
        "text": lambda: standardised(text_components(prompts)),
        "all": lambda: prompt_features(prompts),
    }
    for name, make in kinds.items():
        start = time.process_time()
        features = make().astype(np.float64)
        seconds = time.process_time() - start
        by_mixed = predicted(features, mixed, folds)
        best = np.argsort(-by_mixed, kind="stable")[: len(prompts) // 16]
        print(
            f"{name:10} {features.shape[1]:6} {explained(logits, predicted(features, logits, folds)):9.3f} "
            f"{roc_area(learnable, by_mixed):14.3f} {mixed[best].mean():10.3f} {seconds:6.1f}"
        )
    for number in options.train:
        print(f"learnt from {number}: R2 {explained(logits, predicted(features, logits, folds, number)):.3f}")
    if options.online:
        rates = np.clip(rate, 0.5 / options.attempts, 1.0 - 0.5 / options.attempts)
        shuffled = np.random.default_rng(1).permutation(rates)
        for name, source, of in (
            ("flat", None, rates),
            ("pool", LearntPrior(), rates),
            ("features", FeaturePrior(), rates),
            ("features, texts shuffled", FeaturePrior(), shuffled),
        ):
            nats = foretold(source, prompts, of)
            print(f"{name:25} {nats[:20].mean():7.3f} {nats[-20:].mean():7.3f}")


if __name__ == "__main__":
    main()
