"""``task=verifiers``: the tasks of a single-turn environment of the verifiers library as prompts.

The model is prompted with our tokens by its own chat template, and what it samples is trained on as it was sampled: the
environment sees texts alone. Which environments, and how replies are scored:
:mod:`insight_rl.reward.verifiers_environment`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from insight_rl.errors import check
from insight_rl.reward.verifiers_environment import (
    check_environment,
    check_settings,
    messages_of,
    open_environment,
)
from insight_rl.seeding import derive_seed
from insight_rl.task.base import PromptEncoder
from insight_rl.types import PROMPT_STYLES, Prompt

NAME = "verifiers"


class _Row(NamedTuple):
    id: str
    data: dict[str, Any]


class VerifiersTask:
    """The pool and the held-out problems of the environment ``env``.

    ``settings`` are those of its taskset (``--env.taskset.*`` in the library's own commands). Held out are ``num_test``
    of its tasks, drawn by ``seed``; with ``test_settings`` those of a second taskset, whose settings differ by them
    (``{split: test}``), and ``num_test: null`` takes all of these. ``max_tasks`` of either are read at most.

    A prompt's ``task`` is the environment's module name, so that a mixture can tell several of them apart.
    """

    name = NAME

    def __init__(
        self,
        *,
        env: str | None,
        settings: Mapping[str, Any] | None,
        test_settings: Mapping[str, Any] | None,
        style: str,
        max_tasks: int | None,
        num_test: int | None,
        seed: int,
    ) -> None:
        check(style in PROMPT_STYLES, "task.style", style, f"use one of {', '.join(PROMPT_STYLES)}")
        check(max_tasks is None or max_tasks >= 1, "task.max_tasks", max_tasks, "must be at least 1, or null for all")
        check(num_test is None or num_test >= 0, "task.num_test", num_test, "must be at least 0")
        is_known = num_test is not None or test_settings is not None
        check(is_known, "task.num_test", num_test, "say how many to hold out, or give task.test_settings")
        check(seed >= 0, "task.seed", seed, "must be at least 0")
        self._module = check_environment("task.env", env)
        for key, each in (("settings", settings), ("test_settings", test_settings)):
            check_settings(f"task.{key}", each)
        self._settings = dict(settings or {})
        self._test_settings = None if test_settings is None else {**self._settings, **test_settings}
        self._style = style
        self._max_tasks = max_tasks
        self._num_test = num_test
        self._seed = seed
        self._split: tuple[list[_Row], list[_Row]] | None = None

    def train_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        pool, held_out = self._rows()
        asked = {prompt.text for prompt in self._prompts(held_out, encoder)}
        return [prompt for prompt in self._prompts(pool, encoder) if prompt.text not in asked]

    def test_prompts(self, encoder: PromptEncoder) -> list[Prompt]:
        return self._prompts(self._rows()[1], encoder)

    def _rows(self) -> tuple[list[_Row], list[_Row]]:
        """Pool and held-out tasks; read once, since environments may load slowly."""
        if self._split is None:
            rows = self._read(self._settings)
            others = rows if self._test_settings is None else self._read(self._test_settings)
            ids = sorted({row.id for row in others}, key=lambda each: (derive_seed(self._seed, NAME, each), each))
            chosen = set(ids[: self._num_test])
            held_out = [row for row in others if row.id in chosen]
            self._split = ([row for row in rows if row.id not in chosen], held_out)
        return self._split

    def _read(self, settings: Mapping[str, Any]) -> list[_Row]:
        environment = open_environment("task", self._module, settings)
        return [
            _Row(f"{self._module}/{hashlib.blake2b(identity.encode(), digest_size=8).hexdigest()}", data)
            for identity, data in environment.rows(self._max_tasks)
        ]

    def _prompts(self, rows: list[_Row], encoder: PromptEncoder) -> list[Prompt]:
        prompts = []
        for row in rows:
            messages = messages_of(row.data)
            wording = "\n\n".join(message["content"] for message in messages)
            text, token_ids = encoder.encode(messages if self._style == "chat" else wording)
            prompts.append(
                Prompt(id=row.id, task=self._module, text=text, token_ids=token_ids, answer={"data": row.data})
            )
        return prompts
