"""Texts that are the same, or nearly: repeats within a set, and test problems that leaked into training.

Pure functions on texts. Knows no tasks and no models.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

SHINGLE_WORDS = 8
"""Words of one shingle. Long enough for two problems of one kind to share few, short enough to survive edits."""
MIN_SHINGLES = 4
"""Of a text that is compared at all; shorter ones are only compared as a whole."""
MAX_HOLDERS = 50
"""Shingles that more test texts than this hold are phrases of the trade; they count for nothing."""

_MARKUP = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[,!;:()\[\]]|[$`]|\*\*")
_MARKS = re.compile(r"[.,;:!?'\"](?!\d)")
_IDLE_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """Test text ``test`` and train text ``train`` (indices) share ``share`` of the test text's shingles (1: equal)."""

    test: int
    train: int
    share: float


def normalised(text: str) -> str:
    """Without case, markup, sentence marks and idle space; signs and numbers stay apart: ``3 - 5`` is not ``3 + 5``,
    ``1 23`` is not ``12 3``."""
    text = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _IDLE_SPACE.sub("", " ".join(_MARKS.sub("", text).split()))


def repeats(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Groups of indices of texts that are equal after :func:`normalised`, each with two or more."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normalised(text)].append(index)
    return [tuple(indices) for indices in groups.values() if len(indices) > 1]


def leaks(train: Sequence[str], test: Sequence[str], *, min_share: float = 0.7) -> list[Overlap]:
    """For each test text that has one, its nearest train text: equal after normalising, or sharing ``min_share`` of
    its shingles of :data:`SHINGLE_WORDS` words. Boilerplate that many test texts share should be cut off before."""
    found: dict[int, Overlap] = {}
    test_of_text: defaultdict[str, list[int]] = defaultdict(list)
    holders: defaultdict[int, list[int]] = defaultdict(list)
    for index, text in enumerate(test):
        test_of_text[normalised(text)].append(index)
        for shingle in _shingles(text):
            holders[shingle].append(index)
    tests_of_shingle = {shingle: indices for shingle, indices in holders.items() if len(indices) <= MAX_HOLDERS}
    num_shingles = Counter(index for indices in tests_of_shingle.values() for index in indices)
    for train_index, text in enumerate(train):
        shared: Counter[int] = Counter()
        for shingle in _shingles(text):
            shared.update(tests_of_shingle.get(shingle, ()))
        shares = {i: count / num_shingles[i] for i, count in shared.items() if num_shingles[i] >= MIN_SHINGLES}
        shares |= dict.fromkeys(test_of_text.get(normalised(text), ()), 1.0)
        for index, share in shares.items():
            if share >= min_share and (index not in found or share > found[index].share):
                found[index] = Overlap(test=index, train=train_index, share=share)
    return [found[index] for index in sorted(found)]


def without_boilerplate(texts: Sequence[str]) -> list[str]:
    """The texts without the beginning and the end that all of them share (a template); one alone stays as it is."""
    if len(set(texts)) < 2:
        return list(texts)
    low, high = min(texts), max(texts)
    start = _shared_length(low, high)
    low, high = min(reversed_texts := [text[start:][::-1] for text in texts]), max(reversed_texts)
    end = _shared_length(low, high)
    return [text[start : len(text) - end] for text in texts]


def _shared_length(a: str, b: str) -> int:
    """Of the common beginning. Of the least and the greatest of many texts it is that of all."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shingles(text: str) -> set[int]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return {hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1)}
