"""Selection inside prime-rl: with what it uses of its classes, or with its own ones where they can be imported.

The signature is that of PrimeIntellect-ai/prime-rl at commit 559b44772e471d1538537b8805cc77f3824a5e64
(src/prime_rl/orchestrator/train_source.py, curriculum/base.py, curriculum/samplers/base.py) and of the episodes of
verifiers 0.4.0 (verifiers/v1/task.py, trace.py, episode.py): names, parameters and fields, not their code.
"""

from __future__ import annotations

import importlib.util
import itertools
import pickle
import random
from collections import Counter
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from insight_rl.errors import UsageError
from insight_rl.integration.prime_rl import SelectedTasks, use_selector
from insight_rl.integration.selection import prompt_id
from insight_rl.seeding import derive_seed
from tests.support.own_trainer import own_decisions
from tests.support.verdicts import by_visit, verdict_of

K, M, SEED = 4, 4, 11
PROMPTS = [f"{a}+{b}=" for a in range(8) for b in range(3)]
HAS_PRIME_RL = importlib.util.find_spec("prime_rl") is not None


@dataclass
class TaskData:
    idx: int
    prompt: Any


@dataclass
class Task:
    """verifiers' Task and its TraceTask: ``key`` is its identity."""

    data: TaskData
    key: str | None = None

    def __post_init__(self):
        self.key = f"key of {self.data.prompt}"


@dataclass
class Reward:
    score: float
    weight: float = 1.0


@dataclass
class Trace:
    rewards: dict[str, Reward] = field(default_factory=dict)
    has_error: bool = False
    agent: Any = field(default_factory=lambda: SimpleNamespace(trainable=True))

    @property
    def reward(self) -> float:
        return sum(each.score * each.weight for each in self.rewards.values())


@dataclass
class Episode:
    task: Task
    traces: list[Trace]
    env: Any


class StandardSampler:
    def __init__(self, tasks):
        self.tasks = tuple(tasks) if isinstance(tasks, list) else None

    def state_dict(self) -> dict[str, Any]:
        return {"cursor": 3}


class TrainSource:
    def __init__(self, train_envs):
        self.envs = list(train_envs)
        self.rng = random.Random(42)
        self.curricula = {
            env.name: SimpleNamespace(sampler=StandardSampler(env.tasks if env.num_tasks is None else list(env.tasks)))
            for env in self.envs
        }

    def next_task(self, *, step):
        name = self.rng.choices([env.name for env in self.envs], k=1)[0]
        return SimpleNamespace(env_name=name, task=next(self.curricula[name].sampler), step=step)

    def on_result(self, group):
        self.curricula[group[0].env.name].sampler.observe(group)
        return True

    def state_dict(self):
        return {"envs": {name: each.sampler.state_dict() for name, each in self.curricula.items()}}

    def load_state_dict(self, state_dict):
        for name, each in self.curricula.items():
            each.sampler.load_state_dict(state_dict["envs"][name])


class Signature:
    """Makes what the tests need of what is above."""

    train_source = TrainSource

    def task(self, idx, prompt):
        return Task(TaskData(idx=idx, prompt=prompt))

    def episode(self, task, env_name, traces):
        return Episode(task=task, traces=traces, env=SimpleNamespace(name=env_name))

    def trace(self, task, reward, *, is_error=False, is_trained=True):
        return Trace({"right": Reward(reward)}, is_error, SimpleNamespace(trainable=is_trained))


class PrimeRL:
    """The same from prime-rl and verifiers."""

    def __init__(self):
        import verifiers.v1 as vf
        from prime_rl.orchestrator.train_source import TrainSource

        self.vf, self.train_source = vf, TrainSource

    def task(self, idx, prompt):
        return self.vf.Task(self.vf.TaskData(idx=idx, prompt=prompt))

    def _recorded(self, task):
        return self.vf.TraceTask(type="Task", data=task.data, key=task.key, hash=task.hash)

    def episode(self, task, env_name, traces):
        vf = self.vf
        return vf.Episode(env=vf.EnvInfo(id=env_name, name=env_name), task=self._recorded(task), traces=traces)

    def trace(self, task, reward, *, is_error=False, is_trained=True):
        vf = self.vf
        return vf.Trace(
            task=self._recorded(task),
            agent=vf.AgentInfo(config=vf.AgentConfig(), trainable=is_trained),
            rewards={"right": vf.Reward(score=reward)},
            errors=[vf.Error(type="E", message="broke")] if is_error else [],
            ok=not is_error,
        )


@pytest.fixture(params=["signature", "prime-rl"] if HAS_PRIME_RL else ["signature"])
def prime(request):
    return Signature() if request.param == "signature" else PrimeRL()


def make_source(prime, *, prompts=PROMPTS, is_endless=False, names=("sums",), **settings):
    tasks = [prime.task(idx, prompt) for idx, prompt in enumerate(prompts)]
    source = prime.train_source(
        [
            SimpleNamespace(
                name=name,
                tasks=itertools.cycle(tasks) if is_endless else iter(tasks),
                num_tasks=None if is_endless else len(tasks),
                config=SimpleNamespace(ratio=1.0, curriculum=None, group_size=K),
            )
            for name in names
        ]
    )
    use_selector(source, **({"prompts_per_step": M, "seed": SEED} | settings))
    return source


