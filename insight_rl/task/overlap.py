"""Finds texts that are equal or nearly equal: repeats within a set, and test problems that are in the training set too.

A *shingle* is a run of :data:`SHINGLE_WORDS` words; two texts are near when they share most of their shingles.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

SHINGLE_WORDS = 8
"""Words of one shingle: many enough that two different problems of one kind share few shingles, few enough that an
edited problem keeps most of its own."""
MIN_SHINGLES = 4
"""A text with fewer shingles is only compared as a whole."""
MAX_HOLDERS = 50
"""Shingles found in more than this many test texts are stock phrases and are ignored."""

_MARKUP = re.compile(r"\\(?:left|right|displaystyle)(?![a-z])|\\[,!;:()\[\]]|[$`]|\*\*")
_PUNCTUATION = re.compile(r"[.,;:!?'\"](?!\d)")
_NEEDLESS_SPACE = re.compile(r"(?<!\w) | (?!\w)")
_WORD = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """A test text and the training text nearest to it.

    Example::

        Overlap(test=3, train=17, share=0.8)  # 80 % of the shingles of test text 3 are in training text 17
    """

    test: int
    """Index of the test text."""

    train: int
    """Index of the training text."""

    share: float
    """Share of the test text's shingles that the training text has; 1: the texts are equal after normalising."""


def normalised(text: str) -> str:
    """The text in lower case, without markup, punctuation and needless spaces.

    Signs and the borders of numbers stay: ``3 - 5`` is not ``3 + 5``, and ``1 23`` is not ``12 3``.
    """
    text = _MARKUP.sub(" ", unicodedata.normalize("NFKC", text).casefold())
    return _NEEDLESS_SPACE.sub("", " ".join(_PUNCTUATION.sub("", text).split()))


def repeats(texts: Sequence[str]) -> list[tuple[int, ...]]:
    """Indices of the texts that are equal after :func:`normalised`, as groups of two or more."""
    groups: defaultdict[str, list[int]] = defaultdict(list)
    for index, text in enumerate(texts):
        groups[normalised(text)].append(index)
    return [tuple(indices) for indices in groups.values() if len(indices) > 1]


def leaks(train: Sequence[str], test: Sequence[str], *, min_share: float = 0.7) -> list[Overlap]:
    """The test texts that are in the training set too, each with its nearest training text, in the order of the tests.

    Near is equal after :func:`normalised`, or sharing at least ``min_share`` of the test text's shingles. Cut off what
    all prompts share (:func:`without_boilerplate`) before, or every pair looks near.
    """
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
    """The texts without the beginning and the end that all of them share, such as a template or an instruction."""
    if len(set(texts)) < 2:
        return list(texts)
    low, high = min(texts), max(texts)
    start = _shared_length(low, high)
    low, high = min(reversed_texts := [text[start:][::-1] for text in texts]), max(reversed_texts)
    end = _shared_length(low, high)
    return [text[start : len(text) - end] for text in texts]


def _shared_length(a: str, b: str) -> int:
    """Length of the common beginning. For the first and the last of sorted texts it is that of all of them."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _shingles(text: str) -> set[int]:
    words = _WORD.findall(unicodedata.normalize("NFKC", text).casefold())
    return {hash(tuple(words[i : i + SHINGLE_WORDS])) for i in range(len(words) - SHINGLE_WORDS + 1)}
