"""The loop itself, over scripted stand-ins; the real parts have tests of their own."""

import dataclasses

import pytest

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.errors import RunStopped
from insight_rl.evaluation import Evaluator
from insight_rl.gate.admit_all import AdmitAll
from insight_rl.gate.mixed_outcomes import MixedOutcomes
from insight_rl.learner.plan import BatchSettings, plan_step
from insight_rl.learner.step_sums import StepSums, to_metrics
from insight_rl.reward.judge import InProcessJudge
from insight_rl.selector.random import RandomSelector
from insight_rl.trainer import Trainer, TrainerSettings
from insight_rl.types import Completion, Prompt, Reward, Sampling

ALGORITHM = Algorithm(loss=GRPO(), advantage="group_std", clip_low=0.2, clip_high=0.2)
POOL = [Prompt(id=f"p{i}", task="t", text="", token_ids=(1, 2), answer=i) for i in range(40)]


class ScriptedEngine:
    """Finishes prompts in reverse order; the first half of a group says "yes"."""

    def __init__(self, events):
        self.events, self.version, self.seeds = events, 0, []

    def generate(self, prompts, *, sampling):
        self.events.append("generate")
        self.seeds.append(sampling.seed)
        for prompt in reversed(prompts):
            yield (
                prompt,
                tuple(
                    Completion(
                        token_ids=(5,),
                        logprobs=(-0.5,),
                        text="yes" if index < sampling.num_rollouts // 2 else "no",
                        finish_reason="stop",
                        policy_version=self.version,
                    )
                    for index in range(sampling.num_rollouts)
                ),
            )

    def update_weights(self, weights, *, version):
        self.events.append("sync")
        self.version = version
        return {"time/sync_write_s": 0.25}


class ScriptedLearner:
    """Learns nothing, but plans its step and reports it as the real learner does: without groups, no means."""

    SETTINGS = BatchSettings(
        loss=ALGORITHM,
        max_completion_tokens=3,
        prompts_per_update=8,
        num_ranks=1,
        tokens_per_micro_batch=100,
        share_prompts=True,
        hidden_size=4,
    )

    def __init__(self, events, gap=0.0):
        self.events, self.gap, self.batches = events, gap, []

    def step(self, groups_P, advantages_P_G):
        self.events.append("learn")
        self.batches.append((list(groups_P), advantages_P_G))
        plan = plan_step(groups_P, advantages_P_G, self.SETTINGS)
        num_updates = len(plan.ranks[0].updates)
        names = ("loss", "entropy", "ratio", "clipped_low", "clipped_high", "kl_to_rollout")
        sums = {"num_tokens": 1.0, "num_gaps": 1.0, "gap": self.gap} | dict.fromkeys(names, 0.0)
        measured = StepSums(sums=sums, gap_max=self.gap, grad_norms=[1.0] * num_updates) if num_updates else StepSums()
        return to_metrics(plan, [measured], lr=1e-6)

    def weights(self):
        return None


class Recorder:
    def __init__(self):
        self.records, self.selections, self.checkpoints = [], [], []

    def log(self, metrics, *, step):
        self.records.append((step, metrics))

    def notice(self, text): ...


class Selections:
    def __init__(self, recorder):
        self.recorder = recorder

    def log(self, step, groups, scores):
        self.recorder.selections.append((step, [group.prompt.id for group in groups], scores))


class ObservingSelector(RandomSelector):
    events: list

    def observe(self, groups):
        self.events.append("observe")
        self.observed = [group.prompt.id for group in groups]
        super().observe(groups)


def reward(prompt, completion):
    """Even prompts are mixed; odd ones are always wrong; every multiple of 10 cannot be judged."""
    if prompt.answer % 10 == 0:
        return Reward(value=0.0, success=None, status="timeout")
    success = completion.text == "yes" and prompt.answer % 2 == 0
    return Reward(value=float(success), success=success, status="correct" if success else "wrong")


def make_trainer(*, gate=None, gap=0.0, num_steps=2, judge=reward, max_unjudged=1.0):
    events, recorder = [], Recorder()
    selector = ObservingSelector()
    selector.events = events
    selector.open(POOL, num_rollouts=4, seed=1)
    sampling = Sampling(num_rollouts=4, max_tokens=3, temperature=1.0, seed=0)
    trainer = Trainer(
        settings=TrainerSettings(
            num_steps=num_steps,
            prompts_per_step=8,
            sampling=sampling,
            max_mean_logprob_gap=0.01,
            evaluate_every=2,
            checkpoint_every=2,
            seed=3,
        ),
        selector=selector,
        gate=gate or AdmitAll(),
        rollout=ScriptedEngine(events),
        judge=InProcessJudge(judge, max_unjudged_fraction=max_unjudged),
        algorithm=ALGORITHM,
        learner=ScriptedLearner(events, gap),
        evaluator=Evaluator(problems=POOL[1:3], sampling=sampling),
        monitors=[recorder],
        selection_log=Selections(recorder),
        sync_check=lambda version: {},
        save_checkpoint=lambda progress, metrics: recorder.checkpoints.append(
            (progress.step, metrics.get("eval/accuracy"))
        ),
    )
    return trainer, events, recorder


def test_a_step_is_the_algorithm_in_order():
    trainer, events, recorder = make_trainer()
    trainer.train()
    step = ["generate", "observe", "learn", "sync"]
    assert events == ["generate", *step, *step, "generate"]
    assert [number for number, _ in recorder.records] == [0, 1, 2]
    assert recorder.checkpoints == [(2, 0.25)]


