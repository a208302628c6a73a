"""``insight-rl evaluate``: avg@k and pass@k of a model on benchmarks or a task's held-out problems."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from insight_rl.build import (
    build_judge,
    build_part,
    completion_tokens,
    evaluation_sampling,
    find_model,
    load_problems,
    place_engines,
    quiet_libraries,
)
from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.config import RunConfig, compose_config, parse_config
from insight_rl.errors import UsageError, check
from insight_rl.model_folder import count_parameters
from insight_rl.reward.base import Judge, check_start
from insight_rl.reward_fit import check_reward_fits
from insight_rl.rollout.base import RolloutSpec
from insight_rl.run_settings import compose_from_run
from insight_rl.seeding import derive_seed
from insight_rl.tokenizer import ModelTokenizer

if TYPE_CHECKING:
    from insight_rl.benchmark.figures import SuiteFigures
    from insight_rl.benchmark.records import Record
    from insight_rl.benchmark.runner import BenchmarkRun
    from insight_rl.benchmark.suite import SuiteMember

_EPILOG = """
examples:
  insight-rl evaluate run_dir=runs/demo                                a run's model, on its task, with its settings
  insight-rl evaluate run_dir=runs/demo task.test_path=my.jsonl --output results.json --samples samples.jsonl
  insight-rl evaluate model.path=runs/demo/model                       the same model with the settings of conf/
  insight-rl evaluate evaluation=math_suite model=smollm2 rollout=vllm   AIME24, AMC23, MATH500, Minerva, OlympiadBench
  insight-rl evaluate evaluation=general --data-dir bench/             local files: bench/mmlu.jsonl, bench/gpqa.csv

