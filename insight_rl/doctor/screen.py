"""The doctor's findings as one screen of text: plain words, terminal colours, 80 columns are enough."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from insight_rl.doctor import duration
from insight_rl.doctor.cards import Card
from insight_rl.doctor.checkup import Checkup
from insight_rl.doctor.duration import StepTime
from insight_rl.doctor.machine import Finding
from insight_rl.doctor.memory import ALLOWANCES, Situation, fullest
from insight_rl.doctor.workload import Workload
from insight_rl.memory import GIB

_STYLES = {"fits": "bold green", "tight": "bold yellow", "does not fit": "bold red"}
_ORDER = (
    "weights",
    "gradients",
    "optimizer",
    "reference model",
    "activations",
    "output head",
    "temporaries",
    "sync buffer",
    "rollout weights",
    "vLLM's weights",
    "vLLM's buffers",
    "KV cache",
    ALLOWANCES,
)


def show(console: Console, found: Checkup, machine: Sequence[Finding]) -> None:
    console.print(_heading(found), highlight=False, soft_wrap=False)
    for line in _sizes(found.work):
        console.print(line, highlight=False)
    if found.card is not None and found.situations:
        console.print(_memory_table(found.situations, found.card))
        console.print(_verdict_line(found, found.card))
        for remedy in found.remedies:
            console.print(Text(f"  fits with: {' '.join(remedy.overrides)}"))
            if remedy.costs:
                console.print(Text(f"    at the price of {'; '.join(remedy.costs)}", style="dim"))
    if found.time is not None and found.card is not None:
        console.print(_time_line(found.time), highlight=False)
        console.print(Text(_assumptions(found.work), style="dim"))
    show_machine(console, machine)


def show_machine(console: Console, machine: Sequence[Finding]) -> None:
    good = [each.text for each in machine if each.is_good]
    if good:
        console.print(f"This machine: {'; '.join(good)}.", highlight=False, markup=False)
    for each in machine:
        if not each.is_good:
            console.print(Text(f"! {each.text}", style="yellow"))


def _heading(found: Checkup) -> Text:
    work = found.work
    text = Text(work.model_path, style="bold")
    text.append(f" ({_count(work.parameters.total)} parameters)", style="")
    if found.card is None:
        text.append(" on CPUs: no GPU is here; doctor.gpu=h100-80gb counts with one", style="")
    else:
        origin = "as stated" if found.is_stated else "here"
        text.append(f" on {found.num_gpus} x {found.card.name}, {origin}", style="")
    return text


def _sizes(work: Workload) -> list[str]:
    """The four batch sizes, and who works on them."""
    per_update = work.prompts_per_update * work.rollouts_per_prompt
    updates = work.updates_per_step
    lines = [
        f"Each of {work.num_steps} steps: {work.prompts_per_step} prompts x {work.rollouts_per_prompt} rollouts = "
        f"{work.completions_per_step} completions of at most {work.max_completion_tokens} tokens; {updates} "
        f"update{'s' if updates > 1 else ''} of {work.prompts_per_update} prompts = {per_update} completions."
    ]
    learner, rollout = work.learner, work.rollout
    who = []
    if learner is not None:
        sharing = f", ZeRO {learner.zero_stage}" if learner.kind == "deepspeed" else ""
        extras = [
            f"offload={learner.offload}" if learner.offload != "none" else "",
            "gradient checkpointing" if learner.gradient_checkpointing else "",
            f"LoRA of rank {learner.lora.rank}" if learner.lora else "",
        ]
        settings = "".join(f", {extra}" for extra in extras if extra)
        who.append(
            f"Learner: {_some(learner.num_ranks, 'rank')} ({learner.kind}{sharing}{settings}), at most "
            f"{work.micro_batch_tokens} tokens a pass."
        )
    if rollout is not None and rollout.kind == "vllm":
        parallel = f" of {rollout.tensor_parallel_size} GPUs" if rollout.tensor_parallel_size > 1 else ""
        place = "GPUs of its own" if rollout.is_separate else "the learner's GPUs"
        sleep = ", asleep while the learner works" if rollout.sleeps else ""
        who.append(f"Rollout: {_some(rollout.num_workers, 'vLLM worker')}{parallel} on {place}{sleep}.")
    return [*lines, " ".join(who)] if who else lines


def _some(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def _memory_table(situations: Sequence[Situation], card: Card) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_footer=True)
    table.add_column("GiB on one GPU", footer="in all", no_wrap=True)
    shown = [(gpu, list(group)) for gpu, group in groupby(situations, key=lambda each: each.gpu)]
    columns = [each for _, group in shown for each in group]
    most = fullest(list(situations))
    for gpu, group in shown:
        for number, each in enumerate(group):
            heading = f"{gpu}:\n{each.phase}" if number == 0 and len(shown) > 1 else each.phase
            style = "bold" if each is most else ""
            table.add_column(heading, footer=Text(_gib(each.total), style=style), justify="right", style=style)
    names = [name for name in _ORDER if any(name in each.parts for each in columns)]
    for name in names:
        table.add_row(name, *(_gib(each.parts[name]) if name in each.parts else "" for each in columns))
    table.caption = f"{card.usable_gib:.1f} GiB there are on {card.name}"
    table.caption_justify = "left"
    return table


def _verdict_line(found: Checkup, card: Card) -> Text:
    most = fullest(found.situations)
    text = Text("Memory: ")
    text.append(found.verdict, style=_STYLES[found.verdict])
    text.append(f" ({_gib(most.total)} of {card.usable_gib:.1f} GiB in the {most.phase} phase).")
    cache = found.kv_cache
    if cache is not None:
        sequences = f"{cache.num_sequences:.0f} sequences of {cache.max_length}"
        text.append(f" The KV cache of a worker holds {_count(cache.num_tokens)} tokens = {sequences}.")
    return text


def _time_line(time: StepTime) -> str:
    parts = {"generation": time.generation, "learning": time.learning, "weight sync": time.sync}
    named = ", ".join(f"{name} {_seconds(value)}" for name, value in parts.items() if value is not None)
    evaluations = f" with {time.num_evaluations} evaluations of {_seconds(time.evaluation)}" if time.evaluation else ""
    return (
        f"Time, an estimate: a step {_seconds(time.step)} ({named}); the run of {time.num_steps} steps"
        f"{evaluations} about {time.run / 3600:.1f} hours."
    )


def _assumptions(work: Workload) -> str:
    return (
        f"Assumed: completions of {work.mean_completion_tokens} tokens in the mean (doctor.mean_completion_tokens), "
        f"prompts of {duration.prompt_tokens(work)}, all of them trained on; of the card's peak "
        f"{duration.LEARNING:.0%} while learning and {duration.PREFILL:.0%} while reading prompts, of its bandwidth "
        f"{duration.READING:.0%} while decoding, of its links {duration.LINK:.0%}. Not measured on a GPU yet."
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / GIB:.1f}"


def _count(number: float) -> str:
    for unit, name in ((1e9, " billion"), (1e6, " million"), (1e4, "k")):
        if number >= unit:
            return f"{number / (1e3 if name == 'k' else unit):.3g}{name}"
    return f"{number:.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return "unknown"
    if value < 0.95:
        return f"{value:.2f} s"
    return f"{value:.0f} s" if value < 600 else f"{value / 60:.0f} min"
