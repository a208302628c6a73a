from __future__ import annotations

import inspect
from pathlib import Path
from typing import get_args

import pytest

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss_settings import Variant
from insight_rl.config import compose_config

CONF = Path(__file__).parents[3] / "conf" / "algorithm"


def test_every_variant_has_its_option() -> None:
    assert {file.stem for file in CONF.glob("*.yaml")} >= set(get_args(Variant))


@pytest.mark.parametrize("variant", get_args(Variant))
def test_an_option_names_every_setting_and_constructs(variant) -> None:
    node = dict(compose_config([f"algorithm={variant}"]).algorithm)
    assert node.pop("_target_") == "insight_rl.algorithm.algorithm.Algorithm"
    assert node.keys() == inspect.signature(Algorithm).parameters.keys()
    algorithm = Algorithm(**node)
    assert algorithm.loss.variant == variant
    assert not algorithm.loss.uses_reference and not algorithm.needs_beliefs
