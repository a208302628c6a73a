"""Pools of prompt ids: uploaded in chunks, sealed, and then shared by every run on them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

from insight_rl.selector.indexed_pool import pool_fingerprint
from insight_rl.selector_service import schema
from insight_rl.selector_service.schema import Refused
from insight_rl.selector_service.store import Store
from insight_rl.types import Prompt


class PromptIds:
    """A pool as a selector sees it: ids, tasks and numbers in order; prompts without text are made on demand."""

    def __init__(self, ids: list[str], tasks: list[str], numbers: dict[str, list[float | None]]) -> None:
        """Raises ``Refused`` for an id that occurs twice."""
        self.ids = ids
        self.tasks = tasks
        self.numbers = numbers
        self._index_by_id = {prompt_id: index for index, prompt_id in enumerate(ids)}
        if len(self._index_by_id) < len(ids):
            twice = next(each for index, each in enumerate(ids) if self._index_by_id[each] != index)
            raise Refused(409, f"prompt id {twice!r} occurs twice in the pool; delete the pool and send distinct ids")
        self.fingerprint = pool_fingerprint(self, list(numbers))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int, /) -> Prompt:
        metadata = {field: values[index] for field, values in self.numbers.items() if values[index] is not None}
        return Prompt(id=self.ids[index], task=self.tasks[index], text="", token_ids=(), answer=None, metadata=metadata)

    def __iter__(self) -> Iterator[Prompt]:
        return map(self.__getitem__, range(len(self)))

    def index_of(self, prompt_id: str) -> int:
        return self._index_by_id[prompt_id]


class HostedPool:
    """Prompt ids, uploaded in chunks and then sealed; loaded when a run first needs them."""

    def __init__(self, store: Store, name: str) -> None:
        self._store = store
        self.name = name
        self._lock = threading.Lock()
        self._prompts: PromptIds | None = None

    def put_chunk(self, number: int, chunk: schema.PoolChunk) -> schema.PoolInfo:
        """Idempotent; a chunk that is there already with other content is a conflict."""
        content = chunk.model_dump_json()
        with self._lock:
            known = self._store.read("SELECT content FROM chunks WHERE pool = ? AND number = ?", self.name, number)
            if known and known[0][0] != content:
                raise Refused(
                    409, f"chunk {number} of pool {self.name} is there with other content; delete the pool first"
                )
            if not known:
                if self.info().is_sealed:
                    raise Refused(409, f"pool {self.name} is sealed and cannot grow; make another pool")
                # Unless the pool has just been deleted.
                statement = "INSERT INTO chunks SELECT pool, ?, ? FROM pools WHERE pool = ?"
                self._store.submit(lambda db: db.execute(statement, (number, content, self.name))).result()
        return self.info()

    def seal(self, request: schema.SealPool) -> schema.PoolInfo:
        """Idempotent. Raises ``Refused`` unless the chunks make up the pool that the client describes."""
        with self._lock:
            prompts = self._prompts or self._load()
            if len(prompts) != request.num_prompts:
                raise Refused(
                    409, f"pool {self.name} has {len(prompts)} prompts, not {request.num_prompts}; send the rest"
                )
            if request.fingerprint not in (None, prompts.fingerprint):
                raise Refused(409, f"pool {self.name} has fingerprint {prompts.fingerprint}; ids or their order differ")
            if not self.info().is_sealed:
                values = (len(prompts), prompts.fingerprint, self.name)
                statement = "UPDATE pools SET num_prompts = ?, fingerprint = ? WHERE pool = ?"
                self._store.submit(lambda db: db.execute(statement, values)).result()
            self._prompts = prompts
        return self.info()

    def prompts(self) -> PromptIds:
        """The sealed pool; shared by all runs on it."""
        with self._lock:
            if self._prompts is None:
                if not self.info().is_sealed:
                    raise Refused(409, f"pool {self.name} is not sealed yet; send its chunks, then POST .../seal")
                prompts = self._load()
                if prompts.fingerprint != self.info().fingerprint:
                    raise Refused(500, f"pool {self.name} is damaged on disk: its ids have changed; restore a copy")
                self._prompts = prompts
            return self._prompts

    def _load(self) -> PromptIds:
        ids: list[str] = []
        tasks: list[str] = []
        numbers: dict[str, list[float | None]] = {}
        rows = self._store.scan("SELECT number, content FROM chunks WHERE pool = ? ORDER BY number", self.name)
        for expected, (number, content) in enumerate(rows):
            if number != expected:
                raise Refused(409, f"pool {self.name} lacks chunk {expected}; send it before sealing")
            chunk = json.loads(content)
            for field in chunk["numbers"].keys() | numbers.keys():
                values = numbers.setdefault(field, [None] * len(ids))
                values += chunk["numbers"].get(field) or [None] * len(chunk["ids"])
            ids += chunk["ids"]
            tasks += chunk["tasks"] * len(chunk["ids"]) if len(chunk["tasks"]) == 1 else chunk["tasks"]
        return PromptIds(ids, tasks, numbers)

    def info(self) -> schema.PoolInfo:
        rows = self._store.read("SELECT num_prompts, fingerprint FROM pools WHERE pool = ?", self.name)
        if not rows:
            raise Refused(404, f"there is no pool {self.name}")
        (size, fingerprint), numbers = rows[0], "SELECT count(*) FROM chunks WHERE pool = ?"
        return schema.PoolInfo(
            pool=self.name,
            is_sealed=fingerprint is not None,
            num_chunks=self._store.read(numbers, self.name)[0][0],
            num_prompts=size or 0,
            fingerprint=fingerprint,
        )
