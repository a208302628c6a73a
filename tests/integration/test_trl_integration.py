"""TRL's own trainer with our selection, on a tiny random model."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from insight_rl.integration.selection import SELECTOR_FOLDER, dataset_columns, make_pool, prompt_id
from tests.support.own_trainer import own_decisions

pytest.importorskip("trl")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
K, M, SEED = 4, 4, 11
PROMPTS = [f"{a}+{b}=" for a in range(10) for b in range(3)]


@pytest.fixture(scope="module")
def trl_module():
    import insight_rl.integration.trl

    return insight_rl.integration.trl


def fair_coin(*words):
    return hashlib.blake2b(repr(words).encode()).digest()[0] % 3 == 0


def verdict(step, prompt, rollout):
    return None if fair_coin("unjudged", prompt, rollout, step) else fair_coin(prompt, step, rollout)


def own(**changes):
    settings = {"num_steps": 6, "num_rollouts": K, "prompts_per_step": M, "seed": SEED} | changes
    return own_decisions(PROMPTS, verdict, **settings)


class Scorer:
    """Rewards that depend on the prompt and how often it was scored, not on what the model says; and a record."""

    __name__ = "scorer"

    def __init__(self):
        self.batches = []

    def __call__(self, prompts, completions, **columns):
        step = len(self.batches)
        rewards = [{True: 1.0, False: 0.1, None: None}[verdict(step, each, i % K)] for i, each in enumerate(prompts)]
        self.batches.append((list(prompts), rewards, list(columns["number"])))
        return rewards


def make_trainer(trl_module, model, folder, scorer, **changes):
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import GRPOConfig

    settings = {
        "per_device_train_batch_size": K * M // 2,
        "gradient_accumulation_steps": 2,
        "num_generations": K,
        "max_completion_length": 6,
        "max_steps": 6,
        "save_steps": 3,
        "learning_rate": 1e-3,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "seed": SEED,
        "logging_steps": 1,
        "disable_tqdm": True,
    }
    more = {key: changes.pop(key) for key in list(changes) if key in settings}
    dataset = changes.pop("dataset", Dataset.from_dict({"prompt": PROMPTS, "number": list(range(len(PROMPTS)))}))
    return trl_module.GRPOTrainer(
        model=str(model),
        processing_class=AutoTokenizer.from_pretrained(model),
        reward_funcs=scorer,
        args=GRPOConfig(output_dir=str(folder), **(settings | more)),
        train_dataset=dataset,
        **changes,
    )


@pytest.mark.parametrize("selector", ["insight", "mopps"])
def test_decisions_are_those_of_our_own_trainer_given_the_same_rewards(trl_module, tied_model, tmp_path, selector):
    scorer = Scorer()
    trainer = make_trainer(trl_module, tied_model, tmp_path, scorer, selector=selector)
    trainer.train()
    assert len(scorer.batches) == 6
    rows, ours = own(selector=selector)
    for (prompts, _, numbers), chosen in zip(scorer.batches, rows, strict=True):
        assert prompts == [PROMPTS[row] for row in chosen for _ in range(K)]
        assert numbers == [row for row in chosen for _ in range(K)]  # the other columns come along
    for text in PROMPTS:
        each = prompt_id(text)
        assert trainer.selector.belief(each) == ours.belief(each)
    logged = [entry for entry in trainer.state.log_history if "selector/informative_fraction" in entry]
    assert len(logged) == 6
    assert logged[-1]["selector/visited_fraction"] == pytest.approx(ours.metrics()["selector/visited_fraction"])


def test_a_resumed_run_decides_as_the_uninterrupted_one(trl_module, tied_model, tmp_path):
    whole, second = Scorer(), Scorer()
    make_trainer(trl_module, tied_model, tmp_path, whole).train()
    second.batches = whole.batches[:3]
    make_trainer(trl_module, tied_model, tmp_path / "again", second).train(str(tmp_path / "checkpoint-3"))
    assert second.batches == whole.batches
    for path in (tmp_path / "checkpoint-3" / SELECTOR_FOLDER).iterdir():
        path.unlink()
    (tmp_path / "checkpoint-3" / SELECTOR_FOLDER).rmdir()
    with pytest.raises(ValueError, match="no selector state"):
        make_trainer(trl_module, tied_model, tmp_path / "again", Scorer()).train(str(tmp_path / "checkpoint-3"))


def test_generations_reused_over_several_updates_are_selected_once(trl_module, tied_model, tmp_path):
    """TRL's num_iterations: the sampler proposes the batch again, but no completion is generated for it."""
    from trl import GRPOConfig

    scorer = Scorer()
    trainer = make_trainer(trl_module, tied_model, tmp_path, scorer)
    assert isinstance(trainer.args, GRPOConfig)
    trainer.num_iterations = 2
    trainer.train()
    rows, _ = own(num_steps=3)
    assert [numbers[::K] for _, _, numbers in scorer.batches] == rows


