"""One training run from configuration to summary: assembles the trainer, resumes it, and closes what it opened."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from insight_rl.build import (
    build_judge,
    build_part,
    completion_tokens,
    evaluation_sampling,
    find_model,
    load_data,
    quiet_libraries,
)
from insight_rl.checkpoint import CheckpointStore, load_state, part_folder, save_state
from insight_rl.config import RunConfig, parse_config
from insight_rl.evaluation import Evaluator
from insight_rl.monitor.base import Monitor
from insight_rl.monitor.jsonl import JsonlMonitor
from insight_rl.monitor.summary import Summary, summarise
from insight_rl.run_dir import RunDir, SelectionLog, choose_run_dir
from insight_rl.seeding import derive_seed
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Sampling


def train(tree: DictConfig) -> Summary:
    """Train as the composed configuration says. Raises ``UsageError`` before any model loads, ``RunStopped`` later."""
    quiet_libraries()
    config = parse_config(tree)
    with ExitStack() as cleanup:
        return _train(tree, config, cleanup)


def _train(tree: DictConfig, config: RunConfig, cleanup: ExitStack) -> Summary:
    gate, selector, reward, task, algorithm = (
        build_part(key, getattr(config, key)) for key in ("gate", "selector", "reward", "task", "algorithm")
    )
    monitors = build_monitors(config)
    model_path = find_model(config.model)
    tokenizer = ModelTokenizer(model_path)
    data = load_data(task, tokenizer, config)
    rollout, learner = (build_part(key, getattr(config, key)) for key in ("rollout", "learner"))

    run_dir = RunDir(choose_run_dir(config, (task.name, _option_name(tree))))
    cleanup.callback(run_dir.close)
    if config.resume == "never":
        run_dir.check_free()
    run_dir.check_same_run(tree)
    run_dir.write_config(tree)
    store = CheckpointStore(run_dir.path / "checkpoints", keep_last=config.checkpoint.keep_last)
    checkpoint, notices = store.newest_sound()

    # What imports torch comes after everything that can go wrong without it.
    from insight_rl.trainer import Progress, Trainer

    progress = Progress(**load_state(part_folder(checkpoint, "trainer"))) if checkpoint else Progress()
    first_step = progress.step + 1 if checkpoint else 0
    selector.open(data.pool, num_rollouts=config.trainer.rollouts_per_prompt, seed=derive_seed(config.seed, "selector"))
    for monitor in monitors:
        monitor.open(
            run_dir.path,
            config=OmegaConf.to_container(tree, resolve=True),
            num_steps=config.trainer.num_steps,
            first_step=first_step,
        )
    say = _notifier(monitors)
    for text in (*notices, *data.notices, *_describe(config, len(data.pool), selector)):
        say(text)

    rollout.start(
        model_path=model_path,
        dtype=config.model.dtype,
        max_length=config.model.max_length,
        seed=derive_seed(config.seed, "rollout"),
    )
    cleanup.callback(rollout.close)
    learner.start(
        model_path=model_path,
        dtype=config.model.dtype,
        loss=algorithm.loss,
        temperature=config.trainer.temperature,
        max_completion_tokens=config.trainer.max_completion_tokens,
        prompts_per_update=config.trainer.prompts_per_update or config.trainer.prompts_per_step,
        num_epochs=algorithm.num_epochs,
        num_steps=config.trainer.num_steps,
        seed=derive_seed(config.seed, "learner"),
    )
    cleanup.callback(learner.close)
    judge = build_judge(reward, config.judge)
    cleanup.callback(judge.close)
    if checkpoint:
        selector.load_state_dict(load_state(part_folder(checkpoint, "selector")))
        learner.load_checkpoint(part_folder(checkpoint, "learner"))
        rollout.update_weights(learner.weights(), version=progress.step)
        say(f"going on after step {progress.step} from {checkpoint}")

    def save_checkpoint(progress: Progress, *, accuracy: float | None) -> None:
        parts: dict[str, Callable[[Path], None]] = {
            "trainer": lambda folder: save_state(folder, asdict(progress)),
            "selector": lambda folder: save_state(folder, selector.state_dict()),
            "learner": learner.save_checkpoint,
        }
        store.save(progress.step, parts, accuracy=accuracy)

    selection_log = SelectionLog(run_dir.path / "selections.jsonl", first_step=first_step)
    cleanup.callback(selection_log.close)
    trainer = Trainer(
        settings=_trainer_settings(config),
        selector=selector,
        gate=gate,
        rollout=rollout,
        judge=judge,
        algorithm=algorithm,
        learner=learner,
        evaluator=Evaluator(
            problems=data.problems,
            sampling=evaluation_sampling(config.evaluation, max_tokens=completion_tokens(config), seed=config.seed),
        ),
        monitors=monitors,
        selection_log=selection_log,
        save_checkpoint=save_checkpoint,
    )
    trainer.progress = progress
    with _stop_after_step(trainer, say):
        trainer.train()
    if trainer.stop_requested and progress.step < config.trainer.num_steps:
        say(f"stopped after step {progress.step}; the same command with run_dir={run_dir.path} goes on from there")
    learner.save_model(run_dir.path / "model")
    from insight_rl.monitor.report import draw_curves

    draw_curves([run_dir.path], run_dir.path / "curves.png")
    summary = summarise(run_dir.path)
    for monitor in monitors:
        monitor.close(summary)
    return summary


def build_monitors(config: RunConfig) -> list[Monitor]:
    """The monitors asked for, after the one that keeps the run's own record: nothing is ever lost."""
    monitors = {name: build_part(f"monitor.{name}", node) for name, node in config.monitor.items()}
    record = monitors.pop("jsonl", None) or JsonlMonitor()
    return [record, *monitors.values()]


