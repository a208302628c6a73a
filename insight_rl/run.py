"""One training run from configuration to summary: assembles the trainer, resumes it, and closes what it opened."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from insight_rl import trainer_choice
from insight_rl.build import (
    Data,
    build_judge,
    build_part,
    completion_tokens,
    evaluation_sampling,
    find_model,
    load_data,
    place_engines,
    quiet_libraries,
)
from insight_rl.checkpoint import CheckpointStore, CheckpointWatch, Part, StatePart, part_folder
from insight_rl.config import RunConfig, parse_config
from insight_rl.device_time import device_clock
from insight_rl.disk_failures import explain_disk_failures
from insight_rl.doctor.checkup import examine
from insight_rl.errors import Interrupted, UsageError, check
from insight_rl.evaluation import Evaluator
from insight_rl.evaluation_log import EVALUATIONS_FILE, EvaluationLog, start_file
from insight_rl.gate.base import Gate
from insight_rl.gpu_turns import take_turns
from insight_rl.learner.base import HasRanks, MeasuresCompletions
from insight_rl.model_folder import count_parameters
from insight_rl.monitor.base import Monitor
from insight_rl.monitor.jsonl import JsonlMonitor
from insight_rl.monitor.summary import Summary, summarise
from insight_rl.monitor.watch import Watch
from insight_rl.placement import Placement
from insight_rl.recovery import Recovery
from insight_rl.reward.base import RewardFn, check_start
from insight_rl.reward_fit import check_reward_fits
from insight_rl.rollout.base import RolloutEngine, RolloutSpec
from insight_rl.rollout_log import ROLLOUTS_FOLDER, RolloutLog, RolloutLogEnd
from insight_rl.run_dir import RunDir, choose_run_dir, open_selection_logs
from insight_rl.run_identity import RunIdentity, identify
from insight_rl.run_notices import describe, doubts, tell_resumption
from insight_rl.run_stops import MEAN_LOGPROB_GAP_LIMITS
from insight_rl.runtime.base import Runtime
from insight_rl.runtime.fit import check_fit
from insight_rl.seeding import derive_seed
from insight_rl.selector.base import FollowsItsRun, Selector
from insight_rl.state_codec import load_state
from insight_rl.stop_signals import stop_on_signals
from insight_rl.supervision import Supervision, supervise
from insight_rl.sync_check import SyncCheck
from insight_rl.task.base import Task
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Metrics, Sampling
from insight_rl.weight_sync.adapter import AdapterChannel, vllm_rank
from insight_rl.weight_sync.base import WeightChannel

if TYPE_CHECKING:
    from insight_rl.algorithm.algorithm import Algorithm
    from insight_rl.learner.base import Learner
    from insight_rl.learner.settings import LoraSettings, StartSpec
    from insight_rl.trainer import Progress, Trainer, TrainerSettings


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the configuration names, validated; nothing heavy is loaded yet."""

    task: Task
    selector: Selector
    gate: Gate
    reward: RewardFn
    algorithm: Algorithm
    rollout: RolloutEngine
    weight_channel: WeightChannel
    learner: Learner
    runtime: Runtime
    placement: Placement
    monitors: Sequence[Monitor]
    model_path: Path
    num_parameters: int
    data: Data
    identity: RunIdentity

    def say(self, text: str) -> None:
        for monitor in self.monitors:
            monitor.notice(text)


@dataclass(frozen=True, kw_only=True)
class RunOutput:
    """What a run leaves in its folder besides its records; runs of a comparison need little of it."""

    keeps_model: bool = True
    """Save the trained model, and draw the curves."""
    keeps_decisions: bool = True
    """Write ``decisions/``, where the selector has them to show, and ``rollouts/``."""
    checkpoint_after_s: float = 0.0
    """No checkpoint comes sooner than this after the one before or the start, unless the run is asked to stop."""
    start_evaluations: Path | None = None
    """Folder in which runs from the same start share the evaluation before training."""


