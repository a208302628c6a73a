"""How a step's cost grows: seconds and bytes by rollout workers, learner ranks and parameters, on this machine.

    python scripts/benchmark_scale.py --output docs/results/scale.json      # 1M, 10M, 135M; 1, 2, 4 workers; 1, 2 ranks
    python scripts/benchmark_scale.py --sizes 1M --workers 1 --ranks 1 --engine transformers_workers --steps 2

Models are Llamas of random weights, made on the spot with the bundled tiny model's tokenizer: nothing is downloaded.
Each cell of the table is a training run in a process of its own: a step to warm up, `--steps` steps that count, and one
after a checkpoint. Times mean nothing on a machine that has other work; the record has the load. The transformers
engine and the Accelerate learner (`--learner accelerate`) start sooner, for a quick look.

Bytes of a step that are counted:
  sent, received   by the trainer, in messages to and from its child processes (with runtime=ray there are none)
  read_written     by all processes of the run in read and write calls: files and pipes, /dev/shm included
  loopback         by the whole machine over that interface: gloo's, Ray's and whatever else runs
  weights          not counted but computed: once written, once read by each worker, which a memory map does unseen
The output file has every step's figures, and a row more as each run ends.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TINY = ROOT / "data" / "tiny_countdown"
SIZES = {
    "1M": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4},
    "10M": {"hidden_size": 320, "intermediate_size": 960, "num_hidden_layers": 8, "num_attention_heads": 5},
    "135M": {"hidden_size": 768, "intermediate_size": 2304, "num_hidden_layers": 18, "num_attention_heads": 12},
}
"""Of a Llama whose every head has keys and values of its own: 0.9, 10.6 and 138 million parameters."""
PHASES = ("select", "rollout", "reward", "learn", "sync")


def model_settings(size: str) -> dict[str, Any]:
    """A Llama's ``config.json``: the tiny model's vocabulary, and a shape of this size."""
    settings: dict[str, Any] = json.loads((TINY / "config.json").read_text(encoding="utf-8")) | SIZES[size]
    settings["num_key_value_heads"] = settings["num_attention_heads"]
    settings["head_dim"] = settings["hidden_size"] // settings["num_attention_heads"]
    return settings


def make_model(folder: Path, size: str) -> int:
    """A Llama with random weights, always the same; returns the number of its parameters."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig.from_dict(model_settings(size)))
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copy(TINY / name, folder / name)
    return sum(parameter.numel() for parameter in model.parameters())


def overrides(arguments: argparse.Namespace, model: Path, run_dir: Path, *, workers: int, ranks: int) -> list[str]:
    """Settings of one run: a step to warm up, those that count, a checkpoint, and one more, which has its time."""
    num_steps = arguments.steps + 2
    return [
        "experiment=quickstart",
        f"model.path={model}",
        f"rollout={arguments.engine}",
        f"rollout.num_workers={workers}",
        "rollout.num_threads=1",
        f"learner={arguments.learner}",
        f"learner.num_ranks={ranks}",
        f"trainer.num_steps={num_steps}",
        f"trainer.prompts_per_step={arguments.prompts}",
        # A random model's log-probs are as its engine's; the check would only take time.
        "trainer.sync_check_every=0",
        "evaluation.every=0",
        "evaluation.max_problems=1",
        "evaluation.samples_per_problem=1",
        f"checkpoint.every={num_steps - 1}",
        "doctor=off",
        f"run_dir={run_dir}",
        *arguments.settings,
    ]


def train_counted(record: Path, settings: list[str]) -> None:
    """The run itself, with a line in ``record`` for each step: its number and the bytes since the start."""
    from insight_rl.child_process import Channel
    from insight_rl.config import compose_config
    from insight_rl.process_table import family_of
    from insight_rl.run import train
    from insight_rl.trainer import Trainer
    from insight_rl.types import Metrics

    messages = {"sent": 0, "received": 0}
    write, read, log = Channel._write, Channel._read_exactly, Trainer.log

    def counted_write(channel: Channel, data: Any, on_wait: Callable[[], None]) -> None:
        messages["sent"] += len(data)
        write(channel, data, on_wait)

    def counted_read(channel: Channel, size: int, on_wait: Callable[[], None]) -> bytearray:
        messages["received"] += size
        return read(channel, size, on_wait)

    def counted_log(trainer: Trainer, metrics: Metrics, *, step: int) -> None:
        counts = messages | {
            "read_written": sum(map(bytes_called, family_of(os.getpid()))),
            "loopback": loopback_bytes(),
        }
        with record.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step} | counts) + "\n")
        log(trainer, metrics, step=step)

    Channel._write, Channel._read_exactly, Trainer.log = counted_write, counted_read, counted_log  # type: ignore
    train(compose_config(settings))


