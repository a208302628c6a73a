"""The service's HTTP interface, version 1: paths, documentation and error answers.

Handlers are plain functions, which FastAPI runs in threads: waiting for the disk or for another request on the same
run never holds up the rest. Errors are always ``{"detail": "what is wrong and how to mend it"}``.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import APIRouter, FastAPI, HTTPException, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from insight_rl import __version__
from insight_rl.selector_service import schema
from insight_rl.selector_service.hosting import Host
from insight_rl.selector_service.middleware import Guard, Limits, Traffic
from insight_rl.selector_service.options import SelectorOptions
from insight_rl.selector_service.schema import Refused
from insight_rl.selector_service.store import OutOfOrder

RunName = Annotated[schema.Name, Path(description="name of the run")]
PoolName = Annotated[schema.Name, Path(description="name of the pool")]
ChunkNumber = Annotated[int, Path(ge=0, lt=2**31)]

_REASONS = {
    400: "not a request that can be read",
    401: "the token is missing or wrong",
    403: "asked by a name that is not this service's",
    404: "there is no such run or pool",
    409: "contradicts what has happened before",
    413: "the body is too large",
    422: "a value that cannot be",
    429: "too many requests a second",
    503: "the disk did not take it: nothing has happened",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": schema.Problem, "description": reason} for status, reason in _REASONS.items()
}


def make_app(host: Host, options: SelectorOptions, limits: Limits) -> FastAPI:
    """The ASGI application. It closes ``host`` when it shuts down."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        host.close()

    app = FastAPI(
        title="insight-rl selector service",
        version=__version__,
        description="Prompt selection for reinforcement learning: make a pool, make a run, then select and observe.",
        lifespan=lifespan,
        docs_url=None,  # it would load scripts from elsewhere
        redoc_url=None,
        responses=PROBLEMS,
    )
    registry = CollectorRegistry()
    traffic = Traffic(registry)
    registry.register(_Gauges(host))
    app.add_middleware(Guard, limits=limits, traffic=traffic)
    app.include_router(_pools(host), prefix="/v1/pools", tags=["pools"])
    app.include_router(_runs(host), prefix="/v1/runs", tags=["runs"])
    app.include_router(_watching(host), prefix="/v1/runs", tags=["runs"])
    app.include_router(_selectors(host, options), prefix="/v1/selectors", tags=["selectors"])
    app.include_router(_service(registry), tags=["service"])
    _explain_errors(app)
    return app


def _pools(host: Host) -> APIRouter:
    router = APIRouter()

    @router.put("/{pool}/chunks/{number}")
    def put_chunk(pool: PoolName, number: ChunkNumber, chunk: schema.PoolChunk) -> schema.PoolInfo:
        """Upload a stretch of the pool's prompt ids. Idempotent."""
        return host.put_chunk(pool, number, chunk)

    @router.post("/{pool}/seal")
    def seal_pool(pool: PoolName, request: schema.SealPool) -> schema.PoolInfo:
        """End the upload. Idempotent."""
        return host.pool(pool).seal(request)

    @router.get("/{pool}")
    def get_pool(pool: PoolName) -> schema.PoolInfo:
        return host.pool(pool).info()

    @router.delete("/{pool}", status_code=204)
    def delete_pool(pool: PoolName) -> None:
        """Only once no run is left on it."""
        host.delete_pool(pool)

    return router


def _runs(host: Host) -> APIRouter:
    router = APIRouter()

    @router.post("")
    def create_run(request: schema.CreateRun) -> schema.RunInfo:
        """Begin a run on a sealed pool. Idempotent: an equal run of that name is returned as it is."""
        return host.create(request)

    @router.get("")
    def list_runs() -> list[schema.RunInfo]:
        """All runs, the newest first."""
        return sorted((run.info() for run in list(host.runs.values())), key=lambda info: -info.created_at)

    @router.get("/{run}")
    def get_run(run: RunName) -> schema.RunInfo:
        return host.run(run).info()

    @router.delete("/{run}", status_code=204)
    def delete_run(run: RunName) -> None:
        """Forget a run and its log."""
        host.delete_run(run)

    @router.post("/{run}/select")
    def select(run: RunName, request: schema.SelectRequest) -> schema.Selection:
        """The prompts to roll out next; none twice before it is observed. Idempotent by (run, step, round)."""
        return host.run(run).select(request)

    @router.post("/{run}/observe")
    def observe(run: RunName, request: schema.ObserveRequest) -> schema.Acknowledgement:
        """Count the outcomes of a step. Idempotent by (run, step); on disk before it is acknowledged."""
        return host.run(run).observe(request)

    @router.post("/{run}/beliefs")
    def beliefs(run: RunName, request: schema.BeliefsRequest) -> schema.Beliefs:
        """alpha and beta of the belief about each prompt's success rate."""
        return host.run(run).beliefs(request)

    @router.get("/{run}/state")
    def state(run: RunName) -> schema.RunState:
        """Version and hash of the selector's state: equal states decide alike."""
        return host.run(run).state()

    @router.post("/{run}/fork")
    def fork(run: RunName, request: schema.ForkRun) -> schema.RunInfo:
        """A new run that goes on from an earlier version of this one: how a trainer resumes from a checkpoint."""
        return host.fork(run, request)

    return router