def train(tree: DictConfig, output: RunOutput | None = None) -> Summary:
    """Train as the composed configuration says, from the start or from the newest checkpoint in ``run_dir``.

    Raises ``UsageError`` before any model loads, ``RunStopped`` when the run has to stop itself, ``Interrupted`` once a
    run that was asked to stop has closed properly.
    """
    quiet_libraries()
    output = output or RunOutput()
    config = parse_config(tree)
    parts = build_parts(config)
    with ExitStack() as cleanup:
        stop = cleanup.enter_context(stop_on_signals())
        run_dir = RunDir(choose_run_dir(config))
        cleanup.callback(run_dir.close)
        store = CheckpointStore(run_dir.path / "checkpoints", keep_last=config.checkpoint.keep_last)
        cleanup.callback(store.abandon)
        cleanup.enter_context(explain_disk_failures(run_dir.path, store.newest_name))
        run_dir.check_same_run(tree, resume=config.resume)
        watching = Supervision(run_dir=run_dir.path, heartbeat_deadline_s=parts.runtime.heartbeat_deadline_s)
        cleanup.enter_context(supervise(watching))
        cleanup.callback(parts.runtime.close)
        parts.runtime.reserve(parts.placement, [run_dir.path, parts.model_path])
        checkpoint, damage = store.newest_sound()
        progress = trainer_choice.load_progress(checkpoint)
        rollouts = trainer_choice.load_rollouts(config.trainer, checkpoint)
        changes = run_dir.record(tree, step=progress.step)
        first_step = progress.step + 1 if checkpoint else 0
        parts.identity.write(run_dir.path)
        cleanup.enter_context(_open_monitors(parts, run_dir, tree, config, first_step))
        open_selector(config, parts)
        if checkpoint:
            _restore_selector(parts.selector, checkpoint)
        notices = (*damage, *changes, *parts.data.notices, *_words(config, parts))
        for text in notices:
            parts.say(text)

        first_selection = first_step + len(rollouts["ready"])
        trainer = assemble(config, parts, run_dir, store, first_step, cleanup, output, first_selection)
        if checkpoint:
            _restore(trainer, progress, checkpoint)
            trainer_choice.restore_rollouts(trainer, rollouts, parts.data.pool)
            parts.say(tell_resumption(trainer, checkpoint))
        recovery = Recovery(
            trainer,
            max_restarts=parts.runtime.max_restarts,
            go_back=lambda: _go_back(trainer, config, parts, store),
            newest_checkpoint=store.newest_name,
            settle=store.settle,
            say=parts.say,
        )
        summary = recovery.run(
            lambda: _train_to_the_end(trainer, parts, run_dir, store, output), stop, grace_s=parts.runtime.grace_s
        )
        if stop.number is not None and not trainer.is_over():
            raise Interrupted(stop.number)
        return summary


def build_parts(config: RunConfig) -> Parts:
    """Everything that can be checked before a model loads, cheapest first."""
    check(
        not config.evaluation.benchmarks,
        "evaluation.benchmarks",
        sorted(config.evaluation.benchmarks),
        "are for `insight-rl evaluate`; training evaluates on its task's held-out problems: take evaluation=default",
    )
    cheap = {key: build_part(key, getattr(config, key)) for key in ("gate", "selector", "reward", "task", "algorithm")}
    _check_advantage(config)
    trainer_choice.check_overlap(config)
    monitors = {name: build_part(f"monitor.{name}", node) for name, node in config.monitor.items()}
    # Whatever else watches the run, its own record comes first.
    monitors = {"jsonl": monitors.pop("jsonl", None) or JsonlMonitor(), **monitors}
    if isinstance(cheap["selector"], FollowsItsRun):
        monitors["selector"] = cheap["selector"].monitor()
    # Before the model and the data are downloaded.
    notices = examine(config)
    model_path = find_model(config.model)
    num_parameters = count_parameters(model_path)
    data = load_data(cheap["task"], ModelTokenizer(model_path), config)
    misfits = check_reward_fits(cheap["reward"], [*data.pool, *data.problems], target=config.reward["_target_"])
    data = replace(data, notices=(*notices, *data.notices, *misfits))
    check_start(cheap["reward"], judge_deadline_s=config.judge.deadline_s)
    # These import torch.
    engines = {key: build_part(key, getattr(config, key)) for key in ("learner", "rollout", "runtime")}
    weight_channel = build_part("weight_sync", config.weight_sync)
    _check_learner(engines["learner"], model_path, config.model.dtype)
    _check_channel(weight_channel, _adapter(engines["learner"]))
    check_fit(engines["runtime"], engines["rollout"], weight_channel)
    # A learner of the user's own need not have ranks.
    num_ranks = getattr(engines["learner"], "num_ranks", 1)
    placement = place_engines(engines["rollout"], num_ranks, num_gpus=engines["runtime"].count_gpus())
    sampling = evaluation_sampling(config.evaluation, max_tokens=completion_tokens(config), seed=config.seed)
    return Parts(
        **cheap,
        **engines,
        weight_channel=weight_channel,
        placement=placement,
        monitors=list(monitors.values()),
        model_path=model_path,
        num_parameters=num_parameters,
        data=data,
        identity=identify(model_path, data.pool, data.problems, sampling),
    )


