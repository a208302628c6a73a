"""A loss from outside the repository, named in the configuration, trains in the trainer's process and in the ranks'."""

from __future__ import annotations

import math

import pytest

from insight_rl.types import Completion, Group, Prompt, Reward

LOSS = """\
from insight_rl.algorithm.loss import GRPO


class SoftClip(GRPO):
    '''The ratio is held back smoothly instead of being cut.'''

    def __init__(self, *, width: float = 1.0) -> None:
        self.width = width

    def surrogate(self, tokens, ratio_N, *, low, high):
        return -self.width * ((ratio_N - 1) / self.width).tanh() * tokens.advantages_N
"""
GROUP = Group(
    prompt=Prompt(id="p", task="t", text="", token_ids=(5, 6, 7), answer=None),
    completions_G=tuple(
        Completion(token_ids=ids, logprobs=(-3.0,) * len(ids), text="", finish_reason="stop", policy_version=0)
        for ids in ((8, 9), (10, 11, 12), (13,))
    ),
    rewards_G=tuple(Reward(value=float(j == 0), success=j == 0) for j in range(3)),
)


@pytest.mark.parametrize("num_ranks", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_loss_of_your_own(tmp_path, monkeypatch, tied_model, num_ranks) -> None:
    from insight_rl.build import build_part
    from insight_rl.config import compose_config, parse_config
    from insight_rl.learner.accelerate import AccelerateLearner
    from insight_rl.learner.settings import StartSpec

    (tmp_path / "my_losses.py").write_text(LOSS)
    (tmp_path / "algorithm").mkdir()
    (tmp_path / "algorithm" / "soft_clip.yaml").write_text(
        "defaults:\n  - grpo@_here_\n  - _self_\nloss: {_target_: my_losses.SoftClip, width: 0.5}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    tree = compose_config(["algorithm=soft_clip", "algorithm.kl_coef=0.1"], config_dir=tmp_path)
    algorithm = build_part("algorithm", parse_config(tree).algorithm)
    assert (algorithm.loss.width, algorithm.clip_high) == (0.5, 0.2)
    learner = AccelerateLearner(num_ranks=num_ranks, lr=1e-3)
    learner.start(
        StartSpec(
            model_path=tied_model,
            dtype="float32",
            loss=algorithm,
            num_epochs=1,
            temperature=1.0,
            max_completion_tokens=8,
            prompts_per_update=2,
            num_steps=1,
            seed=0,
        )
    )
    metrics = learner.step([GROUP], algorithm.advantages([GROUP]))
    learner.close()
    assert metrics["learner/grad_norm"] > 0
    assert math.isfinite(metrics["learner/kl_to_reference"])
