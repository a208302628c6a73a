"""Lets OpenRLHF's own trainer loop run in Ray on a CPU, with prompts selected by us: what it draws, and after a resume.

    pip install --no-deps openrlhf torchdata pylatexenc    # beside the extras cpu and ray
    python scripts/check_openrlhf.py [SELECTOR]

OpenRLHF's data set, PPOTrainer.fit, SamplesGenerator and loader state are its own. An engine that answers from a list,
the learner's step, weights and files of checkpoints are stood in for, and so is flash_attn, which needs a GPU to
install and is not called. Ends with 1 unless it decides as our own trainer does, given the same verdicts, and as
resumed as not.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PROMPTS = [f"{a}+{b}=" for a in range(7) for b in range(3)]
NUM_ROLLOUTS, BATCH_SIZE, NUM_EPISODES, SEED = 4, 4, 2, 11
RESUMED_STEP = 3

_FLASH_ATTN = {
    "__init__.py": "",
    "bert_padding.py": "index_first_axis = pad_input = rearrange = unpad_input = None\n",
    "utils/__init__.py": "",
    "utils/distributed.py": "all_gather = None\n",
}


class Strategy:
    """OpenRLHF's DeepspeedStrategy without DeepSpeed: what the data loader asks of it."""

    def __init__(self, args: Any) -> None:
        self.args = args

    def print(self, *words: object) -> None: ...

    def is_rank_0(self) -> bool:
        return True

    def setup_dataloader(self, *given: Any, **named: Any) -> Any:
        from openrlhf.utils.deepspeed.deepspeed import DeepspeedStrategy

        return DeepspeedStrategy.setup_dataloader(self, *given, **named)


class Engine:
    """In place of OpenRLHF's vLLM actor: the verdicts of tests/support/verdicts.py, and a record of what was asked."""

    def __init__(self, drawn_before: list[str]) -> None:
        self.drawn: list[str] = []
        self.visits = Counter(drawn_before)

    def get_num_unfinished_requests(self) -> int:
        return 0

    def generate_responses(self, *, prompt: str, label: str, num_samples: int, **named: Any) -> list[dict[str, Any]]:
        from tests.support.verdicts import verdict_of

        self.drawn.append(prompt)
        self.visits[prompt] += 1
        responses = []
        for k in range(num_samples):
            verdict = verdict_of(prompt, self.visits[prompt], k)
            score = None if verdict is None else float(verdict)
            tokens = {"observation_tokens": [1, 2, 3], "action_ranges": [(1, 3)], "rollout_log_probs": None}
            responses.append({"prompt": prompt, "label": label, "reward": score, "scores": score, **tokens})
        return responses

    def history(self) -> list[str]:
        return self.drawn


def arguments(data: Path) -> SimpleNamespace:
    """Those of openrlhf.cli.train_ppo_ray that the trainer reads."""
    advantage = SimpleNamespace(is_correction_level="off", is_correction_enable=False, estimator="group_norm")
    groups: dict[str, dict[str, Any]] = {
        "data": {
            **{"prompt_dataset": str(data), "prompt_probs": None, "prompt_split": "train", "max_samples": 1000},
            **{"input_template": None, "input_key": "input", "label_key": "label", "image_key": "images"},
            **{"apply_chat_template": False, "disable_fast_tokenizer": False, "dataloader_num_workers": 0},
        },
        "train": {"seed": SEED, "batch_size": 16, "num_episodes": NUM_EPISODES, "max_epochs": 1},
        "rollout": {"n_samples_per_prompt": NUM_ROLLOUTS, "batch_size": BATCH_SIZE, "vllm_generate_batch_size": None},
        "eval": {"dataset": None, "steps": -1, "split": "train"},
        "ckpt": {"save_steps": 1, "path": "nowhere", "load_enable": False, "best_metric_key": "none"},
        "algo": {
            "kl": SimpleNamespace(target=None, init_coef=0.0, horizon=1),
            "advantage": advantage,
            "dynamic_filtering_enable": False,
            "dynamic_filtering_range": (0.0, 1.0),
        },
        "logger": {"wandb": SimpleNamespace(key=None), "tensorboard_dir": None, "logging_steps": 1},
        "reward": {"remote_url": ["reward.py"]},
        "vllm": {"enable_sleep": False},
        "critic": {"freezing_steps": -1},
        "actor": {},
        "ds": {"enable_sleep": False},
    }
    return SimpleNamespace(**{name: SimpleNamespace(**values) for name, values in groups.items()})