def _check_advantage(config: RunConfig) -> None:
    """MaPP's advantage takes a group's own verdicts out of the belief, so they must be in it one by one."""
    if config.algorithm.get("advantage") != "mapp":
        return
    for key, plain in (("evidence", "success"), ("verifier_error", None)):
        value = config.selector.get(key, plain)
        remedy = (
            f"does not go with algorithm.advantage=mapp, which needs plain counts of verdicts; use {plain or 'null'}"
        )
        check(value == plain, f"selector.{key}", value, remedy)


def _check_learner(learner: Learner, model_path: Path, dtype: str) -> None:
    """What a learner of ours asks of the model; one of the user's own need not have these settings."""
    from insight_rl.learner.lora import check_targets
    from insight_rl.learner.models import kernel_for
    from insight_rl.learner.settings import LearnerSettings

    if not isinstance(learner, LearnerSettings):
        return
    if learner.adapter is not None:
        check_targets(model_path, learner.adapter)
    if learner.attention != "auto":
        kernel_for(learner.attention, model_path, dtype)


def _adapter(learner: Learner) -> LoraSettings | None:
    from insight_rl.learner.settings import LearnerSettings

    return learner.adapter if isinstance(learner, LearnerSettings) else None


def _check_channel(channel: WeightChannel, adapter: LoraSettings | None) -> None:
    if isinstance(channel, AdapterChannel):
        remedy = "needs an adapter: learner.lora.rank=16; the whole model travels with weight_sync=auto"
        check(adapter is not None, "weight_sync", "adapter", remedy)
        vllm_rank(adapter.rank if adapter else 1)


def open_selector(config: RunConfig, parts: Parts) -> None:
    """Give the selector its pool, once in a run, before any model loads."""
    parts.selector.open(
        parts.data.pool, num_rollouts=config.trainer.rollouts_per_prompt, seed=derive_seed(config.seed, "selector")
    )


