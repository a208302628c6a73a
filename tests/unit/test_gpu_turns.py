"""Who holds how much of one GPU at every moment of a run with rollout.sleep=true.

The rollout worker is the real one (what runs in vLLM's process) around an LLM with vLLM's rules of sleeping, and the
learner the real one around a rank whose allocator keeps its peak until its cache is emptied, as torch's does. Sizes are
in units of the model's weights in half precision. This shows the order; real numbers take a GPU.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from insight_rl import gpu_turns
from insight_rl.errors import UsageError
from insight_rl.gpu_turns import take_turns
from insight_rl.learner.multi_rank import MultiRankLearner
from insight_rl.rollout import vllm_worker
from insight_rl.types import Prompt, Sampling
from insight_rl.weight_sync.base import SyncSeconds

CARD = 20
WEIGHTS, CACHE = 1, 16
STATES, PEAK = 8, 10
"""Of the learner: weights, gradients and optimizer; and all that it needs more during a step."""
PROMPTS = [Prompt(id="p", task="t", text="", token_ids=(1, 2), answer=0)]
SAMPLING = Sampling(num_rollouts=2, max_tokens=4, temperature=1.0, seed=0)


class OutOfMemory(Exception):
    pass


class Card:
    def __init__(self):
        self.held, self.history = {}, []

    def hold(self, who, amount):
        self.held[who] = amount
        self.history.append(dict(self.held))
        if sum(self.held.values()) > CARD:
            raise OutOfMemory(self.held)

    def is_held(self, who):
        return self.held.get(who, 0) > 0


class FakeLLM:
    """vLLM's rules: sleeping frees both parts, waking maps the parts named, and nothing may be used while it sleeps."""

    def __init__(self, card):
        self.card, self.num_sleeps = card, 0
        self.weights, self.saved = "from the start", None
        card.hold("weights", WEIGHTS)
        card.hold("cache", CACHE)
        self.llm_engine = SimpleNamespace(has_unfinished_requests=lambda: False, step=list)

    def sleep(self, level):
        assert level == 1, "the weights are needed again if what comes next is no update"
        self.num_sleeps += 1
        if self.card.is_held("weights"):
            self.saved = self.weights
        self.weights = None
        self.card.hold("weights", 0)
        self.card.hold("cache", 0)

    def wake_up(self, tags):
        for tag in tags:
            part, size = {"weights": ("weights", WEIGHTS), "kv_cache": ("cache", CACHE)}[tag]
            assert not self.card.is_held(part), "vLLM would map it a second time"
            self.card.hold(part, size)
            if tag == "weights":
                self.weights, self.saved = self.saved, None

    def start_weight_update(self):
        assert self.card.is_held("weights")

    def finish_weight_update(self):
        assert self.card.is_held("weights")

    def reset_prefix_cache(self, *, reset_running_requests):
        return True


class Rollout:
    """A rollout engine around the worker that runs in vLLM's process."""

    sleep = True

    def __init__(self, card):
        self.card = card

    def start(self, spec):
        self.worker = vllm_worker._Worker()
        self.worker._llm, self.worker._can_sleep = FakeLLM(self.card), True

    def run(self, name, /, **arguments):
        list(getattr(self.worker, name)(**arguments))

    def generate(self, prompts, *, sampling):
        self.worker._wake("weights", "kv_cache")
        assert self.card.is_held("cache") and self.worker._llm.weights is not None
        yield from ()

    def release_memory(self):
        self.run("sleep")

    def update_weights(self, weights, *, version):
        def call_all(method, argument, meanwhile):
            self.run("transfer", method=method, argument=argument)
            if method == "finish_weight_update":
                self.worker._llm.weights = weights
                self.worker._version = version

        weights.send(None, call_all)
        return {}

    def close(self):
        self.run("sleep")


class Rank:
    """A rank as the learner calls it, with an allocator that keeps its peak."""

    def __init__(self, card):
        self.card, self.kept, self.is_parked, self.empties_cache = card, 0, True, True

    def use(self, amount):
        self.kept = max(self.kept, amount)
        self.card.hold("learner", self.kept)

    def start(self, spec):
        self.is_parked = False
        self.use(STATES)
        return SimpleNamespace()

    def step(self):
        assert not self.is_parked, "its tensors are empty"
        self.use(STATES + PEAK)

    def save_model(self, folder):
        assert not self.is_parked

    logprobs = save_checkpoint = load_checkpoint = save_model

    def send_weights(self, spec, *, ask):
        assert not self.is_parked
        # Before it sends, the peak of its step is in its allocator still.
        ask(("start_weight_update", None))
        ask(("finish_weight_update", None))
        return SyncSeconds()

    def release_memory(self):
        assert not self.is_parked
        self.is_parked = True
        self.kept = 0 if self.empties_cache else self.kept
        self.card.hold("learner", self.kept)
        return STATES

    def take_memory(self):
        assert self.is_parked
        self.is_parked = False
        self.use(STATES)