def test_what_the_engine_measures_in_a_sync_is_logged_with_the_step():
    trainer, _, recorder = make_trainer()
    trainer.train()
    assert [metrics.get("time/sync_write_s") for _, metrics in recorder.records] == [None, 0.25, 0.25]


def test_completions_stay_with_their_prompt_though_they_finish_in_another_order():
    trainer, _, recorder = make_trainer(num_steps=1)
    trainer.train()
    groups, _ = trainer.learner.batches[0]
    assert [group.prompt.id for group in groups] == recorder.selections[0][1] == trainer.selector.observed
    for group in groups:
        assert all(r == reward(group.prompt, c) for r, c in zip(group.rewards_G, group.completions_G, strict=True))


def test_rollouts_and_tokens_count_up_and_every_step_has_its_own_seed():
    trainer, _, recorder = make_trainer()
    trainer.train()
    assert [m["rollout/num_rollouts"] for _, m in recorder.records[1:]] == [32, 64]
    assert [m["rollout/num_tokens"] for _, m in recorder.records[1:]] == [32, 64]
    evaluation_before, *steps, evaluation_after = trainer.rollout.seeds
    assert evaluation_before == evaluation_after
    assert len(set(steps)) == 2


def test_dynamic_sampling_draws_again_for_rejected_groups_and_all_of_them_teach():
    trainer, events, recorder = make_trainer(gate=MixedOutcomes(max_rounds=3), num_steps=1)
    trainer.train()
    kept, _ = trainer.learner.batches[0]
    assert all(group.is_informative for group in kept)
    assert len(kept) <= 8
    observed = trainer.selector.observed
    assert len(observed) == len(set(observed)) > len(kept), "rejected groups are observed too, and none is drawn twice"
    assert events.count("generate") - 2 <= 3, "rounds are bounded"
    assert recorder.records[1][1]["rollout/num_rollouts"] == 4 * len(observed), "rejected rollouts count as cost"


def test_dynamic_sampling_with_nothing_informative_ends_the_step_short():
    trainer, _, recorder = make_trainer(
        gate=MixedOutcomes(max_rounds=2), num_steps=1, judge=lambda prompt, completion: Reward(value=0, success=False)
    )
    trainer.train()
    assert trainer.learner.batches[0][0] == []
    assert recorder.records[1][1]["learner/num_updates"] == 0


def test_lost_log_prob_parity_stops_the_run():
    trainer, events, _ = make_trainer(gap=0.5)
    with pytest.raises(RunStopped, match=r"rollout/logprob_gap_mean=0\.5 exceeds"):
        trainer.train()
    assert "sync" not in events


def test_too_many_unjudged_rollouts_stop_the_run():
    unjudged = Reward(value=0, success=None, status="error", reason="no grammar")
    trainer, events, _ = make_trainer(judge=lambda prompt, completion: unjudged, max_unjudged=0.4)
    with pytest.raises(RunStopped, match=r"26 of the last 26 .*judge\.max_unjudged_fraction=0\.4.*no grammar"):
        trainer.train()
    assert "learn" not in events


def test_a_requested_stop_ends_after_the_step_with_a_checkpoint():
    trainer, _, recorder = make_trainer(num_steps=9)
    trainer.selection_log.log = lambda *_: setattr(trainer, "stop_requested", True)
    trainer.train()
    assert trainer.progress.step == 1
    assert recorder.checkpoints == [(1, None)]


def budgeted(num_steps=20, **limits):
    trainer, _, recorder = make_trainer(num_steps=num_steps)
    trainer.settings = dataclasses.replace(trainer.settings, evaluate_every=50, checkpoint_every=50, **limits)
    ticks = iter(range(1000))
    trainer.device_time = lambda: float(next(ticks))
    trainer.train()
    return trainer, recorder


@pytest.mark.parametrize(
    ("limits", "steps"),
    [
        # A step is 8 prompts x 4 rollouts of 1 token.
        ({"max_rollouts": 32}, 1),
        ({"max_rollouts": 33}, 2),
        ({"max_rollouts": 64, "max_tokens": 10_000}, 2),
        ({"max_device_s": 3.0}, 3),
        ({"max_rollouts": 10_000}, 20),
        ({}, 20),
    ],
)
def test_a_run_ends_after_the_step_that_uses_up_a_budget(limits, steps):
    trainer, recorder = budgeted(**limits)
    assert trainer.progress.step == steps
    assert trainer.progress.num_rollouts == 32 * steps
    # Its last step is evaluated and saved as the last one of any run is.
    assert [step for step, accuracy in recorder.checkpoints] == [steps]
    assert recorder.checkpoints[-1][1] is not None


def test_tokens_are_a_budget_too():
    whole, _ = budgeted(num_steps=4)
    half, _ = budgeted(num_steps=4, max_tokens=whole.progress.num_tokens // 2)
    assert 1 <= half.progress.step <= 2
    assert half.progress.num_tokens >= whole.progress.num_tokens // 2


def test_device_seconds_leave_out_evaluations_and_add_up():
    trainer, recorder = budgeted(num_steps=3)
    assert trainer.progress.device_s == 3.0
    logged = [metrics.get("time/device_s") for _, metrics in recorder.records]
    assert logged == [None, 1.0, 2.0, 3.0]