def assemble(
    config: RunConfig,
    parts: Parts,
    run_dir: RunDir,
    store: CheckpointStore,
    first_step: int,
    cleanup: ExitStack,
    output: RunOutput,
    first_selection: int | None = None,
) -> Trainer:
    """Load the model into engine and learner, and join the parts into a trainer at step 0; the selector is open.

    ``first_selection``: the step whose prompts are selected first, if it is another than ``first_step``.
    """
    judge = build_judge(parts.reward, config.judge)
    cleanup.callback(judge.close)
    if isinstance(parts.learner, HasRanks):
        parts.learner.run_on(parts.runtime)
    rollout, learner = take_turns(parts.rollout, parts.learner)
    rollout.start(_rollout_spec(config, parts))
    cleanup.callback(rollout.close)
    learner.start(_start_spec(config, parts))
    cleanup.callback(learner.close)
    first_selection = first_step if first_selection is None else first_selection
    rollout_log = RolloutLog(
        run_dir.path / ROLLOUTS_FOLDER,
        every=config.rollout_log.every if output.keeps_decisions else 0,
        max_mb=config.rollout_log.max_mb,
        first_step=first_selection,
        gaps=learner.completion_gaps if isinstance(learner, MeasuresCompletions) else None,
    )
    decides = parts.selector if output.keeps_decisions else None
    logs = open_selection_logs(run_dir.path, decides, parts.data.pool, first_step=first_selection, beside=[rollout_log])
    cleanup.callback(logs.close)

    last_checkpoint_s = time.monotonic()

    def save_checkpoint(progress: Progress, metrics: Metrics) -> None:
        nonlocal last_checkpoint_s
        if time.monotonic() - last_checkpoint_s < output.checkpoint_after_s and not trainer.stop_requested:
            return
        last_checkpoint_s = time.monotonic()
        accuracy = metrics.get("eval/accuracy")
        assert accuracy is None or isinstance(accuracy, float)
        states: dict[str, Part] = {
            "trainer": StatePart(asdict(progress)),
            "selector": StatePart(parts.selector.state_dict()),
            "learner": learner.save_checkpoint,
            **trainer_choice.rollouts_parts(trainer),
        }
        store.save(progress.step, states, accuracy=accuracy)

    watch = Watch(parts.say, num_problems=len(parts.data.problems))
    watch.open(run_dir.path, config={}, num_steps=config.trainer.num_steps, first_step=first_step)
    sampling = evaluation_sampling(config.evaluation, max_tokens=completion_tokens(config), seed=config.seed)
    settings = _trainer_settings(config)
    start = None
    if output.start_evaluations is not None:
        start = start_file(output.start_evaluations, _what_the_start_depends_on(config, parts))
    trainer = trainer_choice.trainer_type(config.trainer)(
        settings=settings,
        selector=parts.selector,
        gate=parts.gate,
        rollout=rollout,
        judge=judge,
        algorithm=parts.algorithm,
        learner=learner,
        evaluator=Evaluator(
            problems=parts.data.problems,
            sampling=sampling,
            store=EvaluationLog(run_dir.path / EVALUATIONS_FILE, first_step=first_step, start=start),
        ),
        monitors=[*parts.monitors, watch, RolloutLogEnd(rollout_log), CheckpointWatch(store)],
        selection_log=logs,
        save_checkpoint=save_checkpoint,
        sync_check=SyncCheck(
            rollout=rollout,
            learner=learner,
            prompts=parts.data.pool,
            sampling=settings.sampling,
            every=config.trainer.sync_check_every,
            max_mean_gap=settings.max_mean_logprob_gap,
        ),
        device_time=device_clock(parts.placement.num_gpus),
    )
    return trainer


def _what_the_start_depends_on(config: RunConfig, parts: Parts) -> dict[str, Any]:
    identity = parts.identity
    return {
        "identity": [identity.model, identity.problems, identity.evaluation],
        "settings": [asdict(config.model), config.rollout, config.reward],
    }


def _rollout_spec(config: RunConfig, parts: Parts) -> RolloutSpec:
    adapter = _adapter(parts.learner)
    return RolloutSpec(
        model_path=parts.model_path,
        dtype=config.model.dtype,
        max_length=config.model.max_length,
        seed=derive_seed(config.seed, "rollout"),
        weight_channel=parts.weight_channel,
        worker_devices=parts.placement.workers,
        adapter_rank=adapter.rank if adapter and isinstance(parts.weight_channel, AdapterChannel) else None,
        make_host=parts.runtime.make_host,
        say=parts.say,
    )


def _start_spec(config: RunConfig, parts: Parts) -> StartSpec:
    from insight_rl.learner.settings import StartSpec

    return StartSpec(
        model_path=parts.model_path,
        dtype=config.model.dtype,
        loss=parts.algorithm,
        num_epochs=parts.algorithm.num_epochs,
        temperature=config.trainer.temperature,
        max_completion_tokens=config.trainer.max_completion_tokens,
        prompts_per_update=config.trainer.prompts_per_update or config.trainer.prompts_per_step,
        num_steps=config.trainer.num_steps,
        seed=derive_seed(config.seed, "learner"),
    )


