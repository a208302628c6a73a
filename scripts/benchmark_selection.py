"""What selection costs: ours, the two SciPy forms and a plain Thompson-sampling dictionary, paired in one run.

    python scripts/benchmark_selection.py                     # the figures of docs/selectors.md, within a minute
    python scripts/benchmark_selection.py --pools 10000 100000 1000000 10000000    # and memory and time by pool size
    python scripts/benchmark_selection.py --rounds 0 --pools 10000000 --pool-prompts 256 4096 --pool-steps 5   # no more

Every row scores beliefs at K = 8 and picks the top 256 (the published Thompson sampler its 256 nearest to 0.5). The
rivals take turns within each round, so that a change in the machine's load meets all of them; figures are medians.
`--selectors` measures whole steps instead: `select` and `observe` of insight and of expected_signal, over 30,000
prompts of which half were visited, from 4,096 candidates and from the whole pool, in processor time.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import functools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from scipy.special import betaln, gammaln, psi

from insight_rl.selector.acquisition import difficulty_weight, weighted_mutual_information
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.selector.decision import top
from insight_rl.selector.expected_signal import ExpectedSignalSelector
from insight_rl.selector.feature_prior import FeaturePrior
from insight_rl.selector.features import NUM_COMPONENTS
from insight_rl.selector.information import in_chunks
from insight_rl.selector.learnt_prior import LearntPrior
from insight_rl.selector.prior import PriorSource
from insight_rl.types import Counts, Prompt

NUM_ROLLOUTS = 8
NUM_PICKED = 256


def ours(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    return top(weighted_mutual_information(alpha, beta, NUM_ROLLOUTS), NUM_PICKED)


def entropy(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return betaln(a, b) - (a - 1) * psi(a) - (b - 1) * psi(b) + (a + b - 2) * psi(a + b)


def scipy_direct(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """The definition: entropy of the belief less its expected entropy after the rollouts."""
    information = entropy(alpha, beta)
    log_beta = betaln(alpha, beta)
    for s in range(NUM_ROLLOUTS + 1):
        log_binomial = gammaln(NUM_ROLLOUTS + 1) - gammaln(s + 1) - gammaln(NUM_ROLLOUTS - s + 1)
        a, b = alpha + s, beta + NUM_ROLLOUTS - s
        information -= np.exp(log_binomial + betaln(a, b) - log_beta) * entropy(a, b)
    return top(difficulty_weight(alpha / (alpha + beta), 0.3, 3.0) * information, NUM_PICKED)


def scipy_better(alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """H(R_1:K) - K E[h(Phi)]: fewer special functions, less cancellation."""
    n = alpha + beta
    log_beta, psi_n = betaln(alpha, beta), psi(n + 1)
    information = NUM_ROLLOUTS * (alpha * (psi(alpha + 1) - psi_n) + beta * (psi(beta + 1) - psi_n)) / n
    for s in range(NUM_ROLLOUTS + 1):
        log_binomial = gammaln(NUM_ROLLOUTS + 1) - gammaln(s + 1) - gammaln(NUM_ROLLOUTS - s + 1)
        log_mass = betaln(alpha + s, beta + NUM_ROLLOUTS - s) - log_beta
        information -= np.exp(log_binomial + log_mass) * log_mass
    return top(difficulty_weight(alpha / n, 0.3, 3.0) * information, NUM_PICKED)


def thompson_dictionary(beliefs: dict[int, tuple[float, float]], rng: np.random.Generator) -> list[int]:
    """Thompson sampling as it is usually written: beliefs in a dictionary, one draw after another, a sort."""
    sampled = {index: rng.beta(alpha, beta) for index, (alpha, beta) in beliefs.items()}
    return sorted(sampled, key=lambda index: abs(sampled[index] - 0.5))[:NUM_PICKED]


def paired_medians(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Milliseconds of each call: the median over ``rounds`` in which all take turns, after one round unmeasured."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_index in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if round_index:
                times[name].append(time.perf_counter() - start)
    return {name: 1e3 * median(each) for name, each in times.items()}


def memory_bandwidth() -> float:
    """Bytes a second of c = a + b (two reads, one write) over arrays far larger than the caches, on all cores."""
    a, b, c = (np.ones(1 << 24) for _ in range(3))

    def add() -> None:
        in_threads(lambda part: np.add(a[part], b[part], out=c[part]), len(a))

    return float(3 * a.nbytes / (1e-3 * paired_medians({"add": add}, 7)["add"]))


def in_threads(function: Callable[[slice], object], size: int, chunk: int = 1 << 20) -> None:
    with ThreadPoolExecutor() as pool:
        list(pool.map(function, (slice(start, start + chunk) for start in range(0, size, chunk))))


def figures(rounds: int) -> dict[str, float]:
    rng = np.random.default_rng(0)
    report: dict[str, float] = {}
    for name, size, repeats in (("4096", 4096, 5 * rounds), ("1e6", 10**6, rounds)):
        alpha, beta = rng.uniform(1, 50, size), rng.uniform(1, 50, size)
        counts = np.floor(alpha), np.floor(beta)
        calls: dict[str, Callable[[], object]] = {
            "ours": functools.partial(ours, alpha, beta),
            "ours_integer": functools.partial(ours, *counts),
            "scipy": functools.partial(scipy_direct, alpha, beta),
            "scipy_better": functools.partial(scipy_better, alpha, beta),
        }
        if size == 4096:
            beliefs = dict(enumerate(zip(alpha.tolist(), beta.tolist(), strict=True)))
            calls["thompson"] = functools.partial(thompson_dictionary, beliefs, rng)
        times = paired_medians(calls, repeats)
        report[{"4096": "select_4096_ms", "1e6": "score_1e6_ms"}[name]] = times.pop("ours")
        report[{"4096": "select_4096_integer_ms", "1e6": "score_1e6_integer_ms"}[name]] = times.pop("ours_integer")
        report |= {f"{rival}_{name}_ms": value for rival, value in times.items()}
    start = time.process_time()
    for _ in range(rounds):
        ours(alpha, beta)
    # On a machine that others use too, the processor time says what the wall time cannot.
    report["score_1e6_cpu_ms"] = 1e3 * (time.process_time() - start) / rounds
    bandwidth = memory_bandwidth()
    report["memory_bandwidth_gb_per_s"] = bandwidth / 1e9
    report["floor_1e6_ms"] = 1e3 * 24 * 10**6 / bandwidth  # alpha and beta in, score out: 24 bytes a prompt
    report["times_floor_1e6"] = report["score_1e6_ms"] / report["floor_1e6_ms"]
    report["times_floor_1e6_integer"] = report["score_1e6_integer_ms"] / report["floor_1e6_ms"]
    report["ratio_scipy_4096"] = report["scipy_4096_ms"] / report["select_4096_ms"]
    report["ratio_scipy_1e6"] = report["scipy_1e6_ms"] / report["score_1e6_ms"]
    report["ratio_scipy_better_1e6"] = report["scipy_better_1e6_ms"] / report["score_1e6_ms"]
    report["ratio_thompson_4096"] = report["thompson_4096_ms"] / report["select_4096_ms"]
    return report


def step_figures(rounds: int) -> dict[str, float]:
    """Processor milliseconds of selecting 256 prompts, and of observing them with the metrics: medians, in turns."""
    rng = np.random.default_rng(0)
    size = 30_000
    pool = [Prompt(id=str(i), task="toy", text="", token_ids=(), answer=None) for i in range(size)]
    rates = rng.beta(0.4, 0.6, size)
    with tempfile.TemporaryDirectory() as folder:
        embeddings = Path(folder) / "embeddings.npy"
        np.save(embeddings, rng.standard_normal((size, NUM_COMPONENTS)))
        by_features = FeaturePrior(embeddings=str(embeddings))
        selectors: dict[str, BeliefSelector] = {
            "insight_4096": BeliefSelector(score=weighted_mutual_information, forgetting=0.5),
            "insight_whole_pool": BeliefSelector(
                score=weighted_mutual_information, forgetting=0.5, candidate_ratio=None
            ),
            "expected_signal_4096": _expected_signal(LearntPrior()),
            "expected_signal_features_4096": _expected_signal(by_features),
            "expected_signal_drift_4096": _expected_signal(LearntPrior(), drift=True),
            "expected_signal_whole_pool": _expected_signal(LearntPrior(), candidate_ratio=None),
            "expected_signal_features_whole_pool": _expected_signal(by_features, candidate_ratio=None),
        }
        for selector in selectors.values():
            selector.open(pool, num_rollouts=NUM_ROLLOUTS, seed=0)
            for first in range(0, size // 2, NUM_PICKED):
                selector.observe(_outcomes(pool[first : first + NUM_PICKED], rates, rng))
    times: dict[str, list[float]] = {}
    for _ in range(5 * rounds + 1):
        for name, selector in selectors.items():
            start = time.process_time()
            selected = selector.select(NUM_PICKED)
            middle = time.process_time()
            outcomes = _outcomes(selected, rates, rng)
            before = time.process_time()
            selector.observe(outcomes)
            selector.metrics()
            times.setdefault(f"select_{name}_cpu_ms", []).append(middle - start)
            times.setdefault(f"observe_{name}_cpu_ms", []).append(time.process_time() - before)
    return {name: 1e3 * median(each[1:]) for name, each in times.items()}


def _expected_signal(prior: PriorSource, **settings: Any) -> ExpectedSignalSelector:
    return ExpectedSignalSelector(prior=prior, forgetting=0.85, **settings)


def _outcomes(prompts: Sequence[Prompt], rates: np.ndarray, rng: np.random.Generator) -> list[Counts]:
    successes = rng.binomial(NUM_ROLLOUTS, rates[[int(prompt.id) for prompt in prompts]]).tolist()
    return [
        Counts(prompt_id=prompt.id, num_judged=NUM_ROLLOUTS, num_successes=count)
        for prompt, count in zip(prompts, successes, strict=True)
    ]


# Run in a process of its own for each pool size. added_mb is what opening and selecting added to the memory in use by
# the imports and a first selection; nothing is given back in between, so it is a peak too.
POOL_RUN = """
import json, statistics, sys, time
from functools import partial
from pathlib import Path
from insight_rl.selector.acquisition import weighted_mutual_information
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.types import Counts, Prompt

