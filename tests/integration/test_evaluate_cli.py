"""``insight-rl evaluate`` and ``insight-rl data`` as a user calls them, on the bundled tiny model."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from insight_rl.cli.main import main
from insight_rl.paths import data_dir

ROOT = Path(__file__).parents[2]
FEW = ["evaluation.max_problems=12", "evaluation.samples_per_problem=2"]


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The task's own held-out problems, as one evaluates a trained model."""
    folder = tmp_path_factory.mktemp("single")
    problems = folder / "mine.jsonl"
    rows = [{"numbers": [2, 3, n], "target": 6 + n} for n in range(1, 9)]
    problems.write_text("".join(json.dumps(row) + "\n" for row in rows))
    outputs = [f"task.test_path={problems}", "--output", str(folder / "out.json"), "--samples", str(folder / "s.jsonl")]
    assert main(["evaluate", f"model.path={data_dir() / 'tiny_countdown'}", *FEW, *outputs]) == 0
    return folder


@pytest.mark.slow
def test_figures_and_samples_of_a_task(single):
    figures = json.loads((single / "out.json").read_text())
    samples = [json.loads(line) for line in (single / "s.jsonl").open()]
    assert figures["task"] == "countdown"
    assert figures["num_problems"] == 8
    assert len(samples) == 16
    assert figures["eval/accuracy"] == pytest.approx(sum(sample["success"] for sample in samples) / 16)
    assert figures["rows"][0]["accuracy"]["value"] == figures["eval/accuracy"]
    assert {"prompt", "answer", "completion", "num_tokens", "finish_reason", "value", "status"} <= set(samples[0])
    assert len({sample["prompt_id"] for sample in samples}) == 8


@pytest.mark.slow
def test_a_suite_goes_on_where_it_was_killed(tmp_path, capsys, monkeypatch):
    def command(folder):
        return ["evaluate", "evaluation=countdown", *FEW, "--chunk-size", "3", "--output-dir", str(folder)]

    assert main(command(tmp_path / "whole")) == 0
    process = subprocess.Popen([sys.executable, "-m", "insight_rl", *command(tmp_path / "cut")])
    first = tmp_path / "cut" / "countdown" / "00000.jsonl"
    deadline = time.monotonic() + 300
    while not first.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = len(list(first.parent.glob("0*.jsonl")))
    assert left >= 1
    capsys.readouterr()
    assert main(command(tmp_path / "cut")) == 0
    output = capsys.readouterr().out
    for number in range(4):
        name = f"countdown/{number:05d}.jsonl"
        assert (tmp_path / "cut" / name).read_text() == (tmp_path / "whole" / name).read_text()
    reports = [json.loads((tmp_path / folder / "report.json").read_text()) for folder in ("whole", "cut")]
    for report in reports:
        del report["seconds"]
    assert reports[0] == reports[1]
    assert [row["group"] for row in reports[0]["rows"]] == [None, "3", "4"]
    assert "countdown: 4" in output
    assert "| countdown: 3 |" in (tmp_path / "cut" / "report.md").read_text()

    # Once more: everything is there, no engine is built.
    monkeypatch.delattr("insight_rl.cli.evaluate.build_part")
    assert main(command(tmp_path / "cut")) == 0
    assert "complete already: countdown" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "/no/such/folder/out.json"], ["/no/such/folder"]),
        (["--chunk-size", "0"], ["--chunk-size=0"]),
        (["--data-dir", "."], ["--data-dir", "goes with a suite"]),
        (["evaluation=math_suite"], ["evaluation.max_completion_tokens=3072", "model.max_length=128"]),
        (["task=gsm8k", "task.test_hub=null"], ["gsm8k has no held-out problems"]),
        (["evaluation=math"], ["evaluation=math", "math_suite"]),
    ],
)
def test_mistakes_are_explained(capsys, arguments, told):
    assert main(["evaluate", *arguments]) == 2
    message = capsys.readouterr().err
    assert all(text in message for text in told), message


