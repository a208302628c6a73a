"""``reward=verifiers``: the rewards of a single-turn environment of the verifiers library.

They are the environment's own code: they run in the judging processes, within the deadline, and what they raise is no
verdict. Which environments: :mod:`insight_rl.reward.verifiers_environment`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from insight_rl.errors import UsageError, check, is_number
from insight_rl.reward.base import BaseReward
from insight_rl.reward.verifiers_environment import LIBRARY, check_environment, check_settings, open_environment
from insight_rl.types import Completion, Prompt, Reward


class VerifiersReward(BaseReward):
    """The value is the weighted sum of the environment's rewards; a success is a score of ``success_at`` or more.

    The score is that sum, or with ``success_reward`` what the reward or metric of that name gives, without its weight.
    ``split_reasoning``: what stands before the last ``</think>`` becomes the message's ``reasoning_content``, as the
    library's own client does for reasoning models; otherwise the environment gets the whole text as the reply.
    ``Prompt.answer`` is ``{"data": {...}}``, the data of the task as JSON.
    """

    def __init__(
        self,
        *,
        env: str | None,
        settings: Mapping[str, Any] | None,
        success_reward: str | None,
        success_at: float,
        split_reasoning: bool,
    ) -> None:
        self._module = check_environment("reward.env", env)
        check_settings("reward.settings", settings)
        check(is_number(success_at), "reward.success_at", success_at, "must be a number")
        self._settings = dict(settings or {})
        self._success_reward = success_reward
        self._success_at = success_at
        self._split_reasoning = split_reasoning
        self.worker_modules = (LIBRARY, self._module)
        """Seconds of import, before the clock of the first verdict starts."""

    def __call__(self, prompt: Prompt, completion: Completion) -> Reward:
        data = _read(prompt.answer)
        environment = open_environment("reward", self._module, self._settings)
        scored = environment.score(
            data,
            reply(completion.text, split_reasoning=self._split_reasoning),
            num_tokens=len(completion.token_ids),
            is_cut=completion.is_truncated,
        )
        score = scored.total
        if self._success_reward is not None:
            if self._success_reward not in scored.scores:
                names = ", ".join(scored.scores)
                raise UsageError(f"reward.success_reward={self._success_reward!r}: the environment has {names}")
            score = scored.scores[self._success_reward]
        if not all(math.isfinite(number) for number in (score, scored.total)):
            raise ValueError(f"the environment's score is {score}, its sum {scored.total}")
        success = score >= self._success_at
        status = "correct" if success else "wrong"
        return Reward(value=scored.total, success=success, status=status, parts=scored.weighted)

    def explain_unusable(self, answer: Any) -> str | None:
        try:
            _read(answer)
        except UsageError as error:
            return str(error)
        return None

    def check_start(self) -> None:
        open_environment("reward", self._module, self._settings)


def reply(text: str, *, split_reasoning: bool) -> dict[str, str]:
    """The assistant's message: ``{"content": ...}``, and ``reasoning_content`` if it is split off."""
    if not split_reasoning:
        return {"content": text}
    thought, end, said = text.rpartition("</think>")
    if end:
        return {"reasoning_content": thought.strip().removeprefix("<think>").strip(), "content": said.strip()}
    if text.lstrip().startswith("<think>"):
        return {"reasoning_content": text.strip().removeprefix("<think>").strip(), "content": ""}
    return {"content": text}


def _read(answer: Any) -> Mapping[str, Any]:
    data = answer.get("data") if isinstance(answer, Mapping) else None
    if not isinstance(data, Mapping) or not isinstance(data.get("prompt"), (str, list)):
        raise UsageError(
            f'answer {str(answer)[:60]!r}: needs the form {{"data": {{"prompt": ...}}}} of a verifiers task'
        )
    return data
