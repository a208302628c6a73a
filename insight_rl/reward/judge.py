"""What both judges share, and the judge that works in the trainer's own process: for rewards that end soon."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence

from insight_rl.errors import RunStopped, UsageError, check
from insight_rl.reward.base import RewardFn
from insight_rl.types import Completion, Prompt, Reward

WINDOW = 512
MIN_VERDICTS = 64


def judge_one(reward: RewardFn, prompt: Prompt, completion: Completion) -> tuple[Reward, bool]:
    """The reward of one completion; an exception is the status ``error`` with its reason, never a verdict.

    Also returns whether judging ran out of memory: a worker process is then replaced, since its heap is fragmented.
    """
    try:
        result = reward(prompt, completion)
    except MemoryError:
        return unjudged("error", "MemoryError: judging needs more memory than there is (judge.max_memory_mb)"), True
    except UsageError as error:
        return unjudged("error", str(error)), False
    except Exception as error:
        # Whatever a reward raises on untrusted text is counted as an error of the verifier and reported by name.
        return unjudged("error", f"{type(error).__name__}: {error}"), False
    if not isinstance(result, Reward):
        return unjudged("error", f"the reward function returned {type(result).__name__}, not Reward"), False
    return result, False


def unjudged(status: str, reason: str) -> Reward:
    """A completion without a verdict: neither trained on nor counted as a failure."""
    return Reward(value=0.0, success=None, status=status, reason=reason)


class UnjudgedAlarm:
    """Stops a run whose verifier fails too often.

    ``max_fraction``: largest share of rewards without a verdict among the last ``WINDOW``, of which at least
    ``MIN_VERDICTS`` are assumed to exist; 1 switches the alarm off.
    """

    def __init__(self, max_fraction: float) -> None:
        check(0 < max_fraction <= 1, "judge.max_unjudged_fraction", max_fraction, "must be above 0 and at most 1")
        self._max_fraction = max_fraction
        self._recent: deque[bool] = deque(maxlen=WINDOW)
        self._reasons: Counter[str] = Counter()

    def watch(self, reward: Reward) -> None:
        """Count ``reward``. Raises ``RunStopped`` with the most frequent reasons above ``max_fraction``."""
        self._recent.append(not reward.is_judged)
        if reward.is_judged:
            return
        self._reasons[f"{reward.status}: {reward.reason}"] += 1
        num_unjudged = sum(self._recent)
        if num_unjudged > self._max_fraction * max(len(self._recent), MIN_VERDICTS):
            reasons = "; ".join(f"{count} x {reason}" for reason, count in self._reasons.most_common(3))
            raise RunStopped(
                f"{num_unjudged} of the last {len(self._recent)} completions could not be judged, more than "
                f"judge.max_unjudged_fraction={self._max_fraction:g}: {reasons}; test the reward on its own with "
                "`insight-rl judge`"
            )


class InProcessJudge:
    """See :class:`~insight_rl.reward.base.Judge`; a reward that can hang belongs in a ``JudgeProcesses``.

    ``max_unjudged_fraction``: see :class:`UnjudgedAlarm`.
    """

    def __init__(self, reward: RewardFn, *, max_unjudged_fraction: float = 1.0) -> None:
        self._reward = reward
        self._alarm = UnjudgedAlarm(max_unjudged_fraction)
        self._submitted: list[tuple[Prompt, Sequence[Completion]]] = []

    def submit(self, prompt: Prompt, completions_G: Sequence[Completion]) -> None:
        self._submitted.append((prompt, completions_G))

    def collect(self) -> list[tuple[Reward, ...]]:
        submitted, self._submitted = self._submitted, []
        return [tuple(self._judge(prompt, c) for c in completions_G) for prompt, completions_G in submitted]

    def _judge(self, prompt: Prompt, completion: Completion) -> Reward:
        reward, _ = judge_one(self._reward, prompt, completion)
        self._alarm.watch(reward)
        return reward

    def close(self) -> None:
        self._submitted.clear()