class Orchestrator:
    """prime-rl's dispatcher and sink (orchestrator/dispatcher.py, train_sink.py): the order of their calls."""

    def __init__(self, prime, source):
        self.prime, self.source, self.visits, self.drawn = prime, source, Counter(), []

    def draw(self, step):
        request = self.source.next_task(step=step)
        self.drawn.append(request.task.data.prompt)
        return request

    def finish(self, request, num_cancelled=0):
        """The group reaches the curriculum when its last episode has arrived or was cancelled."""
        prompt = request.task.data.prompt
        self.visits[prompt] += 1
        group = [self.episode(request, verdict_of(prompt, self.visits[prompt], k)) for k in range(K - num_cancelled)]
        assert self.source.on_result(group) is True

    def episode(self, request, verdict):
        task, prime = request.task, self.prime
        traces = [prime.trace(task, float(verdict is True), is_error=verdict is None)]
        return prime.episode(task, request.env_name, traces)

    def step(self, step):
        requests = [self.draw(step) for _ in range(M)]
        for request in reversed(requests):  # as they finish, not as they were drawn
            self.finish(request)


def sampler_of(source, name="sums"):
    return source.curricula[name].sampler


@pytest.mark.parametrize("selector", ["insight", "mopps"])
def test_decisions_are_those_of_our_own_trainer_given_the_same_verdicts(prime, selector):
    source = make_source(prime, selector=selector)
    orchestrator = Orchestrator(prime, source)
    for step in range(9):
        orchestrator.step(step)
    source.next_task(step=9)  # what finished last is observed before the next selection
    selection = sampler_of(source).queue.selection
    seed = derive_seed(SEED, "source", "sums")
    steps, selected = own_decisions(
        PROMPTS, by_visit(), num_steps=9, prompts_per_step=M, num_rollouts=K, seed=seed, selector=selector
    )
    assert orchestrator.drawn == [PROMPTS[row] for rows in steps for row in rows]
    for prompt in selection.pool.prompts:
        assert selection.selector.belief(prompt.id) == selected.belief(prompt_id(prompt.text))


def test_a_resumed_run_decides_as_the_uninterrupted_one(prime):
    """Saved in the middle of a batch; the groups under way at that time are gone and drawn again, before others."""
    source = make_source(prime)
    orchestrator = Orchestrator(prime, source)
    for step in range(3):
        orchestrator.step(step)
    first = [orchestrator.draw(3) for _ in range(2)]
    orchestrator.finish(first[0])
    saved, visits = pickle.dumps(source.state_dict()), Counter(orchestrator.visits)  # torch.save pickles

    def go_on(orchestrator, requests):
        requests += [orchestrator.draw(3) for _ in range(2)]
        for request in requests:
            orchestrator.finish(request)
        for step in range(4, 8):
            orchestrator.step(step)
        return orchestrator.drawn

    whole = go_on(orchestrator, first[1:])
    resumed = make_source(prime)
    resumed.load_state_dict(pickle.loads(saved))
    again = Orchestrator(prime, resumed)
    again.visits = visits
    request = again.draw(3)
    assert request.task.data.prompt == first[1].task.data.prompt
    assert go_on(again, [request]) == whole[-len(again.drawn) :]


def test_cancelled_groups_do_not_block_their_tasks_for_ever(prime):
    """prime-rl tells no sampler of them."""
    source = make_source(prime, prompts=PROMPTS[:10], patience=2 * M)
    orchestrator = Orchestrator(prime, source)
    for step in range(20):
        orchestrator.draw(step)  # cancelled
        orchestrator.finish(orchestrator.draw(step), num_cancelled=1)
    assert sampler_of(source).metrics()["given_up"] > 0
    assert len(sampler_of(source).queue.under_way) <= 10
    assert set(orchestrator.drawn) == set(PROMPTS[:10])


def test_errors_and_agents_that_are_not_trained_are_no_failures(prime):
    source = make_source(prime, verdict=lambda values: values[1] > 0.4)
    request = source.next_task(step=1)
    task = request.task
    judge = prime.trace(task, 1.0, is_trained=False)
    groups = [
        [prime.trace(task, 0.5), judge],
        [judge],
        [],
        [prime.trace(task, 0.0), prime.trace(task, 1.0, is_error=True)],
    ]
    source.on_result([prime.episode(task, "sums", traces) for traces in groups])
    for _ in range(M):
        source.next_task(step=1)
    assert sampler_of(source).queue.selection.selector.belief(task.key) == (2.0, 2.0)


def test_every_source_has_a_selector_of_its_own(prime):
    source = make_source(prime, names=("sums", "more"))
    orchestrator = Orchestrator(prime, source)
    for step in range(6):
        orchestrator.step(step)
    first, second = (sampler_of(source, name).queue.selection for name in ("sums", "more"))
    assert first.selector is not second.selector
    assert [prompt.task for prompt in (first.pool.prompts[0], second.pool.prompts[0])] == ["sums", "more"]


def test_what_selection_cannot_work_with_is_refused(prime):
    with pytest.raises(UsageError, match="source 'sums': its task set has no end"):
        make_source(prime, is_endless=True)
    with pytest.raises(UsageError, match=r"prompts_per_step=25: .* different prompts, 24"):
        make_source(prime, prompts_per_step=25)
    sampler = sampler_of(make_source(prime))
    with pytest.raises(UsageError, match="written with another task sampler"):
        sampler.load_state_dict({"cursor": 3})
    other = SelectedTasks([prime.task(1, "other"), prime.task(2, "another")], group_size=K, prompts_per_step=1)
    with pytest.raises(ValueError, match="pool"):
        other.load_state_dict(sampler.state_dict())
