"""From configuration to objects: the only module that makes what ``_target_`` nodes name.

Ordered by cost, so that a mistake is found before anything slow begins: cheap parts, the model's folder, the data; only
then the modules that import torch.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from insight_rl.allowed_code import CONTROL_KEYS, import_target
from insight_rl.config import EvaluationConfig, JudgeConfig, ModelConfig, RunConfig
from insight_rl.errors import UsageError, check
from insight_rl.model_folder import read_context_length
from insight_rl.placement import Placement, place
from insight_rl.reward.base import Judge, RewardFn, check_reward
from insight_rl.reward.judge import InProcessJudge
from insight_rl.rollout.base import HasWorkers, RolloutEngine
from insight_rl.seeding import derive_seed
from insight_rl.target_check import check_part
from insight_rl.task.base import Task
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Prompt, Sampling


def build_part(key: str, node: Any) -> Any:
    """The object that a ``_target_`` node names; raises ``UsageError`` for anything the user can mend."""
    check_part(key, node)
    return _construct(key, node)


def _construct(key: str, node: Any) -> Any:
    """What Hydra's ``instantiate`` would make of a plain tree, but a value is never read as an interpolation again."""
    if isinstance(node, list):
        return [_construct(f"{key}[{index}]", item) for index, item in enumerate(node)]
    if not isinstance(node, dict):
        return node
    values = {name: _construct(f"{key}.{name}", item) for name, item in node.items() if name not in CONTROL_KEYS}
    if "_target_" not in node:
        return values
    target = import_target(key, node["_target_"])
    if node.get("_partial_"):
        return functools.partial(target, **values)
    try:
        return target(**values)
    except UsageError:
        raise
    except (TypeError, ValueError) as error:
        raise UsageError(f"{key}: {node['_target_']} does not take these settings: {error}") from error


def place_engines(rollout: RolloutEngine, num_ranks: int, *, num_gpus: int | None = None) -> Placement:
    """The devices of ranks and rollout workers. Raises ``UsageError`` if they do not fit.

    ``num_gpus``: how many there are; ``None`` counts those of this machine.
    """
    import torch

    # An engine without workers samples in the trainer's process, on the first GPU.
    num_workers, tensor_parallel_size, placement = 1, 1, "colocated"
    if isinstance(rollout, HasWorkers):
        num_workers, tensor_parallel_size, placement = (
            rollout.num_workers,
            rollout.tensor_parallel_size,
            rollout.placement,
        )
    return place(
        num_gpus=torch.cuda.device_count() if num_gpus is None else num_gpus,
        num_ranks=num_ranks,
        num_workers=num_workers,
        tensor_parallel_size=tensor_parallel_size,
        placement=placement,
    )


def build_judge(reward: RewardFn, config: JudgeConfig) -> Judge:
    """In this process for a reward that bounds its own time (``bounded``), else in worker processes."""
    check_reward("reward", reward)
    num_workers = config.num_workers
    if num_workers is None:
        num_workers = 0 if reward.bounded else 2
    if num_workers == 0:
        return InProcessJudge(reward, max_unjudged_fraction=config.max_unjudged_fraction)
    from insight_rl.reward.judge_processes import JudgeProcesses

    return JudgeProcesses(
        reward,
        num_workers=num_workers,
        deadline_s=config.deadline_s,
        max_memory_mb=config.max_memory_mb,
        max_unjudged_fraction=config.max_unjudged_fraction,
    )


def find_model(config: ModelConfig) -> Path:
    """The model's folder: ``model.path`` itself, or the hub's copy at ``model.revision``.

    Checks that its context is long enough.
    """
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        remedy = f"model.path={config.path!r} is a folder, which has no revisions; leave it null"
        check(config.revision is None, "model.revision", config.revision, remedy)
    else:
        folder = _fetch_from_hub(config.path, config.revision)
    check((folder / "config.json").is_file(), "model.path", config.path, _explain_no_model(folder))
    context = read_context_length(folder)
    check(
        context is None or config.max_length <= context,
        "model.max_length",
        config.max_length,
        f"is more than the model's context of {context} tokens; lower it, or take another model (model=...)",
    )
    return folder.resolve()


