"""Whole numbers in given shares."""

from __future__ import annotations

from collections.abc import Mapping


def split_by_shares(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """``total`` in parts of the given shares (which add up to 1): rounded down, the rest to the largest remainders.

    Example::

        split_by_shares(10, {"a": 0.25, "b": 0.75})  # {"a": 3, "b": 7}: equal remainders go to the first
    """
    exact = {name: share * total for name, share in shares.items()}
    # 0.07 * 100 is 7.000000000000001, 0.29 * 100 is 28.999999999999996: both are meant to be whole.
    sizes = {name: int(size + 1e-9) for name, size in exact.items()}
    by_remainder = sorted(exact, key=lambda name: exact[name] - sizes[name], reverse=True)
    for name in by_remainder[: total - sum(sizes.values())]:
        sizes[name] += 1
    return sizes