class Learner(MultiRankLearner):
    single_rank_in_process = True

    def __init__(self, card):
        super().__init__()
        object.__setattr__(self, "card", card)

    def _make_worker(self):
        return lambda: self.card.rank

    def start(self, spec):
        self._worker = self.card.rank
        self._everywhere("start", spec)

    def step(self, groups_P, advantages_P_G):
        self._everywhere("step")
        return {}

    def save_checkpoint(self, folder):
        self._everywhere("save_checkpoint", folder)

    def close(self): ...


def run(card, *, num_steps=3):
    """A run as insight_rl.run and the trainer make it: every order in which the two are used one after another."""
    card.rank = Rank(card)
    rollout, learner = gpu_turns.take_turns(Rollout(card), Learner(card))
    rollout.start(None)
    llm = rollout_of(rollout).worker._llm
    learner.start(None)

    def generate():
        list(rollout.generate(PROMPTS, sampling=SAMPLING))

    def sync(version):
        rollout.update_weights(learner.weights(), version=version)

    sleeps = []
    generate()  # the evaluation before training
    for step in range(1, num_steps + 1):
        before = llm.num_sleeps
        generate()
        generate()  # a second round of the gate
        learner.step([], [])
        sync(step)
        if step == 1:  # its check
            generate()
            learner.logprobs([])
        sleeps.append(llm.num_sleeps - before)
        generate()  # an evaluation
        if step == 2:
            learner.save_checkpoint(None)
            sync(step)  # as a resumed run begins
    learner.save_model(None)
    return sleeps


def rollout_of(wrapped):
    return getattr(wrapped, "_rollout", wrapped)


def test_the_card_is_never_asked_for_more_than_it_has():
    """Each alone takes most of it: vLLM 17 of 20, a step of the learner 18."""
    card = Card()
    sleeps = run(card)
    together = [held for held in card.history if held.get("learner") and held.get("cache")]
    assert together == []
    assert max(held.get("cache", 0) for held in card.history) == CACHE
    assert max(held.get("learner", 0) for held in card.history) == STATES + PEAK
    assert sleeps[1:] == [1, 1], "once a step, not between rounds or after an evaluation"


def no_empty_cache(monkeypatch):
    start = Rank.start

    def keeping(self, spec):
        self.empties_cache = False
        return start(self, spec)

    monkeypatch.setattr(Rank, "start", keeping)


def no_release_by_the_learner(monkeypatch):
    monkeypatch.setattr(MultiRankLearner, "release_memory", lambda self: None)


def awake_while_the_learner_loads(monkeypatch):
    monkeypatch.setattr(gpu_turns._AlternatingLearner, "start", lambda self, spec: self._learner.start(spec))


def the_cache_woken_with_the_weights(monkeypatch):
    wake = vllm_worker._Worker._wake
    monkeypatch.setattr(vllm_worker._Worker, "_wake", lambda self, *parts: wake(self, "weights", "kv_cache"))


def nothing_at_all(monkeypatch):
    monkeypatch.setattr(gpu_turns, "take_turns", lambda rollout, learner: (rollout, learner))


@pytest.mark.parametrize(
    "defect",
    [
        no_empty_cache,
        no_release_by_the_learner,
        awake_while_the_learner_loads,
        the_cache_woken_with_the_weights,
        nothing_at_all,
    ],
)
def test_each_defect_runs_out_of_memory(defect, monkeypatch):
    defect(monkeypatch)
    with pytest.raises(OutOfMemory):
        run(Card())


def test_sleeping_after_every_generation_is_seen(monkeypatch):
    generate = Rollout.generate

    def then_sleep(self, prompts, *, sampling):
        yield from generate(self, prompts, sampling=sampling)
        self.release_memory()

    monkeypatch.setattr(Rollout, "generate", then_sleep)
    assert run(Card())[1:] == [2, 2]


def test_without_sleep_nothing_is_wrapped_and_a_learner_that_cannot_leave_is_refused():
    card = Card()
    rollout, learner = Rollout(card), Learner(card)
    rollout.sleep = False
    assert take_turns(rollout, learner) == (rollout, learner)
    rollout.sleep = True

    class Staying(Learner):
        release_memory = None

    with pytest.raises(UsageError, match=r"rollout\.sleep=True: the learner Staying cannot"):
        take_turns(rollout, Staying(card))