def _watching(host: Host) -> APIRouter:
    router = APIRouter()

    @router.get("/{run}/metrics")
    def run_metrics(run: RunName) -> schema.MetricsAnswer:
        """What the selector reports of itself."""
        return host.run(run).metrics()

    @router.get("/{run}/live")
    def live(run: RunName) -> schema.LiveView:
        """What the page draws."""
        return host.run(run).live_view()

    @router.post("/{run}/report", status_code=204)
    def report(run: RunName, request: schema.Report) -> None:
        """Tell what the page shows besides the selector: accuracy, and that the run has ended."""
        host.run(run).report(request)

    return router


def _selectors(host: Host, options: SelectorOptions) -> APIRouter:
    router = APIRouter()

    @router.post("/check")
    def check_selector(choice: schema.SelectorChoice) -> schema.CheckedSelector:
        """Whether this service has such a selector, and the settings it would have."""
        host.make_selector(choice)
        return schema.CheckedSelector(settings=_without_targets(options.node(choice)))

    return router


def _without_targets(node: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_targets(value) if isinstance(value, Mapping) else value
        for key, value in node.items()
        if not key.startswith("_")
    }


def _service(registry: CollectorRegistry) -> APIRouter:
    router = APIRouter()
    page = (files("insight_rl.selector_service") / "page.html").read_text(encoding="utf-8")

    @router.get("/healthz")
    async def healthz() -> dict[str, str]:
        """Answers as long as the service lives, however busy its threads are."""
        return {"status": "ok", "version": __version__}

    @router.get("/metrics", response_class=PlainTextResponse)
    def prometheus() -> Response:
        """For Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @router.get("/", response_class=HTMLResponse)
    def live_page() -> Response:
        """A page that shows the runs live. It loads nothing from elsewhere and sends nothing elsewhere."""
        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        return HTMLResponse(page.replace("NONCE", nonce), headers={"content-security-policy": policy})

    return router


def _explain_errors(app: FastAPI) -> None:
    """Answer every error with one sentence, which names the place in the request but does not repeat its content."""

    def answer(status: int, detail: str, headers: Any = None) -> JSONResponse:
        readable = detail.encode("utf-8", "backslashreplace").decode()
        return JSONResponse({"detail": readable}, status_code=status, headers=headers)

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.detail)

    @app.exception_handler(OutOfOrder)
    async def out_of_order(request: Request, error: OutOfOrder) -> JSONResponse:
        return answer(409, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        return answer(422, f"{where}: {first['msg']}")

    @app.exception_handler(HTTPException)
    async def plain(request: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, str(error.detail), error.headers)


class _Gauges:
    """What the runs in memory report, read when Prometheus asks."""

    NAMES = ("informative_fraction", "visited_fraction", "mean_belief", "brier", "coverage")

    def __init__(self, host: Host) -> None:
        self._host = host

    def describe(self) -> list[Any]:
        return []  # names are known without asking the runs

    def collect(self) -> list[Any]:
        runs = list(self._host.runs.values())
        commits = CounterMetricFamily("insight_rl_commits", "transactions that waited for the disk")
        commits.add_metric([], self._host.store.num_commits)
        number = GaugeMetricFamily("insight_rl_runs", "runs hosted")
        number.add_metric([], len(runs))
        gauges = {
            name: GaugeMetricFamily(f"insight_rl_selector_{name}", f"selector/{name}", labels=["run"])
            for name in self.NAMES
        }
        for run in runs:
            numbers = run.numbers()
            for name, gauge in gauges.items():
                if f"selector/{name}" in numbers:
                    gauge.add_metric([run.name], numbers[f"selector/{name}"])
        return [commits, number, *gauges.values()]
