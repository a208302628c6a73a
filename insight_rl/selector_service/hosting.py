"""Runs and pools that the service hosts: every operation is decided in memory, logged, and only then answered.

A run's state follows from its definition and the log of its operations (select, observe), each with a version number.
So a restart replays the log from the newest snapshot, and a fork at any version replays up to it. Nothing is ever
rewound: a trainer that resumes from an older checkpoint forks the run, and late requests of the process that died reach
the old run.
Raises :class:`~insight_rl.selector_service.schema.Refused` with the HTTP status to answer.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from insight_rl.errors import UsageError
from insight_rl.selector.base import KnowsVersionLags, Selector, check_needs_counts_only
from insight_rl.selector.decision_log import RecordsDecisions
from insight_rl.selector_service import schema
from insight_rl.selector_service.history import MAX_PICKS, RunHistory, latest_picks
from insight_rl.selector_service.pools import HostedPool, PromptIds
from insight_rl.selector_service.schema import Refused
from insight_rl.selector_service.store import OutOfOrder, Store
from insight_rl.selector_service.translation import beliefs_of, counts_of, reliability_curve, state_digest, to_json
from insight_rl.state_codec import decode_state, encode_state

_log = logging.getLogger("uvicorn.error")  # the logger that the server has set up

KEPT_SNAPSHOTS = 2
_RELIABILITY_WINDOW = 20_000
"""Prompts observed that the reliability curve of the page looks back on."""

Request = TypeVar("Request", schema.SelectRequest, schema.ObserveRequest)


@dataclass(kw_only=True)
class _Live:
    """A run's selector in memory, and how far its snapshots reach."""

    selector: Selector
    version: int
    snapshot_version: int
    forecasts: deque[tuple[float, int, int]] = field(default_factory=lambda: deque(maxlen=_RELIABILITY_WINDOW))
    """Mean of the belief before, successes and judged rollouts of the latest observations."""
    beliefs_of_picks: dict[str, list[float]] = field(default_factory=dict)
    """alpha and beta of the prompts of the latest selection, as they were when it was made."""


@dataclass(frozen=True, kw_only=True)
class _InFlight:
    """An operation that is decided but perhaps not yet on disk."""

    request: str
    result: dict[str, Any]
    logged: Future[None]


