"""``insight-rl judge`` and ``insight-rl audit-rewards`` from the command line."""

from __future__ import annotations

import io
import json
import sys

import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.cli import audit_rewards, judge, main
from insight_rl.config import compose_config
from insight_rl.errors import UsageError


class Stdin:
    def __init__(self, data: bytes) -> None:
        self.buffer = io.BytesIO(data)


def run_judge(monkeypatch, capsys, lines, *overrides):
    data = b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines)
    monkeypatch.setattr(sys, "stdin", Stdin(data))
    assert judge.main(overrides) == 0
    output = capsys.readouterr()
    return [json.loads(line) for line in output.out.splitlines()], output.err


def test_math_lines_in_order_with_bad_ones_among_them(monkeypatch, capsys):
    lines = [
        {"response": "\\boxed{12}", "answer": "12"},
        b"{not json",
        {"response": "\\boxed{13}", "answer": 12},
        {"response": 5, "answer": "12"},
        {"response": "x"},
        b"[]",
        b"\xff\xfe",
        {"response": "\\boxed{1}", "answer": {"gold": "1", "tolerance": 7}},
        {"response": "", "answer": ["12"]},
        {"response": "\\boxed{\\ud800}", "answer": "12"},
        b"[" * 100_000,
        {"response": "\\boxed{12}", "answer": ["11", "12"]},
    ]
    records, summary = run_judge(monkeypatch, capsys, lines, "reward=math")
    assert [record["status"] for record in records] == [
        "correct",
        "error",
        "wrong",
        "error",
        "error",
        "error",
        "error",
        "error",
        "no_answer",
        "unparsable",
        "error",
        "correct",
    ]
    for record in records:
        assert record["success"] == {"correct": True, "error": None}.get(record["status"], False)
        assert record["value"] == float(record["status"] == "correct")
        assert ("reason" in record) == (record["status"] == "error")
    assert "JSON" in records[1]["reason"]
    assert "tolerance" in records[7]["reason"]
    assert summary.startswith("7 error")


def test_countdown_and_multiple_choice(monkeypatch, capsys):
    answer = {"numbers": [3, 1, 12], "target": 24}
    lines = [
        {"response": "<answer>(3-1)*12</answer>", "answer": answer},
        {"response": "<answer>3*12-1</answer>", "answer": answer},
        {"response": "(3-1)*12", "answer": answer},
        {"response": "<answer>1</answer>", "answer": "24"},
    ]
    records, _ = run_judge(monkeypatch, capsys, lines, "reward=countdown")
    assert [(record["value"], record["status"]) for record in records] == [
        (1.0, "correct"),
        (0.1, "wrong"),
        (0.0, "no_answer"),
        (0.0, "error"),
    ]
    lines = [
        {"response": "Answer: C", "answer": {"letter": "C", "num_choices": 4}},
        {"response": "Answer: two", "answer": {"letter": "B", "num_choices": 2, "choices": ["one", "two"]}},
        {"response": "Answer: C", "answer": {"letter": "C"}},
    ]
    records, _ = run_judge(monkeypatch, capsys, lines, "reward=multiple_choice")
    assert [record["status"] for record in records] == ["correct", "correct", "error"]


def test_shaping_and_echo_through_the_command(monkeypatch, capsys):
    part = "{_target_: insight_rl.reward.shaping.OverlongPenalty, max_tokens: 4, buffer_tokens: 2}"
    question = "A worked example with \\boxed{7} in it, to be continued"
    lines = [
        {"response": "\\boxed{7}", "answer": "7", "num_tokens": 3},
        {"response": question, "answer": "7", "prompt": question},
        {"response": "\\boxed{7}", "answer": "7", "num_tokens": "many"},
    ]
    records, _ = run_judge(monkeypatch, capsys, lines, "reward=math", f"reward.shaping=[{part}]")
    assert records[0]["value"] == pytest.approx(0.5)
    assert records[0]["parts"] == {"verdict": 1.0, "overlong": -0.5}
    assert [record["status"] for record in records] == ["correct", "no_answer", "error"]


def test_no_lines_are_no_error(monkeypatch, capsys):
    assert run_judge(monkeypatch, capsys, [], "reward=math") == ([], "no lines\n")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "reward has no value"),
        (["reward=nope"], r"reward=nope.*countdown, countdown_graded, llm_judge, math, multiple_choice"),
        (["reward=math", "reward.boxd=true"], r"boxd"),
        (["reward=math", "reward.tolerance=2"], r"reward\.tolerance=2"),
        (["reward=math", "judge.num_workers=two"], r"judge\.num_workers='two'"),
        (["reward=math", "judge.num_workers=0"], r"judge\.num_workers=0"),
        (["reward=math", "judge.deadline_s=-1"], r"judge\.deadline_s"),
    ],
)
def test_wrong_settings_are_named(overrides, message):
    with pytest.raises(UsageError, match=message):
        judge.main(overrides)


