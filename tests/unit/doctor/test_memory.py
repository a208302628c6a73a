"""What fits one 80 GB card and what does not, against figures worked out by hand from the libraries' sources."""

import pytest
import torch

from insight_rl.doctor.cards import CARDS
from insight_rl.doctor.memory import (
    ALLOWANCES,
    count_checkpoint,
    count_host,
    count_kv_cache,
    count_situations,
    count_states,
    fullest,
    is_certain,
    sync_buffer,
    verdict,
)
from insight_rl.weight_sync.base import TensorInfo
from insight_rl.weight_sync.vllm_transfer import IpcChannel

GIB = 2**30
BASE = (
    "rollout=vllm",
    "learner=deepspeed",
    "trainer.max_completion_tokens=1024",
    "learner.gradient_checkpointing=false",
    "learner.tokens_per_micro_batch=16384",
)
CASES = [
    # GiB by hand, without much of what is allowed for here: fragments, temporaries, graphs.
    ("0.6B as it was shipped", ["model=qwen3-0.6b"], 76, "tight", False),
    (
        "0.6B with rows of 8k",
        ["model=qwen3-0.6b", "model.max_length=8192", "learner.tokens_per_micro_batch=8192"],
        61,
        "fits",
        False,
    ),
    ("4B without offload", ["model=qwen3-4b", "learner.tokens_per_micro_batch=4096"], 126, "does not fit", True),
    (
        "4B, offload, rows of 4k",
        ["model=qwen3-4b", "learner.offload=cpu", "learner.tokens_per_micro_batch=4096"],
        66,
        "fits",
        False,
    ),
    (
        "4B, offload, rows of 8k",
        [
            "model=qwen3-4b",
            "learner.offload=cpu",
            "model.max_length=8192",
            "learner.tokens_per_micro_batch=8192",
        ],
        90,
        "does not fit",
        True,
    ),
    (
        "4B, offload, rows of 8k, checkpointing",
        [
            "model=qwen3-4b",
            "learner.offload=cpu",
            "model.max_length=8192",
            "learner.tokens_per_micro_batch=8192",
            "learner.gradient_checkpointing=true",
        ],
        46,
        "fits",
        False,
    ),
]