def test_what_selection_cannot_work_with_is_refused(trl_module, tied_model, tmp_path):
    from datasets import Dataset

    few = Dataset.from_dict({"prompt": ["1+1="] * 20, "number": list(range(20))})
    with pytest.raises(ValueError, match="has 1 different"):
        make_trainer(trl_module, tied_model, tmp_path, Scorer(), dataset=few)
    with pytest.raises(ValueError, match="no_such"):
        make_trainer(trl_module, tied_model, tmp_path, Scorer(), selector_settings={"no_such": 1})
    with pytest.raises(ValueError, match="can be indexed"):
        dataset_columns(few.to_iterable_dataset())


def test_ids_come_from_the_data_set_where_it_has_them():
    from datasets import Dataset

    chat = [{"role": "user", "content": "1+1"}]
    columns = {"prompt": [chat, chat, chat], "id": [7, 7, 8], "num_choices": [4, 4, 5], "solution": ["2"] * 3}
    pool = make_pool(dataset_columns(Dataset.from_dict(columns)))
    assert [prompt.id for prompt in pool.prompts] == ["7", "8"]
    assert pool.rows == [0, 2]
    assert [prompt.metadata for prompt in pool.prompts] == [{"num_choices": 4}, {"num_choices": 5}]


TWO_RANKS = """
import json, sys
from datasets import Dataset
from transformers import AutoTokenizer
from trl import GRPOConfig
from insight_rl.integration.trl import GRPOTrainer

model, folder, prompts = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
scored = []

def reward(prompts, completions, **columns):
    scored.append(list(prompts))
    return [float(text[:1].isdigit()) for text in completions]

config = GRPOConfig(
    output_dir=folder, per_device_train_batch_size=6, num_generations=4, max_completion_length=4, max_steps=3,
    save_strategy="no", report_to="none", use_cpu=True, bf16=False, disable_tqdm=True, seed=11,
)
trainer = GRPOTrainer(
    model=model, processing_class=AutoTokenizer.from_pretrained(model), reward_funcs=reward, args=config,
    train_dataset=Dataset.from_dict({"prompt": prompts}), selector="insight",
)
chosen = []
select = trainer.selector.select

def select_and_note(size):
    selected = select(size)
    chosen.append([prompt.text for prompt in selected])
    return selected

trainer.selector.select = select_and_note
trainer.train()
beliefs = [trainer.selector.belief(prompt.id) for prompt in trainer.selection.pool.prompts]
rank = trainer.accelerator.process_index
assert trainer.accelerator.num_processes == 2
with open(f"{folder}/rank{rank}.json", "w") as file:
    json.dump({"chosen": chosen, "scored": scored, "beliefs": beliefs}, file)
"""


def test_two_processes_decide_alike_and_share_the_groups(tied_model, tmp_path):
    """12 completions a step are 3 groups of 4: the middle one lies across the two processes."""
    (tmp_path / "script.py").write_text(TWO_RANKS, encoding="utf-8")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    command = [*launch, str(tmp_path / "script.py"), str(tied_model), str(tmp_path), json.dumps(PROMPTS)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first["chosen"] == second["chosen"]
    assert first["beliefs"] == second["beliefs"]
    assert sum(alpha + beta - 2 for alpha, beta in first["beliefs"]) == 3 * 12
    for chosen, left, right in zip(first["chosen"], first["scored"], second["scored"], strict=True):
        assert left + right == [text for text in chosen for _ in range(4)]
