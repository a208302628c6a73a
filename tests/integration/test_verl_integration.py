"""verl's own trainer with our selection; see tests/support/verl_trainer.py for what of it is real."""

from __future__ import annotations

import copy
import hashlib
import json
import logging
import os
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from omegaconf import OmegaConf

from insight_rl.errors import UsageError
from insight_rl.integration.selection import prompt_id
from tests.support.own_trainer import own_decisions

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("verl") is None, reason="verl is not installed: bash scripts/test.sh installs it"),
    pytest.mark.xdist_group("verl"),
]

K, M, SEED = 4, 4, 11
PROMPTS = [f"{a}+{b}=" for a in range(7) for b in range(2)]
CHATS = [[{"role": "user", "content": text}] for text in PROMPTS]
VALIDATION = [[{"role": "user", "content": text}] for text in ("9-1=", "9-2=")]
DIFF = [
    "data.custom_cls.path=pkg://insight_rl.integration.verl",
    "data.custom_cls.name=SelectedPrompts",
    "data.dataloader_num_workers=0",
    "trainer.v1.sampler.custom_sampler.path=pkg://insight_rl.integration.verl",
    "trainer.v1.sampler.custom_sampler.name=ObservingReplayBuffer",
]


def fair_coin(*words):
    return hashlib.blake2b(repr(words).encode()).digest()[0] % 3 == 0


def verdict(step, prompt, rollout):
    return None if fair_coin("unjudged", prompt, rollout, step) else fair_coin(prompt, step, rollout)


@pytest.fixture(scope="module")
def verl_trainer():
    """verl sets variables and a handler of the logs when it is imported; the tests after these find none of it."""
    with mock.patch.dict(os.environ), mock.patch.object(logging.root, "handlers", list(logging.root.handlers)):
        from tests.support import verl_trainer

        with verl_trainer.transfer_queue_here():
            yield verl_trainer


@pytest.fixture(scope="module")
def composed(verl_trainer, tied_model, tmp_path_factory):
    """The configuration of a user's command with the lines that selection adds."""
    folder = tmp_path_factory.mktemp("verl")
    for name, chats in (("train", CHATS), ("test", VALIDATION)):
        more = {"data_source": "sums", "reward_model": {"style": "rule", "ground_truth": ""}}
        rows = [{"prompt": chat, "extra_info": {"index": row}, **more} for row, chat in enumerate(chats)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "reward.py").write_text(verl_trainer.REWARD)
    command = [
        f"data.train_files={folder}/train.jsonl",
        f"data.val_files={folder}/test.jsonl",
        f"+data.cache_dir={folder}/cache",
        f"data.train_batch_size={M}",
        "data.max_prompt_length=16",
        "data.max_response_length=4",
        f"data.seed={SEED}",
        "algorithm.adv_estimator=grpo",
        f"actor_rollout_ref.model.path={tied_model}",
        "actor_rollout_ref.model.custom_chat_template=\"{% for m in messages %}{{ m['content'] }}{% endfor %}\"",
        "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={M}",
        "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1",
        "actor_rollout_ref.rollout.name=vllm",
        f"actor_rollout_ref.rollout.n={K}",
        "actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=1",
        f"reward.custom_reward_function.path={folder}/reward.py",
        "trainer.n_gpus_per_node=1",
        "trainer.device=cpu",
        "trainer.logger=console",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=6",
        "trainer.total_epochs=10",
        f"trainer.default_local_dir={folder}/checkpoints",
    ]
    return verl_trainer.verl_config(command + DIFF)


@pytest.fixture
def make_trainer(verl_trainer, composed):
    def make(changes, verdict=verdict):
        config = copy.deepcopy(composed)
        for key, value in changes.items():
            OmegaConf.update(config, key, value, force_add=True)
        return verl_trainer.Trainer(config, verdict)

    return make


def own(**changes):
    """Prompts that our own trainer rolls out in each step, and its selector."""
    settings = {"num_steps": 9, "num_rollouts": K, "prompts_per_step": M, "seed": SEED} | changes
    return own_decisions(CHATS, lambda step, chat, rollout: verdict(step, chat[0]["content"], rollout), **settings)


def test_decisions_are_those_of_our_own_trainer_and_go_on_after_an_interruption(make_trainer, tmp_path):
    """Fourteen prompts are three steps an epoch to verl; its checkpoint of step 6 lies at the very end of one."""
    changes = {"trainer.total_training_steps": 9, "trainer.default_local_dir": str(tmp_path)}
    whole = make_trainer(changes)
    whole.train()
    rows, selector = own()
    assert whole.rolled_out == [dict.fromkeys((PROMPTS[row] for row in chosen), K) for chosen in rows]
    for chat in CHATS:
        assert whole.train_dataset.selection.selector.belief(prompt_id(chat)) == selector.belief(prompt_id(chat))
    assert whole.train_dataset.selection.outstanding == []

    resume = {"trainer.resume_mode": "resume_path", "trainer.resume_from_path": f"{tmp_path}/global_step_6"}
    again = make_trainer(changes | resume)
    again.train()
    assert again.rolled_out == whole.rolled_out[6:]


