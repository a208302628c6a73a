"""A selector that lives in a service: the trainer's side of :mod:`insight_rl.selector_service`.

The pool's texts and the connection are here; beliefs and generator are the service's.

Every operation is numbered by step and round, so that a request whose answer was lost can be sent again and counts
once. A checkpoint holds the run's name and the number of operations it had seen; to go on from there, the client has
the service *fork* the run at that point. What the interrupted process did after its checkpoint stays in the old run.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insight_rl.errors import RunStopped, UsageError, check
from insight_rl.selector.indexed_pool import pool_fingerprint
from insight_rl.types import Histogram, Metrics, Outcome, Prompt, Table

if TYPE_CHECKING:
    import httpx

_log = logging.getLogger(__name__)

_CHUNK = 20_000
_RETRIED_STATUS = frozenset({429, 502, 503, 504})
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 5.0
_RETRIES_AT_FIRST = 6


class RemoteSelector:
    """Hosted by the service at ``url``: decides as the same selector would in this process."""

    def __init__(
        self,
        *,
        url: str,
        hosts: Mapping[str, Any],
        run: str | None = None,
        token_env: str = "INSIGHT_RL_TOKEN",
        timeout_s: float = 60.0,
        num_retries: int = 30,
    ) -> None:
        """``hosts`` holds ``name``, an option of the service's conf/selector, and ``settings`` that differ from it.

        ``run`` is the name at the service; ``None`` makes one up. A request is tried ``1 + num_retries`` times, so that
        the service may restart meanwhile; before the run has begun only seven times, as the address may be wrong.
        """
        check(re.match(r"https?://[^/?#]+", url) is not None, "selector.url", url, "must be like http://HOST:PORT")
        check(
            isinstance(hosts.get("name"), str) and hosts.keys() <= {"name", "settings"},
            "selector.hosts",
            dict(hosts),
            "must hold a name (an option of conf/selector) and, if any differ, settings",
        )
        check(
            run is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}", run) is not None,
            "selector.run",
            run,
            "must be at most 80 letters, digits and . _ -, or null",
        )
        check(timeout_s > 0, "selector.timeout_s", timeout_s, "must be above 0 seconds")
        check(num_retries >= 0, "selector.num_retries", num_retries, "must be at least 0")
        check(find_spec("httpx") is not None, "selector", "remote", "needs httpx: `pip install 'insight-rl[serve]'`")
        self._url = url.rstrip("/")
        self._choice = {"name": hosts["name"], "settings": dict(hosts.get("settings") or {})}
        self._wanted_name = run
        self._name_stem = "run"
        self._token_env = token_env
        self._timeout_s = timeout_s
        self._num_retries = num_retries
        self._is_running = False
        """Whether a run has begun: what goes wrong before that is the user's to mend."""

    # The Selector protocol

    def open(self, pool: Sequence[Prompt], *, num_rollouts: int, seed: int) -> None:
        """Take the pool and begin a run at the service, which gets the pool's ids unless it has them."""
        import httpx

        token = os.environ.get(self._token_env)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        before: httpx.Client | None = getattr(self, "_http", None)
        if before is not None:  # the run goes back to its newest checkpoint
            before.close()
        # Not through the environment's proxies: they do not reach this machine's own services.
        self._http = httpx.Client(base_url=self._url, headers=headers, timeout=self._timeout_s, trust_env=False)
        self._pool = pool
        self._num_rollouts = num_rollouts
        self._seed = seed
        self._run: str | None = None
        self._origin: tuple[str, int] | None = None
        self._version, self._step, self._round = 0, 1, 0  # steps are counted from 1, as everywhere in a run
        self._last_scores: list[float] = []
        self._beliefs: dict[str, tuple[float, float]] = {}
        self._lags: dict[str, int] = {}
        settings = self._call("POST", "/v1/selectors/check", self._choice)["settings"]
        self._fields = _numbers_asked_for(settings, pool)
        self._fingerprint = pool_fingerprint(pool, self._fields)
        self._is_fresh = self._wanted_name is None
        name = self._wanted_name or f"{self._name_stem}-{secrets.token_hex(4)}"
        if self._begin(name) == 0:
            self._run = name
        else:  # a run of that name has been here before: leave it as it is
            self._origin = (name, 0)

    def select(self, num_prompts: int) -> Sequence[Prompt]:
        check(num_prompts >= 1, "trainer.prompts_per_step", num_prompts, "must be at least 1")
        answer = self._operate("select", {"step": self._step, "round": self._round, "num_prompts": num_prompts})
        self._round += 1
        self._last_scores = [float("nan") if score is None else score for score in answer["scores"]]
        prompts = [self._pool[position] for position in answer["positions"]]
        assert [prompt.id for prompt in prompts] == answer["ids"], "the service's pool is not this one"
        return prompts

    def last_scores(self) -> Sequence[float]:
        return list(self._last_scores)

    def expect_lags(self, lags: Mapping[str, int]) -> None:
        """See :class:`~insight_rl.selector.base.KnowsVersionLags`."""
        self._lags = dict(lags)

    def observe(self, outcomes: Sequence[Outcome], /) -> None:
        """On the service's disk when this returns."""
        observations = [
            {
                "id": each.prompt_id,
                "num_judged": each.num_judged,
                "num_successes": each.num_successes,
                "version_lag": self._lags.get(each.prompt_id, 0),
            }
            for each in outcomes
        ]
        self._lags = {}
        answer = self._operate("observe", {"step": self._step, "observations": observations})
        self._step, self._round = self._step + 1, 0
        pairs = zip(observations, answer["beliefs"], strict=True)
        self._beliefs = {str(observation["id"]): (alpha, beta) for observation, (alpha, beta) in pairs}

    def belief(self, prompt_id: str) -> tuple[float, float]:
        if prompt_id not in self._beliefs:
            answer = self._call("POST", f"/v1/runs/{self._attach()}/beliefs", {"ids": [prompt_id]})
            self._beliefs[prompt_id] = (answer["beliefs"][0][0], answer["beliefs"][0][1])
        return self._beliefs[prompt_id]

    def state_dict(self) -> dict[str, Any]:
        """Where this run stands at the service, which holds the rest."""
        return {
            "run": self._attach(),
            "version": self._version,
            "pool_fingerprint": self._fingerprint,
            "step": self._step,
            "round": self._round,
            "last_scores": list(self._last_scores),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there, in a fork of the run. Raises ``ValueError`` for another pool or a missing part."""
        missing = {"run", "version", "pool_fingerprint", "step", "round", "last_scores"} - state.keys()
        if missing:
            raise ValueError(f"the saved selector state lacks {sorted(missing)}; the checkpoint is damaged or foreign")
        if state["pool_fingerprint"] != self._fingerprint:
            raise ValueError(
                f"the saved run {state['run']} is on another pool (fingerprint {state['pool_fingerprint']}, this pool "
                f"of {len(self._pool)} prompts has {self._fingerprint}); resume with the task the run was started with"
            )
        if self._is_fresh and self._run is not None and self._version == 0:
            self._call("DELETE", f"/v1/runs/{self._run}", missing_is_none=True)  # begun by open, for nothing
        self._run, self._origin = None, (str(state["run"]), int(state["version"]))
        self._is_fresh = False
        self._version, self._step, self._round = (int(state[name]) for name in ("version", "step", "round"))
        self._last_scores = [float(score) for score in state["last_scores"]]
        self._beliefs = {}
        self._attach()

    def metrics(self) -> Metrics:
        answer = self._call("GET", f"/v1/runs/{self._attach()}/metrics")["metrics"]
        return {name: _metric(value) for name, value in answer.items()}

    def monitor(self) -> RunReporter:
        return RunReporter(self)

    def call_by(self, run_dir: Path) -> None:
        """Before :meth:`open`: name the run at the service after this folder, unless it has a name already."""
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", run_dir.name).lstrip("._-")[:60]
        self._name_stem = name or "run"

    def report(self, step: int, *, accuracy: float | None = None, is_finished: bool = False) -> None:
        """Tell the service what its page shows of the run besides the selector; no decision depends on it.

        A service that does not answer is a warning: the run itself has nothing to lose by it.
        """
        import httpx

        if not hasattr(self, "_http") or self._run is None:
            return  # stopped before the first request
        body = {"step": step, "accuracy": accuracy, "is_finished": is_finished}
        try:
            self._http.request("POST", f"/v1/runs/{self._run}/report", json=body).raise_for_status()
        except httpx.HTTPError as error:
            _log.warning("selector.url=%r: the service's page lacks the report of step %d (%s)", self._url, step, error)

    # The service

    def _attach(self) -> str:
        """Name of this client's own run at the service: the one it began, or its fork of another."""
        if self._run is None:
            assert self._origin is not None, "open() begins a run or names one to fork"
            run, version = self._origin
            name = f"{run.partition('.fork-')[0]}.fork-{secrets.token_hex(4)}"
            self._run = str(self._call("POST", f"/v1/runs/{run}/fork", {"name": name, "version": version})["run"])
        self._is_running = True
        return self._run

    def _begin(self, name: str) -> int:
        """The version of the run of that name, which is made unless it is there."""
        definition = {"selector": self._choice, "num_rollouts": self._num_rollouts, "seed": self._seed}
        return int(self._call("POST", "/v1/runs", {"run": name, "pool": self._upload(), **definition})["version"])

    def _upload(self) -> str:
        """The name of this pool at the service, which gets its ids and tasks unless it has them."""
        name = f"pool-{self._fingerprint}"
        known = self._call("GET", f"/v1/pools/{name}", missing_is_none=True)
        if known is not None and known["is_sealed"]:
            return name
        for number, start in enumerate(range(0, len(self._pool), _CHUNK)):
            prompts = [self._pool[index] for index in range(start, min(start + _CHUNK, len(self._pool)))]
            tasks = [prompt.task for prompt in prompts]
            tasks = tasks[:1] if len(set(tasks)) == 1 else tasks
            numbers = {field: [prompt.metadata.get(field) for prompt in prompts] for field in self._fields}
            body = {"ids": [prompt.id for prompt in prompts], "tasks": tasks, "numbers": numbers}
            self._call("PUT", f"/v1/pools/{name}/chunks/{number}", body)
        self._call("POST", f"/v1/pools/{name}/seal", {"num_prompts": len(self._pool), "fingerprint": self._fingerprint})
        return name

    def _operate(self, operation: str, body: Mapping[str, Any]) -> Any:
        answer = self._call("POST", f"/v1/runs/{self._attach()}/{operation}", body)
        self._version = answer["version"]
        return answer

    def _call(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, *, missing_is_none: bool = False
    ) -> Any:
        """The service's answer. Tries again when it cannot be reached or asks to wait: every request may be sent twice.

        Raises ``UsageError`` for a wrong request and before the run has begun, ``RunStopped`` after that.
        """
        import httpx

        reason = ""
        num_retries = self._num_retries if self._is_running else min(self._num_retries, _RETRIES_AT_FIRST)
        for attempt in range(num_retries + 1):
            if attempt == 1:
                pauses_s = sum(map(self._pause_s, range(1, num_retries + 1)))
                _log.warning("selector.url=%s: no answer (%s); trying for %.0f s more", self._url, reason, pauses_s)
            if attempt:
                time.sleep(self._pause_s(attempt))
            try:
                response = self._http.request(method, path, json=body)
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                continue
            if response.status_code in _RETRIED_STATUS:
                reason = _detail(response)
                continue
            if response.is_success:
                return response.json() if response.content else None
            if missing_is_none and response.status_code == 404:
                return None
            raise self._refusal(response)
        raise self._error(
            f"the service does not answer ({reason}; tried {num_retries + 1} times); start it with `insight-rl "
            "serve-selector` on the data folder it had, then give the same command again"
        )

    @staticmethod
    def _pause_s(attempt: int) -> float:
        """Before the ``attempt``-th try after the first."""
        return min(_FIRST_PAUSE_S * 2 ** (attempt - 1), _LONGEST_PAUSE_S)

    def _refusal(self, response: httpx.Response) -> Exception:
        detail = _detail(response)
        if response.status_code == 401:
            return self._error(f"it wants a token; put it into the environment variable {self._token_env}")
        if response.status_code == 422:
            return UsageError(f"selector.url={self._url!r}: {detail}")
        return self._error(f"the service refuses: {detail}")

    def _error(self, text: str) -> Exception:
        return (RunStopped if self._is_running else UsageError)(f"selector.url={self._url!r}: {text}")


class RunReporter:
    """The monitor of a remote selector: the run's name, accuracy and end, for the service's page."""

    def __init__(self, selector: RemoteSelector) -> None:
        self._selector = selector
        self._step = 0

    def open(self, run_dir: Path, *, config: Mapping[str, Any], num_steps: int, first_step: int) -> None:
        self._selector.call_by(run_dir)

    def log(self, metrics: Metrics, *, step: int) -> None:
        self._step = step
        accuracy = metrics.get("eval/accuracy")
        if isinstance(accuracy, float):
            self._selector.report(step, accuracy=accuracy)

    def notice(self, text: str) -> None:
        """Notices are for the people at the trainer."""

    def close(self, summary: object | None = None) -> None:
        if summary is not None:
            self._selector.report(self._step, is_finished=True)


def _detail(response: httpx.Response) -> str:
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):  # not our service: a proxy, another program
        return f"status {response.status_code}"


def _numbers_asked_for(settings: Mapping[str, Any], pool: Sequence[Prompt]) -> list[str]:
    """The metadata fields of the pool that the settings name, such as the ``num_choices`` of ``chance_levels``."""
    words: set[str] = set()

    def walk(node: Any) -> None:
        if isinstance(node, str):
            words.add(node)
        elif isinstance(node, (Mapping, list)):
            for value in node.values() if isinstance(node, Mapping) else node:
                walk(value)

    walk(settings)
    fields: set[str] = set()
    for prompt in pool if words else ():
        for field in words & prompt.metadata.keys():
            if isinstance(prompt.metadata[field], (int, float)):
                fields.add(field)
    return sorted(fields)


def _metric(value: Any) -> Any:
    if value is None:
        return float("nan")
    if isinstance(value, dict) and "edges" in value:
        return Histogram(counts=tuple(value["counts"]), edges=tuple(value["edges"]))
    if isinstance(value, dict):
        return Table(columns=tuple(value["columns"]), rows=tuple(tuple(row) for row in value["rows"]))
    return value