def _trainer_settings(config: RunConfig) -> TrainerSettings:
    from insight_rl.trainer import TrainerSettings

    return TrainerSettings(
        num_steps=config.trainer.num_steps,
        prompts_per_step=config.trainer.prompts_per_step,
        sampling=Sampling(
            num_rollouts=config.trainer.rollouts_per_prompt,
            max_tokens=config.trainer.max_completion_tokens,
            temperature=config.trainer.temperature,
            seed=config.seed,
        ),
        max_mean_logprob_gap=config.trainer.max_mean_logprob_gap or MEAN_LOGPROB_GAP_LIMITS[config.model.dtype],
        evaluate_every=config.evaluation.every,
        checkpoint_every=config.checkpoint.every,
        seed=config.seed,
        max_rollouts=config.trainer.max_rollouts,
        max_tokens=config.trainer.max_tokens,
        max_device_s=config.trainer.max_device_s,
    )


def _restore_selector(selector: Selector, checkpoint: Path) -> None:
    """Raises ``UsageError`` before a model loads if the pool has changed since the checkpoint."""
    state = load_state(part_folder(checkpoint, "selector"))
    try:
        selector.load_state_dict(state)
    except ValueError as error:
        raise UsageError(f"checkpoint {checkpoint}: {error}, or take another run_dir") from error


def _restore(trainer: Trainer, progress: Progress, checkpoint: Path) -> None:
    trainer.progress = progress
    trainer.learner.load_checkpoint(part_folder(checkpoint, "learner"))
    trainer.sync(progress.step)


def _train_to_the_end(
    trainer: Trainer, parts: Parts, run_dir: RunDir, store: CheckpointStore, output: RunOutput
) -> Summary:
    trainer.train()
    # Still the checkpoint: a grace time that ends now lets it be written.
    trainer.clock.running = "checkpoint"
    store.wait()
    trainer.clock.running = None
    return _finish(trainer, parts, run_dir, output)


def _go_back(trainer: Trainer, config: RunConfig, parts: Parts, store: CheckpointStore) -> None:
    """Start the learner again and take the whole run back to its newest checkpoint, or to its start."""
    store.abandon()
    checkpoint, damage = store.newest_sound()
    for text in damage:
        parts.say(text)
    trainer.learner.close()
    trainer.learner.start(_start_spec(config, parts))
    parts.weight_channel.reopen()
    open_selector(config, parts)
    if isinstance(trainer.sync_check, SyncCheck):
        trainer.sync_check.start_again()
    progress = trainer_choice.load_progress(checkpoint)
    trainer_choice.restore_rollouts(trainer, trainer_choice.load_rollouts(config.trainer, checkpoint), parts.data.pool)
    if checkpoint:
        _restore_selector(parts.selector, checkpoint)
        _restore(trainer, progress, checkpoint)
    else:
        trainer.progress = progress
        trainer.rollout.update_weights(trainer.learner.weights(), version=0)


def _finish(trainer: Trainer, parts: Parts, run_dir: RunDir, output: RunOutput) -> Summary:
    """Save the model and draw the curves; a run that was asked to stop early leaves them too."""
    step = trainer.progress.step
    if not trainer.is_over():
        parts.say(f"stopped after step {step}; the same command with run_dir={run_dir.path} goes on from there")
    if output.keeps_model:
        from insight_rl.report.curves import draw_curves

        trainer.learner.save_model(run_dir.path / "model")
        draw_curves([run_dir.path], run_dir.path / "curves.png")
    summary = summarise(run_dir.path)
    for monitor in parts.monitors:
        monitor.close(summary)
    return summary


def _words(config: RunConfig, parts: Parts) -> list[str]:
    """What the user should know of the settings before any model loads."""
    pool = parts.data.pool
    return [
        *describe(config, parts.selector, pool_size=len(pool)),
        *doubts(config, pool, num_parameters=parts.num_parameters),
    ]


@contextmanager
def _open_monitors(
    parts: Parts, run_dir: RunDir, tree: DictConfig, config: RunConfig, first_step: int
) -> Iterator[None]:
    """A run that ends by an error leaves its monitors flushed and the terminal as it was."""
    plain: Any = OmegaConf.to_container(tree, resolve=True)
    for monitor in parts.monitors:
        monitor.open(run_dir.path, config=plain, num_steps=config.trainer.num_steps, first_step=first_step)
    try:
        yield
    except BaseException:
        for monitor in parts.monitors:
            monitor.close()
        raise
