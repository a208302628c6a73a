"""The interface of tasks: where prompts come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from insight_rl.types import Prompt

Messages = Sequence[Mapping[str, str]]
"""A chat, e.g. ``[{"role": "user", "content": "Make 24 from 3, 7, 12."}]``."""


class PromptEncoder(Protocol):
    """Turns text or a chat into the token ids the model at hand is prompted with (its chat template included)."""

    def encode(self, prompt: str | Messages) -> tuple[str, tuple[int, ...]]:
        """The prompt as text and as token ids. Raises ``UsageError`` where the model has no chat template."""
        ...


class Task(Protocol):
    """Makes the prompts to train on and the held-out prompts to evaluate on.

    Constructed by the config with keyword-only settings (cheap: values are checked, files are not read yet).
    The caller drops prompts that are too long, with a count: a task does not know the context length.
    """

    name: str

    def train_prompts(self, encoder: PromptEncoder) -> Sequence[Prompt]:
        """The pool. Raises ``UsageError`` naming file, row and remedy for data that cannot be used."""
        ...

    def test_prompts(self, encoder: PromptEncoder) -> Sequence[Prompt]:
        """Held-out problems; none of them is in the pool. May be empty."""
        ...