def _explain_no_model(folder: Path) -> str:
    if not (folder / "model" / "config.json").is_file():
        return "the folder has no config.json; give a Hugging Face model folder"
    return (
        f"is the folder of a run; its model is model.path={folder / 'model'} (to evaluate it with the run's own task, "
        f"reward and settings: insight-rl evaluate run_dir={folder})"
    )


def _fetch_from_hub(path: str, revision: str | None) -> Path:
    parts = path.split("/")
    if len(parts) != 2 or not all(parts) or path.startswith((".", "~")):
        raise UsageError(f"model.path={path!r}: no such folder, and not the hub's owner/name form; check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.jinja", "tokenizer*"]
    try:
        return Path(snapshot_download(path, revision=revision, allow_patterns=wanted, etag_timeout=3))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" at model.revision={revision!r}" if revision else ""
        reason = str(error).splitlines()[0]
        raise UsageError(
            f"model.path={path!r}: no such folder, and the model hub did not give it{at} ({reason}); "
            "give the path of a local copy, or check the name, the network and HF_HOME"
        ) from error


@dataclass(frozen=True, kw_only=True)
class Data:
    """What a run trains and evaluates on, and what the user should know about it."""

    pool: Sequence[Prompt]
    problems: Sequence[Prompt]
    notices: tuple[str, ...]


_kept_data: dict[str, Data] | None = None


def keep_loaded_data() -> None:
    """From now on this process, and those forked from it, read and tokenise the same data once."""
    global _kept_data
    _kept_data = {}


def load_data(task: Task, tokenizer: ModelTokenizer, config: RunConfig) -> Data:
    """Read, tokenise and filter the task's prompts. Raises ``UsageError`` for data that no run could use."""
    if _kept_data is None:
        return _load_data(task, tokenizer, config)
    evaluation = config.evaluation
    depends_on = [
        config.task,
        asdict(config.model),
        config.trainer.max_completion_tokens,
        config.trainer.prompts_per_step,
        [evaluation.every > 0, evaluation.max_problems, evaluation.max_completion_tokens],
    ]
    key = json.dumps(depends_on, sort_keys=True)
    if key not in _kept_data:
        _kept_data[key] = _load_data(task, tokenizer, config)
    return _kept_data[key]


def _load_data(task: Task, tokenizer: ModelTokenizer, config: RunConfig) -> Data:
    notices: list[str] = []
    pool = _usable(
        _without_conflicts(task.train_prompts(tokenizer), notices),
        "training",
        config.trainer.max_completion_tokens,
        (task, tokenizer, config),
        notices,
    )
    check(
        config.trainer.prompts_per_step <= len(pool),
        "trainer.prompts_per_step",
        config.trainer.prompts_per_step,
        f"is more than the {len(pool)} prompts of task {task.name}; lower it or add prompts",
    )
    problems: Sequence[Prompt] = ()
    if config.evaluation.every > 0:
        problems = load_problems(task, tokenizer, config, notices)
        leaked = {prompt.id for prompt in pool} & {prompt.id for prompt in problems}
        if leaked:
            notices.append(
                f"{len(leaked)} of the {len(problems)} held-out problems are in the pool too ({min(leaked)}, ...): "
                "eval/accuracy is not a held-out figure"
            )
    return Data(pool=pool, problems=problems, notices=tuple(notices))


def load_problems(task: Task, tokenizer: ModelTokenizer, config: RunConfig, notices: list[str]) -> Sequence[Prompt]:
    """The held-out problems to evaluate on, the same ones whatever the run's seed is: seeds are compared on them."""
    problems = task.test_prompts(tokenizer)
    if not problems:
        notices.append(f"task {task.name} has no held-out problems: eval/accuracy is not measured")
        return ()
    problems = _usable(problems, "held-out", completion_tokens(config), (task, tokenizer, config), notices)
    limit = config.evaluation.max_problems
    if limit is None or limit >= len(problems):
        return problems
    drawn = np.random.default_rng(derive_seed(0, "evaluation problems")).choice(
        len(problems), size=limit, replace=False
    )
    return [problems[index] for index in sorted(drawn)]


