"""Derives every seed of a run from the run's one seed.

A derived seed depends only on the run's seed and on *names* (purpose, step, prompt id), not on how many random numbers
were drawn before. So a resumed run continues with the same numbers, and two selectors that are compared under one seed
get the same ones.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: int | str) -> int:
    """A 32-bit seed, which every library accepts, for the purpose that ``names`` give.

    Example: ``derive_seed(7, "rollout", 3)`` for the rollouts of step 3 in the run of seed 7.
    """
    message = "\x1f".join([str(seed), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "big")
