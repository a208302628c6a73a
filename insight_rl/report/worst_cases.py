"""Which rollouts of a run are worth a look: no verdict, cut off, or something about the verdict that does not fit."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from insight_rl.report.run_files import Rollout, RolloutGroup

NUM_LARGEST = 20
"""How many of the largest gaps and lengths are marked."""
MARKERS = ("\\boxed", "####", "<answer>", "answer is", "answer:")
"""What answers are announced with, in lower case."""
USUAL = 0.5
"""A marker is the run's own if more than this share of its right completions has it."""
MIN_RIGHT = 10
REPETITIVE = 0.12
"""Texts of :data:`MIN_REPETITIVE` characters or more that shrink below this share when they are compressed."""
MIN_REPETITIVE = 400


Place = tuple[int, int]
"""Number of the group, and of the rollout in it."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind of worst case."""

    key: str
    title: str
    meaning: str
    remedy: str
    order: str = ""
    """In which a page shows them: of rollouts.js."""


KINDS = (
    Kind(
        key="unjudged",
        title="not judged",
        meaning="the verifier came to no verdict; such a rollout is neither trained on nor counted",
        remedy="the card says why; judge.deadline_s and judge.max_memory_mb are the usual limits",
    ),
    Kind(
        key="truncated",
        title="cut off",
        meaning="ended at the length limit before the model stopped by itself",
        remedy="if there are many, raise trainer.max_completion_tokens",
    ),
    Kind(
        key="right_but_cut",
        title="right, though cut off",
        meaning="judged right without an end: the verifier may have taken an interim result",
        remedy="read where the answer stands",
    ),
    Kind(
        key="no_marker",
        title="right without the usual marker",
        meaning="judged right, but without the words or signs that most right answers of this run have",
        remedy="read whether the verifier took some other number for the answer",
    ),
    Kind(
        key="two_verdicts",
        title="one text, two verdicts",
        meaning="another rollout of the same prompt has the very same text and another verdict",
        remedy="a verifier must not do this; see `insight-rl audit-rewards`",
    ),
    Kind(
        key="repetitive",
        title="repeats itself",
        meaning="the text says the same over and over",
        remedy="often the first sign of a policy that collapses",
    ),
    Kind(
        key="gap",
        title="largest log-prob gaps",
        meaning=f"the {NUM_LARGEST} rollouts on which engine and learner agree least",
        remedy="compare with rollout/logprob_gap_mean in docs/metrics.md for what is usual",
        order="gap",
    ),
    Kind(
        key="longest",
        title="longest",
        meaning=f"the {NUM_LARGEST} rollouts with the most tokens",
        remedy="long and wrong may mean that the model does not know when to stop",
        order="tokens",
    ),
)


def find_worst_cases(groups: Sequence[RolloutGroup]) -> dict[Place, list[str]]:
    """Keys of :data:`KINDS` by place; without rollouts that are of none."""
    rollouts = [(place, each) for place, each in _numbered(groups)]
    found: dict[Place, list[str]] = {}
    marker = usual_marker([each for _, each in rollouts])
    gaps = _largest(rollouts, lambda each: each.gap or 0.0)
    lengths = _largest(rollouts, lambda each: float(each.tokens))
    doubtful = _with_two_verdicts(groups)
    for place, each in rollouts:
        holds = {
            "unjudged": each.success is None,
            "truncated": each.is_truncated,
            "right_but_cut": each.is_truncated and each.success is True,
            "no_marker": marker is not None and each.success is True and marker not in each.text.lower(),
            "two_verdicts": place in doubtful,
            "repetitive": _is_repetitive(each.text),
            "gap": place in gaps,
            "longest": place in lengths,
        }
        if keys := [key for key, is_so in holds.items() if is_so]:
            found[place] = keys
    return found


def usual_marker(rollouts: Sequence[Rollout]) -> str | None:
    """The marker that most right completions have; None where there is none, or too few are right to tell."""
    texts = [each.text.lower() for each in rollouts if each.success]
    if len(texts) < MIN_RIGHT:
        return None
    shares = {marker: sum(marker in text for text in texts) / len(texts) for marker in MARKERS}
    best = max(MARKERS, key=lambda marker: shares[marker])
    return best if shares[best] > USUAL else None


def _numbered(groups: Sequence[RolloutGroup]) -> Iterator[tuple[Place, Rollout]]:
    for number, group in enumerate(groups):
        for place, rollout in enumerate(group.rollouts):
            yield (number, place), rollout


def _largest(rollouts: Sequence[tuple[Place, Rollout]], size: Callable[[Rollout], float]) -> set[Place]:
    """The places of the largest; none where all are equal, or none has a size."""
    sizes = {place: size(each) for place, each in rollouts}
    if not sizes or max(sizes.values()) <= 0 or min(sizes.values()) == max(sizes.values()):
        return set()
    return set(sorted(sizes, key=lambda place: -sizes[place])[:NUM_LARGEST])


def _with_two_verdicts(groups: Sequence[RolloutGroup]) -> set[Place]:
    found = set()
    for number, group in enumerate(groups):
        verdicts: dict[str, set[bool]] = {}
        for each in group.rollouts:
            # A cut text is not known to be the same.
            if each.success is not None and not each.num_cut:
                verdicts.setdefault(each.text, set()).add(each.success)
        doubtful = {text for text, of_text in verdicts.items() if len(of_text) > 1}
        found |= {(number, place) for place, each in enumerate(group.rollouts) if each.text in doubtful}
    return found


def _is_repetitive(text: str) -> bool:
    content = text.encode("utf-8", "backslashreplace")
    return len(content) >= MIN_REPETITIVE and len(zlib.compress(content, 1)) < REPETITIVE * len(content)