def _trainer_settings(config: RunConfig) -> Any:
    from insight_rl.trainer import TrainerSettings

    gap = config.trainer.max_logprob_gap
    return TrainerSettings(
        num_steps=config.trainer.num_steps,
        prompts_per_step=config.trainer.prompts_per_step,
        sampling=Sampling(
            num_rollouts=config.trainer.rollouts_per_prompt,
            max_tokens=config.trainer.max_completion_tokens,
            temperature=config.trainer.temperature,
            top_p=config.trainer.top_p,
            seed=config.seed,
        ),
        max_unjudged_fraction=config.trainer.max_unjudged_fraction,
        max_logprob_gap=gap if gap is not None else 0.01 if config.model.dtype == "float32" else 2.0,
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoint.every,
        seed=config.seed,
    )


def _describe(config: RunConfig, pool_size: int, selector: Any) -> list[str]:
    """The run in plain English, before any model loads."""
    trainer = config.trainer
    per_update = trainer.prompts_per_update or trainer.prompts_per_step
    updates = -(-trainer.prompts_per_step // per_update)
    completions = trainer.prompts_per_step * trainer.rollouts_per_prompt
    lines = [
        f"each of {trainer.num_steps} steps: {trainer.prompts_per_step} of {pool_size} prompts x "
        f"{trainer.rollouts_per_prompt} rollouts = {completions} completions of at most "
        f"{trainer.max_completion_tokens} tokens; {updates} update{'s' if updates > 1 else ''} of {per_update} prompts"
    ]
    if isinstance(selector, BeliefSelector) and selector.visits_unseen_first():
        num_steps = -(-pool_size // trainer.prompts_per_step)
        lines.append(
            f"this selector visits each of the {pool_size} prompts once before it comes back to any (until step "
            f"{num_steps} at {trainer.prompts_per_step} a step): expect the informative fraction to rise after that"
        )
    return lines


def _notifier(monitors: list[Monitor]) -> Callable[[str], None]:
    def say(text: str) -> None:
        for monitor in monitors:
            monitor.notice(text)

    return say


def _option_name(tree: DictConfig) -> str:
    """A short name of the selector for the folder: the last word of its score or class."""
    node = tree.selector
    target = node.score._target_ if "score" in node and node.score is not None else node._target_
    return str(target).rpartition(".")[2]


@contextmanager
def _stop_after_step(trainer: Any, say: Callable[[str], None]) -> Iterator[None]:
    """The first Ctrl-C (or SIGTERM) ends the run after the present step, with a checkpoint; the second at once."""

    def on_signal(number: int, _frame: object) -> None:
        if trainer.stop_requested:
            raise KeyboardInterrupt
        trainer.stop_requested = True
        say(f"{signal.Signals(number).name}: finishing this step and its checkpoint; once more to stop at once")

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
