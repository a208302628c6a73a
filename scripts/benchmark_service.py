"""Latency of the selector service over loopback: select (M of 16 M candidates) and observe, under several clients.

    python scripts/benchmark_service.py --pool 1000000 --clients 8 --rounds 100

Every client is a process with a run of its own on one shared pool and goes through select, then observe of what it
got, without a pause: a trainer would come once in many seconds. The last line is a JSON object with the 50th and 99th
percentile in milliseconds, as the clients see them, for one client alone and for all at once, and with the bytes of a
request and its answer, headers left out.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from insight_rl.selector_service.pools import PromptIds

NUM_ROLLOUTS = 8
CHUNK = 50_000


def client(url: str, run: str, num_rounds: int, num_prompts: int, barrier: Any, results: Any) -> None:
    """Seconds and bytes of each select and observe, after a warm-up, to ``results``."""
    rng = np.random.default_rng(0)
    select_s, observe_s, select_bytes, observe_bytes = [], [], [], []
    with httpx.Client(base_url=url, timeout=120, trust_env=False) as http:
        definition = {"run": run, "pool": "pool", "num_rollouts": NUM_ROLLOUTS, "seed": 0}
        http.post("/v1/runs", json=definition).raise_for_status()
        for step in range(num_rounds + 5):
            if step == 5:
                barrier.wait()
            started = time.perf_counter()
            selection = http.post(f"/v1/runs/{run}/select", json={"step": step, "num_prompts": num_prompts})
            select_s.append(time.perf_counter() - started)
            selection.raise_for_status()
            select_bytes.append(len(selection.request.content) + len(selection.content))
            outcomes = rng.integers(NUM_ROLLOUTS + 1, size=num_prompts).tolist()
            observations = [
                {"id": prompt_id, "num_judged": NUM_ROLLOUTS, "num_successes": successes}
                for prompt_id, successes in zip(selection.json()["ids"], outcomes, strict=True)
            ]
            started = time.perf_counter()
            answer = http.post(f"/v1/runs/{run}/observe", json={"step": step, "observations": observations})
            observe_s.append(time.perf_counter() - started)
            answer.raise_for_status()
            observe_bytes.append(len(answer.request.content) + len(answer.content))
    results.put((select_s[5:], observe_s[5:], select_bytes[5:], observe_bytes[5:]))


def measure(url: str, name: str, num_clients: int, arguments: argparse.Namespace) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_clients), context.Queue()
    processes = [
        context.Process(target=client, args=(url, f"{name}-{i}", arguments.rounds, arguments.prompts, barrier, results))
        for i in range(num_clients)
    ]
    for process in processes:
        process.start()
    measured = [results.get(timeout=600) for _ in processes]
    for process in processes:
        process.join()
    figures = {}
    for index, operation in enumerate(("select", "observe")):
        milliseconds = 1e3 * np.concatenate([each[index] for each in measured])
        for percent in (50, 99):
            figures[f"{operation}_p{percent}_ms"] = round(float(np.percentile(milliseconds, percent)), 2)
        figures[f"{operation}_bytes"] = round(float(np.mean(np.concatenate([each[index + 2] for each in measured]))))
    return figures


def upload(url: str, size: int) -> float:
    """Seconds to send and seal a pool of ``size`` prompts."""
    started = time.perf_counter()
    with httpx.Client(base_url=url, timeout=600, trust_env=False) as http:
        for number, first in enumerate(range(0, size, CHUNK)):
            ids = [f"prompt/{index:09x}" for index in range(first, min(first + CHUNK, size))]
            http.put(f"/v1/pools/pool/chunks/{number}", json={"ids": ids}).raise_for_status()
        http.post("/v1/pools/pool/seal", json={"num_prompts": size}).raise_for_status()
    return time.perf_counter() - started


def disk_wait_ms(folder: Path, count: int = 50) -> float:
    """Median time of one small write and ``fsync`` in ``folder``: the floor of whatever is acknowledged."""
    times = []
    with (folder / "probe").open("wb") as file:
        for _ in range(count):
            started = time.perf_counter()
            file.write(b"x" * 4096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.perf_counter() - started)
    return round(1e3 * float(np.median(times)), 2)


def pool_bytes_a_prompt(size: int = 1_000_000) -> float:
    """Memory of the service for one id of a pool, loaded: this process's, before and after making one."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident()
    pool = PromptIds([f"prompt/{index:09x}" for index in range(size)], [""] * size, {})
    return (resident() - before) / len(pool)


def cpu_s(pid: int) -> float:
    """Processor seconds that a process has taken so far."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=int, default=1_000_000)
    parser.add_argument("--prompts", type=int, default=256, help="M; 16 M candidates are scored")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=100, help="of select and observe, by each client")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        command = [sys.executable, "-m", "insight_rl", "serve-selector", "--data-dir", name, "--port", "0"]
        service = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert service.stdout is not None
            url = "http://" + service.stdout.readline().split("http://")[1].split("/")[0]
            figures: dict[str, Any] = {"pool": arguments.pool, "candidates": 16 * arguments.prompts}
            figures["pool_bytes_a_prompt"] = round(pool_bytes_a_prompt())
            figures["upload_s"] = round(upload(url, arguments.pool), 2)
            figures["disk_wait_ms"] = disk_wait_ms(folder)
            for label, count in (("one_client", 1), (f"{arguments.clients}_clients", arguments.clients)):
                before = cpu_s(service.pid)
                figures[label] = measure(url, label.replace("_", "-"), count, arguments)
                num_requests = 2 * count * (arguments.rounds + 5)
                figures[label]["service_cpu_ms_per_request"] = round(
                    1e3 * (cpu_s(service.pid) - before) / num_requests, 2
                )
                print(label, figures[label], flush=True)
            status = Path(f"/proc/{service.pid}/status").read_text(encoding="utf-8")
            figures["service_memory_mb"] = round(int(status.split("VmHWM:")[1].split()[0]) / 1024)
        finally:
            service.kill()
            service.wait()
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
