"""kill -9 of the selector service in the middle of many observes: nothing acknowledged is lost, nothing counts twice.

    python scripts/check_service_crash.py --trials 20 --observes 10000

Each trial starts a service and lets several clients observe one prompt a step, each with counts of its own. At a
random moment the service is killed. It is started again on the same folder, and before anything else every observation
that was acknowledged must be in its beliefs, and no other than was sent. Then *all* observes are sent again, as clients
would that lost their answers; in the end each prompt must have been counted exactly once. The last line is a JSON
object.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx

NUM_ROLLOUTS = 8
RUN = "/v1/runs/crash"


@contextmanager
def service(data_dir: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running service and its URL; killed on the way out if it still runs."""
    command = [sys.executable, "-m", "insight_rl", "serve-selector", "--data-dir", str(data_dir), "--port", "0"]
    command += ["--max-requests-per-s", "1e9", "--snapshot-every", "700"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    if "http://" not in line:
        raise SystemExit(f"the service did not start: {line}")
    try:
        yield process, "http://" + line.split("http://")[1].split("/")[0]
    finally:
        process.kill()
        process.wait()


def successes(step: int) -> int:
    return step * 7919 % (NUM_ROLLOUTS + 1)


class Clients:
    """Threads with a connection each."""

    def __init__(self, url: str, count: int) -> None:
        self._local = threading.local()
        self._url = url
        self.count = count

    def http(self) -> httpx.Client:
        if not hasattr(self._local, "client"):
            self._local.client = httpx.Client(base_url=self._url, timeout=60, trust_env=False)
        client: httpx.Client = self._local.client
        return client

    def observe(self, step: int) -> bool | None:
        """Whether the service had counted it before; None if no acknowledgement came."""
        observation = {"id": f"p{step}", "num_judged": NUM_ROLLOUTS, "num_successes": successes(step)}
        try:
            answer = self.http().post(f"{RUN}/observe", json={"step": step, "observations": [observation]})
        except httpx.TransportError:
            return None
        answer.raise_for_status()
        return bool(answer.json()["is_repeat"])

    def beliefs(self, num_observes: int) -> list[list[float]]:
        found: list[list[float]] = []
        for first in range(0, num_observes, 10_000):
            ids = [f"p{step}" for step in range(first, min(first + 10_000, num_observes))]
            answer = self.http().post(f"{RUN}/beliefs", json={"ids": ids})
            answer.raise_for_status()
            found += answer.json()["beliefs"]
        return found

    def version(self) -> int:
        answer = self.http().get(RUN)
        answer.raise_for_status()
        return int(answer.json()["version"])


def prepare(clients: Clients, num_observes: int) -> None:
    http = clients.http()
    ids = [f"p{step}" for step in range(num_observes)]
    definition = {"run": "crash", "pool": "pool", "num_rollouts": NUM_ROLLOUTS, "seed": 0}
    http.put("/v1/pools/pool/chunks/0", json={"ids": ids}).raise_for_status()
    http.post("/v1/pools/pool/seal", json={"num_prompts": num_observes}).raise_for_status()
    http.post("/v1/runs", json=definition).raise_for_status()


def observe_and_kill(
    process: subprocess.Popen[str], clients: Clients, num_observes: int, rng: random.Random
) -> set[int]:
    """The steps that were acknowledged until the service died, somewhere between the 10th and 90th percent."""
    kill_after = rng.randint(num_observes // 10, num_observes * 9 // 10)
    acknowledged: set[int] = set()
    lock = threading.Lock()
    killed = threading.Event()

    def kill() -> None:
        process.kill()
        killed.set()

    def send(step: int) -> None:
        if killed.is_set() or clients.observe(step) is None:
            return
        with lock:
            acknowledged.add(step)
            if len(acknowledged) == kill_after:
                # From another thread and a little later: requests are then under way at any stage.
                threading.Timer(rng.uniform(0, 0.02), kill).start()

    with ThreadPoolExecutor(clients.count) as threads:
        list(threads.map(send, range(num_observes)))
    killed.wait()
    process.wait()
    return acknowledged


def check_counts(clients: Clients, num_observes: int, acknowledged: set[int]) -> int:
    """How many prompts are counted. Each must be counted once or not at all, and once if it was acknowledged."""
    counted = 0
    for step, belief in enumerate(clients.beliefs(num_observes)):
        once = [1.0 + successes(step), 1.0 + NUM_ROLLOUTS - successes(step)]
        assert belief in (once, [1.0, 1.0]), f"step {step} counts as {belief} instead of {once}"
        assert belief == once or step not in acknowledged, f"step {step} was acknowledged and is lost"
        counted += belief == once
    assert clients.version() == counted, f"{clients.version()} operations for {counted} prompts counted"
    return counted


def trial(number: int, num_observes: int, num_clients: int) -> dict[str, int]:
    with tempfile.TemporaryDirectory() as folder:
        with service(Path(folder)) as (process, url):
            clients = Clients(url, num_clients)
            prepare(clients, num_observes)
            acknowledged = observe_and_kill(process, clients, num_observes, random.Random(number))
        with service(Path(folder)) as (_, url):
            clients = Clients(url, num_clients)
            counted = check_counts(clients, num_observes, acknowledged)
            with ThreadPoolExecutor(num_clients) as threads:
                repeats = list(threads.map(clients.observe, range(num_observes)))
            assert sum(repeat is True for repeat in repeats) == counted
            assert all(repeats[step] for step in acknowledged)
            assert check_counts(clients, num_observes, set(range(num_observes))) == num_observes
    return {"acknowledged": len(acknowledged), "on_disk_at_kill": counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--observes", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=8)
    arguments = parser.parse_args()
    results = []
    for number in range(arguments.trials):
        began = time.perf_counter()
        results.append(trial(number, arguments.observes, arguments.clients))
        print(f"trial {number + 1}: {results[-1]}, {time.perf_counter() - began:.1f} s", flush=True)
    print(json.dumps({"trials": len(results), "passed": len(results), "observes": arguments.observes, "each": results}))


if __name__ == "__main__":
    main()
