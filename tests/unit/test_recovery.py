"""How often the ranks of a run may be started again, and what is left of a run that gives up its step."""

import copy
import pickle
from types import SimpleNamespace

import pytest

from insight_rl.clock import PhaseClock
from insight_rl.errors import Interrupted, RanksLost, RunStopped
from insight_rl.recovery import LastStep, Recovery, Restarts
from insight_rl.selector.belief_selector import BeliefSelector
from insight_rl.stop_signals import stop_on_signals
from insight_rl.trainer import Progress
from insight_rl.types import Completion, Group, Prompt, Reward

COMPLETION = Completion(token_ids=(), logprobs=(), text="", finish_reason="stop", policy_version=0)
LOST = RanksLost("learner rank 1 died in step (killed by SIGKILL)", "learner rank 1 died ...; the run can be resumed")


def test_each_restart_is_told_and_counted_and_one_too_many_ends_the_run():
    said = []
    restarts = Restarts(2, said.append)
    assert restarts.metrics() == {"runtime/num_restarts": 0}
    restarts.count(LOST, step=6)
    restarts.count(LOST, step=9)
    assert restarts.metrics() == {"runtime/num_restarts": 2}
    assert said[0] == (
        "after step 6: learner rank 1 died in step (killed by SIGKILL); all ranks are started again from the newest "
        "checkpoint (restart 1 of at most 2)"
    )
    with pytest.raises(RunStopped, match=r"2 times, .* raise runtime\.max_restarts=2; the last loss: learner rank 1"):
        restarts.count(LOST, step=9)


def test_where_none_is_allowed_the_loss_itself_ends_the_run():
    with pytest.raises(RanksLost) as raised:
        Restarts(0, print).count(LOST, step=3)
    assert raised.value is LOST


# -- the last step that was done


@pytest.fixture
def trainer():
    """As far as :class:`LastStep` looks at one: a real selector, and what it would write."""
    selector = BeliefSelector(score=None)
    pool = [Prompt(id=f"p{i}", task="t", text="", token_ids=(), answer=None) for i in range(40)]
    selector.open(pool, num_rollouts=2, seed=5)
    saved = []

    def save_checkpoint(progress, metrics):
        assert metrics == {}
        saved.append((progress, copy.deepcopy(selector.state_dict())))

    clock, progress = PhaseClock(), Progress(step=6, num_rollouts=48)
    return SimpleNamespace(
        selector=selector,
        clock=clock,
        progress=progress,
        save_checkpoint=save_checkpoint,
        saved=saved,
        saves_rollouts=False,
    )


def do_step(trainer):
    groups = [
        Group(prompt=prompt, completions_G=(COMPLETION,) * 2, rewards_G=(Reward(value=1.0, success=True),) * 2)
        for prompt in trainer.selector.select(4)
    ]
    trainer.selector.observe(groups)
    trainer.progress.step += 1


def as_text(state):
    return repr(sorted(state.items()))


def test_a_step_given_up_while_it_rolls_out_leaves_a_checkpoint_of_the_one_before(trainer):
    last_step = LastStep(trainer, settle=lambda: None)
    do_step(trainer)
    last_step.log({}, step=7)
    before, expected = as_text(trainer.selector.state_dict()), copy.deepcopy(trainer.selector)
    trainer.selector.select(4)  # these are pending, and the generator has moved on
    assert as_text(trainer.selector.state_dict()) != before
    trainer.clock.running = "rollout"
    assert last_step.give_up_next("step_000005").endswith("the same command goes on after step 7")
    ((progress, state),) = trainer.saved
    assert (progress.step, progress.num_rollouts, as_text(state)) == (7, 48, before)
    resumed = BeliefSelector(score=None)
    resumed.open(expected._pool.prompts, num_rollouts=2, seed=5)
    resumed.load_state_dict(state)
    assert [p.id for p in resumed.select(4)] == [p.id for p in expected.select(4)]


def test_rollouts_under_way_stay_where_a_checkpoint_holds_them(trainer):
    trainer.saves_rollouts = True
    last_step = LastStep(trainer, settle=lambda: None)
    do_step(trainer)
    last_step.log({}, step=7)
    trainer.selector.select(4)
    trainer.clock.running = "wait"
    assert last_step.give_up_next("step_000005").endswith("the same command goes on after step 7")
    ((progress, state),) = trainer.saved
    assert progress.step == 7
    assert len(state["pool"]["pending_ids"]) == 4


