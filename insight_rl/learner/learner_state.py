"""``learner.json`` of a checkpoint: what the ranks' files do not say."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from insight_rl.errors import UsageError

STATE_FILE = "learner.json"
_MAX_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True)
class LearnerState:
    """How far the schedule is, and what a learner must have in common with a checkpoint to go on from it.

    Example::

        LearnerState(kind="AccelerateLearner", lora=None, base=None, num_steps_done=20)
    """

    kind: str
    """Name of the learner's class."""
    lora: dict[str, Any] | None
    """The adapter's settings, as JSON has them; ``None``: the whole model is trained."""
    base: str | None
    """With an adapter: fingerprint of the model beside it, which the checkpoint does not hold."""
    num_steps_done: int

    def content(self) -> bytes:
        """Of the file."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def read(cls, folder: Path) -> LearnerState:
        """From the learner's part of a checkpoint. Raises ``UsageError`` where the file is damaged."""
        file = folder / STATE_FILE
        try:
            with file.open("rb") as stream:
                state = json.loads(stream.read(_MAX_BYTES))
            lora = state["lora"]
            if not isinstance(lora, (dict, type(None))):
                raise ValueError(f"lora is {lora!r}")
            return cls(
                kind=str(state["kind"]), lora=lora, base=state["base"], num_steps_done=int(state["num_steps_done"])
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UsageError(f"{file}: damaged ({error}); remove this checkpoint to go on from an older one") from error
