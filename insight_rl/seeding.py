"""Derives every seed of a run from the run's one seed. Owns no generator state.

A derived seed depends on the run's seed and on *names* (purpose, step, prompt id), never on how often something was
drawn before. So a resumed run continues with the same numbers, and two selectors compared under one seed share them.
"""

from __future__ import annotations

import hashlib


def derive_seed(seed: int, *names: int | str) -> int:
    """A 32-bit seed (what every library takes) for the purpose that ``names`` spell out: ``(7, "rollout", step)``."""
    message = "\x1f".join([str(seed), *map(str, names)]).encode()
    return int.from_bytes(hashlib.blake2b(message, digest_size=4).digest(), "big")
