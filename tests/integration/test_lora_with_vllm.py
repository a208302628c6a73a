"""A policy with an adapter is the same to the learner, to peft, to the merged model and to vLLM, either way it came."""

from __future__ import annotations

import pytest
import torch

from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine
from insight_rl.weight_sync.adapter import AdapterChannel, vllm_rank
from tests.contract.test_learner_lora import RANK, make_groups, started
from tests.integration.test_vllm_engine import PROMPTS, SAMPLING

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def learner(tied_model):
    learner = started("accelerate", tied_model)
    yield learner
    learner.close()


@torch.no_grad()
def largest_gap(engine, model, version: int) -> float:
    """Between the log-probs that come with completions and those of ``model``; all must be of ``version``."""
    gap = 0.0
    for prompt, group in engine.generate(PROMPTS, sampling=SAMPLING):
        for completion in group:
            assert completion.policy_version == version
            ids = torch.tensor([[*map(int, prompt.token_ids), *map(int, completion.token_ids)]])
            logprobs = torch.log_softmax(model(ids).logits[0, len(prompt.token_ids) - 1 : -1], dim=-1)
            exact = logprobs.gather(1, ids[0, len(prompt.token_ids) :, None]).squeeze(1)
            gap = max(gap, float((exact - torch.tensor(completion.logprobs)).abs().max()))
    return gap


def check_agreement(engine, learner, base, folder, *, seed: int, version: int) -> None:
    """Train a step, sync, and compare four ways to the same log-probs."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learner.step(*make_groups(seed))
    engine.update_weights(learner.weights(), version=version)
    learner.save_model(folder / "model")
    merged = AutoModelForCausalLM.from_pretrained(folder / "model")
    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder / "adapter")
    assert largest_gap(engine, merged, version) <= 1e-4
    assert largest_gap(engine, adapted, version) <= 1e-4
    with adapted.disable_adapter():
        assert largest_gap(engine, adapted, version) > 1e-2


def test_merged_weights(vllm_tied, learner, tied_model, tmp_path) -> None:
    check_agreement(vllm_tied, learner, tied_model, tmp_path, seed=1, version=11)


def test_the_adapter_alone(learner, tied_model, tmp_path) -> None:
    """Each version in place of the one before, with no prefix that it computed left in the cache."""
    from transformers import AutoModelForCausalLM

    engine = VllmEngine(num_threads=1)
    channel = AdapterChannel()
    engine.start(
        RolloutSpec(
            model_path=tied_model, dtype="float32", max_length=64, seed=0, weight_channel=channel, adapter_rank=RANK
        )
    )
    try:
        assert largest_gap(engine, AutoModelForCausalLM.from_pretrained(tied_model), 0) <= 1e-4
        for version in (1, 2):
            check_agreement(engine, learner, tied_model, tmp_path / str(version), seed=version, version=version)
    finally:
        engine.close()


def test_room_for_an_adapter() -> None:
    from vllm.config.lora import LoRAConfig, MaxLoRARanks

    assert [vllm_rank(rank) for rank in (1, 4, 8, 9, 512)] == [1, 8, 8, 16, 512]
    assert set(MaxLoRARanks.__args__) >= {vllm_rank(rank) for rank in range(1, 513)}
    assert LoRAConfig(max_lora_rank=vllm_rank(RANK)).max_loras == 1
