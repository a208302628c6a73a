"""The overlapping loop, over scripted stand-ins whose every completion follows from prompt, seed and version."""

import dataclasses
import threading

import numpy as np
import pytest

from insight_rl.evaluation import Evaluator
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.gate.mixed_outcomes import MixedOutcomes
from insight_rl.monitor.dictionary import is_of_the_machine
from insight_rl.reward.judge import InProcessJudge
from insight_rl.rollout.base import UpdatesWhileGenerating
from insight_rl.seeding import derive_seed
from insight_rl.selector.acquisition import weighted_mutual_information
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.state_codec import decode_state, encode_state
from insight_rl.trainer import Trainer, TrainerSettings
from insight_rl.trainer_async import AsyncTrainer
from insight_rl.types import Completion, Prompt, Reward, Sampling
from tests.unit.test_trainer import ALGORITHM, Recorder, ScriptedLearner, Selections

POOL = [Prompt(id=f"p{i}", task="t", text="", token_ids=(1, 2), answer=i) for i in range(60)]
PATIENCE_S = 60


def completions_of(prompt, sampling, version):
    rng = np.random.default_rng(derive_seed(sampling.seed, prompt.id, version))
    chance = (prompt.answer % 7) / 6
    return tuple(
        Completion(
            token_ids=(5, int(rng.integers(100))),
            logprobs=(-0.5, -0.25),
            text="yes" if rng.random() < chance else "no",
            finish_reason="stop",
            policy_version=version,
        )
        for _ in range(sampling.num_rollouts)
    )


class Engine:
    """Cannot take weights while it generates, and says so if it has to."""

    def __init__(self):
        self.version, self.begun, self.is_generating, self.on_prompt = 0, [], False, lambda number: None

    def start(self, spec): ...

    def close(self): ...

    def generate(self, prompts, *, sampling):
        self.is_generating = True
        self.begun.append(([prompt.id for prompt in prompts], self.version))
        for number, prompt in enumerate(reversed(prompts)):
            self.on_prompt(number)
            yield prompt, completions_of(prompt, sampling, self.begun[-1][1])
        self.is_generating = False

    def update_weights(self, weights, *, version):
        assert not self.is_generating
        assert version == self.version + 1 or not self.begun
        self.version = version
        return {}


class KeepingEngine(Engine):
    """Takes weights at any time; a completion carries the version that it was begun with."""

    has_ended = False

    def update_while_generating(self, weights, *, version):
        self.version = version
        return {}

    def end_generation(self):
        self.has_ended = True


class Check:
    """Of syncs: every third one, and then nothing may be generated."""

    def __init__(self, engine):
        self.engine, self.checked = engine, []

    def is_due(self, version):
        return version % 3 == 0

    def __call__(self, version):
        if self.is_due(version):
            assert not self.engine.is_generating
            self.checked.append(version)
        return {}


class Selector(BeliefSelector):
    """Notes what is observed, and that nothing is selected which is under way."""

    def open(self, pool, **settings):
        super().open(pool, **settings)
        self.under_way, self.observed = set(), []

    def select(self, num_prompts):
        prompts = super().select(num_prompts)
        assert not self.under_way & {prompt.id for prompt in prompts}
        self.under_way |= {prompt.id for prompt in prompts}
        return prompts

    def observe(self, groups):
        super().observe(groups)
        ids = [group.prompt.id for group in groups]
        assert set(ids) == self.under_way and len(ids) == len(set(ids))
        self.under_way = set()
        self.observed.append(ids)


def reward(prompt, completion):
    return Reward(value=float(completion.text == "yes"), success=completion.text == "yes", status="ok")


def make_trainer(max_staleness=None, *, update="keep", engine=None, gate=None, num_steps=6, **limits):
    """``max_staleness=None``: the synchronous loop."""
    engine, recorder = engine or Engine(), Recorder()
    selector = Selector(score=weighted_mutual_information, mu=0.5, eta=1.0, candidate_ratio=3)
    selector.open(POOL, num_rollouts=4, seed=1)
    sampling = Sampling(num_rollouts=4, max_tokens=3, temperature=1.0, seed=0)
    settings = TrainerSettings(
        num_steps=num_steps,
        prompts_per_step=8,
        sampling=sampling,
        max_mean_logprob_gap=0.01,
        evaluate_every=2,
        checkpoint_every=1,
        seed=3,
        **limits,
    )
    parts = {
        "settings": settings,
        "selector": selector,
        "gate": gate or AdmitAll(),
        "rollout": engine,
        "judge": InProcessJudge(reward),
        "algorithm": ALGORITHM,
        "learner": ScriptedLearner([]),
        "evaluator": Evaluator(problems=POOL[:3], sampling=sampling),
        "monitors": [recorder],
        "selection_log": Selections(recorder),
        "save_checkpoint": lambda progress, metrics: recorder.checkpoints.append(snapshot(trainer)),
        "sync_check": Check(engine),
    }
    if max_staleness is None:
        trainer = Trainer(**parts)
    else:
        trainer = AsyncTrainer(max_staleness=max_staleness, weight_update=update, **parts)
    return trainer, recorder