def test_lost_rollouts_are_no_failures_and_validation_selects_nothing(make_trainer, capsys):
    lost = PROMPTS[own()[0][0][1]]

    def verdict_or_crash(step, prompt, rollout):
        if prompt == lost:
            raise RuntimeError("the rollout server is gone")
        return verdict(step, prompt, rollout)

    trainer = make_trainer(
        {"trainer.total_training_steps": 1, "trainer.test_freq": 1, "trainer.save_freq": -1}, verdict_or_crash
    )
    trainer.train()
    selection = trainer.train_dataset.selection
    asked = set(trainer.rolled_out[0])
    assert len(asked & set(PROMPTS)) == M
    assert asked - set(PROMPTS) == {chat[0]["content"] for chat in VALIDATION}
    assert selection.selector.belief(prompt_id(CHATS[PROMPTS.index(lost)])) == (1.0, 1.0)
    assert selection.outstanding == []
    assert f"selector/visited_fraction:{3 / len(PROMPTS)}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("data.dataloader_num_workers", 2, r"data\.dataloader_num_workers=2: .* set it to 0"),
        ("trainer.v1.trainer_mode", "colocate_async", r"trainer\.v1\.trainer_mode='colocate_async': .* sync only"),
        ("trainer.use_v1", False, r"trainer\.use_v1=False: .* set it to True"),
        ("trainer.v1.sampler.custom_sampler.name", None, "would not hear of any verdict"),
        ("algorithm.filter_groups", {"enable": True, "metric": "acc"}, r"algorithm\.filter_groups\.enable=True"),
        ("reward.reward_model.enable", True, r"reward\.reward_model\.enable_resource_pool=False: .* set it to True"),
        ("data.train_batch_size", 16, r"data\.train_batch_size=16: .* than the 14 different ones"),
        ("data.insight_rl.selector", "no_such", "no_such"),
        ("data.insight_rl.selector_settings", {"no_such": 1}, "no_such"),
        ("data.insight_rl.selecter", "mopps", r"data\.insight_rl=\['selecter'\]: knows only selector,"),
    ],
)
def test_a_wrong_setting_is_named_before_a_model_is_loaded(make_trainer, key, value, message):
    with pytest.raises(UsageError, match=message):
        make_trainer({key: value}).init()


def test_training_and_validation_prompts_have_to_be_told_apart(make_trainer, composed):
    with pytest.raises(UsageError, match=r"data\.val_files=.* the same as data\.train_files"):
        make_trainer({"data.val_files": composed.data.train_files}).init()


def test_the_same_question_about_another_picture_is_another_prompt(make_trainer, tmp_path):
    lines = [json.dumps({"prompt": chat, "data_source": "charts"}) for chat in [CHATS[0]] * 5]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "pictures.jsonl").write_text("\n".join(line[:-1] + ', "images": []}' for line in lines))
    trainer = make_trainer({"data.train_files": f"{tmp_path}/pictures.jsonl"})
    trainer.init()
    assert len(trainer.train_dataset.selection) == 5
    assert {prompt.task for prompt in trainer.train_dataset.selection.pool.prompts} == {"charts"}
    with pytest.raises(UsageError, match="than the 1 different ones"):
        make_trainer({"data.train_files": f"{tmp_path}/train.jsonl"}).init()


def test_half_of_the_lines_and_checkpoints_without_selection_are_refused(make_trainer):
    trainer = make_trainer({"data.custom_cls.path": None})
    trainer.init()
    with pytest.raises(UsageError, match=r"data\.custom_cls: .* no selector to report to"):
        trainer.replay_buffer.sample(1, "train", M)
    trainer = make_trainer({})
    trainer.init()
    with pytest.raises(UsageError, match=r"trainer\.resume_mode='auto': .* step 4 holds no selector state"):
        trainer.replay_buffer.sample(4, "train", M)


def test_success_is_a_value_of_one_and_nan_is_not_judged():
    from insight_rl.integration.verl import verdict_of

    values = [True, 1, 1.0, np.float32(1), False, 0.1, -1, None, float("nan")]
    assert [verdict_of(each) for each in values] == [True] * 4 + [False] * 3 + [None] * 2


def test_the_page_shows_these_lines():
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    section = page.partition("## verl\n")[2].partition("\n## ")[0]
    assert [line for line in section.splitlines() if line.startswith("+    ")] == [f"+    {line} \\" for line in DIFF]