def bytes_called(pid: int) -> int:
    """Bytes of read and write calls so far; 0 for a process that has ended. Sockets have calls of their own."""
    try:
        fields = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    except OSError:
        return 0
    return int(fields["rchar"]) + int(fields["wchar"])


def loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.strip().startswith("lo:")))


def run(settings: list[str], run_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The metrics and the byte counts after every step, from step 1 on."""
    counts = run_dir.with_suffix(".bytes")
    command = [sys.executable, __file__, "--count-to", str(counts), *settings]
    subprocess.run(command, cwd=ROOT, env={"OMP_NUM_THREADS": "1", **os.environ}, stdout=subprocess.DEVNULL, check=True)
    lines = (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if "time/step_s" in line]
    return steps, [each for each in map(json.loads, counts.read_text().splitlines()) if each["step"] > 0]


def row_of(steps: list[dict[str, Any]], counts: list[dict[str, Any]], num_bytes: int, workers: int) -> dict[str, Any]:
    """One row of the table, raw figures included. The first step warms up and the last one follows a checkpoint.

    ``num_bytes``: of the weights.
    """
    counted = steps[1:-1]
    first, last = counts[0], counts[-2]
    moved = {name: (last[name] - first[name]) / len(counted) for name in first if name != "step"}
    return {
        "median_step_s": median(line["time/step_s"] for line in counted),
        "median_s": {name: median(line.get(f"time/{name}_s", 0.0) for line in counted) for name in PHASES},
        # Processor seconds a step, of all processes: other work on the machine distorts them least.
        "device_s": (counted[-1]["time/device_s"] - steps[0]["time/device_s"]) / len(counted),
        "bytes_a_step": moved | {"weights": float((1 + workers) * num_bytes)},
        "checkpoint_s": steps[-1].get("time/checkpoint_s"),
        "steps": [{key: value for key, value in line.items() if key.startswith("time/")} for line in steps],
        "bytes": counts,
    }


def machine() -> dict[str, Any]:
    import torch

    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return {
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
        "processor": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4], help="rollout workers")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="learner ranks")
    parser.add_argument("--engine", choices=("vllm", "transformers_workers"), default="vllm")
    parser.add_argument("--learner", choices=("deepspeed", "accelerate"), default="deepspeed")
    parser.add_argument("--prompts", type=int, default=16, help="a step, of 8 rollouts each")
    parser.add_argument("--steps", type=int, default=8, help="that count")
    parser.add_argument("--output", type=Path, default=Path("scale.json"))
    parser.add_argument("settings", nargs="*", help="more settings of every run, such as runtime=ray")
    parser.add_argument("--count-to", type=Path, help=argparse.SUPPRESS)  # the process of one run
    return parser.parse_args(arguments)


def main() -> None:
    arguments = parse()
    if arguments.count_to is not None:
        return train_counted(arguments.count_to, arguments.settings)
    record: dict[str, Any] = {"command": sys.argv[1:], "machine": machine(), "rows": []}
    print(f"{'size':6}{'workers':>8}{'ranks':>6}{'step s':>9}{'CPU s':>9}  " + "".join(f"{p:>9}" for p in PHASES))
    with tempfile.TemporaryDirectory() as name:
        for size in arguments.sizes:
            model = Path(name) / size
            num_parameters = make_model(model, size)
            for ranks in arguments.ranks:
                for workers in arguments.workers:
                    run_dir = Path(name) / f"{size}_{workers}_{ranks}"
                    settings = overrides(arguments, model, run_dir, workers=workers, ranks=ranks)
                    row = row_of(*run(settings, run_dir), num_bytes=4 * num_parameters, workers=workers)
                    record["rows"].append(
                        {"size": size, "num_parameters": num_parameters, "workers": workers, "ranks": ranks} | row
                    )
                    arguments.output.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
                    shutil.rmtree(run_dir)  # checkpoints
                    parts = "".join(f"{row['median_s'][phase]:9.3f}" for phase in PHASES)
                    print(
                        f"{size:6}{workers:8}{ranks:6}{row['median_step_s']:9.3f}{row['device_s']:9.3f}  {parts}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