def snapshot(trainer):
    state = {"progress": dataclasses.asdict(trainer.progress), "selector": trainer.selector.state_dict()}
    if isinstance(trainer, AsyncTrainer):
        state["rollouts"] = trainer.state_dict()
    return encode_state(state)


def resume(trainer, blob):
    state = decode_state(blob)
    trainer.progress = dataclasses.replace(trainer.progress, **state["progress"])
    trainer.selector.load_state_dict(state["selector"])
    trainer.selector.under_way = set(state["selector"]["pool"]["pending_ids"])
    trainer.sync(trainer.progress.step)
    trainer.load_state_dict(state["rollouts"], POOL)


def trained(trainer):
    return [[group.prompt.id for group in groups] for groups, _ in trainer.learner.batches]


def settled(records):
    """The metrics that the seed alone decides."""
    return [
        (step, {key: value for key, value in metrics.items() if not is_of_the_machine(key) and "async/" not in key})
        for step, metrics in records
    ]


@pytest.mark.parametrize("gate", [AdmitAll, MixedOutcomes])
def test_without_staleness_every_decision_is_that_of_the_synchronous_loop(gate):
    plain, of_plain = make_trainer(gate=gate())
    plain.train()
    overlapping, of_overlapping = make_trainer(0, gate=gate())
    overlapping.train()
    assert of_overlapping.selections == of_plain.selections
    assert overlapping.rollout.begun == plain.rollout.begun
    for (groups, advantages), (others, other_advantages) in zip(
        overlapping.learner.batches, plain.learner.batches, strict=True
    ):
        assert groups == others
        np.testing.assert_equal(advantages, other_advantages)
    assert settled(of_overlapping.records) == settled(of_plain.records)
    assert overlapping.progress.num_tokens == plain.progress.num_tokens


@pytest.mark.parametrize("max_staleness", [1, 2, 4])
@pytest.mark.parametrize("gate", [AdmitAll, MixedOutcomes])
def test_where_updates_wait_the_schedule_is_fixed_and_the_clock_decides_nothing(max_staleness, gate):
    runs = []
    for slow in ("engine", "learner"):
        trainer, recorder = make_trainer(max_staleness, gate=gate(), num_steps=7)
        pause = threading.Event().wait
        if slow == "engine":
            trainer.rollout.on_prompt = lambda number, pause=pause: pause(0.001)
        else:
            step = trainer.learner.step
            trainer.learner.step = lambda *args, step=step, pause=pause: (pause(0.02), step(*args))[1]
        trainer.train()
        runs.append((recorder.selections, trained(trainer), settled(recorder.records)))
    assert runs[0] == runs[1]
    for step, (groups, _) in enumerate(trainer.learner.batches, 1):
        assert {c.policy_version for group in groups for c in group.completions_G} <= {max(0, step - 1 - max_staleness)}
    assert [step for step, _, _ in recorder.selections] == list(range(1, 8))
    assert [m["async/staleness_max"] for _, m in recorder.records[1:]] == [min(s, max_staleness) for s in range(7)]


def test_rollouts_of_the_next_step_are_made_while_the_learner_works():
    trainer, _ = make_trainer(1, num_steps=3)
    second_begun = threading.Event()
    trainer.rollout.on_prompt = lambda number: len(trainer.rollout.begun) >= 3 and second_begun.set()
    step = trainer.learner.step
    trainer.learner.step = lambda *args: (second_begun.wait(PATIENCE_S), step(*args))[1]
    trainer.train()
    assert second_begun.is_set(), "evaluation, step 1, and then step 2 while the learner was at step 1"


@pytest.mark.parametrize("max_staleness", [0, 1, 3])
def test_nothing_is_begun_that_would_be_too_old(max_staleness):
    trainer, recorder = make_trainer(max_staleness, engine=KeepingEngine(), num_steps=9)
    ahead = []
    step = trainer.learner.step

    def learn(*args):
        for task in trainer._tasks:  # a slow learner: all that may be made is made
            task.result(PATIENCE_S)
        ahead.append(len(trainer._ready))
        return step(*args)

    trainer.learner.step = learn
    trainer.train()
    assert ahead == [min(max_staleness, 9 - number) for number in range(1, 10)]
    assert max(m["async/staleness_max"] for _, m in recorder.records[1:]) == max_staleness
    assert recorder.records[-1][1]["async/staleness_histogram"].counts == (*[0] * max_staleness, 32)


def make_interrupted(at_prompt=3):
    """Stopped by a request in its second step, in whose middle, after ``at_prompt`` prompts, new weights have come."""
    engine = KeepingEngine()
    trainer, recorder = make_trainer(2, engine=engine, num_steps=6)
    reached, updated = threading.Event(), threading.Event()

    def on_prompt(number):
        if len(engine.begun) == 4 and number == at_prompt:  # evaluation, steps 1 and 2, and now step 3
            reached.set()
            assert updated.wait(PATIENCE_S)

    engine.on_prompt = on_prompt
    engine.end_generation = updated.set
    step = trainer.learner.step
    trainer.learner.step = lambda *args: (reached.wait(PATIENCE_S), step(*args))[1]
    trainer.settings = dataclasses.replace(trainer.settings, evaluate_every=0)
    trainer.save_checkpoint = lambda progress, metrics: (
        recorder.checkpoints.append(snapshot(trainer)),
        progress.step == 2 and trainer.request_stop(),
    )
    return trainer, recorder


