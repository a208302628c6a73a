from __future__ import annotations

import json
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient

from insight_rl.errors import UsageError
from insight_rl.selector.acquisition import weighted_mutual_information
from insight_rl.selector.indexed_pool import pool_fingerprint
from insight_rl.selector_service import schema
from insight_rl.selector_service.app import make_app
from insight_rl.selector_service.hosting import Host
from insight_rl.selector_service.middleware import Limits
from insight_rl.selector_service.options import SelectorOptions
from insight_rl.selector_service.store import OutOfOrder, Store
from insight_rl.selector_service.translation import counts_of, reliability_curve
from insight_rl.types import Prompt

OPTIONS = SelectorOptions()
TOKEN = "correct horse battery staple".replace(" ", "-")


@pytest.fixture
def tmp_path():
    """In memory where that can be had: a wait for the disk with each commit adds up."""
    with tempfile.TemporaryDirectory(dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
        yield Path(folder)


@pytest.fixture
def client(tmp_path):
    with serving(tmp_path / "data") as client:
        yield client


def serving(folder, *, limits=None, snapshot_every=5):
    host = Host(folder, make_selector=OPTIONS.make, snapshot_every=snapshot_every)
    client = TestClient(make_app(host, OPTIONS, limits or Limits()), base_url="http://127.0.0.1")
    client.host = host
    return client


def ok(response):
    assert response.is_success, response.text
    return response.json() if response.content else None


def add_pool(client, size=100, name="pool"):
    ids = [f"p{i}" for i in range(size)]
    ok(client.put(f"/v1/pools/{name}/chunks/0", json={"ids": ids[: size // 2], "tasks": ["a"]}))
    ok(client.put(f"/v1/pools/{name}/chunks/1", json={"ids": ids[size // 2 :], "tasks": ["b"] * (size - size // 2)}))
    ok(client.post(f"/v1/pools/{name}/seal", json={"num_prompts": size}))


def add_run(client, name="run", **changes):
    add_pool(client)
    body = {"run": name, "pool": "pool", "num_rollouts": 8, "seed": 7} | changes
    return ok(client.post("/v1/runs", json=body))


def select(client, step, num_prompts=6, run="run", **more):
    return ok(client.post(f"/v1/runs/{run}/select", json={"step": step, "num_prompts": num_prompts, **more}))


def outcomes(ids, step):
    rng = np.random.default_rng(step)
    return [{"id": each, "num_judged": 8, "num_successes": int(rng.integers(9))} for each in ids]


def observe(client, step, ids, run="run"):
    return ok(client.post(f"/v1/runs/{run}/observe", json={"step": step, "observations": outcomes(ids, step)}))


def steps(client, first, last, run="run"):
    trace = []
    for step in range(first, last):
        ids = select(client, step, run=run)["ids"]
        trace.append((ids, observe(client, step, ids, run=run)["beliefs"]))
    return trace


def local_steps(last):
    """What the same selector decides in this process."""
    selector = OPTIONS.make(schema.SelectorChoice())
    selector.open([prompt(f"p{i}") for i in range(100)], num_rollouts=8, seed=7)
    trace = []
    for step in range(last):
        prompts = selector.select(6)
        seen = [schema.Observation(**each) for each in outcomes([prompt.id for prompt in prompts], step)]
        selector.observe([counts_of(each) for each in seen])
        trace.append(([prompt.id for prompt in prompts], [list(selector.belief(prompt.id)) for prompt in prompts]))
    return trace


def state(client, run="run"):
    return ok(client.get(f"/v1/runs/{run}/state"))


def test_decisions_are_those_of_the_selector_in_process(client):
    add_run(client)
    assert steps(client, 0, 12) == local_steps(12)


def test_a_repeated_request_gets_the_first_answer_and_counts_once(client):
    add_run(client)
    first = select(client, 0)
    again = select(client, 0)
    assert again == first | {"is_repeat": True}
    assert first["is_repeat"] is False
    observe(client, 0, first["ids"])
    before = state(client)
    assert observe(client, 0, first["ids"])["is_repeat"] is True
    assert select(client, 0) == again
    assert state(client) == before
    assert select(client, 0, round=1)["ids"] != first["ids"]


def test_another_request_under_the_same_step_is_a_conflict(client):
    add_run(client)
    ids = select(client, 3)["ids"]
    assert client.post("/v1/runs/run/select", json={"step": 3, "num_prompts": 7}).status_code == 409
    observe(client, 3, ids)
    body = {"step": 3, "observations": outcomes(ids[:2], 3)}
    assert client.post("/v1/runs/run/observe", json=body).status_code == 409


def test_a_restart_goes_on_identically_with_and_without_snapshots(tmp_path):
    """Each stop here is as abrupt as can be within a process: nothing is saved on the way out."""
    expected = local_steps(13)
    for snapshot_every in (3, 1000):
        folder = tmp_path / str(snapshot_every)
        trace = []
        for first in range(0, 13, 4):
            client = serving(folder, snapshot_every=snapshot_every)
            if first == 0:
                add_run(client)
            trace += steps(client, first, min(first + 4, 13))
            digest = state(client)
            client.host.store.close()
            host = Host(folder, make_selector=OPTIONS.make)
            assert host.run("run").state().model_dump() == digest
            host.store.close()
        assert trace == expected


def test_snapshots_bound_the_replay_and_old_ones_go(client):
    add_run(client)
    steps(client, 0, 20)
    versions = [version for (version,) in client.host.store.read("SELECT version FROM snapshots ORDER BY version")]
    assert versions == [35, 40]


def test_a_fork_goes_on_from_an_earlier_version_and_leaves_its_parent_alone(client):
    add_run(client)
    trace = steps(client, 0, 10)
    digest = state(client)
    fork = ok(client.post("/v1/runs/run/fork", json={"name": "fork", "version": 8}))
    assert (fork["version"], fork["forked_from"]) == (8, "run@8")
    assert ok(client.post("/v1/runs/run/fork", json={"name": "fork", "version": 8})) == fork
    assert steps(client, 4, 10, run="fork") == trace[4:]
    assert state(client, "fork") == digest == state(client)
    assert ok(client.post("/v1/runs/fork/fork", json={"name": "later", "version": 12}))["forked_from"] == "fork@12"
    ok(client.delete("/v1/runs/run"))
    client.host.runs["fork"]._live = None
    assert state(client, "fork") == digest
    assert steps(client, 6, 8, run="later") == trace[6:8]
    assert client.post("/v1/runs/fork/fork", json={"name": "x", "version": 5}).status_code == 409
    assert client.post("/v1/runs/fork/fork", json={"name": "later", "version": 13}).status_code == 409


def test_a_write_that_fails_is_not_acknowledged_and_leaves_no_trace(client, monkeypatch):
    add_run(client)
    trace = steps(client, 0, 2)
    before = state(client)
    append = Store.append

    def fail(self, *operation):
        return append(self, operation[0], operation[1] + 1, *operation[2:])  # its predecessor is not there

    with monkeypatch.context() as patch:
        patch.setattr(Store, "append", fail)
        response = client.post("/v1/runs/run/select", json={"step": 2, "num_prompts": 6})
    assert response.status_code == 503
    assert "has not happened" in response.json()["detail"]
    assert state(client) == before
    assert trace + steps(client, 2, 5) == local_steps(5)


def test_a_replay_that_differs_is_told_not_hidden(client):
    add_run(client)
    select(client, 0)
    store = client.host.store
    store.submit(lambda db: db.execute("UPDATE operations SET result = replace(result, '0.', '1.')")).result()
    client.host.runs["run"]._live = None
    response = client.get("/v1/runs/run/state")
    assert response.status_code == 500
    assert "operation 1 (select)" in response.json()["detail"]


def test_concurrent_clients_of_one_run_are_all_counted_once(client):
    add_run(client)
    ids = [f"p{i}" for i in range(100)]

    def send(step):
        return observe(client, step, [ids[step % 100]])["version"]

    with ThreadPoolExecutor(8) as threads:
        versions = list(threads.map(send, [step // 2 for step in range(200)]))  # each one twice
    assert sorted(set(versions)) == list(range(1, 101))
    beliefs = ok(client.post("/v1/runs/run/beliefs", json={"ids": ids}))["beliefs"]
    assert {alpha + beta for alpha, beta in beliefs} == {10.0}


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"selector": {"name": "no_such"}}, 422, "no_such"),
        ({"selector": {"settings": {"mu": 7.0}}}, 422, "mu"),
        ({"selector": {"settings": {"no_such": 1}}}, 422, "no_such"),
        ({"selector": {"settings": {"_target_": "os.system"}}}, 422, "must not begin with _"),
        ({"selector": {"settings": {"score": {"_target_": "os.system"}}}}, 422, "must not begin with _"),
        ({"selector": {"settings": {"mu": "${oc.env:HOME}"}}}, 422, "no $"),
        ({"selector": {"settings": {"mu": "???"}}}, 422, "???"),
        ({"selector": {"settings": {"task_priors": {"a": ["???", 1]}}}}, 422, "???"),
        ({"selector": {"settings": {"prior_alpha": 1e-320}}}, 422, "from 0.001 to 1e+06"),
        ({"selector": {"settings": {"prior_beta": 10**400}}}, 422, "from 0.001 to 1e+06"),
        ({"selector": {"settings": {"task_priors": {"a": [1e308, 1e308]}}}}, 422, "from 0.001 to 1e+06"),
        ({"selector": {"settings": {"task_priors": {"a": "11"}}}}, 422, "task_priors.a"),
        ({"selector": {"settings": {"rollout_budget": "knapsack"}}}, 422, "take even"),
        ({"selector": {"settings": {"evidence": "value"}}}, 422, "take success"),
        ({"selector": {"name": "remote"}}, 422, "cannot be hosted"),
        ({"selector": {"name": "../../x"}}, 422, "name"),
        ({"selector": {"name": "0"}}, 422, "take one of"),
        ({"selector": {"name": "null"}}, 422, "take one of"),
        ({"pool": "elsewhere"}, 404, "elsewhere"),
        ({"num_rollouts": 0}, 422, "num_rollouts"),
        ({"run": "a/b"}, 422, "run"),
    ],
)
def test_a_run_that_cannot_be_is_refused_with_the_reason(client, body, status, said):
    add_pool(client)
    response = client.post("/v1/runs", json={"run": "x", "pool": "pool", "num_rollouts": 8, "seed": 0} | body)
    assert response.status_code == status
    assert said in response.json()["detail"]
    assert "traceback" not in response.text.lower()
    assert ok(client.get("/v1/runs")) == []


def test_settings_reach_the_selector(client):
    choice = {"name": "mopps", "settings": {"target": 0.4, "prior_alpha": 2}}
    assert ok(client.post("/v1/selectors/check", json=choice))["settings"]["target"] == 0.4
    add_run(client, selector=choice)
    assert ok(client.post("/v1/runs/run/beliefs", json={"ids": ["p3"]}))["beliefs"] == [[2.0, 1.0]]


def test_creating_is_idempotent_and_another_definition_a_conflict(client):
    info = add_run(client)
    assert add_run(client) == info
    assert client.post("/v1/runs", json={**RUN, "seed": 8}).status_code == 409
    assert client.delete("/v1/pools/pool").status_code == 409
    ok(client.delete("/v1/runs/run"))
    ok(client.delete("/v1/pools/pool"))
    assert client.get("/v1/pools/pool").status_code == 404
    assert client.post("/v1/runs", json=RUN).status_code == 404


RUN = {"run": "run", "pool": "pool", "num_rollouts": 8, "seed": 7}


def test_pools_are_whole_before_they_are_used(client):
    chunk = {"ids": ["a", "b"]}
    ok(client.put("/v1/pools/pool/chunks/1", json=chunk))
    assert "lacks chunk 0" in client.post("/v1/pools/pool/seal", json={"num_prompts": 2}).json()["detail"]
    assert "not sealed" in client.post("/v1/runs", json=RUN).json()["detail"]
    ok(client.put("/v1/pools/pool/chunks/0", json={"ids": ["b", "c"]}))
    assert "'b' occurs twice" in client.post("/v1/pools/pool/seal", json={"num_prompts": 4}).json()["detail"]
    assert client.put("/v1/pools/pool/chunks/0", json={"ids": ["x", "y"]}).status_code == 409
    ok(client.delete("/v1/pools/pool"))
    ok(client.put("/v1/pools/pool/chunks/0", json=chunk))
    assert client.post("/v1/pools/pool/seal", json={"num_prompts": 3}).status_code == 409
    assert client.post("/v1/pools/pool/seal", json={"num_prompts": 2, "fingerprint": "f"}).status_code == 409
    fingerprint = pool_fingerprint([prompt("a"), prompt("b")])
    info = ok(client.post("/v1/pools/pool/seal", json={"num_prompts": 2, "fingerprint": fingerprint}))
    assert ok(client.get("/v1/pools/pool")) == info
    assert info["fingerprint"] == fingerprint
    assert client.put("/v1/pools/pool/chunks/1", json={"ids": ["z"]}).status_code == 409
    assert ok(client.put("/v1/pools/pool/chunks/0", json=chunk)) == info
    assert client.put("/v1/pools/p/chunks/0", json={"ids": ["a"] * 3, "tasks": ["t"] * 2}).status_code == 422


def test_fingerprints_tell_pools_apart():
    pools = [[("ab", "c")], [("a", "bc")], [("a", ""), ("b", "c")], [("abc", "")], [("b", "c"), ("a", "")], []]
    fingerprints = {pool_fingerprint([prompt(*names) for names in pool]) for pool in pools}
    numbers = [{"n": 2}, {"n": 3}, {"n": None}, {"m": 2}]
    fingerprints |= {pool_fingerprint([prompt("a", **each)], list(each)) for each in numbers}
    assert len(fingerprints) == len(pools) + len(numbers)


def test_numbers_of_the_prompts_reach_the_selector(client):
    """Guessing one in two is no sign of learning: with the number of choices, such a prompt is worth nothing."""
    ids = ["guess", "learn", "free"]
    chunk = {"ids": ids, "tasks": ["quiz", "quiz", ""], "numbers": {"num_choices": [2, 100, None]}}
    ok(client.put("/v1/pools/quiz/chunks/0", json=chunk))
    ok(client.post("/v1/pools/quiz/seal", json={"num_prompts": 3}))
    choice = {"settings": {"chance_levels": {"quiz": "num_choices"}}}
    ok(client.post("/v1/runs", json=RUN | {"pool": "quiz", "selector": choice}))
    observations = [{"id": each, "num_judged": 8, "num_successes": 4} for each in ids]
    ok(client.post("/v1/runs/run/observe", json={"step": 0, "observations": observations}))
    answer = select(client, 1, num_prompts=3)
    scores = dict(zip(answer["ids"], answer["scores"], strict=True))
    assert scores["guess"] < 0.01 < scores["learn"]
    wrong = {"settings": {"chance_levels": {"": "num_choices"}}}
    response = client.post("/v1/runs", json=RUN | {"run": "x", "pool": "quiz", "selector": wrong})
    assert response.status_code == 422
    assert "num_choices" in response.json()["detail"]


def prompt(prompt_id, task="", **metadata):
    return Prompt(id=prompt_id, task=task, text="", token_ids=(), answer=None, metadata=metadata)


@pytest.mark.parametrize(
    "observations",
    [
        [{"id": "elsewhere", "num_judged": 8, "num_successes": 3}],
        [{"id": "p1", "num_judged": 2, "num_successes": 3}],
        [{"id": "p1", "num_judged": 2, "num_successes": 1}] * 2,
        [{"id": "p1", "num_judged": 2, "num_successes": -1}],
        [{"id": "p1", "num_judged": 2.5, "num_successes": 1}],
        [{"id": "p1", "num_judged": 2, "num_successes": 1, "text": "the answer"}],
    ],
)
def test_observations_that_cannot_be_change_nothing(client, observations):
    add_run(client)
    ids = select(client, 0)["ids"]
    before = state(client)
    mixed = [{"id": ids[0], "num_judged": 8, "num_successes": 8}, *observations]
    assert client.post("/v1/runs/run/observe", json={"step": 0, "observations": mixed}).status_code == 422
    assert state(client) == before


def test_unjudged_rollouts_leave_the_belief_alone(client):
    add_run(client)
    body = {"step": 0, "observations": [{"id": "p1", "num_judged": 3, "num_successes": 1, "num_unjudged": 5}]}
    assert ok(client.post("/v1/runs/run/observe", json=body))["beliefs"] == [[2.0, 3.0]]


def test_positions_are_those_of_the_pool(client):
    add_run(client)
    answer = select(client, 0, num_prompts=100)
    assert [f"p{position}" for position in answer["positions"]] == answer["ids"]
    assert sorted(answer["positions"]) == list(range(100))


def test_metrics_and_the_live_view(client):
    add_run(client)
    steps(client, 0, 30)
    metrics = ok(client.get("/v1/runs/run/metrics"))["metrics"]
    assert sum(metrics["selector/belief_histogram"]["counts"]) == 100
    view = ok(client.get("/v1/runs/run/live"))
    assert view["metrics"] == metrics
    assert view["num_prompts"] == 100
    assert (len(view["picks"]), view["picks_step"]) == (6, 29)
    assert sum(each["num_rollouts"] for each in view["reliability"]) == 30 * 6 * 8
    text = client.get("/metrics").text
    assert 'insight_rl_requests_total{operation="observe",status="200"} 30.0' in text
    assert 'insight_rl_selector_informative_fraction{run="run"}' in text
    assert client.get("/metrics").headers["content-type"].startswith("text/plain")


def test_picks_have_score_and_belief_of_the_same_moment_and_their_outcome(client):
    add_run(client)
    steps(client, 1, 25)
    ids = select(client, 25)["ids"]
    view = ok(client.get("/v1/runs/run/live"))
    for pick in view["picks"]:
        alpha, beta = pick["belief"]
        expected = weighted_mutual_information(np.array([alpha]), np.array([beta]), 8)[0]
        assert pick["score"] == pytest.approx(expected), "the score is that of the belief beside it"
        assert (pick["num_judged"], pick["belief_now"]) == (None, pick["belief"])
    seen = {each["id"]: each["num_successes"] for each in outcomes(ids, 25)}
    observe(client, 25, ids)
    later = ok(client.get("/v1/runs/run/live"))
    assert [pick["belief"] for pick in later["picks"]] == [pick["belief"] for pick in view["picks"]]
    assert {pick["id"]: pick["num_successes"] for pick in later["picks"]} == seen
    assert all(pick["belief_now"] != pick["belief"] for pick in later["picks"])


def test_the_history_is_that_of_the_log_and_goes_through_forks_and_restarts(tmp_path):
    client = serving(tmp_path / "data", snapshot_every=6)
    add_run(client)
    steps(client, 1, 9)
    for step, accuracy in ((4, 0.25), (8, 0.5)):
        ok(client.post("/v1/runs/run/report", json={"step": step, "accuracy": accuracy}))
    whole = ok(client.get("/v1/runs/run/live"))
    assert [each["step"] for each in whole["history"]] == list(range(1, 9))
    assert (whole["num_steps"], whole["is_finished"]) == (8, False)
    for each in whole["history"]:
        counts = [seen["num_successes"] for seen in outcomes(["x"] * 6, each["step"])]
        assert each["informative_fraction"] == pytest.approx(np.mean([0 < count < 8 for count in counts]))
        assert each["success_rate"] == pytest.approx(np.mean(counts) / 8)
    ok(client.post("/v1/runs/run/fork", json={"name": "again", "version": 10}))
    steps(client, 6, 8, run="again")
    ok(client.post("/v1/runs/again/report", json={"step": 7, "accuracy": 0.75, "is_finished": True}))
    client.host.close()
    client = serving(tmp_path / "data")
    fork = ok(client.get("/v1/runs/again/live"))
    assert fork["history"] == whole["history"][:7]
    assert fork["accuracy"] == [{"step": 4, "accuracy": 0.25}, {"step": 7, "accuracy": 0.75}]
    assert fork["is_finished"]
    assert fork["last_seen_at"] >= ok(client.get("/v1/runs/run/live"))["last_seen_at"]
    client.host.close()


def test_a_long_history_is_shown_in_stretches(client, monkeypatch):
    monkeypatch.setattr("insight_rl.selector_service.history.MAX_STRETCHES", 4)
    add_run(client)
    steps(client, 1, 11)
    view = ok(client.get("/v1/runs/run/live"))
    assert [each["step"] for each in view["history"]] == [3, 6, 8, 10]
    assert sum(each["num_groups"] for each in view["history"]) == 60
    assert view["num_steps"] == 10


def test_reports_never_reach_the_selector(client):
    add_run(client)
    steps(client, 1, 3)
    before = state(client)
    ok(client.post("/v1/runs/run/report", json={"step": 2, "accuracy": 0.5}))
    assert state(client) == before
    assert client.post("/v1/runs/run/report", json={"step": 2, "accuracy": 1.5}).status_code == 422
    assert client.post("/v1/runs/no/report", json={"step": 2}).status_code == 404
    ok(client.delete("/v1/runs/run"))
    assert client.host.store.read("SELECT * FROM activity") == client.host.store.read("SELECT * FROM accuracies") == []


def test_reliability_is_weighted_by_rollouts():
    low, high = reliability_curve([(0.1, 1, 8), (0.18, 0, 2), (1.0, 3, 4), (0.5, 0, 0)])
    assert (low.predicted, low.observed, low.num_rollouts) == (pytest.approx((0.1 * 8 + 0.18 * 2) / 10), 0.1, 10)
    assert (high.predicted, high.observed, high.num_rollouts) == (1.0, 0.75, 4)


def test_the_page_loads_nothing_from_elsewhere(client):
    response = client.get("/")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "NONCE" not in response.text
    assert "http" not in response.text.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    assert ok(client.get("/healthz"))["status"] == "ok"


def test_the_interface_is_documented(client):
    document = ok(client.get("/openapi.json"))
    operations = [(path, method) for path, item in document["paths"].items() for method in item]
    assert len(operations) >= 17
    assert all(path.startswith("/v1/") or path in ("/", "/healthz", "/metrics") for path, _ in operations)
    for path, method in operations:
        described = document["paths"][path][method]
        assert described["responses"].keys() >= {"422", "429", "401"}, path


def test_a_token_is_wanted_where_one_is_set(tmp_path):
    with serving(tmp_path, limits=Limits(token=TOKEN, allowed_hosts=None)) as client:
        for header in (None, f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer", "Bearer \xff"):
            headers = {} if header is None else {"authorization": header.encode("latin-1")}
            response = client.get("/v1/runs", headers=headers)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
            assert client.get("/metrics", headers=headers).status_code == 401
        assert client.get("/v1/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        assert client.get("/healthz").status_code == client.get("/").status_code == 200


def test_other_host_names_are_refused(client):
    assert client.get("/v1/runs", headers={"host": "evil.example:8700"}).status_code == 403
    assert client.get("/v1/runs", headers={"host": "localhost:8700"}).status_code == 200
    assert client.get("/v1/runs", headers={"host": "[::1]:8700"}).status_code == 200


def test_only_json_is_taken_for_json(client):
    """A web page elsewhere can post plain text to this machine without asking; it must have no effect."""
    add_run(client)
    body = json.dumps({"step": 0, "num_prompts": 2})
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post("/v1/runs/run/select", content=body, headers={"content-type": kind})
        assert response.status_code == 422
    assert state(client)["version"] == 0


def test_bodies_are_bounded_with_and_without_a_length(tmp_path):
    with serving(tmp_path, limits=Limits(max_body_bytes=1000)) as client:
        body = json.dumps({"ids": ["x" * 500, "y" * 500]}).encode()
        headers = {"content-type": "application/json"}
        assert client.put("/v1/pools/p/chunks/0", content=body, headers=headers).status_code == 413
        pieces = iter([body[:600], body[600:]])
        assert client.put("/v1/pools/p/chunks/0", content=pieces, headers=headers).status_code == 413
        assert client.put("/v1/pools/p/chunks/0", json={"ids": ["x"]}).status_code == 200


def test_requests_are_rationed(tmp_path):
    with serving(tmp_path, limits=Limits(max_requests_per_s=2.0)) as client:
        statuses = [client.get("/healthz").status_code for _ in range(6)]
        assert statuses.count(200) in (4, 5)
        refused = client.get("/healthz")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        time.sleep(0.6)
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("body", [b"\xff\xfe", b"{", b'{"step": NaN}', b"[" * 50_000, b"9" * 5000, b'"\\ud800"'])
def test_garbage_is_refused_in_words(client, body):
    add_run(client)
    response = client.post("/v1/runs/run/select", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    assert response.json()["detail"]


def test_half_a_character_is_refused(client):
    add_run(client)
    body = b'{"step": 0, "observations": [{"id": "\\ud800", "num_judged": 1, "num_successes": 1, "\\udfff": 1}]}'
    response = client.post("/v1/runs/run/observe", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    response.json()


def test_one_service_at_a_time(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(UsageError, match="another service"):
        Store(tmp_path)
    store.close()
    Store(tmp_path).close()


def test_writes_queue_up_behind_one_wait_and_keep_their_order(tmp_path):
    store = Store(tmp_path)
    gate = threading.Event()
    first = store.submit(lambda db: gate.wait(10))
    order = []
    waiting = [store.submit(lambda db, n=n: order.append(n)) for n in range(50)]
    failing = store.append(1, 1, "select", 0, 0, "", "")
    last = store.submit(lambda db: "still here")
    gate.set()
    assert first.result(10)
    assert last.result(10) == "still here"
    assert all(each.done() for each in waiting)
    assert order == list(range(50))
    assert isinstance(failing.exception(10), OutOfOrder)
    assert store.num_commits <= 2
    store.close()
