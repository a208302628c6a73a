"""What a pool of prompts is known by: its fingerprint, and the look-up of pools too large for a dictionary."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, runtime_checkable

from insight_rl.types import Prompt


@runtime_checkable
class IndexedPool(Protocol):
    """A pool too large for a dictionary of its ids: it looks them up itself and has a fingerprint of its own."""

    fingerprint: str
    """Changes when the prompts or their order change; a checkpoint of another pool is refused by it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Prompt: ...

    def __iter__(self) -> Iterator[Prompt]: ...

    def index_of(self, prompt_id: str) -> int:
        """Raises ``KeyError`` for an id that is not in the pool."""
        ...


def pool_fingerprint(prompts: Iterable[Prompt], fields: Sequence[str] = ()) -> str:
    """Identity of a pool: a hash of id, task and these metadata ``fields`` of every prompt, in order."""
    digest = hashlib.blake2b(json.dumps(sorted(fields)).encode(), digest_size=16)
    for prompt in prompts:
        numbers = [prompt.metadata.get(field) for field in sorted(fields)]
        digest.update(f"{len(prompt.id)}:{prompt.id}{len(prompt.task)}:{prompt.task}{numbers}".encode())
    return digest.hexdigest()
