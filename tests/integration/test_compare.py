"""A whole comparison with the bundled model: two arms, two seeds, two steps; then what was left is looked at."""

import csv
import json

import pytest

from insight_rl.cli.main import main
from insight_rl.compare import comparison
from insight_rl.monitor.dictionary import is_of_the_machine


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_a_comparison_from_command_to_report(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "smoke"
    command = ["compare", "compare=smoke", f"output_dir={folder}", "processes=2"]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "only 2 seeds: with fewer than 5" in said
    assert "4 runs, 0 of them finished before; 2 at a time" in said
    assert "[4/4] " in said
    assert str(folder / "report.html") in said

    curves = rows(folder / "curves.csv")
    assert [(row["selector"], row["seed"], row["step"]) for row in curves] == [
        (arm, seed, step) for seed in "01" for arm in ("random", "insight") for step in "012"
    ]
    # Paired: the same start in every arm, of a seed.
    start = {(row["seed"], row["accuracy"]) for row in curves if row["step"] == "0"}
    assert len(start) == 2
    assert {row["rollouts"] for row in curves if row["step"] == "2"} == {"64"}
    assert all(float(row["seconds"]) > 0 for row in curves if row["step"] != "0")
    assert len(rows(folder / "problems.csv")) == 4 * 16

    run = folder / "runs" / "insight_seed1"
    left = {path.name for path in run.iterdir()}
    assert {"config.yaml", "metrics.jsonl", "evaluations.jsonl", "identity.json", "outcome.json"} <= left
    assert not {"checkpoints", "model", "curves.png", "decisions"} & left
    accuracy = float(
        next(row["accuracy"] for row in reversed(curves) if (row["selector"], row["seed"]) == ("insight", "1"))
    )
    last = json.loads((run / "evaluations.jsonl").read_text().splitlines()[-1])
    assert sum(last["successes"].values()) / (16 * last["samples"]) == accuracy

    # A run that was cut short is done again and comes out the same; the others are left alone.
    before = _records(run / "metrics.jsonl")
    (run / "outcome.json").unlink()
    monkeypatch.setattr(comparison, "write_report", lambda analyses: [])  # once is enough
    other = (folder / "runs" / "random_seed1" / "metrics.jsonl").stat().st_mtime_ns
    assert main(command) == 0
    assert "4 runs, 3 of them finished before" in capsys.readouterr().out
    assert _records(run / "metrics.jsonl") == before
    assert (folder / "runs" / "random_seed1" / "metrics.jsonl").stat().st_mtime_ns == other

    # What does not match is not reported, in one line.
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("rollouts_per_prompt: 4", "rollouts_per_prompt: 8"))
    assert main(["compare", f"report={folder}"]) == 2
    refusal = capsys.readouterr().err
    assert "trainer.rollouts_per_prompt: 4 in " in refusal
    assert "but 8 in " in refusal
    assert refusal.count("\n") == 1


def _records(path):
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key: value for key, value in record.items() if not is_of_the_machine(key)} for record in records]
