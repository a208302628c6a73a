"""Judging processes under good and bad reward functions: order, deadlines, deaths, memory, clean ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.reward.judge_processes import JudgeProcesses
from insight_rl.reward.math.reward import MathReward
from insight_rl.stacks import write_stacks
from insight_rl.supervision import Supervision, supervise
from insight_rl.types import Completion, Prompt, Reward

REWARDS = '''
import os, signal, sys, time
from insight_rl.reward.base import BaseReward
from insight_rl.types import Reward

RIGHT = Reward(value=1.0, success=True, status="correct")

class Scripted(BaseReward):
    """Does what the completion says."""

    def __call__(self, prompt, completion):
        word, _, argument = completion.text.partition(" ")
        if word == "sleep":
            time.sleep(float(argument))
        elif word == "hang":
            while True:
                pass
        elif word == "die":
            os._exit(3)
        elif word == "die_once":
            if not os.path.exists(argument):
                open(argument, "w").close()
                os._exit(3)
        elif word == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        elif word == "raise":
            raise ValueError(argument)
        elif word == "eat":
            return RIGHT if len(bytearray(int(argument) << 20)) else None
        elif word == "nothing":
            return None
        elif word == "print":
            print("on the way out")
        elif word == "warn":
            print(argument, file=sys.stderr, flush=True)
        elif word == "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
        elif word == "count":
            return Reward(value=float(len(completion.token_ids)), success=True, status="correct")
        elif word == "seen":
            logprobs = completion.logprobs.tolist()
            seen = f"{prompt.id}|{prompt.answer}|{prompt.token_ids}|{logprobs}|{completion.finish_reason}"
            return Reward(value=0.0, success=False, status="wrong", reason=seen)
        return RIGHT

class Unstartable(BaseReward):
    def __reduce__(self):
        return (int, ("not a number",))
    def __call__(self, prompt, completion):
        return RIGHT
'''


@pytest.fixture(scope="module")
def rewards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "scripted_rewards.py").write_text(REWARDS)
    sys.path.insert(0, str(folder))
    import scripted_rewards

    yield scripted_rewards
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def judges(rewards):
    with JudgeProcesses(rewards.Scripted(), num_workers=2, deadline_s=1.0) as judges:
        yield judges


def prompt(name="p", answer="a"):
    return Prompt(id=name, task="t", text="the question", token_ids=(1, 2, 3), answer=answer)


def completion(text, num_tokens=2):
    return Completion(
        token_ids=tuple(range(num_tokens)),
        logprobs=(-0.5,) * num_tokens,
        text=text,
        finish_reason="stop",
        policy_version=4,
    )


def worker_pids(judges):
    return [worker.process.pid for worker in list(judges._workers)]


def judge(judges, *texts):
    judges.submit(prompt(), [completion(text) for text in texts])
    ((*rewards,),) = judges.collect()
    return rewards


def test_results_come_in_the_order_of_submission(judges):
    for number in range(40):
        judges.submit(
            prompt(str(number)), [completion(f"count {number}", number), completion(f"sleep 0.00{number % 7}")]
        )
    rewards = judges.collect()
    assert [group[0].value for group in rewards] == list(range(40))
    assert judges.collect() == []


def test_only_texts_counts_and_the_answer_are_sent(judges):
    (reward,) = judge(judges, "seen")
    assert reward.reason == "p|a|()|[]|stop"


def test_a_hanging_job_is_a_timeout_and_the_others_are_judged(judges):
    started = time.monotonic()
    rewards = judge(judges, "ok", "hang", "ok", "count 1", "ok")
    assert [reward.status for reward in rewards] == ["correct", "timeout", "correct", "correct", "correct"]
    assert rewards[1].success is None
    assert "deadline_s=1" in rewards[1].reason
    assert time.monotonic() - started < 20


def test_a_job_that_kills_its_worker_is_an_error_and_the_others_are_judged(judges):
    rewards = judge(judges, "ok", "die", "ok", "killed", "ok")
    assert [reward.status for reward in rewards] == ["correct", "error", "correct", "error", "correct"]
    assert "exit code 3" in rewards[1].reason
    assert "exit code -9" in rewards[3].reason


def test_a_worker_that_dies_once_costs_no_verdict(judges, tmp_path):
    assert judge(judges, f"die_once {tmp_path / 'mark'}")[0].status == "correct"


def test_what_a_reward_raises_is_an_error_with_its_reason(judges):
    raised, nothing = judge(judges, "raise no such thing", "nothing")
    assert (raised.success, raised.status, raised.reason) == (None, "error", "ValueError: no such thing")
    assert "NoneType" in nothing.reason


def test_memory_is_bounded(judges):
    greedy, modest = judge(judges, "eat 100000", "eat 10")
    assert (greedy.status, modest.status) == ("error", "correct")
    assert "Memory" in greedy.reason


def test_output_and_interrupts_do_not_reach_or_stop_the_parent(judges, capfd):
    assert [reward.status for reward in judge(judges, "print", "interrupt", "ok")] == ["correct"] * 3
    assert capfd.readouterr().out == ""


def test_large_texts_and_answers_pass(judges):
    judges.submit(prompt(answer="x" * 1_000_000), [completion("seen " + "y" * 3_000_000) for _ in range(3)])
    assert [reward.status for reward in judges.collect()[0]] == ["wrong"] * 3


def test_killed_workers_are_replaced_and_nothing_is_lost(judges):
    for number in range(100):
        judges.submit(prompt(str(number)), [completion(f"count {number}", number), completion("sleep 0.01")])
    for _ in range(3):
        time.sleep(0.1)
        for pid in worker_pids(judges):
            os.kill(pid, signal.SIGKILL)
    assert [group[0].value for group in judges.collect()] == list(range(100))


def test_a_stopped_worker_is_replaced_and_costs_no_verdict(judges):
    """A judgement that takes too long is a timeout; what was stopped from outside says nothing of the completion."""
    judges.start()
    for number in range(20):
        judges.submit(prompt(str(number)), [completion(f"count {number}", number)])
    os.kill(worker_pids(judges)[0], signal.SIGSTOP)
    assert [group[0].value for group in judges.collect()] == list(range(20))


def test_workers_of_a_run_have_a_log_and_show_their_stacks(rewards, tmp_path):
    with supervise(Supervision(run_dir=tmp_path)), JudgeProcesses(rewards.Scripted(), num_workers=1) as judges:
        assert judge(judges, "warn careful")[0].success
        judges.submit(prompt(), [completion("sleep 3")])
        time.sleep(1)
        file = write_stacks().split()[-1]
        judges.collect()
    assert "careful" in (tmp_path / "logs" / "judge_worker.log").read_text()
    text = Path(file).read_text()
    assert "---- judge worker, process " in text and "in _judge_batches" in text


def test_groups_may_be_empty_and_submitted_from_any_thread(judges):
    judges.submit(prompt(), [])
    thread = threading.Thread(target=lambda: judges.submit(prompt(), [completion("ok")]))
    thread.start()
    thread.join()
    assert [len(group) for group in judges.collect()] == [0, 1]


def test_a_reward_that_cannot_start_says_why(rewards):
    with JudgeProcesses(rewards.Unstartable(), num_workers=1) as judges:
        judges.submit(prompt(), [completion("ok")])
        with pytest.raises(UsageError, match=r"cannot start.*not a number"):
            judges.collect()


def test_close_ends_every_process_and_may_be_called_twice(rewards):
    judges = JudgeProcesses(rewards.Scripted(), num_workers=2, deadline_s=30.0)
    judges.start()
    pids = worker_pids(judges)
    judges.submit(prompt(), [completion("hang")] * 2)
    time.sleep(0.2)
    judges.close()
    judges.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(RuntimeError, match="closed"):
        judges.submit(prompt(), [])


def test_workers_end_with_a_parent_that_was_killed(rewards, tmp_path):
    """Even one that hangs, and the parent's script needs no ``__main__`` guard."""
    script = tmp_path / "parent.py"
    script.write_text(
        textwrap.dedent(
            f"""
            import psutil, sys, time
            sys.path.insert(0, {os.path.dirname(rewards.__file__)!r})
            from scripted_rewards import Scripted
            from insight_rl.reward.judge_processes import JudgeProcesses
            from insight_rl.types import Completion, Prompt

            judges = JudgeProcesses(Scripted(), num_workers=1, deadline_s=60.0)
            judges.start()
            hang = Completion(token_ids=(), logprobs=(), text="hang", finish_reason="stop", policy_version=0)
            judges.submit(Prompt(id="p", task="t", text="", token_ids=(), answer=None), [hang])
            time.sleep(0.3)
            print(*(child.pid for child in psutil.Process().children()), flush=True)
            time.sleep(60)
            """
        )
    )
    parent = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    (pid,) = map(int, parent.stdout.readline().split())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 10
    while os.path.exists(f"/proc/{pid}") and _state(pid) != "Z" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not os.path.exists(f"/proc/{pid}") or _state(pid) == "Z"


def _state(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0]
    except OSError:
        return "Z"


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        ({"num_workers": 0}, "judge.num_workers"),
        ({"deadline_s": 0}, "judge.deadline_s"),
        ({"max_memory_mb": 10}, "judge.max_memory_mb"),
        ({"max_unjudged_fraction": 0}, "judge.max_unjudged_fraction"),
    ],
)
def test_bad_settings_are_refused(arguments, key):
    with pytest.raises(UsageError, match=key):
        JudgeProcesses(MathReward(), **arguments)


def test_a_reward_defined_in_the_script_itself_is_refused():
    class Local:
        def __call__(self, prompt, completion):
            return Reward(value=0.0, success=False)

    Local.__module__ = "__main__"
    with pytest.raises(UsageError, match="module"):
        JudgeProcesses(Local())


def test_math_needs_no_more_than_the_smallest_memory_allowed():
    with JudgeProcesses(MathReward(), num_workers=1, max_memory_mb=256) as judges:
        judges.submit(prompt(answer="\\sum_{k=1}^{4} k"), [completion("\\boxed{\\sum_{i=1}^{4} i}")])
        assert judges.collect()[0][0].status == "correct"
