"""Prompt selection inside prime-rl: a task sampler for each of its training sources.

    self.train_source = TrainSource(self.train_envs)       # prime_rl/orchestrator/orchestrator.py
    use_selector(self.train_source, prompts_per_step=config.batch_size // config.group_size)

prime-rl goes on to draw tasks when it has room for them, to gate finished groups and to save the sampler's state in
its checkpoints. Read at commit 559b44772e471d1538537b8805cc77f3824a5e64 of PrimeIntellect-ai/prime-rl (0.8.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from insight_rl.errors import UsageError
from insight_rl.integration.prompt_queue import PromptQueue
from insight_rl.integration.selection import Selection, Verdict, first_reward_is_full, make_pool
from insight_rl.integration.settings import judge
from insight_rl.seeding import derive_seed
from insight_rl.state_codec import decode_state, encode_state


def use_selector(
    train_source: Any,
    *,
    prompts_per_step: int,
    selector: str = "insight",
    selector_settings: Mapping[str, Any] | None = None,
    verdict: Verdict = first_reward_is_full,
    patience: int | None = None,
    seed: int = 0,
) -> None:
    """Replace the task sampler of every source of prime-rl's ``TrainSource`` by a :class:`SelectedTasks`.

    Call it before the checkpoint is loaded. The arguments are those of :class:`SelectedTasks`; every source has a
    selector of its own. Raises ``UsageError`` for a task set without an end, of which nothing can be selected.
    """
    for env in train_source.envs:
        curriculum = train_source.curricula[env.name]
        tasks = getattr(curriculum.sampler, "tasks", None)
        if not isinstance(tasks, Sequence):
            raise UsageError(f"source {env.name!r}: its task set has no end; selection needs one that can be listed")
        curriculum.sampler = SelectedTasks(
            tasks,
            name=env.name,
            group_size=env.config.group_size,
            prompts_per_step=prompts_per_step,
            selector=selector,
            selector_settings=selector_settings,
            verdict=verdict,
            patience=patience,
            seed=seed,
        )


class SelectedTasks(Iterator[Any]):
    """prime-rl's ``TaskSampler``, with tasks chosen by a selector."""

    def __init__(
        self,
        tasks: Sequence[Any],
        *,
        name: str = "",
        group_size: int,
        prompts_per_step: int,
        selector: str = "insight",
        selector_settings: Mapping[str, Any] | None = None,
        verdict: Verdict = first_reward_is_full,
        patience: int | None = None,
        seed: int = 0,
    ) -> None:
        """``prompts_per_step`` tasks are selected together, once those before are all drawn.

        ``verdict`` judges the reward of one rollout. prime-rl tells no sampler of a group that it cancels (stale or
        under overload): a task that is not back after ``patience`` further draws counts as lost (16 steps' worth if
        ``None``). Raises ``UsageError`` for settings or tasks that no selection could work with.
        """
        self.tasks = tuple(tasks)
        self._verdict = verdict
        self._row_of = {task.key: row for row, task in reversed(list(enumerate(self.tasks)))}
        selection = Selection(
            make_pool(
                {
                    "prompt": [getattr(task.data, "prompt", "") for task in self.tasks],
                    "id": [task.key for task in self.tasks],
                    "task": [name] * len(self.tasks),
                }
            ),
            num_rollouts=group_size,
            seed=derive_seed(derive_seed(seed, "source", name), "selector"),
            selector=selector,
            selector_settings=selector_settings,
            framework="prime-rl",
        )
        self.queue = PromptQueue(
            selection,
            prompts_per_selection=prompts_per_step,
            patience=16 * prompts_per_step if patience is None else patience,
            key="prompts_per_step",
        )

    def __next__(self) -> Any:
        return self.tasks[self.queue.draw()[0]]

    def observe(self, group: Sequence[Any]) -> None:
        """A finalized group: of each episode the reward of its trained agent; errors are not judged."""
        row = self._row_of.get(group[0].task.key)
        if row is None:
            raise ValueError(f"task {group[0].task.key!r} is not one of this source's")
        self.queue.finish(row, [self._judge(episode) for episode in group])

    def state_dict(self) -> dict[str, Any]:
        """The state as one blob of bytes."""
        return {"insight_rl": encode_state(self.queue.state_dict())}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        if "insight_rl" not in state_dict:
            raise UsageError("ckpt: it holds no selector state, for it was written with another task sampler")
        self.queue.load_state_dict(decode_state(state_dict["insight_rl"]))

    def metrics(self) -> dict[str, float]:
        return {name.removeprefix("selector/"): value for name, value in self.queue.metrics().items()}

    def _judge(self, episode: Any) -> bool | None:
        """From the whole reward of the trained agent's (last) trace, then the scores of its parts."""
        traces = [trace for trace in episode.traces if not trace.has_error and trace.agent.trainable]
        if not traces:
            return None
        return judge(self._verdict, [traces[-1].reward, *(part.score for part in traces[-1].rewards.values())])
