"""The configuration of a run: composed by Hydra, typed, and checked as a whole before anything heavy is imported.

Our own settings are the dataclasses below; swappable parts (task, selector, gate, ...) are ``_target_`` nodes whose
arguments are checked against the signature of the class they name. Nothing beneath :mod:`insight_rl.build` ever sees
the whole of it.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf import MISSING, DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from insight_rl.allowed_code import allowed, check_targets
from insight_rl.errors import UsageError, check
from insight_rl.paths import conf_dir, data_dir
from insight_rl.types import DTYPES, PROMPT_STYLES

DOCTOR_MODES = ("strict", "warn", "off")
"""What `insight-rl train` does about a run that does not fit its GPUs: refuse it, tell, or not look."""

WEIGHT_UPDATES = ("keep", "wait")
"""What an asynchronous trainer does with the rollouts under way when new weights come: go on with them, or wait."""

_TYPE_NAMES = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


@dataclass(kw_only=True)
class ModelConfig:
    path: str = MISSING
    revision: str | None = None
    """Of a model on the hub: a commit or tag; None: the newest."""
    dtype: str = MISSING
    max_length: int = MISSING
    """Prompt and completion together, in tokens."""
    prompt_style: str = MISSING
    """bare: the prompt is plain text. chat: it goes through the model's chat template."""

    def __post_init__(self) -> None:
        check(self.dtype in DTYPES, "model.dtype", self.dtype, f"must be one of {', '.join(DTYPES)}")
        check(self.max_length >= 2, "model.max_length", self.max_length, "must be at least 2 tokens")
        check(
            self.prompt_style in PROMPT_STYLES,
            "model.prompt_style",
            self.prompt_style,
            f"must be one of {', '.join(PROMPT_STYLES)}",
        )


@dataclass(kw_only=True)
class TrainerConfig:
    num_steps: int = MISSING
    prompts_per_step: int = MISSING
    rollouts_per_prompt: int = MISSING
    prompts_per_update: int | None = MISSING
    max_completion_tokens: int = MISSING
    temperature: float = MISSING
    max_rollouts: int | None = MISSING
    max_tokens: int | None = MISSING
    max_device_s: float | None = MISSING
    max_mean_logprob_gap: float | None = MISSING
    sync_check_every: int = MISSING

    def __post_init__(self) -> None:
        for key in ("num_steps", "prompts_per_step", "max_completion_tokens"):
            check(getattr(self, key) >= 1, f"trainer.{key}", getattr(self, key), "must be at least 1")
        check(
            self.rollouts_per_prompt >= 2,
            "trainer.rollouts_per_prompt",
            self.rollouts_per_prompt,
            "GRPO compares the rollouts of one prompt with each other, so it needs at least 2 (the paper takes 8)",
        )
        size = self.prompts_per_update
        check(
            size is None or (1 <= size <= self.prompts_per_step and self.prompts_per_step % size == 0),
            "trainer.prompts_per_update",
            size,
            f"cannot split trainer.prompts_per_step={self.prompts_per_step} into equal updates; take one of "
            f"{', '.join(map(str, divisors(self.prompts_per_step)))}, or null for one update a step",
        )
        check(
            self.temperature > 0 and math.isfinite(self.temperature),
            "trainer.temperature",
            self.temperature,
            "must be above 0: greedy rollouts of one prompt are all alike and teach nothing",
        )
        for key in ("max_rollouts", "max_tokens", "max_device_s"):
            limit = getattr(self, key)
            check(limit is None or limit > 0, f"trainer.{key}", limit, "must be above 0, or null for no such limit")
        gap = self.max_mean_logprob_gap
        check(gap is None or gap > 0, "trainer.max_mean_logprob_gap", gap, "must be above 0, or null")
        every = self.sync_check_every
        check(every >= 0, "trainer.sync_check_every", every, "must be at least 0 (0: after the first sync alone)")


@dataclass(kw_only=True)
class AsyncTrainerConfig(TrainerConfig):
    """Of ``trainer=async`` (:mod:`insight_rl.trainer_async`)."""

    max_staleness: int = MISSING
    weight_update: str = MISSING

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.max_staleness >= 0, "trainer.max_staleness", self.max_staleness, "must be at least 0 versions")
        check(
            self.weight_update in WEIGHT_UPDATES,
            "trainer.weight_update",
            self.weight_update,
            f"must be one of {', '.join(WEIGHT_UPDATES)}",
        )


@dataclass(kw_only=True)
class CheckpointConfig:
    every: int = MISSING
    keep_last: int = MISSING

    def __post_init__(self) -> None:
        check(self.every >= 1, "checkpoint.every", self.every, "must be at least 1 step")
        check(self.keep_last >= 1, "checkpoint.keep_last", self.keep_last, "must be at least 1")