A suite (math_suite, countdown, general) keeps every sample in its folder; the same command goes on where it was cut
short. docs/evaluation.md tells more.
"""


def main(argv: Sequence[str]) -> int:
    arguments = _parser().parse_intermixed_args(argv)
    allow_own_code(arguments)
    for path in (arguments.output, arguments.samples):
        if path is not None and not path.parent.is_dir():
            raise UsageError(f"{path}: the folder {path.parent} does not exist; make it first")
    check(arguments.chunk_size >= 1, "--chunk-size", arguments.chunk_size, "must be at least 1 problem")

    quiet_libraries()
    from insight_rl.benchmark.suite import load_suite

    config = _compose(arguments.overrides, arguments.config_dir)
    tokens = completion_tokens(config)
    check(
        tokens < config.model.max_length,
        "evaluation.max_completion_tokens",
        tokens,
        f"leaves no room for a prompt in model.max_length={config.model.max_length}; lower one or raise the other",
    )
    members = load_suite(config, data_dir=arguments.data_dir)
    model_path = find_model(config.model)
    count_parameters(model_path)  # names missing or damaged weights
    notices: list[str] = []
    runs, folder = _prepare(config, members, model_path, arguments, notices)
    for text in notices:
        print(f"note: {text}")
    if folder is not None:
        print(f"samples and figures go to {folder}")

    started = time.perf_counter()
    _run_all(config, members, runs, model_path)
    seconds = time.perf_counter() - started
    figures = _figures(runs, seed=config.seed)
    _write_results(config, runs, figures, folder, notices, seconds, arguments)
    return 0


def _compose(overrides: Sequence[str], config_dir: Path | None) -> RunConfig:
    """The settings of the run that ``run_dir=`` names, or of conf/train.yaml; the other overrides win over either."""
    run_dirs = [override.removeprefix("run_dir=") for override in overrides if override.startswith("run_dir=")]
    if not run_dirs:
        config = parse_config(compose_config(overrides, config_dir=config_dir))
        run_dir = Path(config.model.path).expanduser().parent
        if (run_dir / "config.yaml").is_file() and (run_dir / "checkpoints").is_dir():
            print(
                f"note: the model is that of the run in {run_dir}, but task, reward and settings are those of this "
                f"command; run_dir={run_dir} in place of model.path takes the run's own"
            )
        return config
    rest = [override for override in overrides if not override.startswith("run_dir=")]
    return parse_config(compose_from_run(Path(run_dirs[-1]), rest, config_dir=config_dir))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="insight-rl evaluate", epilog=_EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="run_dir=RUN, and changes to the configuration"
    )
    add_own_code_options(parser)
    parser.add_argument(
        "--data-dir", type=Path, help="a folder with a file for each benchmark, used instead of the hub"
    )
    parser.add_argument("--output-dir", type=Path, help="keep samples and figures here, and go on with what is there")
    parser.add_argument("--chunk-size", type=int, default=128, help="problems between two savings (default 128)")
    parser.add_argument("--output", type=Path, help="write the figures as JSON to this file")
    parser.add_argument(
        "--samples", type=Path, help="write every completion and its verdict as JSON lines to this file"
    )
    return parser


def _prepare(
    config: RunConfig,
    members: Sequence[SuiteMember],
    model_path: Path,
    arguments: argparse.Namespace,
    notices: list[str],
) -> tuple[list[BenchmarkRun], Path | None]:
    """Every benchmark's problems, checked before a model is loaded, and the folder of the evaluation if it has one."""
    from insight_rl.benchmark.records import DiskStore, MemoryStore
    from insight_rl.benchmark.runner import BenchmarkRun
    from insight_rl.benchmark.suite import default_folder, manifest, model_fingerprint

    is_suite = bool(config.evaluation.benchmarks)
    sampling = evaluation_sampling(config.evaluation, max_tokens=completion_tokens(config), seed=config.seed)
    tokenizer = ModelTokenizer(model_path)
    all_problems = [_problems(config, member, tokenizer, notices) for member in members]
    folder: Path | None = arguments.output_dir
    manifests: list[dict[str, Any]] = []
    if is_suite or folder is not None:
        fingerprint = model_fingerprint(model_path)
        manifests = [
            manifest(config, member, problems, model=fingerprint, sampling=sampling, chunk_size=arguments.chunk_size)
            for member, problems in zip(members, all_problems, strict=True)
        ]
        folder = folder or default_folder(model_path, manifests)
    runs = []
    for index, (member, problems) in enumerate(zip(members, all_problems, strict=True)):
        run = BenchmarkRun(
            name=member.name,
            benchmark=member.benchmark,
            problems=problems,
            sampling=sampling,
            chunk_size=len(problems) if folder is None else arguments.chunk_size,
            store=MemoryStore() if folder is None else DiskStore(folder / member.name, manifests[index]),
        )
        runs.append(run)
    return runs, folder


def _problems(config: RunConfig, member: SuiteMember, tokenizer: ModelTokenizer, notices: list[str]) -> Sequence[Any]:
    own: list[str] = []
    try:
        problems = load_problems(member.benchmark.task, tokenizer, config, own)
        if problems:
            target = (member.reward_node or {}).get("_target_", type(member.benchmark.reward).__qualname__)
            own += check_reward_fits(member.benchmark.reward, problems, target=target)
    except UsageError as error:
        if not config.evaluation.benchmarks:
            raise
        key = f"evaluation.benchmarks.{member.name}"
        message = re.sub(r"\btask\.(?=\w)", f"{key}.task.", str(error))
        raise UsageError(f"{message}; or leave the benchmark out: '~{key}'") from error
    notices += [f"{member.name}: {text}" if config.evaluation.benchmarks else text for text in own]
    if not problems:
        raise UsageError(f"task {member.name} has no held-out problems; name some with task.test_path=...")
    return problems


