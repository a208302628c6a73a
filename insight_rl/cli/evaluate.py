"""``insight-rl evaluate``: avg@k and pass@k of a model on a task's held-out problems, through a rollout engine."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

from insight_rl.build import (
    build_judge,
    build_part,
    completion_tokens,
    evaluation_sampling,
    find_model,
    load_problems,
    quiet_libraries,
)
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.evaluation import Evaluator, evaluation_metrics
from insight_rl.rollout.groups import to_records
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Metrics

_EPILOG = """
examples:
  insight-rl evaluate model.path=runs/demo/model                       the trained model on the task's held-out problems
  insight-rl evaluate model.path=runs/demo/model task.test_path=my.jsonl --output results.json --samples samples.jsonl
  insight-rl evaluate model=smollm2 rollout=vllm evaluation.samples_per_problem=16
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="insight-rl evaluate", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to the configuration of conf/train.yaml"
    )
    parser.add_argument("--config-dir", type=Path, help="a folder with options of your own, laid out like conf/")
    parser.add_argument("--output", type=Path, help="write the figures as JSON to this file")
    parser.add_argument(
        "--samples", type=Path, help="write every completion and its verdict as JSON lines to this file"
    )
    arguments = parser.parse_intermixed_args(argv)
    for path in (arguments.output, arguments.samples):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist; make it first")

    quiet_libraries()
    config = parse_config(compose_config(arguments.overrides, config_dir=arguments.config_dir))
    reward, task = build_part("reward", config.reward), build_part("task", config.task)
    model_path = find_model(config.model)
    notices: list[str] = []
    problems = load_problems(task, ModelTokenizer(model_path), config, notices)
    for text in notices:
        print(f"note: {text}")
    if not problems:
        return 2
    engine = build_part("rollout", config.rollout)
    judge = build_judge(reward, config.judge)
    try:
        engine.start(
            model_path=model_path,
            dtype=config.model.dtype,
            max_length=config.model.max_length,
            seed=derive_seed(config.seed, "rollout"),
        )
        started = time.perf_counter()
        sampling = evaluation_sampling(config.evaluation, max_tokens=completion_tokens(config), seed=config.seed)
        groups = Evaluator(problems=problems, sampling=sampling).roll_out(engine, judge)
        seconds = time.perf_counter() - started
    finally:
        engine.close()
        judge.close()
    figures = evaluation_metrics(groups)
    _print_table(figures, title=f"{config.model.path} on {len(problems)} problems of {task.name}, {seconds:.1f} s")
    if arguments.samples is not None:
        lines = (json.dumps(record, ensure_ascii=False) for record in to_records(groups))
        arguments.samples.write_text("\n".join(lines) + "\n", encoding="utf-8")
    if arguments.output is not None:
        report = {"model": str(model_path), "task": task.name, "num_problems": len(problems), "seed": config.seed}
        arguments.output.write_text(json.dumps(report | figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _print_table(figures: Metrics, *, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in figures.items():
        assert isinstance(value, (int, float))
        table.add_row(name, f"{value:.4f}" if value < 1.5 else f"{value:.1f}")
    Console().print(table)