def test_a_checkpoint_that_is_there_is_not_written_again(trainer):
    last_step = LastStep(trainer, settle=lambda: None)
    last_step.keep()
    trainer.clock.running = "select"
    assert last_step.give_up_next("step_000006").endswith("goes on after step 6")
    assert trainer.saved == []


@pytest.mark.parametrize("phase", ["learn", "sync", "checkpoint", "evaluate", None])
def test_where_the_learner_may_be_at_work_the_newest_checkpoint_stays(trainer, phase):
    last_step = LastStep(trainer, settle=lambda: None)
    last_step.keep()
    trainer.clock.running = phase
    assert last_step.give_up_next("step_000005").endswith("goes on from step_000005")
    assert last_step.give_up_next(None).endswith("from its start, as it has no checkpoint yet")
    assert trainer.saved == []


@pytest.mark.parametrize("in_the_background", [False, True])
@pytest.mark.parametrize("error", [LOST, OSError("No space left on device")])
def test_a_checkpoint_that_cannot_be_written_is_told_and_does_not_hide_why_the_run_ends(
    error, in_the_background, trainer
):
    def fail(progress, metrics):
        raise error

    def fail_later():
        raise error

    last_step = LastStep(trainer, settle=fail_later if in_the_background else lambda: None)
    last_step.keep()
    trainer.clock.running = "rollout"
    if not in_the_background:
        trainer.save_checkpoint = fail
    told = last_step.give_up_next("step_000005")
    assert f"has no checkpoint ({error}), so the same command goes on from step_000005" in told


# -- going back


def test_lost_ranks_take_the_run_back_until_it_is_done():
    done, said = [], []

    def work():
        done.append("work")
        if len(done) < 3:
            raise LOST
        return "summary"

    trainer = SimpleNamespace(progress=Progress(step=4), monitors=[], request_stop=None)
    recovery = Recovery(
        trainer,
        max_restarts=1,
        go_back=lambda: done.append("back"),
        newest_checkpoint=lambda: None,
        settle=lambda: None,
        say=said.append,
    )
    with stop_on_signals() as stop:
        assert recovery.run(work, stop, grace_s=None) == "summary"
    assert done == ["work", "back", "work"] and len(said) == 1
    assert trainer.process_metrics()["runtime/num_restarts"] == 1


def test_a_loss_while_going_back_counts_too():
    def fail():
        raise LOST

    trainer = SimpleNamespace(progress=Progress(step=4), monitors=[], request_stop=None)
    recovery = Recovery(
        trainer, max_restarts=1, go_back=fail, newest_checkpoint=lambda: None, settle=fail, say=lambda text: None
    )
    with stop_on_signals() as stop, pytest.raises(RunStopped, match=r"started again once, and now they are lost once"):
        recovery.run(fail, stop, grace_s=None)


def test_a_run_that_is_cut_short_leaves_no_checkpoint_half_written(trainer):
    """The one that is being written is whole before its age is asked for, and so is the last one before the end."""
    order, said = [], []

    def settle():
        order.append("settle")
        if len(order) == 1:
            raise OSError("a disk that fails")

    trainer.monitors, trainer.request_stop, trainer.clock.running = [], None, "rollout"
    trainer.save_checkpoint = lambda progress, metrics: order.append("save")

    def work():
        raise Interrupted(15)

    recovery = Recovery(
        trainer,
        max_restarts=0,
        go_back=lambda: None,
        newest_checkpoint=lambda: order.append("ask"),
        settle=settle,
        say=said.append,
    )
    stop = SimpleNamespace(finish_first=lambda *arguments, **settings: None, is_grace_over=True)
    with pytest.raises(Interrupted):
        recovery.run(work, stop, grace_s=1.0)
    assert order == ["settle", "ask", "save", "settle"]
    assert said[0] == "the newest checkpoint could not be written (a disk that fails)"


def test_a_loss_that_a_rank_reports_arrives_whole():
    error = pickle.loads(pickle.dumps(RanksLost("rollouts are gone", "rollouts are gone; the end of the log")))
    assert (error.reason, str(error)) == ("rollouts are gone", "rollouts are gone; the end of the log")