def test_a_benchmark_that_cannot_be_had_is_named_with_the_way_out(capsys, tmp_path):
    (tmp_path / "amc23.jsonl").write_text('{"problem": "Why?", "answer": null}\n')
    short = "evaluation.max_completion_tokens=64"
    only = [f"~evaluation.benchmarks.{name}" for name in ("aime24", "math500", "minerva_math", "olympiadbench")]
    assert main(["evaluate", "evaluation=math_suite", short, *only, "--data-dir", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert "evaluation.benchmarks.amc23.task.test_path=" in message
    assert "'~evaluation.benchmarks.amc23'" in message


def test_training_does_not_take_a_suite(capsys):
    assert main(["train", "evaluation=countdown"]) == 2
    assert "`insight-rl evaluate`" in capsys.readouterr().err


# ---------------------------------------------------------------------------------------------------------------------
# data


@pytest.fixture
def sums(tmp_path):
    train = [{"problem": f"What is {n} plus {n}?", "answer": str(2 * n)} for n in range(1, 30)]
    for name, rows in {"train": [*train, train[0]], "test": [{"problem": "what is 7 plus 7", "answer": "14"}]}.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f"task.train_path={tmp_path / 'train.jsonl'}", f"task.test_path={tmp_path / 'test.jsonl'}"]


def test_inspect_tells_what_is_there(sums, tmp_path, capsys):
    assert main(["data", "inspect", "task=dataset", *sums, "--output", str(tmp_path / "found.json")]) == 0
    output = capsys.readouterr().out
    found = json.loads((tmp_path / "found.json").read_text())
    # The task itself drops the problem that is held out.
    assert (found["train"]["num_prompts"], found["train"]["num_repeated"]) == (29, 1)
    assert found["train"]["answer_kinds"] == {"integer": 29}
    assert found["train"]["num_too_long"] == 29
    assert found["leaks"] == {"equal": 0, "near": 0}
    assert "train: 29 prompts, 1 of them repeats" in output
    assert "What is 1 plus 1?" in output


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_prepared_files_hold_the_same_problems(sums, tmp_path, capsys, form):
    from insight_rl.build import build_part
    from insight_rl.config import compose_config, parse_config

    folder = tmp_path / "prepared"
    assert main(["data", "prepare", "task=dataset", *sums, "--output-dir", str(folder), "--format", form]) == 0
    prepared = [f"task.{split}_path={folder / split}.{form}" for split in ("train", "test")]
    assert all(text in capsys.readouterr().out for text in prepared[0].split())
    first, second = (
        build_part("task", parse_config(compose_config(["task=dataset", *paths])).task) for paths in (sums, prepared)
    )
    assert first.train_problems() == second.train_problems()
    assert first.test_problems() == second.test_problems()


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_prepared_multiple_choice_keeps_ids_and_right_options(tmp_path, form):
    from insight_rl.build import build_part
    from insight_rl.config import compose_config, parse_config

    path = tmp_path / "gpqa.csv"
    path.write_text(
        "Question,Correct Answer,Incorrect Answer 1,Incorrect Answer 2,Incorrect Answer 3,Subdomain\n"
        + "".join(f"Is it {n}?,yes {n},no {n},never {n},rarely {n},Optics\n" for n in range(8))
    )
    source = ["task=gpqa", f"task.test_path={path}"]
    assert main(["data", "prepare", *source, "--output-dir", str(tmp_path / "out"), "--format", form]) == 0
    prepared = ["task=gpqa", f"task.test_path={tmp_path / 'out' / 'test'}.{form}"]
    first, second = (
        build_part("task", parse_config(compose_config(overrides)).task).test_problems()
        for overrides in (source, prepared)
    )
    assert [p.id_within("gpqa") for p in first] == [p.id_within("gpqa") for p in second]
    assert first == second


def test_data_mistakes_are_explained(capsys, tmp_path):
    assert main(["data", "prepare", "task=countdown", "--output-dir", str(tmp_path)]) == 2
    assert "only tasks read from data sets" in capsys.readouterr().err
    assert main(["data", "prepare", "task=dataset", "task.test_path=x.jsonl"]) == 2
    assert "--output-dir is missing" in capsys.readouterr().err


def test_golds_that_do_not_verify_are_listed(tmp_path):
    rows = {
        "gsm8k_train.jsonl": [{"question": "Six?", "answer": "6"}, {"question": "How many?", "answer": "#### 1,250"}],
        "planning.jsonl": [
            {"numbers": [2, 3], "target": 6, "a_solution": "2*3"},
            {"numbers": [2, 3], "target": 5, "a_solution": "2*3"},
        ],
    }
    for name, lines in rows.items():
        (tmp_path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    script = ROOT / "scripts" / "check_golds.py"
    result = subprocess.run([sys.executable, str(script), str(tmp_path)], capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "gsm8k_train.jsonl: 2 golds, 100.00% verify" in result.stdout
    assert "planning.jsonl: 2 golds, 50.00% verify" in result.stdout
    assert "wrong       row 2  2*3" in result.stdout
