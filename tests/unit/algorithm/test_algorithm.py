from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.allowed_code import allowed
from insight_rl.build import build_part
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.types import Completion, Group, Prompt, Reward

CONF = Path(__file__).parents[3] / "conf" / "algorithm"
OPTIONS = sorted(file.stem for file in CONF.glob("*.yaml"))
PUBLISHED = {
    "grpo": ("GRPO", "group_std", 0.2, 0.2),
    "dapo": ("DAPO", "group_std", 0.2, 0.28),
    "dr_grpo": ("DrGRPO", "centered", 0.2, 0.2),
    "gspo": ("GSPO", "group_std", 3e-4, 4e-4),
    "cispo": ("CISPO", "group_std", 1.0, 4.0),
}


def build(*overrides: str) -> Algorithm:
    return build_part("algorithm", parse_config(compose_config(overrides)).algorithm)


@pytest.mark.parametrize("option", OPTIONS)
def test_an_option_constructs_what_its_paper_says(option) -> None:
    algorithm = build(f"algorithm={option}")
    found = (type(algorithm.loss).__name__, algorithm.advantage, algorithm.clip_low, algorithm.clip_high)
    assert found == PUBLISHED[option]
    bounds = (algorithm.importance_low, algorithm.importance_high)
    assert (algorithm.kl_coef, algorithm.importance, bounds) == (0.0, "token_truncate", (None, 2.0))
    assert (algorithm.old_logprobs, algorithm.num_epochs) == ("learner", 1)
    assert not algorithm.mask_truncated and not algorithm.uses_reference


def test_settings_are_overridden_under_flat_keys() -> None:
    algorithm = build("algorithm=dapo", "algorithm.clip_high=0.3", "algorithm.kl_coef=0.01", "algorithm.advantage=mapp")
    assert (algorithm.clip_high, algorithm.kl_coef, algorithm.advantage) == (0.3, 0.01, "mapp")
    assert algorithm.uses_reference


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("advantage", "mean"),
        ("clip_low", 1.5),
        ("clip_high", -0.1),
        ("kl_coef", -1.0),
        ("importance", "sequence"),
        ("importance_low", 1.1),
        ("importance_high", 0.9),
        ("old_logprobs", "old"),
        ("num_epochs", 0),
    ],
)
def test_settings_that_no_run_could_use_name_their_key(key, value) -> None:
    settings = {"loss": GRPO(), "advantage": "centered", "clip_low": 0.2, "clip_high": 0.2}
    with pytest.raises(UsageError, match=f"^algorithm.{key}="):
        Algorithm(**(settings | {key: value}))


def test_the_configuration_of_an_algorithm_is_checked_without_torch() -> None:
    code = (
        "import sys; from insight_rl.algorithm.algorithm import Algorithm; from insight_rl.algorithm.loss import GRPO;"
        "Algorithm(loss=GRPO(), advantage='centered', clip_low=0.2, clip_high=0.2); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_advantage_of_your_own(tmp_path, monkeypatch) -> None:
    (tmp_path / "my_advantages.py").write_text(
        "def best_only(values_G, successes_G, belief, scale=1.0):\n    return scale * (values_G == values_G.max())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(allowed, "packages", {"my_advantages"})
    node = "{_target_: my_advantages.best_only, _partial_: true, scale: 3.0}"
    algorithm = pickle.loads(pickle.dumps(build(f"algorithm.advantage={node}")))
    group = Group(
        prompt=Prompt(id="p", task="t", text="", token_ids=(1,), answer=None),
        completions_G=(Completion(token_ids=(5,), logprobs=(-0.5,), text="", finish_reason="stop", policy_version=0),)
        * 2,
        rewards_G=(Reward(value=0.0, success=False), Reward(value=1.0, success=True)),
    )
    np.testing.assert_array_equal(algorithm.advantages([group])[0], [0.0, 3.0])
