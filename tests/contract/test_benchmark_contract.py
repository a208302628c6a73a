"""What every benchmark of conf/benchmark and every suite of conf/evaluation promises, on tiny files."""

from __future__ import annotations

import json

import pytest
from omegaconf import OmegaConf

from insight_rl.benchmark.benchmark import Benchmark
from insight_rl.build import build_part, evaluation_sampling
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir

OPTIONS = sorted(file.stem for file in (conf_dir() / "benchmark").glob("*.yaml"))
SUITES = sorted(file.stem for file in (conf_dir() / "evaluation").glob("*.yaml"))
SUBJECTS = ("anatomy", "virology")


class Encoder:
    def encode(self, prompt):
        text = prompt if isinstance(prompt, str) else "\n".join(each["content"] for each in prompt)
        return text, tuple(map(ord, text))


def made(node, folder):
    """The benchmark of ``node``, with a file of four problems in the place of the hub's data set."""
    task = node["task"]
    if task.get("test_hub") is not None:
        rows = [row_for(task, number) for number in range(4)]
        path = folder / f"{task['name']}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task["test_path"] = str(path)
    return build_part("benchmark", node)


def row_for(task, number):
    row = dict.fromkeys(task.get("metadata") or [], "easy") | {"subject": SUBJECTS[number % 2]}
    fields = task["rows"]
    if "choices" in fields:
        choices = [str(number + i) for i in range(4)]
        return row | {fields["question"][-1]: f"Which is {number}?", "choices": choices, "answer": 0}
    return row | {fields["question"][-1]: f"What is {number} + 1?", fields["answer"][-1]: str(number + 1)}


def option_node(option, config_dir=None):
    tree = compose_config([f"+benchmark@evaluation.benchmarks.it={option}"], config_dir=config_dir)
    return OmegaConf.to_container(tree.evaluation.benchmarks.it, resolve=True)


def prompts_of(benchmark):
    return list(benchmark.task.test_prompts(Encoder()))


def is_a_benchmark(benchmark):
    assert isinstance(benchmark, Benchmark)


def has_problems_that_are_named_once(benchmark):
    prompts = prompts_of(benchmark)
    assert len(prompts) >= 4
    assert len({prompt.id for prompt in prompts}) == len(prompts)


def judges_its_own_answers(benchmark):
    assert {benchmark.reward.explain_unusable(prompt.answer) for prompt in prompts_of(benchmark)} == {None}


def counts_every_problem_in_a_group_that_it_names(benchmark):
    groups = [benchmark.group_of(prompt) for prompt in prompts_of(benchmark)]
    assert all(isinstance(group, str) and group and group != "none" for group in groups)
    assert benchmark.group_by is None or len(set(groups)) > 1


PROMISES = (
    is_a_benchmark,
    has_problems_that_are_named_once,
    judges_its_own_answers,
    counts_every_problem_in_a_group_that_it_names,
)


@pytest.mark.parametrize("promise", PROMISES)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_benchmark(option, promise, tmp_path):
    promise(made(option_node(option), tmp_path))


GOOD = """
defaults:
  - /task@task: countdown
  - /reward@reward: countdown
  - _self_

_target_: insight_rl.benchmark.benchmark.Benchmark
group_by: num_numbers
"""
BROKEN = {
    is_a_benchmark: ("insight_rl.benchmark.benchmark.Benchmark\ngroup_by: num_numbers", "builtins.dict"),
    has_problems_that_are_named_once: (
        "group_by: num_numbers",
        "group_by: num_numbers\ntask: {source: generated, num_test: 2}",
    ),
    judges_its_own_answers: ("/reward@reward: countdown", "/reward@reward: math"),
    counts_every_problem_in_a_group_that_it_names: ("group_by: num_numbers", "group_by: chapter"),
}


@pytest.mark.parametrize("promise", [None, *PROMISES])
def test_a_benchmark_that_breaks_a_promise_is_found(promise, tmp_path):
    old, new = BROKEN.get(promise, ("", ""))
    assert old in GOOD
    (tmp_path / "conf" / "benchmark").mkdir(parents=True)
    (tmp_path / "conf" / "benchmark" / "bad.yaml").write_text(GOOD.replace(old, new, 1))

    def keeps(each):
        try:
            each(made(option_node("bad", config_dir=tmp_path / "conf"), tmp_path))
        except (AssertionError, AttributeError, UsageError):
            return False
        return True

    assert promise is None or not keeps(promise)
    assert promise is not None or all(map(keeps, PROMISES))


@pytest.mark.parametrize("suite", SUITES)
def test_a_suite(suite, tmp_path):
    """Its sampling is possible, and its benchmarks are options of conf/benchmark as they stand there."""
    tree = compose_config([f"evaluation={suite}"])
    evaluation = parse_config(tree).evaluation
    tokens = evaluation.max_completion_tokens or 64
    sampling = evaluation_sampling(evaluation, max_tokens=tokens, seed=0)
    assert sampling.num_rollouts >= 1 and 0 < sampling.top_p <= 1 and sampling.temperature >= 0
    for name, node in OmegaConf.to_container(tree.evaluation.benchmarks, resolve=True).items():
        assert node == option_node(name), f"evaluation={suite} changes the benchmark {name}"
        assert prompts_of(made(node, tmp_path))
    assert suite == "default" or tree.evaluation.benchmarks