def completion_tokens(config: RunConfig) -> int:
    """Longest completion of an evaluation."""
    return config.evaluation.max_completion_tokens or config.trainer.max_completion_tokens


def evaluation_sampling(config: EvaluationConfig, *, max_tokens: int, seed: int) -> Sampling:
    return Sampling(
        num_rollouts=config.samples_per_problem,
        max_tokens=max_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        seed=derive_seed(seed, "evaluation"),
    )


def _without_conflicts(prompts: Sequence[Prompt], notices: list[str]) -> Sequence[Prompt]:
    """The prompts without those that occur twice with different answers: at most one of these can be right."""
    answers: dict[str, Any] = {}
    conflicting: dict[str, tuple[Any, Any]] = {}
    for prompt in prompts:
        answer = answers.setdefault(prompt.id, prompt.answer)
        if answer != prompt.answer:
            conflicting.setdefault(prompt.id, (answer, prompt.answer))
    if not conflicting:
        return prompts
    first, (one, other) = next(iter(conflicting.items()))
    notices.append(
        f"{len(conflicting)} training prompts occur more than once with different answers and are dropped ({first}: "
        f"{str(one)[:40]!r} and {str(other)[:40]!r}, ...); mend their rows to keep them"
    )
    return [prompt for prompt in prompts if prompt.id not in conflicting]


def _usable(
    prompts: Sequence[Prompt],
    kind: str,
    num_completion_tokens: int,
    context: tuple[Task, ModelTokenizer, RunConfig],
    notices: list[str],
) -> list[Prompt]:
    """The prompts that fit with their completion and are no duplicates; a notice says how many were dropped."""
    if not prompts:
        raise UsageError(f"task: it has no {kind} prompts; check its file or its settings")
    unique = list({prompt.id: prompt for prompt in prompts}.values())
    if len(unique) < len(prompts):
        notices.append(f"{len(prompts) - len(unique)} of {len(prompts)} {kind} prompts were duplicates and are dropped")
    max_tokens = context[2].model.max_length - num_completion_tokens
    fitting = [prompt for prompt in unique if len(prompt.token_ids) <= max_tokens]
    if not fitting:
        shortest = min(len(prompt.token_ids) for prompt in unique)
        raise UsageError(
            f"model.max_length={context[2].model.max_length}: with completions of {num_completion_tokens} tokens it "
            f"leaves {max_tokens} for a prompt, but the shortest of {len(unique)} {kind} prompts has {shortest}; "
            f"{' or '.join(_ways_to_fit(*context))}"
        )
    if len(fitting) < len(unique):
        notices.append(
            f"{len(unique) - len(fitting)} of {len(unique)} {kind} prompts are longer than {max_tokens} tokens and are "
            "dropped; raise model.max_length to keep them"
        )
    return fitting


def _ways_to_fit(task: Task, tokenizer: ModelTokenizer, config: RunConfig) -> list[str]:
    """What can be done where no prompt fits, the ways that are open for this model and task only."""
    ways = []
    longest = read_context_length(tokenizer.model_path)
    if longest is None or longest > config.model.max_length:
        ways.append(f"raise model.max_length{'' if longest is None else f' (this model takes up to {longest})'}")
    else:
        ways.append(f"take another model (model=...; this one has a context of {longest} tokens)")
    instruction = getattr(task, "instruction", None)
    if isinstance(instruction, str) and instruction:
        num_tokens = len(tokenizer.encode(instruction)[1])
        ways.append(f"give a shorter task.instruction=... (the present one takes {num_tokens} of them)")
    ways.append("lower the completion's length")
    return ways


def quiet_libraries() -> None:
    """Keep the libraries' progress bars out of the run's display, unless the user has set these variables."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
