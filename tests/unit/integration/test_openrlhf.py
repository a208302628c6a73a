"""Selection inside OpenRLHF: with what it uses of its trainer, or with OpenRLHF's own where it can be imported."""

from __future__ import annotations

import copy
import importlib
import importlib.util
import sys
import types
from collections import Counter
from types import SimpleNamespace

import pytest

from insight_rl.errors import UsageError
from insight_rl.integration import openrlhf
from tests.support.own_trainer import own_decisions
from tests.support.verdicts import by_visit, verdict_of
from tests.unit.integration import openrlhf_signature

K, M, SEED = 4, 4, 11
PROMPTS = [f"{a}+{b}=" for a in range(7) for b in range(3)]
HAS_OPENRLHF = importlib.util.find_spec("openrlhf") is not None


def copy_of_signature():
    """The module, to be changed."""
    module = types.ModuleType("openrlhf.trainer.ppo_trainer")
    module.prepare_datasets = openrlhf_signature.prepare_datasets
    module.SamplesGenerator = type("SamplesGenerator", (openrlhf_signature.SamplesGenerator,), {})
    return module


def real_module(monkeypatch):
    """OpenRLHF's trainer module; its generator asks Ray for what our engine has returned already."""
    trainer = importlib.import_module("openrlhf.trainer.ppo_trainer")
    monkeypatch.setattr(trainer, "prepare_datasets", openrlhf_signature.prepare_datasets)
    generator = trainer.SamplesGenerator
    for name in ("generate_samples", "_process_response_into_experience"):
        monkeypatch.setattr(generator, name, getattr(generator, name))
    in_process = SimpleNamespace(
        get=lambda ref: ref, wait=lambda refs, num_returns, timeout: (refs[:1], refs[1:]), cancel=lambda ref: None
    )
    monkeypatch.setitem(vars(sys.modules[generator.__module__]), "ray", in_process)
    return trainer


@pytest.fixture(params=["signature", "openrlhf"] if HAS_OPENRLHF else ["signature"])
def trainer(request, monkeypatch):
    monkeypatch.delenv(openrlhf.SETTINGS_VARIABLE, raising=False)
    module = copy_of_signature() if request.param == "signature" else real_module(monkeypatch)
    openrlhf.patch_trainer(module)
    return module


class Engine:
    """OpenRLHF's vLLM actor: K answers to a prompt, with rewards in the forms that its executors return."""

    def __init__(self):
        self.visits, self.drawn = Counter(), []
        self.generate_responses = SimpleNamespace(remote=self._generate)
        self.get_num_unfinished_requests = SimpleNamespace(remote=lambda: 0)

    def _generate(self, *, prompt, label, sampling_params, max_length, hf_tokenizer, num_samples, images):
        self.drawn.append(prompt)
        self.visits[prompt] += 1
        return [self.response(prompt, k) for k in range(num_samples)]

    def response(self, prompt, k):
        verdict = verdict_of(prompt, self.visits[prompt], k)
        score = None if verdict is None else float(verdict)
        return {
            "prompt": prompt,
            "label": "",
            "observation_tokens": [1, 2, 3],
            "action_ranges": [(1, 3)],
            "rollout_log_probs": None,
            "reward": score,
            "scores": score,
            "extra_logs": {},
        }


class Fit:
    """The loop of PPOTrainer.fit: episodes, batches, the states that go into a checkpoint."""

    def __init__(self, trainer, *, prompts=PROMPTS, images=None, **changes):
        self.args = SimpleNamespace(
            rollout=SimpleNamespace(batch_size=M, n_samples_per_prompt=K, vllm_generate_batch_size=None),
            train=SimpleNamespace(seed=SEED),
            reward=SimpleNamespace(remote_url=["reward.py"]),
            vllm=SimpleNamespace(enable_sleep=False),
            algo=SimpleNamespace(
                dynamic_filtering_enable=False,
                dynamic_filtering_range=(0.01, 0.99),
                advantage=SimpleNamespace(is_correction_enable=False, is_correction_level="off"),
            ),
        )
        for name, value in changes.items():
            group, _, field = name.partition("__")
            setattr(getattr(self.args, group), field, value)
        strategy = SimpleNamespace(args=self.args, prompts=prompts, images=images)
        self.loader, _, _ = trainer.prepare_datasets(strategy, None)
        self.engine = Engine()
        self.generator = trainer.SamplesGenerator(strategy, self.loader, None, None, [self.engine])
        self.episode, self.states = 0, []

    def load(self, state):
        self.episode = state["episode"]
        self.engine.visits = Counter(state["visits"])
        self.loader.load_state_dict(state["data_loader_state_dict"])

    def run(self, num_batches):
        while num_batches > 0:
            samples, _, _, exhausted = self.generator.generate_samples()
            if samples:
                num_batches -= 1
                self.states.append(
                    {
                        "episode": self.episode,
                        "data_loader_state_dict": self.loader.state_dict(),
                        "visits": dict(self.engine.visits),
                        "num_drawn": len(self.engine.drawn),
                    }
                )
            if exhausted:
                self.episode += 1
        return self.engine.drawn


@pytest.mark.parametrize("selector", ["insight", "mopps"])
def test_decisions_are_those_of_our_own_trainer_given_the_same_verdicts(trainer, monkeypatch, selector):
    monkeypatch.setenv(openrlhf.SETTINGS_VARIABLE, f'{{"selector": "{selector}"}}')
    fit = Fit(trainer)
    drawn = fit.run(5)  # of the first episode, which has 21 prompts
    steps, _ = own_decisions(
        PROMPTS, by_visit(), num_steps=5, prompts_per_step=M, num_rollouts=K, seed=SEED, selector=selector
    )
    assert drawn == [PROMPTS[row] for rows in steps for row in rows]
    fit.run(8)
    assert fit.episode == 2
    assert len(fit.engine.drawn) == 2 * len(PROMPTS) + 1 * M  # an episode has as many prompts as before, chosen