class HostedRun:
    """One run. Operations on it take effect one after another; waiting for the disk overlaps."""

    def __init__(
        self,
        *,
        store: Store,
        pool: HostedPool,
        make_selector: Callable[[schema.SelectorChoice], Selector],
        row: tuple[int, str, str, int, str | None, float],
        snapshot_every: int,
    ) -> None:
        self.id, self.name, definition, self.base_version, self.forked_from, self.created_at = row
        self.definition = schema.RunDefinition.model_validate_json(definition)
        self._store = store
        self._pool = pool
        self._make_selector = make_selector
        self._snapshot_every = snapshot_every
        self._lock = threading.RLock()
        self._live: _Live | None = None
        self._in_flight: dict[tuple[str, int, int], _InFlight] = {}
        self._history = RunHistory(store, self.id)

    # Operations

    def adopt(self, selector: Selector) -> None:
        """Begin with this selector, which has been opened and nothing else, rather than make another."""
        with self._lock:
            if self._live is None and self._store.last_version(self.id) == 0:
                self._live = _Live(selector=selector, version=0, snapshot_version=0)

    def select(self, request: schema.SelectRequest) -> schema.Selection:
        result, is_repeat = self._perform("select", request.step, request.round, request, self._select)
        return schema.Selection(**result, is_repeat=is_repeat)

    def observe(self, request: schema.ObserveRequest) -> schema.Acknowledgement:
        result, is_repeat = self._perform("observe", request.step, 0, request, self._observe)
        return schema.Acknowledgement(**result, is_repeat=is_repeat)

    def _perform(
        self, kind: str, step: int, round: int, request: Request, act: Callable[[_Live, Request], dict[str, Any]]
    ) -> tuple[dict[str, Any], bool]:
        """Decide, log, and return once the log is on disk; a repeated request gets the first one's result."""
        text = request.model_dump_json()
        with self._lock:
            operation = self._find(kind, step, round)
            is_repeat = operation is not None
            if operation is not None and operation.request != text:
                raise Refused(
                    409, f"{kind} for step {step}, round {round} of run {self.name} was another request before"
                )
            live = self._ready()
            if operation is None:
                result = self._act(live, request, act) | {"version": live.version + 1}
                live.version += 1
                logged = self._store.append(self.id, live.version, kind, step, round, text, json.dumps(result))
                operation = _InFlight(request=text, result=result, logged=logged)
                self._in_flight[kind, step, round] = operation
                if live.version - live.snapshot_version >= self._snapshot_every:
                    self._take_snapshot(live)
        try:
            operation.logged.result()
        except (sqlite3.Error, OutOfOrder) as error:
            with self._lock:
                self._forget(live)
            raise Refused(503, f"could not be written to disk ({error}), so it has not happened; try again") from error
        return operation.result, is_repeat

    def _find(self, kind: str, step: int, round: int) -> _InFlight | None:
        self._in_flight = {key: each for key, each in self._in_flight.items() if not each.logged.done()}
        if (kind, step, round) in self._in_flight:
            return self._in_flight[kind, step, round]
        rows = self._store.read(
            "SELECT request, result FROM operations WHERE run_id = ? AND kind = ? AND step = ? AND round = ?",
            *(self.id, kind, step, round),
        )
        if not rows:
            return None
        done: Future[None] = Future()
        done.set_result(None)
        return _InFlight(request=rows[0][0], result=json.loads(rows[0][1]), logged=done)

    def _act(self, live: _Live, request: Request, act: Callable[[_Live, Request], dict[str, Any]]) -> dict[str, Any]:
        try:
            return act(live, request)
        except Refused:
            raise  # before anything changed
        except (ValueError, ArithmeticError) as error:
            self._forget(live)
            raise Refused(422, f"the selector of run {self.name} fails on this: {error}") from error
        except BaseException:
            self._forget(live)  # it may be half changed: the log knows what it was
            raise

    def _select(self, live: _Live, request: schema.SelectRequest) -> dict[str, Any]:
        ids = [prompt.id for prompt in live.selector.select(request.num_prompts)]
        if isinstance(live.selector, RecordsDecisions):
            live.selector.take_decisions()  # nobody here asks for them; kept, they would pile up
        shown = ids[:MAX_PICKS]
        pairs = zip(shown, beliefs_of(live.selector, shown), strict=True)
        live.beliefs_of_picks = {each: list(pair) for each, pair in pairs}
        return {
            "ids": ids,
            "positions": self._positions(self._pool.prompts(), ids),
            "scores": [score if np.isfinite(score) else None for score in live.selector.last_scores()],
        }

    def _observe(self, live: _Live, request: schema.ObserveRequest) -> dict[str, Any]:
        ids = [observation.id for observation in request.observations]
        self._positions(self._pool.prompts(), ids)  # refuses an id that is not in the pool
        for (alpha, beta), each in zip(beliefs_of(live.selector, ids), request.observations, strict=True):
            live.forecasts.append((alpha / (alpha + beta), each.num_successes, each.num_judged))
        if isinstance(live.selector, KnowsVersionLags):
            live.selector.expect_lags({each.id: each.version_lag for each in request.observations})
        live.selector.observe([counts_of(each) for each in request.observations])
        return {"beliefs": beliefs_of(live.selector, ids)}

    def _positions(self, pool: PromptIds, ids: Sequence[str]) -> list[int]:
        try:
            return [pool.index_of(prompt_id) for prompt_id in ids]
        except KeyError as error:
            raise Refused(422, f"prompt id {error.args[0]!r} is not in pool {self._pool.name}") from error

    # State: in memory, from the log, into snapshots

    def _ready(self) -> _Live:
        if self._live is None:
            self._live = self._load(self._store.last_version(self.id))
        return self._live

    def _settled(self) -> _Live:
        """The state, once all of it is on disk."""
        live = self._ready()
        failed = [each for each in self._in_flight.values() if each.logged.exception() is not None]
        if failed:
            self._forget(live)
        return self._ready()

    def _load(self, version: int) -> _Live:
        """The state at ``version``: the newest sound snapshot before it, and the log from there."""
        live = self._from_snapshot(version)
        for number, kind, request, result in self._store.scan(
            "SELECT version, kind, request, result FROM operations WHERE run_id = ? AND version > ? AND version <= ? "
            "ORDER BY version",
            *(self.id, live.version, version),
        ):
            try:
                if kind == "select":
                    again = self._select(live, schema.SelectRequest.model_validate_json(request))
                else:
                    again = self._observe(live, schema.ObserveRequest.model_validate_json(request))
            except (ValueError, ArithmeticError) as error:
                raise self._unreadable(f"operation {number} ({kind}) cannot be replayed ({error})") from error
            live.version += 1
            if number != live.version or json.dumps(again | {"version": number}) != result:
                raise self._unreadable(f"replaying operation {number} ({kind}) gives another result than at the time")
        return live

    def _from_snapshot(self, version: int) -> _Live:
        """The newest snapshot at or before ``version`` that can be read; a fresh selector where there is none."""
        damage = ""
        for number, blob in self._store.snapshots(self.id, at_most=version):
            try:
                selector = self._opened()
                selector.load_state_dict(decode_state(blob))
            except Exception as error:  # whatever damaged bytes lead to
                damage = f"snapshot {number} cannot be read ({type(error).__name__}: {error})"
                _log.warning("run %s: %s; going back to an older one and the log", self.name, damage)
                continue
            return _Live(selector=selector, version=number, snapshot_version=number)
        if self.base_version > 0:  # a fork: what came before it is in no log of its own
            raise self._unreadable(damage or "the snapshot that it was forked from is missing")
        return _Live(selector=self._opened(), version=0, snapshot_version=0)

    def _opened(self) -> Selector:
        selector = self._make_selector(self.definition.selector)
        pool: Any = self._pool.prompts()  # an IndexedPool
        selector.open(pool, num_rollouts=self.definition.num_rollouts, seed=self.definition.seed)
        return selector

    def _unreadable(self, reason: str) -> Refused:
        return Refused(
            500,
            f"run {self.name}: {reason}; restore the data folder from a copy, or start the service with the versions "
            "of insight_rl and NumPy that wrote it",
        )

    def _forget(self, live: _Live) -> None:
        """Drop the state in memory; the next request loads what the log has."""
        wait([each.logged for each in self._in_flight.values()])
        self._in_flight.clear()
        if self._live is live:
            self._live = None

    def _take_snapshot(self, live: _Live) -> None:
        self._store.save_snapshot(self.id, live.version, live.selector.state_dict(), keep=KEPT_SNAPSHOTS)
        live.snapshot_version = live.version

    def save(self) -> None:
        """Take a snapshot, so that the next start has nothing to replay."""
        with self._lock:
            if self._live is not None and self._live.version > self._live.snapshot_version:
                self._take_snapshot(self._live)

    def state_at(self, version: int) -> dict[str, Any]:
        """The selector's state after ``version`` operations. Raises ``Refused`` for one out of reach."""
        with self._lock:
            live = self._settled()
            if not self.base_version <= version <= live.version:
                reach = f"{self.base_version} to {live.version}"
                raise Refused(409, f"run {self.name} can be forked at versions {reach}, not at {version}")
            return (live if version == live.version else self._load(version)).selector.state_dict()

    # Reading

    def info(self) -> schema.RunInfo:
        with self._lock:
            version = self._live.version if self._live else self._store.last_version(self.id)
        return schema.RunInfo(
            **self.definition.model_dump(),
            run=self.name,
            version=version,
            forked_from=self.forked_from,
            created_at=self.created_at,
        )

    def state(self) -> schema.RunState:
        with self._lock:
            live = self._ready()
            return schema.RunState(version=live.version, digest=state_digest(live.selector.state_dict()))

    def metrics(self) -> schema.MetricsAnswer:
        with self._lock:
            return schema.MetricsAnswer(metrics=to_json(self._ready().selector.metrics()))

    def numbers(self) -> dict[str, float]:
        """The metrics that are plain numbers, of a run in memory; nothing of one that is not."""
        with self._lock:
            metrics = self._live.selector.metrics() if self._live else {}
        return {name: float(value) for name, value in metrics.items() if isinstance(value, (int, float))}

    def beliefs(self, request: schema.BeliefsRequest) -> schema.Beliefs:
        with self._lock:
            live, pool = self._ready(), self._pool.prompts()
            self._positions(pool, request.ids)
            return schema.Beliefs(beliefs=[list(pair) for pair in beliefs_of(live.selector, request.ids)])

    def report(self, request: schema.Report) -> None:
        self._store.report(self.id, request.step, accuracy=request.accuracy, is_finished=request.is_finished).result()

    def live_view(self) -> schema.LiveView:
        with self._lock:
            live = self._settled()
            seen = self._store.read("SELECT last_seen_at, is_finished FROM activity WHERE run_id = ?", self.id)
            step, picks = latest_picks(self._store, self.id, live.selector, live.beliefs_of_picks)
            return schema.LiveView(
                info=self.info(),
                num_prompts=len(self._pool.prompts()),
                num_steps=self._history.num_steps(),
                last_seen_at=seen[0][0] if seen else None,
                is_finished=bool(seen and seen[0][1]),
                metrics=to_json(live.selector.metrics()),
                history=self._history.stretches(),
                accuracy=self._history.accuracies(),
                picks=picks,
                picks_step=step,
                reliability=reliability_curve(live.forecasts),
            )

    def delete(self) -> None:
        with self._lock:
            if self._live is not None:
                self._forget(self._live)

            def write(db: sqlite3.Connection) -> None:
                for table in ("operations", "snapshots", "activity", "accuracies"):
                    db.execute(f"DELETE FROM {table} WHERE run_id = ?", (self.id,))
                db.execute("DELETE FROM runs WHERE id = ?", (self.id,))

            self._store.submit(write).result()


