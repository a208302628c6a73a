"""Writes docs/paper.md: a row for each experiment=paper_* with memory and hours as insight-rl doctor estimates them.

    python scripts/make_paper_page.py

A test compares the page with what this makes: run it again whenever the experiments or the doctor change.
"""

from __future__ import annotations

import functools
from pathlib import Path

from insight_rl.config import RunConfig, compose_config, parse_config
from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.duration import estimate_time
from insight_rl.doctor.memory import Verdict, count_host, count_situations, fullest, verdict
from insight_rl.doctor.workload import Workload, read_workload
from insight_rl.paths import conf_dir

PAGE = Path(__file__).parent.parent / "docs" / "paper.md"
CARD = CARDS["h100-80gb"]
ONE_CARD = ("learner.num_ranks=1", "rollout.num_workers=1")
OFFLOAD = "learner.offload=cpu"

_HEAD = """\
<!-- Made by scripts/make_paper_page.py. -->
# The paper's experiments

Every row of the tables of arXiv 2603.01907 as a file: three models times three domains. Selectors and ablations are
swept, so each row is one command. **Memory and hours are estimates of `insight-rl doctor`; none of these runs has been
done on a GPU.**

    insight-rl train -m experiment=paper_math selector=random,mopps,inverse_evidence,expected_difficulty,insight \\
        seed=1,2,3
    insight-rl train -m experiment=paper_math selector=dynamic_sampling seed=1,2,3     the rival that rolls out more
    insight-rl train -m experiment=paper_math selector=information_only,weight_only,insight_sampled seed=1,2,3

Common to all (`conf/experiment/shared/paper.yaml`): GRPO, 100 steps of 256 prompts x 8 rollouts at temperature 1.0,
AdamW at 1e-6 with weight decay 0.1; every 10 steps an evaluation of 16 completions a problem at temperature 0.6, top_p
0.95. Longest answers of 1,024 tokens for Countdown and 3,072 for the others are our choice, and so is one evaluation in
ten steps. The benchmarks of the paper's tables come after a run:

    insight-rl evaluate run_dir=runs/paper_math evaluation=math_suite
    insight-rl evaluate run_dir=runs/paper_general evaluation=general

## 8 GPUs of 80 GB

What the files are written for: eight ranks of the learner (DeepSpeed, ZeRO 2, gradient checkpointing) and eight vLLM
workers on the same GPUs. Steps and hours are those of one selector and seed, with completions of half the longest
length (`doctor.mean_completion_tokens`).

| `experiment=` | model | trained on | updates a step | GiB of {usable:.0f} | verdict | step | hours |
| --- | --- | --- | --- | --- | --- | --- | --- |
"""

_ONE_CARD = """
## One GPU of 80 GB

The same files with `{one_card}`, and `{offload}` where the optimizer's states
do not fit: they then lie in main memory. The gradient is the same.

    insight-rl train experiment=paper_math {one_card} {offload}

| `experiment=` | added | GiB of {usable:.0f} | main memory | verdict | step | hours |
| --- | --- | --- | --- | --- | --- | --- |
"""

_TAIL = """
`selector=dynamic_sampling` rolls out until 256 groups of a step are mixed, a bounded number of times: count with two to
three times the generation. `insight-rl doctor` takes the same arguments as these commands and shows every part of the
sum, and what it assumes; another card is `doctor.gpu=a100-80gb`.
"""


@functools.cache
def composed(experiment: str, *overrides: str) -> RunConfig:
    """The experiment on 8 of the cards, as far as the overrides do not say otherwise."""
    hardware = (f"doctor.gpu={CARD.name}", "doctor.num_gpus=8")
    return parse_config(compose_config([f"experiment={experiment}", *hardware, *overrides]))


@functools.cache
def workload(experiment: str, *overrides: str) -> Workload:
    work = read_workload(composed(experiment, *overrides))
    assert work is not None, experiment
    return work


def one_card(experiment: str) -> tuple[tuple[str, ...], Workload]:
    """The overrides with which an experiment fits a single card, and its numbers; offload only where it is needed."""
    for overrides in (ONE_CARD, (*ONE_CARD, OFFLOAD)):
        work = workload(experiment, *overrides)
        if judge(work) == "fits":
            break
    return overrides, work


def judge(work: Workload) -> Verdict:
    return verdict(count_situations(work, CARD), CARD)


def experiments() -> list[str]:
    """By domain as the paper has them, then by size."""
    names = [file.stem for file in (conf_dir() / "experiment").glob("paper_*.yaml")]
    domains = ("countdown", "math", "general")
    return sorted(names, key=lambda name: (domains.index(name.split("_")[1]), workload(name).parameters.total))


def make_page() -> str:
    lines, single = [], []
    for name in experiments():
        work = workload(name)
        model = work.model_path.partition("/")[2]
        updates = f"{work.updates_per_step} of {work.prompts_per_update} prompts"
        lines.append(f"| `{name}` | {model} | {composed(name).task_name} | {updates} | {_sums(work)} |")
        overrides, work = one_card(name)
        host = count_host(work, work.learner) / 1e9 if work.learner else 0
        added = f"`{OFFLOAD}`" if OFFLOAD in overrides else ""
        single.append(f"| `{name}` | {added} | {_sums(work, host=f'{host:.0f} GB' if host else '')} |")
    settings = {"usable": CARD.usable_gib, "one_card": " ".join(ONE_CARD), "offload": OFFLOAD}
    head, middle = _HEAD.format(**settings), _ONE_CARD.format(**settings)
    return "".join([head, "\n".join(lines), "\n", middle, "\n".join(single), "\n", _TAIL])


def _sums(work: Workload, *, host: str | None = None) -> str:
    most, time = fullest(count_situations(work, CARD)), estimate_time(work, CARD)
    cells = [f"{most.total / 2**30:.0f}", *([host] if host is not None else []), judge(work)]
    step = f"{time.step:.0f} s" if time.step < 600 else f"{time.step / 60:.0f} min"
    return " | ".join([*cells, step, f"{time.run / 3600:.1f}"])


if __name__ == "__main__":
    PAGE.write_text(make_page(), encoding="utf-8")
    print(PAGE)
