"""The whole interface under schemathesis: every answer is one that the documentation names, never 5xx."""

from __future__ import annotations

import httpx
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import sampled_from

schemathesis = pytest.importorskip("schemathesis")

IDS = ["0", "00", "1", "a", "A", "\x80", "x" * 512]
"""What a fuzzer tries first, so that some of its observations are of prompts that there are."""

LEFT_OUT = [
    # Values that only disagree with each other, such as more successes than rollouts, are valid by the schema.
    schemathesis.checks.positive_data_acceptance,
    schemathesis.checks.negative_data_rejection,
    schemathesis.checks.unsupported_method,
    schemathesis.checks.allow_header_conformance,
]


@pytest.fixture(scope="module")
def interface(start_service, tmp_path_factory):
    _, url = start_service(tmp_path_factory.mktemp("data"), "--max-requests-per-s", "1e6", "--snapshot-every", "20")
    with httpx.Client(base_url=url, timeout=30) as client:
        assert client.put("/v1/pools/pool/chunks/0", json={"ids": IDS}).is_success
        assert client.post("/v1/pools/pool/seal", json={"num_prompts": len(IDS)}).is_success
        for run in ("run", "0"):
            body = {"run": run, "pool": "pool", "num_rollouts": 8, "seed": 0}
            assert client.post("/v1/runs", json=body).is_success
    return schemathesis.openapi.from_url(f"{url}/openapi.json")


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_answer_is_documented_and_none_is_5xx(interface, mode):
    statuses = set()
    for result in interface.get_all_operations():
        operation = result.ok()
        if mode == "negative" and not operation.body and not list(operation.iter_parameters()):
            continue  # nothing to get wrong
        statuses |= fuzz(operation, schemathesis.GenerationMode(mode))
    assert {200, 422} <= statuses


def fuzz(operation, mode):
    """Statuses that 30 requests came to; a broken one is shrunk and shown."""
    statuses = set()

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @seed(0)
    @given(case=operation.as_strategy(generation_mode=mode), aims=sampled_from(["known", "known", "any"]))
    def send(case, aims):
        for name in {"run", "pool"} & (case.path_parameters or {}).keys():
            if aims == "known" and case.method != "DELETE":
                case.path_parameters[name] = name
        response = case.call()
        statuses.add(response.status_code)
        assert response.status_code < 500, response.text
        case.validate_response(response, excluded_checks=LEFT_OUT)

    send()
    return statuses