def test_audit_of_a_file_of_samples(tmp_path, capsys):
    samples = tmp_path / "samples.jsonl"
    records = [
        {"prompt_id": "a", "answer": "12", "completion": "\\boxed{12}", "status": "correct"},
        {"prompt_id": "b", "answer": "1234", "completion": "not 1234 but \\boxed{12}", "status": "correct"},
        {"prompt_id": "c", "answer": "\\frac{1}{2}", "completion": "(1/2)", "status": "correct"},
    ]
    samples.write_text("".join(json.dumps(record) + "\n" for record in records))
    output = tmp_path / "audit.json"
    assert audit_rewards.main([f"samples={samples}", "reward=math", f"output={output}"]) == 0
    findings = json.loads(output.read_text())
    assert [(finding["prompt_id"], finding["kind"]) for finding in findings if finding["kind"] != "slow"] == [
        ("b", "changed"),
        ("b", "echo"),
    ]
    assert "3 samples: 2 correct, 1 wrong" in capsys.readouterr().out


def test_audit_of_a_run_finds_the_answers_in_its_task(tmp_path):
    tree = compose_config([])
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(tree, resolve=True))
    task = build_part("task", OmegaConf.to_container(tree.task, resolve=True))
    prompt = task.test_prompts(audit_rewards.TextEncoder())[0]
    table = {"step": 1, "table": "rollout/samples", "completion": "1+1", "status": "correct"}
    rows = [{**table, "prompt_id": prompt.id}, {**table, "prompt_id": "gone"}, {"step": 1, "table": "other"}]
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    output = tmp_path / "audit.json"
    assert audit_rewards.main([f"run_dir={tmp_path}", f"output={output}"]) == 0
    findings = [finding for finding in json.loads(output.read_text()) if finding["kind"] != "slow"]
    assert [(finding["kind"], finding["prompt_id"], finding["recorded"], finding["now"]) for finding in findings] == [
        ("changed", prompt.id, "correct", "wrong")
    ]


def test_audit_of_a_run_with_another_reward(tmp_path):
    tree = compose_config([])
    del tree.judge.max_unjudged_fraction  # a run of an older version
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(tree, resolve=True))
    task = build_part("task", OmegaConf.to_container(tree.task, resolve=True))
    prompt = task.test_prompts(audit_rewards.TextEncoder())[0]
    row = {"table": "rollout/samples", "completion": "1+1", "status": "correct", "prompt_id": prompt.id, "step": 1}
    (tmp_path / "samples.jsonl").write_text(json.dumps(row) + "\n")
    output = tmp_path / "audit.json"
    run = [f"run_dir={tmp_path}", f"output={output}"]
    assert audit_rewards.main([*run, "reward=math", "reward.boxed=false"]) == 0
    findings = json.loads(output.read_text())
    assert {finding["now"] for finding in findings} == {"error"}
    assert 'must have the key "gold"' in findings[0]["reason"]
    assert audit_rewards.main([*run, "reward.format_value=0.2"]) == 0
    with pytest.raises(UsageError, match=r"reward=poetry: there is no such option; choose one of .*math"):
        audit_rewards.main([*run, "reward=poetry"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "run_dir"),
        (["run_dir=nowhere"], r"run_dir='nowhere': has no config\.yaml"),
        (["samples=nowhere.jsonl"], "no such file"),
        (["samples=x", "slow_s=soon"], "slow_s='soon'"),
    ],
)
def test_wrong_audits_are_refused(overrides, message):
    with pytest.raises(UsageError, match=message):
        audit_rewards.main(overrides)


def test_the_former_name_works_and_says_the_present_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", Stdin(json.dumps({"response": "\\boxed{12}", "answer": "12"}).encode()))
    assert main.main(["score", "reward=math"]) == 0
    output = capsys.readouterr()
    assert json.loads(output.out)["status"] == "correct"
    assert "now `insight-rl judge`" in output.err
    assert main.main(["--help"]) == 0
    assert "score" not in capsys.readouterr().out


def test_a_gold_that_is_no_number_is_an_error(monkeypatch, capsys):
    lines = [b'{"response": "nan", "answer": NaN}', b'{"response": "inf", "answer": Infinity}']
    records, _ = run_judge(monkeypatch, capsys, lines, "reward=math")
    assert [record["status"] for record in records] == ["error", "error"]
    assert "no number" in records[0]["reason"]