def _run_all(config: RunConfig, members: Sequence[SuiteMember], runs: Sequence[BenchmarkRun], model_path: Path) -> None:
    """Run all benchmarks through one engine. No model is loaded if no chunk is missing."""
    complete = [run.name for run in runs if not run.missing_chunks()]
    if complete:
        print(f"complete already: {', '.join(complete)}")
    if len(complete) == len(runs):
        return
    for member, run in zip(members, runs, strict=True):
        if run.missing_chunks():
            check_start(member.benchmark.reward, judge_deadline_s=config.judge.deadline_s)
    engine = build_part("rollout", config.rollout)
    placement = place_engines(engine, num_ranks=0)
    with ExitStack() as cleanup:
        engine.start(
            RolloutSpec(
                model_path=model_path,
                dtype=config.model.dtype,
                max_length=config.model.max_length,
                seed=derive_seed(config.seed, "rollout"),
                worker_devices=placement.workers,
                say=print,
            )
        )
        cleanup.callback(engine.close)
        judges: list[tuple[Any, Judge]] = []
        for member, run in zip(members, runs, strict=True):
            if not run.missing_chunks():
                continue
            judge = next((judge for node, judge in judges if node == member.reward_node), None)
            if judge is None:
                judge = build_judge(member.benchmark.reward, config.judge)
                cleanup.callback(judge.close)
                judges.append((member.reward_node, judge))
            with _progress(run) as on_chunk:
                run.run(engine, judge, on_chunk)


@contextmanager
def _progress(run: BenchmarkRun) -> Iterator[Any]:
    """Show a bar in a terminal; elsewhere print a line for each chunk, if there are several."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    total = len(run.problems)
    done = total - sum(len(run.problems[n * run.chunk_size :][: run.chunk_size]) for n in run.missing_chunks())
    if console.is_terminal:
        with Progress(console=console, transient=True) as progress:
            bar = progress.add_task(run.name, total=total, completed=done)
            yield lambda num_problems, records: progress.advance(bar, num_problems)
        return

    def on_chunk(num_problems: int, records: Sequence[Record]) -> None:
        nonlocal done
        done += num_problems
        if run.num_chunks > 1:
            print(f"{run.name}: {done} of {total} problems", flush=True)

    yield on_chunk


def _figures(runs: Sequence[BenchmarkRun], *, seed: int) -> SuiteFigures:
    from insight_rl.benchmark.figures import suite_figures
    from insight_rl.benchmark.records import to_outcome

    return suite_figures({run.name: [to_outcome(record) for record in run.records()] for run in runs}, seed=seed)


def _write_results(
    config: RunConfig,
    runs: Sequence[BenchmarkRun],
    figures: SuiteFigures,
    folder: Path | None,
    notices: Sequence[str],
    seconds: float,
    arguments: argparse.Namespace,
) -> None:
    from rich.console import Console

    from insight_rl.benchmark.table import as_json, flat_metrics, markdown, terminal_table

    sampling = runs[0].sampling
    title = (
        f"{config.model.path}: {sampling.num_rollouts} samples a problem at temperature {sampling.temperature:g}, "
        f"top_p {sampling.top_p:g}, {seconds:.0f} s"
    )
    Console().print(terminal_table(figures, title=title))
    report: dict[str, Any] = {
        "model": config.model.path,
        "seed": config.seed,
        "sampling": {
            "samples_per_problem": sampling.num_rollouts,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_completion_tokens": sampling.max_tokens,
        },
        "notices": list(notices),
        "seconds": round(seconds, 1),
        **as_json(figures),
    }
    if not config.evaluation.benchmarks:
        own = {"task": runs[0].name, "num_problems": len(runs[0].problems)}
        report |= {**own, **flat_metrics(figures.rows[0])}
    text = json.dumps(report, indent=1, ensure_ascii=False) + "\n"
    if arguments.output is not None:
        arguments.output.write_text(text, encoding="utf-8")
    if folder is not None:
        (folder / "report.json").write_text(text, encoding="utf-8")
        (folder / "report.md").write_text(markdown(figures, title=title, notes=notices), encoding="utf-8")
    if arguments.samples is not None:
        with arguments.samples.open("w", encoding="utf-8") as file:
            for run in runs:
                for record in run.records():
                    for line in _sample_lines(run.name, record):
                        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _sample_lines(benchmark: str, record: Record) -> Iterator[dict[str, Any]]:
    asked = {key: record[key] for key in ("prompt_id", "prompt", "answer")}
    for sample in record["samples"]:
        yield {"benchmark": benchmark, **asked, **sample}