@dataclass(kw_only=True)
class RolloutLogConfig:
    every: int = MISSING
    max_mb: float = MISSING

    def __post_init__(self) -> None:
        check(self.every >= 0, "rollout_log.every", self.every, "must be at least 0 steps (0 writes no rollouts)")
        is_size = math.isfinite(self.max_mb) and self.max_mb > 0
        check(is_size, "rollout_log.max_mb", self.max_mb, "must be above 0 MiB")


@dataclass(kw_only=True)
class EvaluationConfig:
    every: int = MISSING
    samples_per_problem: int = MISSING
    max_problems: int | None = MISSING
    temperature: float = MISSING
    top_p: float = MISSING
    max_completion_tokens: int | None = MISSING
    benchmarks: dict[str, Any] = MISSING
    """By name, what `insight-rl evaluate` measures; empty: the held-out problems of the task."""

    def __post_init__(self) -> None:
        check(self.every >= 0, "evaluation.every", self.every, "must be at least 0 (0 switches evaluation off)")
        check(
            self.samples_per_problem >= 1,
            "evaluation.samples_per_problem",
            self.samples_per_problem,
            "must be at least 1",
        )
        check(
            self.max_problems is None or self.max_problems >= 1,
            "evaluation.max_problems",
            self.max_problems,
            "must be at least 1, or null for all",
        )
        check(self.temperature >= 0, "evaluation.temperature", self.temperature, "must be at least 0 (0 is greedy)")
        check(0 < self.top_p <= 1, "evaluation.top_p", self.top_p, "must be above 0 and at most 1")
        tokens = self.max_completion_tokens
        check(tokens is None or tokens >= 1, "evaluation.max_completion_tokens", tokens, "must be at least 1, or null")


@dataclass(kw_only=True)
class JudgeConfig:
    num_workers: int | None = MISSING
    deadline_s: float = MISSING
    max_memory_mb: int = MISSING
    max_unjudged_fraction: float = MISSING

    def __post_init__(self) -> None:
        workers = self.num_workers
        check(workers is None or workers >= 0, "judge.num_workers", workers, "must be at least 0, or null")
        check(self.deadline_s > 0, "judge.deadline_s", self.deadline_s, "must be above 0 seconds")
        check(self.max_memory_mb >= 256, "judge.max_memory_mb", self.max_memory_mb, "must be at least 256")
        fraction = self.max_unjudged_fraction
        check(0 < fraction <= 1, "judge.max_unjudged_fraction", fraction, "must be above 0 and at most 1")


@dataclass(kw_only=True)
class DoctorConfig:
    mode: str = MISSING
    gpu: str | None = MISSING
    num_gpus: int | None = MISSING
    mean_completion_tokens: int | None = MISSING

    def __post_init__(self) -> None:
        check(self.mode in DOCTOR_MODES, "doctor.mode", self.mode, f"must be one of {', '.join(DOCTOR_MODES)}")
        for key in ("num_gpus", "mean_completion_tokens"):
            value = getattr(self, key)
            check(value is None or value >= 1, f"doctor.{key}", value, "must be at least 1, or null")


NAMED_GROUPS = (
    "experiment",
    "model",
    "task",
    "reward",
    "selector",
    "gate",
    "rollout",
    "weight_sync",
    "algorithm",
    "learner",
    "trainer",
    "evaluation",
    "runtime",
)
"""Groups of which ``<group>_name`` in the configuration says which option was chosen."""


FREE_ON_RESUME = (
    "run_dir",
    "resume",
    "run_group",
    "arm",
    "trainer.num_steps",
    "trainer.max_rollouts",
    "trainer.max_tokens",
    "trainer.max_device_s",
    "trainer.max_mean_logprob_gap",
    "trainer.sync_check_every",
    "checkpoint",
    "rollout_log",
    "evaluation",
    "monitor",
    "judge",
    "learner.deadline_s",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.offload",
    "reward.base_url",
    "reward.api_key_env",
    "reward.timeout_s",
    "reward.deadline_s",
    "reward.max_retries",
    "reward.backoff_s",
    "reward.concurrency",
    "reward.cache_dir",
    "rollout.deadline_s",
    "rollout.num_workers",
    "rollout.placement",
    "rollout.max_tokens_in_flight",
    "rollout.max_replaced_workers",
    "weight_sync",
    "runtime",
    "doctor",
    *(f"{group}_name" for group in NAMED_GROUPS),
)
"""Keys, and mappings of keys, that may differ when a run is resumed: they change how far it goes or what is seen of it,
not what it is."""