def test_weights_come_in_the_middle_of_rollouts_that_go_on():
    trainer, _ = make_interrupted()
    trainer.train()
    assert trainer.progress.step == 2
    assert trainer.rollout.version == 2, "step 3 was under way at both updates"
    assert isinstance(trainer.rollout, UpdatesWhileGenerating) and not isinstance(Engine(), UpdatesWhileGenerating)


@pytest.mark.parametrize("at_prompt", [0, 3, 7])
def test_a_run_killed_with_prompts_in_flight_loses_and_repeats_none(at_prompt):
    first, of_first = make_interrupted(at_prompt)
    first.train()
    *_, blob = of_first.checkpoints
    flight = decode_state(blob)["rollouts"]["flight"]
    assert flight["step"] == 3
    assert len(flight["finished"]["prompt_ids"]) == at_prompt

    second, of_second = make_trainer(2, engine=KeepingEngine(), num_steps=6)
    second.settings = dataclasses.replace(second.settings, evaluate_every=0)
    resume(second, blob)
    second.train()
    unfinished = [each for each in flight["prompt_ids"] if each not in flight["finished"]["prompt_ids"]]
    assert second.rollout.begun[0][0] == unfinished
    # Every step's prompts were observed and trained on once, those of step 3 as they were selected.
    assert trained(first)[:2] + trained(second) == [ids for _, ids, _ in of_first.selections[:2] + of_second.selections]
    assert second.selector.observed[0] == flight["prompt_ids"]
    assert [step for step, _, _ in of_second.selections] == [3, 4, 5, 6]
    assert second.progress.num_rollouts == 6 * 32


@pytest.mark.parametrize("max_staleness", [0, 1, 2])
@pytest.mark.parametrize("killed_after", [1, 3, 5])
def test_where_updates_wait_a_resumed_run_is_the_uninterrupted_one(max_staleness, killed_after):
    whole, of_whole = make_trainer(max_staleness, gate=MixedOutcomes())
    whole.train()
    second, of_second = make_trainer(max_staleness, gate=MixedOutcomes())
    resume(second, of_whole.checkpoints[killed_after - 1])
    second.train()
    ready = min(killed_after + max_staleness, 6)
    assert of_second.selections == of_whole.selections[ready:]
    assert trained(second) == trained(whole)[killed_after:]
    assert second.selector.belief("p1") == whole.selector.belief("p1")
    for (groups, advantages), (others, other_advantages) in zip(
        second.learner.batches, whole.learner.batches[killed_after:], strict=True
    ):
        assert groups == others
        np.testing.assert_equal(advantages, other_advantages)
    assert settled(of_second.records) == settled(of_whole.records)[killed_after + 1 :]


def test_a_budget_of_rollouts_is_not_overrun_by_rollouts_that_nobody_trains_on():
    trainer, recorder = make_trainer(3, num_steps=20, max_rollouts=4 * 32)
    trainer.train()
    assert trainer.progress.step == 4
    assert len(recorder.selections) == 4


@pytest.mark.parametrize("fails_at", [1, 3])
def test_what_goes_wrong_with_rollouts_ends_the_run_as_it_is(fails_at):
    class Broken(Exception): ...

    trainer, _ = make_trainer(1)

    def on_prompt(number):
        if len(trainer.rollout.begun) == 1 + fails_at:
            raise Broken

    trainer.rollout.on_prompt = on_prompt
    with pytest.raises(Broken):
        trainer.train()
    assert trainer.progress.step <= fails_at - 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollouts")]


def test_a_learner_that_fails_leaves_no_thread_behind():
    trainer, _ = make_trainer(1, engine=KeepingEngine())
    trainer.learner.step = lambda *args: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.train()
    assert trainer.rollout.has_ended
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("rollouts")]


def test_syncs_are_checked_when_they_are_due_with_the_engine_at_rest():
    trainer, _ = make_trainer(1, engine=KeepingEngine(), num_steps=7)
    trainer.train()
    assert trainer.sync_check.checked == [3, 6]


def test_idle_shares_and_queues_are_told():
    trainer, recorder = make_trainer(1)
    trainer.train()
    for _, metrics in recorder.records[1:]:
        assert 0 <= metrics["async/learner_idle_share"] <= 1
        assert 0 <= metrics["async/rollout_idle_share"] <= 1
        assert metrics["async/num_ready_steps"] <= 1
        assert 0 <= metrics["async/num_prompts_in_flight"] <= 8
        assert metrics["time/rollout_s"] > 0 and metrics["time/select_s"] > 0


def test_the_selector_hears_how_old_the_policy_was():
    trainer, _ = make_trainer(2)
    heard = []
    trainer.selector.expect_lags = lambda lags: heard.append(set(lags.values()))
    trainer.train()
    assert heard == [{0}, {1}, {2}, {2}, {2}, {2}]
