"""A pool of prompts on disk that opens in no time at any size. Knows nothing of beliefs.

A folder of `prompts.jsonl` (one prompt a line) with three arrays beside it: where each line starts, and the sorted
hashes of the ids with the positions they belong to. Nothing is read but what is asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import overload

import numpy as np

from insight_rl.errors import check
from insight_rl.types import Prompt

_FIELDS = tuple(field.name for field in fields(Prompt))


class DiskPool(Sequence[Prompt]):
    """Opens what :func:`write_pool` wrote; satisfies :class:`~insight_rl.selector.pool.IndexedPool`."""

    def __init__(self, folder: Path) -> None:
        header_path = folder / "pool.json"
        check(header_path.is_file(), "pool", str(folder), "holds no pool.json; write the pool with write_pool")
        self.fingerprint: str = json.loads(header_path.read_text())["fingerprint"]
        self._lines = (folder / "prompts.jsonl").open("rb")
        self._offsets = (folder / "offsets.bin").open("rb")
        self._hashes = np.memmap(folder / "hashes.bin", np.uint64, "r")
        self._positions = np.memmap(folder / "positions.bin", np.int64, "r")

    def __len__(self) -> int:
        return len(self._hashes)

    @overload
    def __getitem__(self, index: int) -> Prompt: ...
    @overload
    def __getitem__(self, index: slice) -> list[Prompt]: ...
    def __getitem__(self, index: int | slice) -> Prompt | list[Prompt]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"position {index} in a pool of {len(self)} prompts")
        index %= len(self)
        start, end = np.frombuffer(os.pread(self._offsets.fileno(), 16, 8 * index), np.uint64).tolist()
        row = json.loads(os.pread(self._lines.fileno(), end - start, start))
        return Prompt(**{**row, "token_ids": tuple(row["token_ids"])})

    def index_of(self, prompt_id: str) -> int:
        """Position of an id, found by bisection; ``KeyError`` if it is not here."""
        wanted = _hash(prompt_id)
        first = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        while first < len(self) and int(self._hashes[first]) == wanted:
            position = int(self._positions[first])
            if self[position].id == prompt_id:
                return position
            first += 1
        raise KeyError(prompt_id)


def write_pool(prompts: Iterable[Prompt], folder: Path) -> int:
    """Write ``prompts`` (streamed; their answers and metadata must be JSON values) for :class:`DiskPool`; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    offsets, hashes = array("Q", [0]), array("Q")
    digest = hashlib.blake2b(digest_size=16)
    with (folder / "prompts.jsonl").open("wb") as file:
        for prompt in prompts:
            file.write(json.dumps({name: getattr(prompt, name) for name in _FIELDS}).encode() + b"\n")
            offsets.append(file.tell())
            hashes.append(_hash(prompt.id))
            digest.update(prompt.id.encode() + b"\n")
    check(len(hashes) > 0, "pool", 0, "a pool needs at least one prompt")
    unsorted = np.frombuffer(hashes, np.uint64)
    positions = np.argsort(unsorted, kind="stable")
    np.frombuffer(offsets, np.uint64).tofile(folder / "offsets.bin")
    unsorted[positions].tofile(folder / "hashes.bin")
    positions.astype(np.int64).tofile(folder / "positions.bin")
    _refuse_duplicates(folder, offsets, unsorted[positions], positions)
    (folder / "pool.json").write_text(json.dumps({"fingerprint": digest.hexdigest(), "num_prompts": len(hashes)}))
    return len(hashes)


def _refuse_duplicates(folder: Path, offsets: Sequence[int], hashes: np.ndarray, positions: np.ndarray) -> None:
    """Ids are compared only where their hashes agree, which but for duplicates is next to never."""
    agreeing = np.flatnonzero(hashes[1:] == hashes[:-1])
    if not len(agreeing):
        return
    with (folder / "prompts.jsonl").open("rb") as file:

        def id_at(slot: int) -> str:
            file.seek(offsets[int(positions[slot])])
            return str(json.loads(file.readline())["id"])

        for slot in agreeing.tolist():
            prompt_id = id_at(slot)
            check(prompt_id != id_at(slot + 1), "pool", prompt_id, "this prompt id occurs twice; drop the duplicate")


def _hash(prompt_id: str) -> int:
    return int.from_bytes(hashlib.blake2b(prompt_id.encode(), digest_size=8).digest(), "big")