class Host:
    """All pools and runs of one data folder."""

    def __init__(
        self, folder: Path, *, make_selector: Callable[[schema.SelectorChoice], Selector], snapshot_every: int = 500
    ) -> None:
        """Opens what is there; runs are loaded when they are first asked for. Raises ``UsageError`` as ``Store``."""
        self.store = Store(folder)
        self._make_selector_unchecked = make_selector
        self._snapshot_every = snapshot_every
        self._lock = threading.Lock()
        self.pools = {name: HostedPool(self.store, name) for (name,) in self.store.read("SELECT pool FROM pools")}
        self.runs = {row[1]: self._hosted(row) for row in self.store.read("SELECT * FROM runs")}

    def _hosted(self, row: tuple[Any, ...]) -> HostedRun:
        return HostedRun(
            store=self.store,
            pool=self.pools[json.loads(row[2])["pool"]],
            make_selector=self.make_selector,
            row=row,
            snapshot_every=self._snapshot_every,
        )

    def make_selector(self, choice: schema.SelectorChoice) -> Selector:
        try:
            selector = self._make_selector_unchecked(choice)
            check_needs_counts_only(selector, "the selector service")
            return selector
        except UsageError as error:
            raise Refused(422, str(error).splitlines()[0]) from error

    def run(self, name: str) -> HostedRun:
        try:
            return self.runs[name]
        except KeyError:
            raise Refused(404, f"there is no run {name}; create it with POST /v1/runs") from None

    def pool(self, name: str) -> HostedPool:
        try:
            return self.pools[name]
        except KeyError:
            raise Refused(
                404, f"there is no pool {name}; send its chunks to PUT /v1/pools/{name}/chunks/0, ..."
            ) from None

    def put_chunk(self, name: str, number: int, chunk: schema.PoolChunk) -> schema.PoolInfo:
        with self._lock:
            if name not in self.pools:
                statement = "INSERT INTO pools (pool) VALUES (?)"
                self.store.submit(lambda db: db.execute(statement, (name,))).result()
                self.pools[name] = HostedPool(self.store, name)
            pool = self.pools[name]
        return pool.put_chunk(number, chunk)

    def delete_pool(self, name: str) -> None:
        with self._lock:
            self.pool(name)
            users = sorted(run.name for run in self.runs.values() if run.definition.pool == name)
            if users:
                raise Refused(409, f"pool {name} is used by run {users[0]}; delete its runs first")

            def write(db: sqlite3.Connection) -> None:
                db.execute("DELETE FROM chunks WHERE pool = ?", (name,))
                db.execute("DELETE FROM pools WHERE pool = ?", (name,))

            self.store.submit(write).result()
            del self.pools[name]

    def create(self, request: schema.CreateRun) -> schema.RunInfo:
        """Idempotent; a run of that name with another definition is a conflict."""
        definition = schema.RunDefinition(**request.model_dump(exclude={"run"}))
        selector = self._open_selector(definition)
        with self._lock:
            self.pool(request.pool)  # still there: no pool of a run is deleted while this lock is held
            run = self.runs.get(request.run)
            if run is None:
                run = self._add_run(request.run, definition, base_version=0, forked_from=None, state=None)
                run.adopt(selector)
            elif run.definition != definition or run.forked_from is not None:
                raise Refused(409, f"run {request.run} is there with another definition; choose another name")
        return run.info()

    def fork(self, name: str, request: schema.ForkRun) -> schema.RunInfo:
        """Idempotent as long as the new run has done nothing yet."""
        parent = self.run(name)
        state = parent.state_at(request.version)
        origin = f"{name}@{request.version}"
        with self._lock:
            self.run(name)
            run = self.runs.get(request.name)
            if run is None:
                run = self._add_run(
                    *(request.name, parent.definition), base_version=request.version, forked_from=origin, state=state
                )
            elif run.forked_from != origin or run.info().version != request.version:
                raise Refused(409, f"run {request.name} is there already; choose another name for the fork")
        return run.info()

    def _open_selector(self, definition: schema.RunDefinition) -> Selector:
        """A fresh selector on its pool. Raises ``Refused`` for settings that go wrong there."""
        pool: Any = self.pool(definition.pool).prompts()
        selector = self.make_selector(definition.selector)
        try:
            selector.open(pool, num_rollouts=definition.num_rollouts, seed=definition.seed)
        except (ValueError, ArithmeticError) as error:
            raise Refused(422, str(error)) from error
        return selector

    def _add_run(
        self,
        name: str,
        definition: schema.RunDefinition,
        *,
        base_version: int,
        forked_from: str | None,
        state: Mapping[str, Any] | None,
    ) -> HostedRun:
        values = (name, definition.model_dump_json(), base_version, forked_from, time.time())

        def write(db: sqlite3.Connection) -> tuple[Any, ...]:
            columns = "run, definition, base_version, forked_from, created_at"
            db.execute(f"INSERT INTO runs ({columns}) VALUES (?, ?, ?, ?, ?)", values)
            row = tuple(db.execute("SELECT * FROM runs WHERE run = ?", (name,)).fetchone())
            if state is not None:
                db.execute("INSERT INTO snapshots VALUES (?, ?, ?)", (row[0], base_version, encode_state(state)))
            return row

        self.runs[name] = self._hosted(self.store.submit(write).result())
        return self.runs[name]

    def delete_run(self, name: str) -> None:
        with self._lock:
            run = self.run(name)
            run.delete()
            del self.runs[name]

    def close(self) -> None:
        """Snapshots of what has changed, then the files."""
        for run in self.runs.values():
            run.save()
        self.store.close()