def memory_mb(field):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(field + ":")[2].split()[0]) * 1024 / 1e6

class MadePool:  # an IndexedPool whose prompts are made when they are asked for
    def __init__(self, size):
        self.size, self.fingerprint = size, str(size)
    def __len__(self):
        return self.size
    def __getitem__(self, i):
        return Prompt(id=f"p{i}", task="toy", text="", token_ids=(i % 97, 2), answer=i)
    def __iter__(self):
        return map(self.__getitem__, range(self.size))
    def index_of(self, prompt_id):
        return int(prompt_id[1:])

warm_up = BeliefSelector(score=partial(weighted_mutual_information, mu=0.3, eta=3.0))
warm_up.open([Prompt(id=str(i), task="t", text="", token_ids=(), answer=None) for i in range(4096)],
             num_rollouts=8, seed=0)
warm_up.select(256)
before = memory_mb("VmRSS")
start, start_cpu = time.perf_counter(), time.process_time()
selector = BeliefSelector(score=partial(weighted_mutual_information, mu=0.3, eta=3.0), **json.loads(sys.argv[4]))
selector.open(MadePool(int(sys.argv[1])), num_rollouts=8, seed=0)
open_ms, open_cpu_ms = 1e3 * (time.perf_counter() - start), 1e3 * (time.process_time() - start_cpu)
select, select_cpu, observe, observe_cpu = [], [], [], []
for _ in range(int(sys.argv[2])):
    start, start_cpu = time.perf_counter(), time.process_time()
    prompts = selector.select(int(sys.argv[3]))
    select.append(time.perf_counter() - start)
    select_cpu.append(time.process_time() - start_cpu)
    outcomes = [Counts(prompt_id=prompt.id, num_judged=8, num_successes=3) for prompt in prompts]
    start, start_cpu = time.perf_counter(), time.process_time()
    selector.observe(outcomes)
    selector.metrics()
    observe.append(time.perf_counter() - start)
    observe_cpu.append(time.process_time() - start_cpu)
