"""Figures, records and the resumption of benchmark suites, with an engine that answers at once."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.benchmark.figures import ProblemOutcome, bootstrap_means, suite_figures
from insight_rl.benchmark.records import DiskStore, MemoryStore, to_outcome, to_record
from insight_rl.benchmark.runner import BenchmarkRun
from insight_rl.benchmark.suite import default_folder, load_suite, manifest, model_fingerprint
from insight_rl.benchmark.table import as_json, flat_metrics, markdown
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.evaluation import evaluation_metrics, pass_at_k
from insight_rl.reward.judge import InProcessJudge
from insight_rl.types import Completion, Group, Prompt, Reward, Sampling

SAMPLING = Sampling(num_rollouts=4, max_tokens=8, temperature=0.6, top_p=0.95, seed=3)


# ---------------------------------------------------------------------------------------------------------------------
# figures


def outcome(num_correct, *, group="g", num_samples=4):
    return ProblemOutcome(
        group=group, num_samples=num_samples, num_correct=num_correct, num_unjudged=0, num_truncated=0, num_tokens=8
    )


@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_bootstrap_means_have_the_moments_of_drawing_with_replacement(values):
    draws = bootstrap_means(np.array(values), np.random.default_rng(0))
    spread = np.std(values) / np.sqrt(len(values))
    assert abs(draws.mean() - np.mean(values)) <= 5 * spread / np.sqrt(len(draws)) + 1e-12
    assert draws.std() == pytest.approx(spread, rel=0.05, abs=1e-12)


def test_intervals_equal_those_of_resampling_problem_by_problem():
    correct = [0, 0, 1, 2, 4, 4, 4, 0, 1, 3, 2, 2, 0, 4, 1, 1, 0, 0, 3, 4]
    row = suite_figures({"b": [outcome(c) for c in correct]}, seed=0).rows[0]
    rng = np.random.default_rng(1)
    means = (np.array(correct) / 4)[rng.integers(len(correct), size=(20_000, len(correct)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert row.accuracy.value == pytest.approx(np.mean(correct) / 4)
    assert (row.accuracy.low, row.accuracy.high) == pytest.approx((low, high), abs=0.013)
    assert row.pass_at[2].value == pytest.approx(np.mean([pass_at_k(4, c, 2) for c in correct]))
    assert row.pass_at[4].value == np.mean([c > 0 for c in correct])
    assert row.pass_at[4].low <= row.pass_at[4].value <= row.pass_at[4].high


def test_the_average_counts_groups_not_problems():
    outcomes = {
        "a": [outcome(4, group="x"), outcome(0, group="y"), outcome(0, group="y"), outcome(2, group="y")],
        "b": [outcome(1)],
    }
    figures = suite_figures(outcomes, seed=0)
    assert [row.label for row in figures.rows] == ["a", "a: x", "a: y", "b"]
    assert figures.rows[0].accuracy.value == pytest.approx(6 / 16)
    assert figures.average is not None
    assert figures.average.value == pytest.approx((1 + 1 / 6 + 1 / 4) / 3)
    assert figures.average.low < figures.average.value < figures.average.high
    assert suite_figures({"a": outcomes["a"]}, seed=0).average is None
    assert suite_figures(outcomes, seed=0) == figures


# ---------------------------------------------------------------------------------------------------------------------
# a suite that runs


class Engine:
    """Answers from ``sampling.seed`` and the prompt alone, last prompt first; keeps what it was asked for."""

    def __init__(self):
        self.asked = []

    def generate(self, prompts, *, sampling):
        for prompt in reversed(prompts):
            self.asked.append(prompt.id)
            rng = np.random.default_rng([sampling.seed, int(prompt.answer)])
            yield prompt, tuple(self._completion(int(number)) for number in rng.integers(3, size=sampling.num_rollouts))

    def _completion(self, number):
        return Completion(
            # U+2028 ends a line for str.splitlines, not for a file
            token_ids=(1,) * (number + 1),
            logprobs=(0.0,) * (number + 1),
            text=f"it is\u2028{number}",
            finish_reason="length" if number == 2 else "stop",
            policy_version=0,
        )


class ModuloReward:
    """Right if the number is the answer modulo 3; one problem cannot be judged."""

    def __call__(self, prompt, completion):
        if prompt.answer == "5":
            return Reward(value=0.0, success=None, status="timeout")
        success = int(completion.text[-1]) == int(prompt.answer) % 3
        return Reward(value=float(success), success=success, status="correct" if success else "wrong")


class Task:
    name = "numbers"

    def test_prompts(self, encoder):
        return [
            Prompt(
                id=f"numbers/{n}", task=self.name, text=f"{n}?", token_ids=(n,), answer=str(n), metadata={"odd": n % 2}
            )
            for n in range(10)
        ]


def make_run(store, *, group_by="odd", chunk_size=4):
    benchmark = Benchmark(task=Task(), reward=ModuloReward(), group_by=group_by)
    return BenchmarkRun(
        name="numbers",
        benchmark=benchmark,
        problems=benchmark.task.test_prompts(None),
        sampling=SAMPLING,
        chunk_size=chunk_size,
        store=store,
    )


def run_all(run, *, stop_after=None):
    engine, chunks = Engine(), []

    def on_chunk(num_problems, records):
        chunks.append(num_problems)
        if stop_after is not None and len(chunks) == stop_after:
            raise KeyboardInterrupt

    run.run(engine, InProcessJudge(run.benchmark.reward), on_chunk)
    return engine


def test_figures_equal_those_of_a_training_run():
    run = make_run(MemoryStore(), group_by=None, chunk_size=10)
    engine = run_all(run)
    groups = []
    for prompt, completions in Engine().generate(run.problems, sampling=SAMPLING):
        rewards = tuple(ModuloReward()(prompt, completion) for completion in completions)
        groups.append(Group(prompt=prompt, completions_G=completions, rewards_G=rewards))
    (row,) = suite_figures({"numbers": [to_outcome(record) for record in run.records()]}, seed=0).rows
    of_training = evaluation_metrics(groups)
    assert of_training.pop("eval/accuracy_half_width") > 0
    assert flat_metrics(row) == pytest.approx(of_training)
    assert row.unjudged_fraction == pytest.approx(0.1)
    assert [record["prompt_id"] for record in run.records()] == [prompt.id for prompt in run.problems]
    assert len(engine.asked) == 10


def test_a_run_that_was_cut_short_goes_on_with_the_chunks_that_are_missing(tmp_path):
    whole = make_run(DiskStore(tmp_path / "whole", {"a": 1}))
    run_all(whole)
    with pytest.raises(KeyboardInterrupt):
        run_all(make_run(DiskStore(tmp_path / "cut", {"a": 1})), stop_after=1)
    # what a killed process leaves behind
    (tmp_path / "cut" / ".00001.jsonl.writing").write_text('{"prompt_id": "numb')
    resumed = make_run(DiskStore(tmp_path / "cut", {"a": 1}))
    engine = run_all(resumed)
    assert sorted(engine.asked) == [f"numbers/{n}" for n in range(4, 10)]
    assert resumed.records() == whole.records()
    assert [record["group"] for record in whole.records()] == ["0", "1"] * 5
    assert run_all(resumed).asked == []


def test_chunks_are_sampled_apart():
    records = make_run(MemoryStore())
    run_all(records)
    texts = [[sample["completion"] for sample in record["samples"]] for record in records.records()]
    one = make_run(MemoryStore(), chunk_size=10)
    run_all(one)
    assert [[s["completion"] for s in r["samples"]] for r in one.records()] != texts


def test_samples_of_other_settings_are_not_joined(tmp_path):
    DiskStore(tmp_path / "numbers", {"model": "abc", "sampling.num_rollouts": 4})
    with pytest.raises(
        UsageError, match=r"--output-dir=.*numbers was evaluated otherwise \(sampling.num_rollouts was 4"
    ):
        DiskStore(tmp_path / "numbers", {"model": "abc", "sampling.num_rollouts": 16})
    (tmp_path / "numbers" / "manifest.json").write_text("{")
    with pytest.raises(UsageError, match=r"manifest.json: not valid JSON"):
        DiskStore(tmp_path / "numbers", {"model": "abc"})


def test_a_damaged_chunk_is_named(tmp_path):
    store = DiskStore(tmp_path / "numbers", {})
    store.write(0, [{"prompt_id": "x"}])
    (tmp_path / "numbers" / "00000.jsonl").write_text('{"prompt_id"')
    with pytest.raises(UsageError, match=r"00000.jsonl: not valid JSON lines"):
        store.read(0)


def test_what_is_written_for_people_and_for_programs():
    run = make_run(MemoryStore())
    run_all(run)
    outcomes = [to_outcome(record) for record in run.records()]
    figures = suite_figures({"numbers": outcomes, "others": [outcome(4)]}, seed=0)
    text = markdown(figures, title="A model", notes=["1 prompt was too long"])
    lines = text.splitlines()
    assert lines[0] == "# A model"
    assert lines[2].startswith("| benchmark | problems | avg@4 | pass@2 | pass@4 |")
    assert {line.count("|") for line in lines[2:9]} == {lines[2].count("|")}
    assert any(line.startswith("| others | 1 | 100.0 [100.0, 100.0] |") for line in lines)
    assert "- 1 prompt was too long" in lines
    loaded = json.loads(json.dumps(as_json(figures)))
    assert [row["group"] for row in loaded["rows"]] == [None, "0", "1", None]
    assert loaded["average"]["value"] == figures.average.value


def test_records_keep_every_sample():
    (prompt,) = Task().test_prompts(None)[2:3]
    completion = Engine()._completion(2)
    rewards = (Reward(value=1.0, success=True, status="correct"),)
    record = to_record(
        Group(prompt=prompt, completions_G=(completion,), rewards_G=rewards),
        Benchmark(task=Task(), reward=ModuloReward(), group_by="odd"),
    )
    assert json.loads(json.dumps(record)) == {
        "prompt_id": "numbers/2",
        "prompt": "2?",
        "answer": "2",
        "group": "0",
        "samples": [
            {
                "completion": "it is\u20282",
                "num_tokens": 3,
                "finish_reason": "length",
                "value": 1.0,
                "success": True,
                "status": "correct",
            }
        ],
    }


# ---------------------------------------------------------------------------------------------------------------------
# suites of the configuration


def config_of(*overrides):
    return parse_config(compose_config(["model.max_length=8192", *overrides]))


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("math_suite", ["aime24", "amc23", "math500", "minerva_math", "olympiadbench"]),
        ("general", ["mmlu", "gpqa"]),
        ("countdown", ["countdown"]),
    ],
)
def test_suites_are_the_paper_s(option, names):
    config = config_of(f"evaluation={option}")
    members = load_suite(config, data_dir=None)
    assert [member.name for member in members] == names
    settings = config.evaluation
    assert (settings.samples_per_problem, settings.temperature, settings.top_p) == (16, 0.6, 0.95)
    # A suite leaves the training run's task and reward alone.
    assert config.task["_target_"].endswith("CountdownTask")
    assert config.reward["_target_"].endswith("CountdownReward")


def test_benchmarks_can_be_added_and_taken_out():
    added = config_of("evaluation=math_suite", "+benchmark@evaluation.benchmarks.gsm8k=gsm8k")
    assert [m.name for m in load_suite(added, data_dir=None)][-1] == "gsm8k"
    less = config_of("evaluation=general", "~evaluation.benchmarks.gpqa")
    assert [m.name for m in load_suite(less, data_dir=None)] == ["mmlu"]


def test_without_a_suite_the_task_is_the_benchmark():
    (member,) = load_suite(config_of(), data_dir=None)
    assert member.name == "countdown"
    with pytest.raises(UsageError, match="--data-dir"):
        load_suite(config_of(), data_dir=Path("."))


REAL_ROWS = {
    "aime24.jsonl": {"id": 60, "problem": "Find $m+n$.", "answer": "204", "url": "", "year": "2024", "solution": ""},
    "amc23.jsonl": {"id": 0, "question": "How many miles?", "answer": "27", "url": ""},
    "math500.jsonl": {"problem": "Halve.", "solution": "", "answer": "\\frac12", "subject": "Algebra", "level": 2},
    "minerva_math.jsonl": {"question": "How bright?", "answer": "4.5e33"},
    "olympiadbench.jsonl": {"question": "Find $n$.", "final_answer": ["$2$"], "context": None, "error": None},
    "mmlu_test.jsonl": {"question": "?", "subject": "virology", "choices": ["a", "b", "c", "d"], "answer": 3},
}


@pytest.mark.parametrize(("suite", "num_found"), [("math_suite", 5), ("general", 1)])
def test_local_files_go_before_the_hub(tmp_path, suite, num_found):
    for name, row in REAL_ROWS.items():
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    members = load_suite(config_of(f"evaluation={suite}"), data_dir=tmp_path)
    local = [member for member in members if member.benchmark.task.test.path is not None]
    assert len(local) == num_found
    for member in local:
        (problem,) = member.benchmark.task.test_problems()
        assert problem.question
    assert all(member.benchmark.task.test.hub is not None for member in members)


def test_a_folder_without_any_of_the_files_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"--data-dir=.*no file of any benchmark; name them aime24.jsonl"):
        load_suite(config_of("evaluation=math_suite"), data_dir=tmp_path)
    with pytest.raises(UsageError, match="is not a folder"):
        load_suite(config_of("evaluation=math_suite"), data_dir=tmp_path / "none")


def test_minerva_s_numbers_may_be_rounded(tmp_path):
    (tmp_path / "minerva_math.jsonl").write_text(json.dumps(REAL_ROWS["minerva_math.jsonl"]) + "\n")
    members = load_suite(config_of("evaluation=math_suite"), data_dir=tmp_path)
    judge = {member.name: member.benchmark.reward.judge for member in members}
    assert judge["minerva_math"]("\\boxed{4.47e33}", "4.5e33").success is True
    assert judge["minerva_math"]("\\boxed{4.40e33}", "4.5e33").success is False
    assert judge["math500"]("\\boxed{4.47e33}", "4.5e33").success is False


# ---------------------------------------------------------------------------------------------------------------------
# what identifies an evaluation


def test_other_weights_are_another_model(tmp_path):
    for name, content in {"config.json": b"{}", "model.safetensors": bytes(5_000_000), "notes.txt": b"a"}.items():
        (tmp_path / name).write_bytes(content)
    first = model_fingerprint(tmp_path)
    (tmp_path / "notes.txt").write_bytes(b"b")
    assert model_fingerprint(tmp_path) == first
    for place in (0, 2_600_000, 4_999_999):
        weights = bytearray(5_000_000)
        weights[place] = 1
        (tmp_path / "model.safetensors").write_bytes(weights)
        assert model_fingerprint(tmp_path) != first


def test_the_manifest_holds_what_samples_depend_on(tmp_path):
    config = config_of()
    (member,) = load_suite(config, data_dir=None)
    problems = Task().test_prompts(None)

    def make(problems=problems, sampling=SAMPLING, config=config, member=member):
        return manifest(config, member, problems, model="abc", sampling=sampling, chunk_size=4)

    first = make()
    others = [
        make(problems=problems[:-1]),
        make(problems=[replace(problems[0], token_ids=(7,)), *problems[1:]]),
        make(sampling=replace(SAMPLING, temperature=1.0)),
        make(config=config_of("model.dtype=bfloat16")),
        make(member=replace(member, reward_node={"_target_": "other"})),
    ]
    assert make() == first
    assert all(other != first for other in others)
    folders = {default_folder(tmp_path / "run" / "model", [item]) for item in [first, *others]}
    assert len(folders) == 6
    assert all(folder.name.startswith("evaluation_run_") for folder in folders)
