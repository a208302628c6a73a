"""The trainer with its selector in the service: the same run, also after either of the two has been killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from insight_rl.errors import RunStopped, UsageError
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.selector_service.client import RemoteSelector
from insight_rl.types import Completion, Group, Prompt, Reward

pytestmark = pytest.mark.slow

STEPS = 6
SETTINGS = [
    "seed=5",
    f"trainer.num_steps={STEPS}",
    "trainer.prompts_per_step=8",
    "trainer.rollouts_per_prompt=4",
    "trainer.max_completion_tokens=12",
    "checkpoint.every=2",
    "evaluation.every=0",
    "gate=mixed_outcomes",
]
ROOT = Path(__file__).parents[2]


def command(run_dir, *overrides):
    return [sys.executable, "-m", "insight_rl", "train", *SETTINGS, *overrides, f"run_dir={run_dir}"]


def train(run_dir, *overrides, url=""):
    environment = os.environ | {"INSIGHT_RL_SELECTOR_URL": url, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command(run_dir, *overrides), cwd=ROOT, env=environment, capture_output=True, text=True, timeout=400
    )


def selections(run_dir):
    return (Path(run_dir) / "selections.jsonl").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def local_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("local")
    done = train(folder, "selector=mopps")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.xdist_group("local run")
def test_remote_and_local_selector_make_the_same_run(local_run, start_service, tmp_path):
    _, url = start_service(tmp_path / "service")
    done = train(tmp_path / "remote", "selector=remote", "selector.hosts.name=mopps", url=url)
    assert done.returncode == 0, done.stderr
    assert len(selections(local_run).splitlines()) == STEPS
    assert selections(tmp_path / "remote") == selections(local_run)
    metrics = [
        [
            {key: value for key, value in json.loads(line).items() if not is_of_the_machine(key)}
            for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for folder in (local_run, tmp_path / "remote")
    ]
    (info,) = httpx.get(f"{url}/v1/runs").json()
    assert info["run"].startswith("remote-"), "named after the run's folder"
    view = httpx.get(f"{url}/v1/runs/{info['run']}/live").json()
    assert view["is_finished"]
    assert (view["num_steps"], view["picks_step"]) == (STEPS, STEPS), "counted from 1, as in selections.jsonl"
    for own, remote in zip(*metrics, strict=True):
        assert remote == {key: own[key] for key in remote}
        assert {key for key in own.keys() - remote.keys() if not is_of_the_machine(key)} == set()


@pytest.mark.xdist_group("local run")
def test_a_killed_trainer_goes_on_in_a_fork(local_run, start_service, tmp_path):
    """Killed after its checkpoint of step 2 or 4, when the service is already ahead of that checkpoint."""
    _, url = start_service(tmp_path / "service")
    overrides = ("selector=remote", "selector.hosts.name=mopps", "selector.run=mine")
    environment = os.environ | {"INSIGHT_RL_SELECTOR_URL": url, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command(tmp_path / "run", *overrides), cwd=ROOT, env=environment, start_new_session=True)
    log = tmp_path / "run" / "selections.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and len(log.read_text(encoding="utf-8").splitlines()) >= 3):
        assert process.poll() is None, "finished before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = train(tmp_path / "run", *overrides, url=url)
    assert done.returncode == 0, done.stderr
    assert "going on after step" in done.stdout
    assert selections(tmp_path / "run") == selections(local_run)


def test_a_service_that_is_not_there_is_told_before_the_model_loads(tmp_path):
    done = train(tmp_path, "selector=remote", "selector.num_retries=1", url="http://127.0.0.1:9")
    assert done.returncode == 2
    assert "insight-rl serve-selector" in done.stderr
    assert "Traceback" not in done.stderr


def pool(size=60):
    return [Prompt(id=f"p{i}", task="t", text="", token_ids=(), answer=None) for i in range(size)]


def group(prompt):
    completion = Completion(token_ids=(), logprobs=(), text="", finish_reason="stop", policy_version=0)
    return Group(prompt=prompt, completions_G=(completion,) * 2, rewards_G=(Reward(value=1.0, success=True),) * 2)


def remote(url, **settings):
    selector = RemoteSelector(url=url, hosts={"name": "insight"}, **settings)
    selector.open(pool(), num_rollouts=2, seed=0)
    return selector


def test_a_service_that_dies_in_mid_run_stops_it_and_one_that_comes_back_goes_on(start_service, tmp_path):
    process, url = start_service(tmp_path)
    selector = remote(url, num_retries=1)
    selector.observe([group(prompt) for prompt in selector.select(4)])
    state, first = selector.state_dict(), selector.belief("p0")
    process.kill()
    process.wait()
    with pytest.raises(RunStopped, match="serve-selector"):
        selector.select(4)
    port = url.rsplit(":", 1)[1]
    _, url = start_service(tmp_path, "--port", port)
    assert selector.belief("p0") == first
    again = remote(url)
    again.load_state_dict(state)
    assert [prompt.id for prompt in again.select(4)] == [prompt.id for prompt in selector.select(4)]


def test_a_short_outage_is_waited_for(start_service, tmp_path):
    process, url = start_service(tmp_path)
    selector = remote(url, num_retries=8)
    process.kill()
    process.wait()
    port = url.rsplit(":", 1)[1]
    command = [sys.executable, "-m", "insight_rl", "serve-selector", "--data-dir", str(tmp_path), "--port", port]
    later = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=ROOT)
    try:
        assert len(selector.select(4)) == 4
    finally:
        later.kill()
        later.wait()


def test_a_name_that_is_taken_is_not_trampled(start_service, tmp_path):
    _, url = start_service(tmp_path)
    first = remote(url, run="mine")
    ids = [prompt.id for prompt in first.select(4)]
    second = remote(url, run="mine")
    assert [prompt.id for prompt in second.select(4)] == ids  # begun afresh, beside the other
    assert second.state_dict()["run"].startswith("mine.fork-")
    assert first.state_dict() | {"run": ""} == second.state_dict() | {"run": ""}
    with pytest.raises(UsageError, match="another definition"):
        other = RemoteSelector(url=url, hosts={"name": "mopps"}, run="mine")
        other.open(pool(), num_rollouts=2, seed=0)


def test_a_token_is_sent_where_the_environment_has_one(start_service, tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("a-token-of-24-characters\n", encoding="utf-8")
    _, url = start_service(tmp_path / "data", "--token-file", str(file))
    with pytest.raises(UsageError, match="MY_TOKEN"):
        remote(url, token_env="MY_TOKEN")
    monkeypatch.setenv("MY_TOKEN", "a-token-of-24-characters")
    assert len(remote(url, token_env="MY_TOKEN").select(3)) == 3


def test_other_addresses_want_a_token(tmp_path):
    command = [sys.executable, "-m", "insight_rl", "serve-selector", "--data-dir", str(tmp_path), "--host", "0.0.0.0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "--token-file" in done.stderr
    file = tmp_path / "weak"
    file.write_text("short", encoding="utf-8")
    done = subprocess.run([*command, "--token-file", str(file)], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "16" in done.stderr