REMOVED_KEYS = {
    "algorithm.importance_cap": "was replaced by algorithm.importance, .importance_low and .importance_high; for a cap "
    "set algorithm.importance=token_truncate and algorithm.importance_high, for null set algorithm.importance=none",
}
"""Keys of earlier versions, and what to do instead: in a command, a file of options or the record of a run."""

PARTS = ("task", "reward", "selector", "gate", "rollout", "weight_sync", "algorithm", "learner", "runtime", "monitor")
"""Keys whose nodes name classes of the user's choice."""


@dataclass(kw_only=True)
class RunConfig:
    # The options chosen, by name: filled in when the configuration is composed, so that nobody has to guess them.
    experiment_name: str | None = None
    model_name: str | None = None
    task_name: str | None = None
    reward_name: str | None = None
    selector_name: str | None = None
    gate_name: str | None = None
    rollout_name: str | None = None
    weight_sync_name: str | None = None
    algorithm_name: str | None = None
    learner_name: str | None = None
    trainer_name: str | None = None
    evaluation_name: str | None = None
    runtime_name: str | None = None

    seed: int = MISSING
    run_dir: str | None = MISSING
    resume: str = MISSING
    run_group: str | None = None
    arm: str | None = None
    model: ModelConfig = MISSING
    trainer: TrainerConfig = MISSING
    checkpoint: CheckpointConfig = MISSING
    rollout_log: RolloutLogConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    judge: JudgeConfig = MISSING
    doctor: DoctorConfig = MISSING
    task: dict[str, Any] = MISSING
    selector: dict[str, Any] = MISSING
    gate: dict[str, Any] = MISSING
    rollout: dict[str, Any] = MISSING
    weight_sync: dict[str, Any] = MISSING
    reward: dict[str, Any] = MISSING
    algorithm: dict[str, Any] = MISSING
    learner: dict[str, Any] = MISSING
    runtime: dict[str, Any] = MISSING
    monitor: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check(self.seed >= 0, "seed", self.seed, "must be at least 0")
        check(self.resume in ("auto", "never"), "resume", self.resume, "must be one of auto, never")
        check(
            self.trainer.max_completion_tokens < self.model.max_length,
            "trainer.max_completion_tokens",
            self.trainer.max_completion_tokens,
            f"leaves no room for a prompt in model.max_length={self.model.max_length}; lower one or raise the other",
        )


def divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def compose_config(
    overrides: Sequence[str], *, config_name: str = "train", config_dir: Path | None = None
) -> DictConfig:
    """The composed and resolved configuration tree. ``config_dir`` adds a folder of the user's own options.

    Raises ``UsageError`` naming the key, the value and the remedy.
    """
    register_schema()
    overrides = list(overrides)
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if key == "evaluation.benchmarks" and value.startswith("["):
            name = value.strip("[] ").split(",")[0] or "math500"
            raise UsageError(
                f"{override}: benchmarks are added one by one, +benchmark@evaluation.benchmarks.{name}={name}, or as a "
                "suite, evaluation=math_suite; '~evaluation.benchmarks.NAME' leaves one of a suite out"
            )
        if key in REMOVED_KEYS:
            raise UsageError(f"{override}: {REMOVED_KEYS[key]}")
        group = key.removesuffix("_name")
        if key != group and group in NAMED_GROUPS:
            raise UsageError(f"{override}: is filled in from the option chosen; give {group}={value or '...'}")
    if config_dir is not None:
        check(config_dir.is_dir(), "--config-dir", str(config_dir), "is not a folder")
        allowed.allow(folders=[config_dir])
        overrides.append(f"hydra.searchpath=[file://{config_dir.resolve()}]")
    try:
        tree = _compose_named(overrides, config_name)
        OmegaConf.resolve(tree)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(_explain(error, overrides, config_name)) from error
    return tree


