"""What is in a set of prompts: lengths, kinds of answers, repeats and leaks, for people to look at before a run."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from insight_rl.reward.math.judge import is_text_only
from insight_rl.task.overlap import Overlap, leaks, repeats, without_boilerplate
from insight_rl.types import Prompt

_INTEGER = re.compile(r"[-+]?\d[\d,]*")
_DECIMAL = re.compile(r"[-+]?[\d,]*\.\d+(?:e[-+]?\d+)?|[-+]?\d+e[-+]?\d+", re.IGNORECASE)
_FRACTION = re.compile(r"[-+]?(?:\\d?frac\s*\{?-?\d+\}?\s*\{?\d+\}?|\d+/\d+)")
_COUNTED = 8
"""A metadata field with at most so many values is summarised by the count of each; others by the number of values."""


@dataclass(frozen=True, kw_only=True)
class SplitSummary:
    num_prompts: int
    num_repeated: int
    """Prompts that are there before, spacing and markup aside."""
    token_lengths: Mapping[str, int]
    """min, median, p90, max."""
    answer_kinds: Mapping[str, int]
    num_text_only: int
    """Gold answers that are words or that ``reward=math`` cannot read, so that answers are compared with their text."""
    first_text_only: str | None
    metadata: Mapping[str, Mapping[str, int]]
    """Field -> value -> prompts; ``{"different values": n}`` for a field of many."""


def summarise_split(prompts: Sequence[Prompt]) -> SplitSummary:
    lengths = sorted(len(prompt.token_ids) for prompt in prompts)
    places = {"min": 0, "median": len(lengths) // 2, "p90": int(0.9 * (len(lengths) - 1)), "max": len(lengths) - 1}
    texts = [prompt.text for prompt in prompts]
    text_only = [gold for prompt in prompts for gold in _golds(prompt.answer) if is_text_only(gold)]
    return SplitSummary(
        num_prompts=len(prompts),
        num_repeated=sum(len(indices) - 1 for indices in repeats(texts)),
        token_lengths={name: lengths[place] for name, place in places.items()},
        answer_kinds=dict(Counter(answer_kind(prompt.answer) for prompt in prompts).most_common()),
        num_text_only=len(text_only),
        first_text_only=text_only[0] if text_only else None,
        metadata=_counted_metadata(prompts),
    )


def find_leaks(train: Sequence[Prompt], test: Sequence[Prompt]) -> list[Overlap]:
    """Test prompts that are, or nearly are, training prompts; the wording that all prompts share does not count."""
    texts = without_boilerplate([prompt.text for prompt in (*train, *test)])
    return leaks(texts[: len(train)], texts[len(train) :])


def answer_kind(answer: Any) -> str:
    """E.g. ``"integer"``, ``"fraction"``, ``"expression"``, ``"one of 4"``."""
    if isinstance(answer, Mapping):
        if "letter" in answer:
            return f"one of {answer.get('num_choices', '?')}"
        return answer_kind(answer["gold"]) + " with tolerance" if "gold" in answer else " and ".join(sorted(answer))
    if isinstance(answer, (list, tuple)):
        return f"{len(answer)} acceptable"
    text = str(answer).strip().strip("$").strip()
    for kind, pattern in (("integer", _INTEGER), ("decimal", _DECIMAL), ("fraction", _FRACTION)):
        if pattern.fullmatch(text):
            return kind
    return "expression" if re.search(r"[\d\\^=+*/(){}<>|]", text) else "words"


def _golds(answer: Any) -> list[str]:
    """The texts that ``reward=math`` compares with; empty for the answers of other rewards."""
    if isinstance(answer, Mapping):
        return _golds(answer["gold"]) if "gold" in answer else []
    options = answer if isinstance(answer, (list, tuple)) else [answer]
    return [option for option in options if isinstance(option, str)]


def _counted_metadata(prompts: Sequence[Prompt]) -> dict[str, dict[str, int]]:
    counts: dict[str, Counter[str]] = {}
    for prompt in prompts:
        for field, value in prompt.metadata.items():
            counts.setdefault(field, Counter())[str(value)] += 1
    return {
        field: dict(counter.most_common()) if len(counter) <= _COUNTED else {"different values": len(counter)}
        for field, counter in counts.items()
    }