@pytest.mark.parametrize(("overrides", "gib", "word", "certain"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_one_card_of_80_gb(overrides, gib, word, certain, workload, h100):
    situations = count_situations(workload(*BASE, *overrides), h100)
    assert fullest(situations).total / GIB == pytest.approx(gib, rel=0.08)
    assert verdict(situations, h100) == word
    assert is_certain(situations, h100) == certain


def test_4b_under_accelerate_is_impossible(workload, h100):
    work = workload(*BASE[:1], "learner=accelerate", "model=qwen3-4b", "learner.gradient_checkpointing=true")
    states = count_states(work, work.learner)
    assert states.weights + states.gradients + states.optimizer == 16 * work.parameters.total
    assert is_certain(count_situations(work, h100), h100)


@pytest.mark.parametrize("stage", [1, 2, 3])
@pytest.mark.parametrize("ranks", [1, 2, 8])
def test_what_zero_shards(stage, ranks, workload):
    work = workload(*BASE, "model=qwen3-4b", f"learner.zero_stage={stage}", f"learner.num_ranks={ranks}")
    states, total = count_states(work, work.learner), work.parameters.total
    assert states.weights == 2 * total // (ranks if stage == 3 else 1)
    assert states.gradients == 4 * total // (ranks if stage >= 2 else 1)
    assert states.optimizer == 12 * total // ranks
    assert count_host(work, work.learner) == 0


def test_offload_moves_the_states_to_main_memory(workload):
    work = workload(*BASE, "model=qwen3-4b", "learner.offload=cpu")
    assert count_states(work, work.learner).optimizer == 0
    assert count_host(work, work.learner) == 16 * work.parameters.total
    assert count_checkpoint(work) == 12 * work.parameters.total


@pytest.mark.parametrize(("model", "tokens"), [("qwen3-0.6b", 267_000), ("qwen3-4b", 161_000)])
def test_the_kv_cache_that_vllms_default_share_leaves(model, tokens, workload, h100):
    work = workload(*BASE, f"model={model}")
    assert count_kv_cache(work, work.rollout, h100).num_tokens == pytest.approx(tokens, rel=0.06)


class Described:
    """Weights of which only names and shapes are known, as every rank of the learner describes them."""

    def __init__(self, work):
        self.tensors = [
            TensorInfo(name=str(number), dtype=torch.float32 if work.dtype_bytes == 4 else torch.bfloat16, shape=shape)
            for number, shape in enumerate(work.shape.tensors())
        ]

    def describe(self):
        return self.tensors


@pytest.mark.parametrize("model", ["qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "r1-distill-qwen-7b", "smollm2", "tiny"])
def test_every_tensor_goes_through_the_sync_buffer(model, workload):
    """vLLM's packed sender refuses a tensor that is larger than its buffer."""
    work = workload(f"model={model}")
    weights = Described(work)
    largest = max(tensor.num_bytes for tensor in weights.describe())
    for channel in (IpcChannel(), IpcChannel(buffer_bytes=1 << 20)):
        buffer = channel._spec(weights, [])
        assert buffer.settings["packed_buffer_size_bytes"] >= largest
    assert sync_buffer(work) == IpcChannel()._spec(weights, []).settings["packed_buffer_size_bytes"]


def test_a_sleeping_vllm_leaves_the_card_to_the_learner(workload, h100):
    awake = count_situations(workload(*BASE, "model=qwen3-0.6b"), h100)
    asleep = count_situations(workload(*BASE, "model=qwen3-0.6b", "rollout.sleep=true"), h100)
    by_phase = {each.phase: each for each in asleep}
    assert set(by_phase) == {"backward", "update", "sync", "generation"}
    assert fullest(asleep).total < fullest(awake).total - 0.35 * h100.num_bytes
    assert "KV cache" not in by_phase["backward"].parts
    assert "optimizer" not in by_phase["generation"].parts, "what the learner keeps is in main memory then"
    assert by_phase["sync"].parts["vLLM's weights"] > 0


def test_gpus_of_its_own_hold_no_learner(workload, h100):
    work = workload(*BASE, "model=qwen3-0.6b").with_rollout(is_separate=True, memory_share=0.9)
    situations = count_situations(work, h100)
    assert {each.gpu for each in situations} == {"learner", "vLLM"}
    generation = next(each for each in situations if each.phase == "generation")
    assert set(generation.parts) == {"vLLM's weights", "vLLM's buffers", "KV cache", ALLOWANCES}


def test_allowances_are_no_reason_for_a_refusal(workload, h100):
    for situation in count_situations(workload(*BASE, "model=qwen3-4b"), h100):
        assert situation.computed == situation.total - situation.parts[ALLOWANCES]


@pytest.mark.parametrize("card", CARDS.values(), ids=list(CARDS))
def test_a_card_has_a_little_less_than_its_name_says(card):
    gigabytes = int(card.name.rpartition("-")[2].removesuffix("gb"))
    assert 0.9 * gigabytes <= card.usable_gib <= gigabytes


@pytest.mark.parametrize("learner", ["accelerate", "deepspeed"])
def test_an_adapter_lies_beside_frozen_weights(learner, workload, h100):
    work = workload("rollout=vllm", f"learner={learner}", "model=qwen3-4b", "learner.lora.rank=32")
    states = count_states(work, work.learner)
    # 36 layers; rank x (inputs + outputs): q and o 2560 + 4096, k and v 2560 + 1024, three of 2560 + 9728.
    assert work.num_trained == 36 * 32 * (2 * 6656 + 2 * 3584 + 3 * 12288)
    assert states.weights == pytest.approx(2 * work.parameters.total, rel=0.04)
    assert states.optimizer <= 12 * work.num_trained
    assert count_checkpoint(work) < 0.03 * count_checkpoint(workload(f"learner={learner}", "model=qwen3-4b"))