print(json.dumps({"open_ms": open_ms, "open_cpu_ms": open_cpu_ms, "select_ms": 1e3 * statistics.median(select),
                  "select_cpu_ms": 1e3 * statistics.median(select_cpu),
                  "observe_ms": 1e3 * statistics.median(observe),
                  "observe_cpu_ms": 1e3 * statistics.median(observe_cpu), "added_mb": memory_mb("VmRSS") - before,
                  "peak_mb": memory_mb("VmHWM")}))
"""


def pool_figures(size: int, steps: int, num_prompts: int, settings: dict[str, Any]) -> dict[str, float]:
    """Opening, selecting (M of 16 M) and observing over a pool whose prompts are made on demand."""
    arguments = [str(size), str(steps), str(num_prompts), json.dumps(settings)]
    run = subprocess.run([sys.executable, "-c", POOL_RUN, *arguments], capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="over 10^6 beliefs; 5 times as many over 4,096; 0: none")
    parser.add_argument("--pools", type=int, nargs="*", default=[], help="pool sizes to measure memory and time for")
    parser.add_argument("--pool-steps", type=int, default=40)
    parser.add_argument("--pool-prompts", type=int, nargs="+", default=[256], help="M, of 16 M candidates")
    parser.add_argument("--whole-pool", action="store_true", help="score all prompts of the pool in place of 16 M")
    parser.add_argument("--selectors", action="store_true", help="whole steps of selectors in the place of scores")
    arguments = parser.parse_args()
    in_chunks(lambda a, b: a + b, np.ones(4), np.ones(4))
    report: dict[str, object] = {}
    if arguments.rounds:
        report = dict((step_figures if arguments.selectors else figures)(arguments.rounds))
    for name, value in report.items():
        print(f"{name:50} {value:12.3f}")
    pools = {}
    settings = {"candidate_ratio": None} if arguments.whole_pool else {}
    for size, num_prompts in product(arguments.pools, arguments.pool_prompts):
        found = pool_figures(size, arguments.pool_steps, num_prompts, settings)
        pools[str(size) if num_prompts == 256 else f"{size}, {num_prompts} prompts"] = found
        text = "  ".join(f"{key} {value:9.2f}" for key, value in found.items())
        print(f"{num_prompts} of {size}  {text}", flush=True)
    if pools:
        report["pools"] = pools
    print(json.dumps(report))


if __name__ == "__main__":
    main()
