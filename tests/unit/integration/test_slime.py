"""Selection inside slime: with what it uses of slime's classes, or with slime's own where they can be imported."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import types
from collections import Counter
from pathlib import Path

import pytest

from insight_rl.errors import UsageError
from insight_rl.integration import slime
from tests.support.own_trainer import own_decisions
from tests.support.verdicts import by_visit, verdict_of
from tests.unit.integration import slime_signature

K, M, SEED = 4, 4, 11
PROMPTS = [f"{a}+{b}=" for a in range(8) for b in range(3)]
MODEL = Path(__file__).parents[3] / "data" / "tiny_countdown"
HAS_SLIME = importlib.util.find_spec("slime") is not None


@pytest.fixture(params=["signature", "slime"] if HAS_SLIME else ["signature"])
def sample_class(request, monkeypatch):
    """slime's Sample; its data source can be imported by the integration."""
    monkeypatch.setattr(slime, "_open_source", None)
    if request.param == "slime":
        return importlib.import_module("slime.utils.types").Sample
    for name in ("slime", "slime.rollout"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "slime.rollout.data_source", slime_signature)
    return slime_signature.Sample


def slime_args(folder, prompts=PROMPTS, **changes):
    file = folder / "prompts.jsonl"
    rows = [{"text": each} if isinstance(each, str) else each for each in prompts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    settings = {
        "prompt_data": str(file),
        "rollout_global_dataset": True,
        "rollout_shuffle": False,
        "rollout_seed": SEED,
        "rollout_batch_size": M,
        "over_sampling_batch_size": M,
        "n_samples_per_prompt": K,
        "partial_rollout": False,
        "buffer_filter_path": None,
        "reward_key": None,
        "save": str(folder),
        "load": str(folder),
        "hf_checkpoint": str(MODEL),
        "dump_details": None,
        "rollout_max_prompt_len": None,
        "input_key": "text",
        "label_key": None,
        "metadata_key": "metadata",
        "multimodal_keys": None,
        "tool_key": None,
        "apply_chat_template": False,
        "apply_chat_template_kwargs": None,
    }
    return types.SimpleNamespace(**(settings | changes))


class Rollouts:
    """slime's rollout function (slime/rollout/sglang_rollout.py): the order of its calls, and verdicts for samples."""

    def __init__(self, sample_class, args, *, seed=0, drops=lambda group: False):
        self.status, self.args, self.drops = sample_class.Status, args, drops
        self.rng, self.visits, self.drawn = random.Random(seed), Counter(), []

    def __call__(self, source, rollout_id):
        """One rollout: ``--rollout-batch-size`` groups that no filter drops; the rest is thrown away or put back."""
        data, finished, pending = [], [], []
        while len(data) < self.args.rollout_batch_size:
            while len(pending) + len(data) < self.args.rollout_batch_size:
                groups = source.get_samples(self.args.over_sampling_batch_size)
                self.drawn += [group[0].prompt for group in groups]
                pending += groups
            group = self.generate(pending.pop(self.rng.randrange(len(pending))))
            finished.append(group)
            if not self.drops(group):
                data.append(group)
        aborted = [self.abort(group) for group in pending] if self.args.partial_rollout else []
        finished.sort(key=lambda group: group[0].index)
        slime.observe_samples(self.args, finished, source.get_samples)
        if aborted:
            source.add_samples(aborted)
        return data

    def generate(self, group):
        self.visits[group[0].prompt] += 1
        for k, sample in enumerate(group):
            verdict = verdict_of(sample.prompt, self.visits[sample.prompt], k)
            sample.status = self.status.COMPLETED if k else self.status.TRUNCATED
            sample.reward = float(verdict is True)
            if verdict is None:
                sample.status, sample.reward = [
                    (self.status.ABORTED, None),
                    (self.status.FAILED, 0.0),
                    (self.status.COMPLETED, float("nan")),
                    (self.status.COMPLETED, None),
                ][k]
        return group

    def abort(self, group):
        for sample in group:
            sample.status = self.status.ABORTED
        return group


@pytest.mark.parametrize("selector", ["insight", "mopps"])
def test_decisions_are_those_of_our_own_trainer_given_the_same_verdicts(sample_class, tmp_path, selector):
    args = slime_args(tmp_path, insight_rl={"selector": selector})
    source, rollouts = slime.prompt_source(args), Rollouts(sample_class, args)
    assert len(source) == len(PROMPTS)
    for rollout_id in range(9):
        rollouts(source, rollout_id)
    source.get_samples(M)  # what finished last is observed before the next selection
    steps, selected = own_decisions(
        PROMPTS, by_visit(), num_steps=9, prompts_per_step=M, num_rollouts=K, seed=SEED, selector=selector
    )
    assert rollouts.drawn == [PROMPTS[row] for rows in steps for row in rows]
    for prompt in source.prompt_queue.selection.pool.prompts:
        assert source.prompt_queue.selection.selector.belief(prompt.id) == selected.belief(prompt.id)


@pytest.mark.parametrize("is_partial", [False, True], ids=["thrown away", "put back"])
def test_a_resumed_run_decides_as_the_uninterrupted_one(sample_class, tmp_path, is_partial):
    args = slime_args(tmp_path, over_sampling_batch_size=6, partial_rollout=is_partial)

    def later(rollouts, source):
        before = len(rollouts.drawn)
        for rollout_id in range(3, 7):
            rollouts(source, rollout_id)
        return rollouts.drawn[before:]

    source, rollouts = slime.prompt_source(args), Rollouts(sample_class, args)
    source.load(-1)  # slime's way of starting afresh
    for rollout_id in range(3):
        rollouts(source, rollout_id)
    source.save(2)
    resumed_rollouts = Rollouts(sample_class, args)
    resumed_rollouts.visits = Counter(rollouts.visits)
    resumed_rollouts.rng.setstate(rollouts.rng.getstate())
    whole = later(rollouts, source)
    resumed = slime.prompt_source(args)
    resumed.load(2)
    assert later(resumed_rollouts, resumed) == whole
    assert len(set(whole)) > M


def test_what_slime_throws_away_is_drawn_again_and_what_it_puts_back_is_judged_once(sample_class, tmp_path):
    """Over-sampling of a pool that would be empty after three rollouts if what is lost were waited for."""
    args = slime_args(tmp_path, over_sampling_batch_size=8)
    source, rollouts = (
        slime.prompt_source(args),
        Rollouts(sample_class, args, drops=lambda group: "+1" in group[0].prompt),
    )
    for rollout_id in range(12):
        rollouts(source, rollout_id)
    source.get_samples(1)
    beliefs = source.prompt_queue.selection.selector
    for prompt in source.prompt_queue.selection.pool.prompts:
        judged = [
            verdict
            for visit in range(1, rollouts.visits[prompt.text] + 1)
            for k in range(K)
            if (verdict := verdict_of(prompt.text, visit, k)) is not None
        ]
        assert (sum(beliefs.belief(prompt.id)) > 2.0) == bool(judged)  # those that the filter dropped too
    assert source.prompt_queue.num_given_up > 0
    assert source.prompt_queue.num_late == 0


def test_without_the_hook_of_the_rollout_function_what_is_logged_is_observed(sample_class, tmp_path):
    """Fully asynchronous rollouts: groups are drawn one by one, cross rollouts, and come back when aborted."""
    args = slime_args(tmp_path)
    source, rollouts = slime.prompt_source(args), Rollouts(sample_class, args)
    groups = [source.get_samples(1)[0] for _ in range(6)]
    source.add_samples([rollouts.abort(groups[0])])
    done = [rollouts.generate(group) for group in groups[1:5]]
    # One rollout of the last became two samples; the outcome is the second's.
    first, second = (type(done[-1][0])(**vars(done[-1][0])) for _ in range(2))
    first.rollout_id = second.rollout_id = first.index
    first.reward, second.reward, second.status = 0.0, 1.0, sample_class.Status.COMPLETED
    logged = {"rollout/x": 1.0}
    samples = [*(sample for group in done[:-1] for sample in group), first, second, *done[-1][1:]]
    assert slime.observe_logged(0, args, samples, logged, 1.0) is False
    assert logged["selector/under_way"] == 2
    assert source.get_samples(1)[0][0].group_index == groups[0][0].group_index  # the aborted group, not another
    source.get_samples(1)
    row = source.prompt_queue.selection.pool.prompts
    expected = [True, *(verdict_of(done[-1][0].prompt, 1, k) for k in range(1, K))]
    prompt = next(each for each in row if each.text == done[-1][0].prompt)
    belief = source.prompt_queue.selection.selector.belief(prompt.id)
    assert belief == (1.0 + expected.count(True), 1.0 + expected.count(False))
    assert slime.observe_logged(1, args, samples, None, 1.0) is False  # seen before: nothing counts twice
    assert source.prompt_queue.num_late == 0


def test_rows_are_known_by_their_id_and_rewards_may_be_one_of_several(sample_class, tmp_path):
    rows = [{"text": "1+1=", "metadata": {"id": each, "task": "sums", "num_choices": 4}} for each in (7, 7, 8)]
    args = slime_args(
        tmp_path, rows, rollout_batch_size=2, over_sampling_batch_size=2, reward_key="score", insight_rl={"patience": 3}
    )
    source = slime.prompt_source(args)
    pool = source.prompt_queue.selection.pool
    assert [(prompt.id, prompt.task, prompt.metadata["num_choices"]) for prompt in pool.prompts] == [
        ("7", "sums", 4),
        ("8", "sums", 4),
    ]
    group = source.get_samples(1)[0]
    group[0].reward, group[0].status = {"score": 1.0, "acc": True}, sample_class.Status.COMPLETED
    assert [source.judge(sample) for sample in group] == [True, None, None, None]


def test_what_selection_cannot_work_with_is_refused(sample_class, tmp_path):
    def refused(match, prompts=PROMPTS, **changes):
        with pytest.raises(UsageError, match=match):
            slime.prompt_source(slime_args(tmp_path, prompts, **changes))

    with pytest.raises(UsageError, match="needs --data-source-path insight_rl"):
        slime.observe_samples(None, [], None)
    refused(r"--prompt-data: selection needs the prompts", prompt_data=None)
    refused(r"--over-sampling-batch-size=4: .* data has different ones, 1", prompts=["1+1="] * 8)
    refused(r"insight_rl\.selectr='mopps': is no setting", insight_rl={"selectr": "mopps"})
    refused(r"insight_rl\.verdict='nothing\.there': must be the path", insight_rl={"verdict": "nothing.there"})
    refused(r"insight_rl\.patience=0", insight_rl={"patience": 0})
    source = slime.prompt_source(slime_args(tmp_path))
    with pytest.raises(UsageError, match=r"--custom-generate-function-path: its samples have no group_index"):
        slime.observe_samples(None, [[sample_class()]], None)
    with pytest.raises(UsageError, match=r"--load=.*holds no selector state"):
        source.load(5)


def test_without_slime_the_message_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "slime.rollout.data_source", None)
    with pytest.raises(UsageError, match="needs slime, which cannot be imported here"):
        slime.prompt_source(None)
