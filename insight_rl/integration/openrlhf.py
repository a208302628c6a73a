"""Prompt selection inside OpenRLHF: its loader of prompts replaced in the Ray actor that generates.

    ray job submit --runtime-env-json='{"working_dir": "/openrlhf",
        "worker_process_setup_hook": "insight_rl.integration.openrlhf.select_prompts"}' \\
        -- python3 -m openrlhf.cli.train_ppo_ray ...

OpenRLHF has no hook for the choice of prompts, and its loader lives in an actor that a script cannot reach. So Ray
calls :func:`select_prompts` in every worker of the job, and it changes three functions once OpenRLHF's trainer is
imported: ``prepare_datasets``, which makes the loader, and two methods of ``SamplesGenerator``: ``generate_samples``,
where a batch begins, and ``_process_response_into_experience``, where rewards arrive. Read in OpenRLHF 0.10.2, 0.11.0
and 0.11.2; another one that lacks any of them is refused.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any

from insight_rl.errors import UsageError, check
from insight_rl.integration.prompt_queue import PromptQueue
from insight_rl.integration.selection import Selection, make_pool
from insight_rl.integration.settings import IntegrationSettings, judge, read_settings
from insight_rl.seeding import derive_seed
from insight_rl.state_codec import decode_state, encode_state

SETTINGS_VARIABLE = "INSIGHT_RL_SELECTION"
"""Environment variable with settings as JSON, all optional: see :class:`IntegrationSettings`."""

_TRAINER = "openrlhf.trainer.ppo_trainer"


def select_prompts() -> None:
    """For Ray's ``worker_process_setup_hook``: selection for whatever process imports OpenRLHF's trainer."""
    if _TRAINER in sys.modules:
        patch_trainer(sys.modules[_TRAINER])
    else:
        sys.meta_path.insert(0, _PatchAfterImport())


def patch_trainer(trainer: ModuleType) -> None:
    """Change the module ``openrlhf.trainer.ppo_trainer``. Raises ``UsageError`` if it is not as it was read."""
    prepare = getattr(trainer, "prepare_datasets", None)
    generator = getattr(trainer, "SamplesGenerator", None)
    generate = getattr(generator, "generate_samples", None)
    process = getattr(generator, "_process_response_into_experience", None)
    if prepare is None or generator is None or generate is None or process is None:
        raise UsageError(
            f"{_TRAINER}: this OpenRLHF lacks prepare_datasets or, of SamplesGenerator, generate_samples or "
            "_process_response_into_experience; 0.10.2 to 0.11.2 have them: take one of those, or the selector service"
        )

    @functools.wraps(prepare)
    def prepare_datasets(strategy: Any, tokenizer: Any) -> Any:
        prompts, evaluation, max_steps = prepare(strategy, tokenizer)
        return SelectedPrompts(prompts, strategy.args, _settings_of_environment()), evaluation, max_steps

    @functools.wraps(generate)
    def generate_samples(self: Any, **kwargs: Any) -> Any:
        if isinstance(self.prompts_dataloader, SelectedPrompts):
            self.prompts_dataloader.begin_batch()
        return generate(self, **kwargs)

    @functools.wraps(process)
    def process_response(self: Any, response: Mapping[str, Any], **kwargs: Any) -> Any:
        if isinstance(self.prompts_dataloader, SelectedPrompts):
            self.prompts_dataloader.take(response)
        return process(self, response, **kwargs)

    trainer.prepare_datasets = prepare_datasets  # type: ignore[attr-defined]
    generator.generate_samples = generate_samples
    generator._process_response_into_experience = process_response


class SelectedPrompts:
    """In place of OpenRLHF's ``StatefulDataLoader`` of prompts: as many an episode, chosen when they are drawn."""

    def __init__(self, loader: Any, args: Any, settings: IntegrationSettings) -> None:
        """``loader`` is the one replaced, of OpenRLHF's ``PromptDataset``; ``args`` are OpenRLHF's.

        Raises ``UsageError`` if rewards are not known when a group is generated, or for unusable settings or data.
        """
        check(
            bool(args.reward.remote_url),
            "--reward.remote_url",
            args.reward.remote_url,
            "selection needs verdicts: name a reward function, a server, or --train.agent_func_path",
        )
        self.dataset, self.collate_fn = loader.dataset, loader.collate_fn
        self._length = len(loader)
        self._verdict = settings.verdict
        self._num_rollouts = args.rollout.n_samples_per_prompt
        self._prompts_at_once = getattr(args.rollout, "vllm_generate_batch_size", None) or args.rollout.batch_size
        items = [self.dataset[row] for row in range(len(self.dataset))]
        selection = Selection(
            make_pool(
                {
                    "prompt": [prompt for _, prompt, _, _ in items],
                    "task": [source for source, _, _, _ in items],
                }
            ),
            num_rollouts=self._num_rollouts,
            seed=derive_seed(args.train.seed, "selector"),
            selector=settings.selector,
            selector_settings=settings.selector_settings,
            framework="OpenRLHF",
        )
        self._row_of = {items[row][1]: row for row in selection.pool.rows}
        check(
            len(self._row_of) == len(items) or all(image is None for _, _, _, image in items),
            "--data.prompt_dataset",
            f"{len(items) - len(self._row_of)} prompts occur again",
            "beside images, prompts are told apart by their text alone: make the texts differ",
        )
        self.queue = PromptQueue(
            selection,
            prompts_per_selection=self._prompts_at_once,
            patience=settings.patience,
            key="--rollout.batch_size",
        )
        self._verdicts: dict[int, list[bool | None]] = {}
        """Of groups of which not every rollout has arrived."""
        self._num_drawn = 0
        self._is_resumed = False
        self._begins_batch = False

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        """One episode, or what is left of the one that a checkpoint was written in.

        What an earlier iterator gave and did not come back was cancelled by OpenRLHF.
        """
        self.queue.give_up(self.queue.under_way)
        self._verdicts = {}
        if self._num_drawn >= self._length and not self._is_resumed:
            self._num_drawn = 0
        self._is_resumed = False
        while self._num_drawn < self._length:
            # The first draw of a batch selects all of it. A prompt in place of a filtered one is selected by itself.
            at_once = min(self._prompts_at_once, self._length - self._num_drawn) if self._begins_batch else 1
            self._begins_batch = False
            row = self.queue.draw(prompts_per_selection=at_once)[0]
            self._num_drawn += 1
            yield self.collate_fn([self.dataset[row]])

    def begin_batch(self) -> None:
        """What is drawn next is a batch, and not in place of what a filter dropped."""
        self._begins_batch = True

    def take(self, response: Mapping[str, Any]) -> None:
        """One rollout, as OpenRLHF's executors return it: ``prompt``, ``scores``, ``reward`` (``None``: not judged)."""
        row = self._row_of.get(response["prompt"])
        if row is None or not self.queue.is_under_way(row):
            return  # of the evaluation
        reward = _number(response.get("reward"))
        score = _number(response.get("scores"))
        verdicts = self._verdicts.setdefault(row, [])
        verdicts.append(judge(self._verdict, [reward if math.isnan(score) else score, reward]))
        if len(verdicts) == self._num_rollouts:
            self.queue.finish(row, self._verdicts.pop(row))

    def state_dict(self) -> dict[str, Any]:
        """Goes into OpenRLHF's checkpoint: the state as one blob in a tensor, which its log shortens."""
        import torch

        blob = encode_state({"queue": self.queue.state_dict(), "num_drawn": self._num_drawn})
        return {"insight_rl": torch.frombuffer(bytearray(blob), dtype=torch.uint8)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if "insight_rl" not in state:
            raise UsageError("--ckpt.load_enable: the checkpoint was written without selection; start without it")
        kept = decode_state(bytes(state["insight_rl"].numpy()))
        self.queue.load_state_dict(kept["queue"])
        self._verdicts = {}
        self._num_drawn, self._is_resumed = int(kept["num_drawn"]), True


class _PatchAfterImport(importlib.abc.MetaPathFinder):
    """Finds OpenRLHF's trainer as Python does, and changes it when it has been executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _TRAINER:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_and_patch(module: ModuleType) -> None:
            execute(module)
            patch_trainer(module)

        spec.loader.exec_module = execute_and_patch  # type: ignore[method-assign]
        return spec


def _settings_of_environment() -> IntegrationSettings:
    text = os.environ.get(SETTINGS_VARIABLE, "null")
    try:
        given = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"{SETTINGS_VARIABLE}={text!r}: must be JSON of a mapping ({error})") from error
    return read_settings(given, key=SETTINGS_VARIABLE)


def _number(value: Any) -> float:
    """A reward as OpenRLHF has it: a number, a list or tensor of one, or nothing (NaN)."""
    if value is None:
        return math.nan
    if hasattr(value, "tolist"):
        value = value.tolist()
    while isinstance(value, (list, tuple)):
        value = value[0] if value else math.nan
    return float(value)