def stand_in(trainer: Any, checkpoint: dict[str, Any] | None) -> str:
    """In the actor: no models; what would go into checkpoints is kept. Returns the name of the loader's class."""
    trainer.saved = []
    trainer.train_step = lambda samples, step: ({"num_samples": len(samples)}, step + 1)
    trainer.save_logs_and_checkpoints = lambda step, status, states: trainer.saved.append(states)
    trainer.broadcast_to_vllm = lambda: None
    if checkpoint is not None:
        trainer.init_checkpoint_states = lambda: checkpoint
    return type(trainer.prompts_dataloader).__name__


def fit(data: Path, *, checkpoint: dict[str, Any] | None = None, drawn_before: list[str]) -> tuple[list[str], Any]:
    """The prompts that OpenRLHF draws until its last episode ends, and the states for its checkpoints."""
    import ray
    from openrlhf.trainer.ppo_trainer import PPOTrainer

    engine = ray.remote(Engine).remote(drawn_before)
    model = str(ROOT / "data" / "tiny_countdown")
    trainer = PPOTrainer.options(num_cpus=0.1).remote(
        model, Strategy(arguments(data)), None, None, None, None, [engine], max_len=64, max_new_tokens=8
    )
    loader = ray.get(trainer.__ray_call__.remote(stand_in, checkpoint))
    print(f"loader in the actor: {loader}")
    ray.get(trainer.fit.remote())
    drawn = ray.get(engine.history.remote())
    saved = ray.get(trainer.__ray_call__.remote(lambda actor: actor.saved))
    ray.kill(trainer)
    ray.kill(engine)
    return drawn, saved


def main(selector: str = "insight") -> int:
    import ray

    from tests.support.own_trainer import own_decisions
    from tests.support.verdicts import by_visit

    with tempfile.TemporaryDirectory(prefix="insight_rl_openrlhf_") as folder:
        for name, source in _FLASH_ATTN.items():
            file = Path(folder, "stand_ins", "flash_attn", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(source, encoding="utf-8")
        sys.path.insert(1, f"{folder}/stand_ins")
        data = Path(folder, "prompts.jsonl")
        data.write_text("".join(json.dumps({"input": each, "label": "1"}) + "\n" for each in PROMPTS), encoding="utf-8")
        environment = {
            "PYTHONPATH": os.pathsep.join([str(ROOT), f"{folder}/stand_ins"]),
            "INSIGHT_RL_SELECTION": json.dumps({"selector": selector}),
        }
        hook = "insight_rl.integration.openrlhf.select_prompts"
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"worker_process_setup_hook": hook, "env_vars": environment},
        )
        try:
            drawn, saved = fit(data, drawn_before=[])
            num_before = RESUMED_STEP * BATCH_SIZE
            before, after = drawn[:num_before], drawn[num_before:]
            resumed, _ = fit(data, checkpoint=saved[RESUMED_STEP - 1], drawn_before=before)
        finally:
            ray.shutdown()
    num_steps = len(PROMPTS) // BATCH_SIZE
    steps, _ = own_decisions(
        PROMPTS,
        by_visit(),
        num_steps=num_steps,
        prompts_per_step=BATCH_SIZE,
        num_rollouts=NUM_ROLLOUTS,
        seed=SEED,
        selector=selector,
    )
    own = [PROMPTS[row] for rows in steps for row in rows]
    is_same, is_same_resumed = drawn[: len(own)] == own, resumed == after
    print(f"{len(drawn)} prompts in {len(saved)} steps of {NUM_EPISODES} episodes of OpenRLHF's trainer loop")
    print(f"the first {num_steps} steps decide as our trainer: {'yes' if is_same else 'NO'}")
    print(f"resumed after step {RESUMED_STEP}, the rest is the same: {'yes' if is_same_resumed else 'NO'}")
    return 0 if is_same and is_same_resumed and len(drawn) == NUM_EPISODES * len(PROMPTS) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
