"""Verdicts for tests of selection inside other frameworks: the same of a prompt however and whenever it is asked."""

from __future__ import annotations

import hashlib
from collections import Counter


def verdict_of(text, visit, k):
    """Success, failure or not judged (None) of rollout ``k`` when a prompt is rolled out for the ``visit``-th time."""
    number = hashlib.blake2b(repr((text, visit, k)).encode()).digest()[0]
    return None if number % 11 == 0 else number % 3 == 0


def by_visit():
    """:func:`verdict_of` as the ``verdict`` of ``own_decisions``, which counts steps and asks in order."""
    visits = Counter()

    def verdict(step, prompt, k):
        visits[prompt] += k == 0
        return verdict_of(prompt, visits[prompt], k)

    return verdict