@pytest.mark.parametrize("num_prompts", [21, 20], ids=["a short last batch", "whole batches"])
@pytest.mark.parametrize("is_filtered", [False, True], ids=["all kept", "filtered"])
def test_a_run_resumed_at_any_step_decides_as_the_uninterrupted_one(trainer, is_filtered, num_prompts):
    """The last step of an episode included, and the step after it."""
    changes = {"algo__dynamic_filtering_enable": is_filtered, "prompts": PROMPTS[:num_prompts]}
    whole = Fit(trainer, **changes)
    whole.run(14)
    assert whole.episode >= 2
    for step, state in enumerate(whole.states[:-2]):
        resumed = Fit(trainer, **changes)
        resumed.load(copy.deepcopy(state))
        again = resumed.run(2)
        assert again == whole.engine.drawn[state["num_drawn"] :][: len(again)]
        assert resumed.states[-1]["episode"] == whole.states[step + 2]["episode"]


def test_filtered_prompts_are_observed_and_unjudged_rollouts_are_no_failures(trainer):
    fit = Fit(trainer, algo__dynamic_filtering_enable=True)
    for _ in range(3):
        fit.run(1)
        assert fit.loader.queue.state_dict()["waiting"] == []  # one is selected in place of each that is filtered
    assert len(fit.engine.drawn) > 3 * M
    next(iter(fit.loader))
    selector = fit.loader.queue.selection.selector
    seen = [text for text, visits in fit.engine.visits.items() if visits == 1]
    assert seen
    for text in seen:
        verdicts = [verdict_of(text, 1, k) for k in range(K)]
        expected = (1.0 + verdicts.count(True), 1.0 + verdicts.count(False))
        prompt = next(prompt for prompt in fit.loader.queue.selection.pool.prompts if prompt.text == text)
        assert selector.belief(prompt.id) == expected


def test_what_was_cancelled_or_is_of_the_evaluation_blocks_and_counts_nothing(trainer):
    fit = Fit(trainer)
    cancelled = [next(fit.loader.__iter__())[1][0] for _ in range(2)]
    fit.loader.take(fit.engine.response("not of the training data", 0))
    iterator = iter(fit.loader)
    (first,) = next(iterator)[1]
    fit.loader.take(fit.engine.response(first, 0))
    assert fit.loader.queue.under_way == [PROMPTS.index(first)]
    assert fit.loader.queue.num_given_up == len(cancelled)
    fit.loader.take(fit.engine.response(cancelled[0], 0) if cancelled[0] != first else fit.engine.response(first, 1))


@pytest.mark.parametrize(("given", "expected"), [(1.0, 1.0), ([0.5], 0.5), ((), None), (None, None), ("tensor", 0.25)])
def test_rewards_are_numbers_lists_or_tensors(given, expected):
    import torch

    number = openrlhf._number(torch.tensor([[0.25]]) if given == "tensor" else given)
    assert number == expected if expected is not None else number != number


def test_what_selection_cannot_work_with_is_refused(trainer, monkeypatch):
    with pytest.raises(UsageError, match=r"--reward\.remote_url=None: selection needs verdicts"):
        Fit(trainer, reward__remote_url=None)
    with pytest.raises(UsageError, match=r"--rollout\.batch_size=4: .* different prompts, 1"):
        Fit(trainer, prompts=["1+1="] * 8)
    with pytest.raises(UsageError, match=r"--data\.prompt_dataset=.*1 prompts occur again.* told apart by their text"):
        Fit(trainer, prompts=[*PROMPTS, PROMPTS[0]], images=[["a.png"]] * (len(PROMPTS) + 1))
    with pytest.raises(UsageError, match="written without selection"):
        Fit(trainer).loader.load_state_dict({"_snapshot": 1})
    monkeypatch.setenv(openrlhf.SETTINGS_VARIABLE, "insight")
    with pytest.raises(UsageError, match=r"INSIGHT_RL_SELECTION='insight': must be JSON"):
        Fit(trainer)


def test_an_openrlhf_that_is_not_as_it_was_read_is_refused():
    module = copy_of_signature()
    del module.prepare_datasets
    with pytest.raises(UsageError, match=r"lacks prepare_datasets or.*0\.10\.2 to 0\.11\.2 have them"):
        openrlhf.patch_trainer(module)


def test_the_hook_changes_the_trainer_when_it_is_imported_and_nothing_before(tmp_path, monkeypatch):
    """Of every worker of a job only those that import the trainer are touched."""
    for name in list(sys.modules):
        if name == "openrlhf" or name.startswith("openrlhf."):
            monkeypatch.delitem(sys.modules, name)
    folder = tmp_path / "openrlhf" / "trainer"
    folder.mkdir(parents=True)
    (tmp_path / "openrlhf" / "__init__.py").touch()
    (folder / "__init__.py").touch()
    source = "from tests.unit.integration.openrlhf_signature import *\nclass SamplesGenerator(SamplesGenerator): pass\n"
    (folder / "ppo_trainer.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    before = len(sys.meta_path)
    openrlhf.select_prompts()
    assert "openrlhf" not in sys.modules
    module = importlib.import_module("openrlhf.trainer.ppo_trainer")
    assert len(sys.meta_path) == before
    assert isinstance(Fit(module).loader, openrlhf.SelectedPrompts)
    for name in ("openrlhf", "openrlhf.trainer", "openrlhf.trainer.ppo_trainer"):
        monkeypatch.delitem(sys.modules, name)
