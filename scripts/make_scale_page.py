"""The tables of docs/scale.md: a model of 8, 64 and 512 GPUs with a 7B, from what is measured, published and assumed.

    python scripts/make_scale_page.py

Seconds of rollout, learner and weight sync, and bytes of memory and checkpoints, are those of `insight-rl doctor`
(insight_rl/doctor/duration.py, memory.py); here network, the trainer's own thread, failures and selection are added.
Measured inputs are in docs/results/scale_inputs.json, with the command that made each; the table of
scripts/benchmark_scale.py is read from docs/results/scale.json, once that is there. The text of the page is written by
hand; what stands between its marks is replaced. A test compares them.
"""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from insight_rl.config import compose_config, parse_config
from insight_rl.doctor import duration
from insight_rl.doctor.cards import CARDS, Card
from insight_rl.doctor.memory import count_checkpoint, count_situations, fullest
from insight_rl.doctor.workload import Workload, read_workload

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "scale.md"
INPUTS_FILE = ROOT / "docs" / "results" / "scale_inputs.json"
SCALE_FILE = ROOT / "docs" / "results" / "scale.json"

CARD = CARDS["h100-80gb"]
EXPERIMENT = "paper_math_7b"
GPUS = (8, 64, 512)
GPUS_A_MACHINE = 8
PROMPTS_A_GPU = 32
"""Where the step grows with the GPUs: as many as 8 GPUs have in the paper's step of 256."""
POOL = 10**7
TRAINERS = 64
RANGE = "half and twice as much on other processors"
NOTICEABLE = 0.1
"""Share of a step from which a part counts as what breaks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A number that the model rests on: the usual value, the range, and where they come from."""

    low: float
    usual: float
    high: float
    unit: str
    kind: Literal["measured", "published", "assumed"]
    source: str
    scale: float = 1.0
    """What the page multiplies it with, for the unit."""

    def __post_init__(self) -> None:
        assert self.low <= self.usual <= self.high, self


@functools.cache
def measured() -> Mapping[str, Any]:
    return json.loads(INPUTS_FILE.read_text(encoding="utf-8"))


@functools.cache
def inputs() -> dict[str, Input]:
    select, host = (measured()[name]["figures"] for name in ("selection", "host_path"))
    small, large = select["pools"][f"{POOL}"], select["pools"][f"{POOL}, 4096 prompts"]
    per_prompt = (large["select_cpu_ms"] + large["observe_cpu_ms"]) / 4096 / 1e3
    fixed = max(0.0, (small["select_cpu_ms"] + small["observe_cpu_ms"]) / 1e3 - 256 * per_prompt)
    host_s = host["trainer_processor_s"] / host["tokens"]
    return {
        "rollout": Input(
            low=0.5, usual=1, high=2, unit="x the doctor's seconds", kind="assumed",
            source="a roofline at 60 % of the bandwidth, never compared with a GPU; [check](#checks)",
        ),
        "learn": Input(
            low=duration.LEARNING / 0.43, usual=1, high=duration.LEARNING / 0.25, unit="x the doctor's seconds",
            kind="published",
            source="the doctor takes 35 % of the peak; Llama 3 reached 38 to 43 % with 8,192 and 16,384 GPUs "
            "([arXiv 2407.21783](https://arxiv.org/abs/2407.21783), table 4); 25 % is assumed for short rows",
        ),
        "network": Input(
            low=12.5, usual=50, high=50, unit="GB/s a GPU, between machines", kind="published",
            source="400 Gb/s a GPU (Llama 3, section 3.3.1); 100 Gb/s is what many clouds rent",
        ),
        "verdict": Input(
            low=2 / 9145, usual=2 / 2311, high=5e-3, unit="ms a verdict of a judge process", kind="measured", scale=1e3,
            source="2 processes, 9,145 and 2,311 a second ([rewards.md](rewards.md#measured)); "
            "5 ms is assumed where most answers need SymPy",
        ),
        "select_fixed": Input(
            low=fixed / 2, usual=fixed, high=2 * fixed, unit="ms a step, select and observe", kind="measured",
            scale=1e3, source="`scripts/benchmark_selection.py`, 10^7 prompts; " + RANGE,
        ),
        "select_prompt": Input(
            low=per_prompt / 2, usual=per_prompt, high=2 * per_prompt, unit="us a chosen prompt of 16 candidates each",
            kind="measured", scale=1e6, source="`scripts/benchmark_selection.py`, 10^7 prompts; " + RANGE,
        ),
        "token": Input(
            low=host_s / 2, usual=host_s, high=2 * host_s, unit="ns a token on the trainer's thread", kind="measured",
            scale=1e9, source="worker to plan to two ranks, `scripts/benchmark_host_path.py`, without text; " + RANGE,
        ),
        "request": Input(
            low=4.4e-3, usual=8.8e-3, high=17.6e-3, unit="ms of a core for a request to the service", kind="measured",
            scale=1e3, source="256 prompts, eight clients ([service.md](service.md#checked)); " + RANGE,
        ),
        "disk": Input(
            low=0.5, usual=2, high=5, unit="GB/s that a machine writes to the shared file system", kind="assumed",
            source="NFS to parallel file systems",
        ),
        "file_system": Input(
            low=5, usual=20, high=2000, unit="GB/s that the file system takes in all", kind="assumed",
            source="Llama 3's took 2 TB/s sustained (section 3.3.1), from 7,500 servers",
        ),
        "failure": Input(
            low=1e-5, usual=419 / (54 * 24 * 16384), high=1e-4, unit="failures a million GPU hours", kind="published",
            scale=1e6, source="419 unexpected interruptions in 54 days of 16,384 H100s (Llama 3, table 5); "
            "half and five times as many are assumed for other clusters",
        ),
        "restart": Input(
            low=120, usual=300, high=900, unit="s from a failure to the first new step", kind="assumed",
            source="noticing, loading 7B on ranks and workers, CUDA graphs",
        ),
    }  # fmt: skip


