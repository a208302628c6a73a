"""``insight-rl data``: write a data set into local files, or look into a task's prompts before training on them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from insight_rl.build import build_part, completion_tokens, find_model, quiet_libraries
from insight_rl.cli.own_code import add_own_code_options, allow_own_code
from insight_rl.config import RunConfig, compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.files import write_atomically
from insight_rl.task.dataset import DatasetTask
from insight_rl.task.problem import Problem
from insight_rl.task.rows import RowSource
from insight_rl.task.summary import SplitSummary, find_leaks, summarise_split
from insight_rl.tokenizer import ModelTokenizer
from insight_rl.types import Prompt

_EPILOG = """
examples:
  insight-rl data inspect task=gsm8k model=smollm2                 counts, lengths, answers, repeats, leaks, samples
  insight-rl data inspect task=dataset task.train_path=my.jsonl task.rows.answer=[gold]
  insight-rl data prepare task=deepscaler --output-dir data/deepscaler --format parquet
  insight-rl data prepare task=gsm8k task.train_hub.revision=COMMIT --output-dir data/gsm8k
  insight-rl train task=deepscaler task.train_path=data/deepscaler/train.parquet
"""

SOURCE_FILE = "source.json"
"""In a prepared folder: for each split its file, and the data set, config, split and commit that its rows came from."""

ACTIONS = {
    "inspect": "look into a task's prompts: counts, lengths, answers, repeats, leaks, samples",
    "prepare": "write a data set into local files",
}


def main(argv: Sequence[str]) -> int:
    if not argv or argv[0] not in ACTIONS:
        return _explain_actions(argv)
    action, *rest = argv
    arguments = _parser(action).parse_intermixed_args(rest)
    allow_own_code(arguments)
    quiet_libraries()
    config = parse_config(compose_config(arguments.overrides, config_dir=arguments.config_dir))
    if action == "prepare":
        return _prepare(config, arguments.output_dir, arguments.format)
    return _inspect(config, num_samples=arguments.samples, output=arguments.output)


def _explain_actions(argv: Sequence[str]) -> int:
    lines = [f"  {name:<9}{text}" for name, text in ACTIONS.items()]
    usage = "\n".join(["usage: insight-rl data ACTION [arguments]", "", *lines, _EPILOG.rstrip()])
    if argv and argv[0] in ("-h", "--help"):
        print(usage)
        return 0
    given = f"there is no action {argv[0]!r}" if argv else "an action is missing"
    raise UsageError(f"{given}; take one of {', '.join(ACTIONS)}, as in `insight-rl data inspect task=gsm8k`")


def _parser(action: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"insight-rl data {action}",
        description=ACTIONS[action],
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="changes to the configuration")
    add_own_code_options(parser)
    if action == "prepare":
        parser.add_argument("--output-dir", type=Path, help="where train and test go")
        parser.add_argument("--format", choices=("jsonl", "parquet"), default="jsonl", help="kind of file")
    else:
        parser.add_argument("--samples", type=int, default=2, help="prompts of each split to show (default 2)")
        parser.add_argument("--output", type=Path, help="write what is found as JSON to this file")
    return parser


def _prepare(config: RunConfig, folder: Path | None, form: str) -> int:
    task = build_part("task", config.task)
    if not isinstance(task, DatasetTask):
        raise UsageError(
            f"task={config.task['_target_']}: only tasks read from data sets can be prepared (DatasetTask)"
        )
    if folder is None:
        raise UsageError("--output-dir is missing: name the folder that train and test go into")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--output-dir={folder}: {error.strerror}") from error
    # What is read is what is said: the commit is asked for first.
    task.train, task.test = (source and source.pinned() for source in (task.train, task.test))
    written = []
    sources: dict[str, Any] = {"task": task.name}
    for split, source in (("train", task.train), ("test", task.test)):
        if source is None:
            continue
        problems = task.train_problems() if split == "train" else task.test_problems()
        file = folder / f"{split}.{form}"
        _write_rows(file, (_to_row(problem, task.name) for problem in problems))
        sources[split] = {"file": file.name, "num_problems": len(problems), **_describe_source(source)}
        print(f"{file}: {len(problems)} problems{_say_source(source)}")
        written.append(f"task.{split}_path={file}")
    write_atomically(folder / SOURCE_FILE, json.dumps(sources, indent=1, ensure_ascii=False) + "\n")
    print(f"use them: insight-rl train task=... {' '.join(written)}")
    return 0


def _describe_source(source: RowSource) -> dict[str, Any]:
    """Where rows came from: a file's name (not its folder), or the hub's data set with the commit that it gave."""
    if source.path is not None:
        return {"path": source.path.name}
    return {"hub": asdict(source.hub)} if source.hub else {}


def _say_source(source: RowSource) -> str:
    if source.path is not None or source.hub is None:
        return ""
    commit = source.hub.revision
    if commit is None:
        return f" of {source.hub}; its commit is not known, since the hub cannot be reached"
    return f" of {source.hub} (to stay at this commit: {source.setting}_hub.revision={commit})"


def _to_row(problem: Problem, task: str) -> dict[str, Any]:
    """The same id comes out when the row is read again by any of our row formats."""
    row: dict[str, Any] = {"id": problem.id_within(task), "question": problem.question}
    answer = problem.answer
    if problem.choices:
        return {**row, "choices": list(problem.choices), "answer": answer["letter"], **problem.metadata}
    if isinstance(answer, Mapping):
        allowed = answer["tolerance"] * abs(float(str(answer["gold"]).strip("$ ")))
        return {**row, "answer": answer["gold"], "error": allowed, **problem.metadata}
    return {**row, "answer": answer, **problem.metadata}


def _write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> None:
    if file.suffix == ".jsonl":
        with file.open("w", encoding="utf-8") as stream:
            stream.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        return
    import pyarrow
    import pyarrow.parquet

    rows = list(rows)
    # A column has one type: where some golds are lists, all of them are.
    if any(isinstance(row["answer"], list) for row in rows):
        rows = [row | {"answer": row["answer"] if isinstance(row["answer"], list) else [row["answer"]]} for row in rows]
    fields = dict.fromkeys(field for row in rows for field in row)
    pyarrow.parquet.write_table(
        pyarrow.table({field: [row.get(field) for row in rows] for field in fields}), file, compression="zstd"
    )


def _inspect(config: RunConfig, *, num_samples: int, output: Path | None) -> int:
    task = build_part("task", config.task)
    tokenizer = ModelTokenizer(find_model(config.model))
    prompts: dict[str, Sequence[Prompt]] = {}
    has_train = not (isinstance(task, DatasetTask) and task.train is None)
    if has_train:
        prompts["train"] = task.train_prompts(tokenizer)
    prompts["test"] = task.test_prompts(tokenizer)
    longest = {
        "train": config.model.max_length - config.trainer.max_completion_tokens,
        "test": config.model.max_length - completion_tokens(config),
    }
    found: dict[str, Any] = {"task": task.name, "model": config.model.path}
    for split, prompts_P in prompts.items():
        if not prompts_P:
            print(f"{split}: no prompts")
            continue
        summary = summarise_split(prompts_P)
        num_too_long = sum(len(prompt.token_ids) > longest[split] for prompt in prompts_P)
        found[split] = {**asdict(summary), "num_too_long": num_too_long, "max_prompt_tokens": longest[split]}
        _show_split(split, summary, num_too_long=num_too_long, limit=longest[split])
        _show_samples(prompts_P, num_samples)
    if has_train and prompts["test"]:
        overlaps = find_leaks(prompts["train"], prompts["test"])
        num_equal = sum(overlap.share == 1 for overlap in overlaps)
        found["leaks"] = {"equal": num_equal, "near": len(overlaps) - num_equal}
        print(
            f"leaks: {num_equal} of {len(prompts['test'])} test prompts are training prompts, "
            f"{len(overlaps) - num_equal} more share most of their words with one"
        )
        for overlap in sorted(overlaps, key=lambda o: -o.share)[:num_samples]:
            test, train = prompts["test"][overlap.test], prompts["train"][overlap.train]
            print(f"  {overlap.share:.0%}  {test.id}: {_short(test.text)}\n        {train.id}: {_short(train.text)}")
    if output is not None:
        output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 0


def _show_split(split: str, summary: SplitSummary, *, num_too_long: int, limit: int) -> None:
    lengths = ", ".join(f"{name} {value}" for name, value in summary.token_lengths.items())
    print(f"{split}: {summary.num_prompts} prompts, {summary.num_repeated} of them repeats")
    print(f"  tokens: {lengths}; {num_too_long} longer than the {limit} that the completion leaves")
    print(f"  answers: {_counts(summary.answer_kinds)}")
    if summary.num_text_only:
        print(
            f"  golds compared as text only, as words or as mathematics that cannot be read: {summary.num_text_only}, "
            f"first {summary.first_text_only!r}"
        )
    for field, values in summary.metadata.items():
        print(f"  {field}: {_counts(values)}")


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} {count}" for value, count in counts.items())


def _show_samples(prompts: Sequence[Prompt], num_samples: int) -> None:
    """Print a few samples, evenly spread over the set."""
    for number in range(min(num_samples, len(prompts))):
        prompt = prompts[number * len(prompts) // num_samples]
        text = "\n    ".join(prompt.text.splitlines())
        print(f"  sample {prompt.id}\n    {text}\n    answer: {json.dumps(prompt.answer, ensure_ascii=False)}")


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else f"{text[:97]}..."