def _compose_named(overrides: Sequence[str], config_name: str) -> DictConfig:
    """The composed tree, in which a training run's names of the options chosen are filled in."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        tree = compose(config_name, overrides=list(overrides), return_hydra_config=True)
    choices = tree.hydra.runtime.choices
    with open_dict(tree):
        del tree["hydra"]
        for group in NAMED_GROUPS if config_name == "train" else ():
            tree[f"{group}_name"] = choices.get(group)
    return tree


def register_schema() -> None:
    store = ConfigStore.instance()
    store.store(name="schema", node=RunConfig)
    store.store(group="trainer/shared", name="async_schema", node=AsyncTrainerConfig)
    OmegaConf.register_new_resolver("data_dir", lambda: str(data_dir()), replace=True)


def parse_config(tree: DictConfig) -> RunConfig:
    """The typed configuration; raises ``UsageError`` for a value that no run could work with."""
    for key, instead in REMOVED_KEYS.items():
        group, _, name = key.rpartition(".")
        node = OmegaConf.select(tree, group)
        if isinstance(node, DictConfig) and name in node:
            raise UsageError(f"{key}={node[name]}: {instead}")
    missing = sorted(OmegaConf.missing_keys(tree))
    if missing:
        raise UsageError(f"{missing[0]} has no value: give one, e.g. `{missing[0]}=...`")
    try:
        config = OmegaConf.to_object(tree)
    except UsageError as error:
        # OmegaConf appends lines about its own node types.
        raise UsageError(str(error).splitlines()[0]) from None
    assert isinstance(config, RunConfig)
    check_targets("", {key: getattr(config, key) for key in PARTS})
    check_targets("evaluation.benchmarks", config.evaluation.benchmarks)
    return config


def _explain(error: Exception, overrides: Sequence[str], config_name: str) -> str:
    """What Hydra found wrong, in one or two lines that name key, value and remedy."""
    cause = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    first_line = str(cause).splitlines()[0]
    full_key = getattr(cause, "full_key", None) or ""
    given = next((o for o in reversed(overrides) if o.lstrip("+~").split("=")[0] == full_key), full_key)
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(str(error))
    if first_line.startswith("Ambiguous value"):
        swept = next((o for o in overrides if repr(o)[1:-1] in first_line), first_line)
        key, _, values = swept.partition("=")
        return f"{swept}: several values are several runs, which `insight-rl train -m` does; a list is {key}=[{values}]"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: not a valid override ({first_line}); write key=value"
    if "not in" in first_line and full_key:
        return _explain_unknown_key(given, full_key, _known_keys(overrides, config_name))
    wanted = re.search(r"could not be converted to (\w+)", first_line)
    if wanted:
        return f"{given}: must be {_TYPE_NAMES.get(wanted.group(1), wanted.group(1))}"
    if full_key:
        return f"{given}: {first_line}; see `insight-rl train --cfg` for the key's present value"
    return first_line


def _explain_unknown_key(given: str, full_key: str, known: dict[str, Any]) -> str:
    """``known`` are the keys of the options chosen, with their values."""
    parent, _, name = full_key.rpartition(".")
    if known.get(f"{parent}_name"):
        own = [key.removeprefix(f"{parent}.") for key in known if key.startswith(f"{parent}.")]
        settings = [key for key in own if "." not in key and not key.startswith("_")]
        close = difflib.get_close_matches(name, settings, n=2)
        hint = f"did you mean {' or '.join(f'{parent}.{key}' for key in close)}?; " if close else ""
        option = f"{parent}={known[f'{parent}_name']}"
        return f"{given}: {option} has no setting {name}; {hint}its settings are {', '.join(settings)}"
    # The key without its group comes before keys that are spelt alike.
    close = [key for key in known if key.rpartition(".")[2] == name and key != full_key]
    close = close[:3] or difflib.get_close_matches(full_key, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else "see `insight-rl train --cfg` for every key"
    return f"{given}: there is no key {full_key}; {hint}"


def _explain_missing_option(message: str) -> str:
    wanted = re.search(r"Could not find '([^']+)/([^'/]*)'", message)
    options = re.findall(r"^\t(?!provider=)(.+)$", message, flags=re.MULTILINE)
    if wanted is None:
        return message.splitlines()[0]
    group, option = wanted.groups()
    available = f"choose one of {', '.join(options)}" if options else f"there is no group {group}"
    return f"{group}={option}: there is no such option; {available}"


def _known_keys(overrides: Sequence[str], config_name: str) -> dict[str, Any]:
    """Every key of the tree that the options among ``overrides`` make, without their single settings."""
    own = "hydra.searchpath=[file://"
    folders = [conf_dir(), *(Path(o.removeprefix(own)[:-1]) for o in overrides if o.startswith(own))]
    groups = {path.name for folder in folders for path in folder.iterdir() if path.is_dir()}
    options = [o for o in overrides if o.partition("=")[0].partition("/")[0] in groups or o.startswith(own)]
    keys: dict[str, Any] = {}

    def walk(prefix: str, node: DictConfig) -> None:
        for key in map(str, node):
            child = node._get_node(key)
            keys[f"{prefix}{key}"] = node[key] if key.endswith("_name") else None
            if isinstance(child, DictConfig) and not child._is_none() and not child._is_missing():
                walk(f"{prefix}{key}.", child)

    walk("", _compose_named(options, config_name))
    return keys