Level = Literal["low", "usual", "high"]
Value = TypeVar("Value")
LEVELS: tuple[Level, ...] = ("low", "usual", "high")
OPPOSITE: dict[Level, Level] = {"low": "high", "usual": "usual", "high": "low"}


def value(name: str, level: Level) -> float:
    """An input at the end of its range where costs are low, usual or high."""
    faster_is_more = name in ("network", "disk", "file_system")
    return float(getattr(inputs()[name], OPPOSITE[level] if faster_is_more else level))


# ---------------------------------------------------------------------------------------------------------------------
# A step


@functools.cache
def base() -> Workload:
    work = read_workload(parse_config(compose_config([f"experiment={EXPERIMENT}"])))
    assert work is not None
    return work


def workload(num_gpus: int, *, grows: bool) -> Workload:
    """The paper's step over so many GPUs, a rank and a rollout worker on each; ``grows``: with 32 prompts for each."""
    prompts = PROMPTS_A_GPU * num_gpus if grows else base().prompts_per_step
    updates = base().updates_per_step
    work = replace(base(), prompts_per_step=prompts, prompts_per_update=prompts // updates)
    return work.with_learner(num_ranks=num_gpus).with_rollout(num_workers=num_gpus)


def card_of(num_gpus: int, level: Level) -> Card:
    """Over several machines the network is the link: a ring of all GPUs is as fast as its slowest part."""
    return CARD if num_gpus <= GPUS_A_MACHINE else replace(CARD, link_gbs=value("network", level))


def step_parts(work: Workload, level: Level) -> dict[str, float]:
    """Seconds of a step by part."""
    assert work.learner is not None and work.rollout is not None
    num_gpus, completions = work.learner.num_ranks, work.completions_per_step
    rollout = value("rollout", level) * duration.generation_seconds(work, work.rollout, CARD, completions=completions)
    judging = completions * value("verdict", level) / 2
    return {
        "rollout": rollout,
        # Completions are judged while others are generated.
        "judge": max(0.0, judging - rollout),
        "learn": value("learn", level) * duration.learning_seconds(work, work.learner, card_of(num_gpus, level)),
        # Colocated: each rank hands its own worker the weights, inside the GPU.
        "sync": duration.sync_seconds(work, work.learner, work.rollout, CARD),
        "select": value("select_fixed", level) + work.prompts_per_step * value("select_prompt", level),
        "trainer": num_tokens(work) * value("token", level),
        "checkpoint": checkpoint_seconds(work, level) / work.checkpoint_every,
    }


def num_tokens(work: Workload) -> int:
    """Generated in a step."""
    return work.completions_per_step * work.mean_completion_tokens


def checkpoint_seconds(work: Workload, level: Level) -> float:
    """Of writing one, every machine its part."""
    assert work.learner is not None
    machines = max(1, work.learner.num_ranks // GPUS_A_MACHINE)
    rate = min(machines * value("disk", level), value("file_system", level))
    return count_checkpoint(work) / 1e9 / rate


def first_share_above(share: Callable[[int, Level], float], level: Level) -> int | None:
    """The fewest GPUs, among powers of two from 8 to 65,536, at which ``share`` exceeds ``NOTICEABLE``."""
    return next((2**power for power in range(3, 17) if share(2**power, level) > NOTICEABLE), None)


def share_of(part: str, num_gpus: int, level: Level) -> float:
    """Of a step that grows with the GPUs, if all else cost nothing but rollout, learner and sync."""
    parts = step_parts(workload(num_gpus, grows=True), level)
    return parts[part] / (parts["rollout"] + parts["learn"] + parts["sync"] + parts[part])


def exchange_seconds(work: Workload, level: Level) -> float:
    """Of the learner's: exchanging gradients."""
    assert work.learner is not None
    card = card_of(work.learner.num_ranks, level)
    seconds = duration.learning_seconds(work, work.learner, card)
    return seconds - duration.learning_seconds(work, work.learner, replace(card, link_gbs=math.inf))


def waiting_share(num_gpus: int, level: Level) -> float:
    """Of the paper's step: what generation takes longer than if every worker were busy to the end."""
    work = workload(num_gpus, grows=False)
    assert work.rollout is not None
    parts = step_parts(work, level)
    all_busy = step_parts(workload(GPUS_A_MACHINE, grows=False), level)["rollout"] * GPUS_A_MACHINE / num_gpus
    return max(0.0, parts["rollout"] - all_busy) / sum(parts.values())


# ---------------------------------------------------------------------------------------------------------------------
# Failures


def hours_between_failures(num_gpus: int, level: Level) -> float:
    return 1 / (value("failure", level) * num_gpus)


def best_interval_s(num_gpus: int, *, writing: Level, failing: Level) -> float:
    """Between checkpoints: sqrt(2 x seconds of one x seconds between failures). Young, CACM 17(9), 1974."""
    between_s = 3600 * hours_between_failures(num_gpus, failing)
    return math.sqrt(2 * checkpoint_seconds(workload(num_gpus, grows=True), writing) * between_s)


def lost_share(num_gpus: int, level: Level) -> float:
    """Of the time, by failures: a restart and, on average, half of what lies between two checkpoints, every time."""
    work = workload(num_gpus, grows=True)
    interval_s = work.checkpoint_every * sum(step_parts(work, level).values())
    return (value("restart", level) + interval_s / 2) / (3600 * hours_between_failures(num_gpus, level))


# ---------------------------------------------------------------------------------------------------------------------
# The page

WORDS = {
    "rollout": "rollout",
    "judge": "judge (2 processes), not hidden",
    "learn": "learn",
    "sync": "weight sync",
    "select": "select and observe",
    "trainer": "tokens through the trainer's thread",
    "checkpoint": "checkpoint, a step's share if it were waited for",
}


def span(numbers: Mapping[Level, float], form: Callable[[float], str] | None = None) -> str:
    """The usual value with its range, e.g. ``120 (60 to 240)``; the value alone where the range does not show."""
    form = form or figure
    low, high = (form(bound) for bound in (min(numbers.values()), max(numbers.values())))
    usual = form(numbers["usual"])
    return usual if low == high else f"{usual} ({low} to {high})"


def figure(number: float) -> str:
    """Two digits."""
    if number == 0:
        return "0"
    if number < 1e-3:
        return "< 0.001"
    number = float(f"{number:.1e}")
    return f"{number:,.{max(0, 1 - math.floor(math.log10(number)))}f}"


def percent(number: float) -> str:
    return f"{figure(100 * number)} %"


def levels(of: Callable[[Level], Value]) -> dict[Level, Value]:
    return {level: of(level) for level in LEVELS}


def table(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(header)} |"
    yield "| " + " | ".join("---" for _ in header) + " |"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def step_table(*, grows: bool) -> Iterator[str]:
    works = [workload(num_gpus, grows=grows) for num_gpus in GPUS]
    by_gpus = [levels(functools.partial(step_parts, work)) for work in works]
    rows = [
        [words, *(span({level: parts[level][part] for level in LEVELS}) for parts in by_gpus)]
        for part, words in WORDS.items()
    ]
    exchanged = [span(levels(functools.partial(exchange_seconds, work))) for work in works]
    rows.insert(list(WORDS).index("learn") + 1, ["of it exchanging gradients", *exchanged])
    totals = [{level: sum(parts[level].values()) for level in LEVELS} for parts in by_gpus]
    rows.append(["**step**", *(f"**{span(total)}**" for total in totals)])
    rates = [
        num_tokens(work) / total["usual"] / num_gpus for work, total, num_gpus in zip(works, totals, GPUS, strict=True)
    ]
    rows.append(["tokens/s a GPU, usual", *map(figure, rates)])
    rolling = [
        num_tokens(work) / parts["usual"]["rollout"] / num_gpus
        for work, parts, num_gpus in zip(works, by_gpus, GPUS, strict=True)
    ]
    rows.append(["the same during rollout", *map(figure, rolling)])
    rows.append(["step's tokens/s a GPU, of 8 GPUs'", *(percent(rate / rates[0]) for rate in rates)])
    rows.append(["GiB on the fullest GPU (79)", *(memory(work) for work in works)])
    yield from table(["seconds", *(f"{num_gpus} GPUs" for num_gpus in GPUS)], rows)


def memory(work: Workload) -> str:
    return f"{fullest(count_situations(work, CARD)).total / 2**30:.0f}"


def break_table() -> Iterator[str]:
    """In the order of the usual number of GPUs."""
    causes: list[tuple[str, Callable[[int, Level], float], str]] = [
        (
            "the step stays at 2,048 completions: workers wait for the longest",
            waiting_share,
            "more prompts a step, or `trainer=async`",
        ),
        *(
            (f"the step grows: {words}", functools.partial(share_of, part), remedy)
            for part, words, remedy in (
                ("judge", "two judge processes are too few", "`judge.num_workers`, one for 8 GPUs"),
                ("trainer", "the trainer's one thread moves all tokens", "tokens that never pass it (`runtime=ray`)"),
                ("select", "selection", "the service, or fewer candidates"),
                ("checkpoint", "checkpoints, if they were waited for", "they are written in the background"),
            )
        ),
        (
            "failures: restarts and lost steps",
            lost_share,
            "checkpoints at the best interval; spare machines",
        ),
    ]
    found = []
    for words, share, cure in causes:
        gpus = {level: first_share_above(share, level) or math.inf for level in LEVELS}
        found.append((gpus["usual"], [words, span(gpus, count_words), cure]))
    rows = [row for _, row in sorted(found, key=lambda each: each[0])]
    yield from table(["what takes more than a tenth of the time", "from GPUs on", "what helps"], rows)


def count_words(number: float) -> str:
    return "beyond 65,536" if number == math.inf else f"{number:,}"


def failure_table() -> Iterator[str]:
    rows = []
    for num_gpus in GPUS:
        hours = levels(functools.partial(hours_between_failures, num_gpus))
        best = {w: best_interval_s(num_gpus, writing=w, failing=f) / 60 for w, f in OPPOSITE.items()}
        lost = levels(functools.partial(lost_share, num_gpus))
        write = levels(functools.partial(checkpoint_seconds, workload(num_gpus, grows=True)))
        rows.append([f"{num_gpus}", span(hours), span(write), span(best), span(lost, percent)])
    header = [
        "GPUs",
        "hours between failures",
        "s to write a checkpoint",
        "best minutes between two",
        "lost, every 20 steps",
    ]
    yield from table(header, rows)


def selection_table() -> Iterator[str]:
    chosen, whole = (measured()[name]["figures"]["pools"][f"{POOL}"] for name in ("selection", "whole_pool"))
    service = measured()["service"]["figures"]
    a_step = service["one_client"]["select_bytes"] + service["one_client"]["observe_bytes"]
    memory_gb = chosen["added_mb"] / 1e3
    ids_gb = service["pool_bytes_a_prompt"] * POOL / 1e9
    rows = [
        ["choose 256 of 4,096 candidates", f"{figure(chosen['select_cpu_ms'])} ms of a core", "measured"],
        ["update 256 beliefs, with the metrics", f"{figure(chosen['observe_cpu_ms'])} ms of a core", "measured"],
        ["choose 256 of 10^7 (`selector.candidate_ratio=null`)", f"{figure(whole['select_cpu_ms'])} ms", "measured"],
        ["the same, memory while choosing", f"{whole['peak_mb'] / 1e3:.1f} GB", "measured"],
        ["beliefs of one trainer", f"{memory_gb:.2f} GB: 16 bytes a prompt", "measured"],
        ["ids of the pool, in the service", f"{ids_gb:.1f} GB, shared by all its runs", "measured at 10^6, times ten"],
        [f"beliefs of {TRAINERS} trainers in one service", f"{TRAINERS * memory_gb:.0f} GB", "times 64"],
        ["select and observe over HTTP, bodies", f"{figure(a_step / 1e3)} kB a step", "measured"],
        [f"the same for {TRAINERS} trainers, steps of 60 s", f"{figure(TRAINERS * a_step / 60e3)} kB/s", "computed"],
    ]  # fmt: skip
    yield from table(["", "cost", ""], rows)


def service_table() -> Iterator[str]:
    rows = []
    for seconds in (1, 10, 60, 300):
        load = {level: 2 * TRAINERS * value("request", level) / seconds for level in LEVELS}
        rows.append([f"{seconds} s", figure(2 * TRAINERS / seconds), span(load, percent)])
    yield from table(["a step of each trainer takes", "requests/s", "of the service's one interpreter"], rows)


def measured_table() -> Iterator[str]:
    """From scripts/benchmark_scale.py."""
    if not SCALE_FILE.exists():
        yield "Open: the table is made on a machine that does nothing else."
        yield ""
        return
    record = json.loads(SCALE_FILE.read_text(encoding="utf-8"))
    rows = [
        [
            row["size"],
            str(row["workers"]),
            str(row["ranks"]),
            figure(row["median_step_s"]),
            *(figure(row["median_s"][part]) for part in ("rollout", "learn", "sync")),
            *(figure(row["bytes_a_step"][part] / 1e6) for part in ("sent", "received", "weights", "loopback")),
        ]
        for row in record["rows"]
    ]
    yield from table(
        [
            *("parameters", "workers", "ranks", "step s", "rollout s", "learn s", "sync s"),
            *("MB sent", "received", "weights", "loopback"),
        ],
        rows,
    )


def input_table() -> Iterator[str]:
    rows = []
    for name, each in inputs().items():
        numbers = {level: getattr(each, level) * each.scale for level in LEVELS}
        rows.append([name, span(numbers), each.unit, each.kind, each.source])
    yield from table(["input", "usual (range)", "unit", "", "source"], rows)


TABLES: dict[str, Callable[[], Iterator[str]]] = {
    "step": lambda: step_table(grows=False),
    "growing step": lambda: step_table(grows=True),
    "breaks": break_table,
    "failures": failure_table,
    "selection": selection_table,
    "service": service_table,
    "inputs": input_table,
    "measured": measured_table,
}
MARKED = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->\n)", re.DOTALL)


def filled(page: str) -> str:
    """The page with its tables made anew. Raises ``KeyError`` for a table that there is not."""
    return MARKED.sub(lambda found: found[1] + "\n" + "\n".join(TABLES[found[2]]()) + "\n" + found[3], page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print(PAGE)
