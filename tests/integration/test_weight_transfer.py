"""vLLM's own transfer engines on both sides, between ranks of DeepSpeed and vLLM, with the CUDA calls alone replaced.

See tests/support/fake_gpu.py for what that shows and what not. The learner has two ranks, on GPU-0 and GPU-1; the vLLM
engine runs on GPU-1.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.learner.deepspeed import DeepSpeedLearner
from insight_rl.learner.settings import StartSpec
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine
from insight_rl.types import Completion, Group, Prompt, Reward, Sampling
from insight_rl.weight_sync.vllm_transfer import IpcChannel

pytest.importorskip("vllm")
pytest.importorskip("deepspeed")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("vllm")]

SUPPORT = Path(__file__).parents[1] / "support"
ALGORITHM = Algorithm(loss=GRPO(), advantage="centered", clip_low=0.2, clip_high=0.2)
PROMPTS = [
    Prompt(id=f"prompt/{i}", task="t", text="", token_ids=(1, *(5 + (3 * i + j) % 20 for j in range(4 + i))), answer=i)
    for i in range(6)
]
SAMPLING = Sampling(num_rollouts=4, max_tokens=16, temperature=1.0, seed=3)


class Learner(DeepSpeedLearner):
    def _make_worker(self):
        import fake_gpu

        return functools.partial(fake_gpu.make_rank, super()._make_worker())


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SUPPORT)
        yield patch


@pytest.fixture(scope="module")
def learner(patch, tied_model, tmp_path_factory):
    patch.setenv("FAKE_GPU_FOLDER", str(tmp_path_factory.mktemp("gpu_memory")))
    learner = Learner(zero_stage=3, num_ranks=2, lr=1e-2, weight_decay=0.0)
    learner.start(
        StartSpec(
            model_path=tied_model,
            dtype="float32",
            loss=ALGORITHM,
            num_epochs=1,
            temperature=1.0,
            max_completion_tokens=16,
            prompts_per_update=1,
            num_steps=10,
            seed=0,
        )
    )
    yield learner
    learner.close()


def learn(learner, seed):
    """Weights that are far from those before."""
    rng = np.random.default_rng(seed)
    completions = tuple(
        Completion(
            token_ids=tuple(rng.integers(5, 24, size=6).tolist()),
            logprobs=(-3.0,) * 6,
            text="",
            finish_reason="stop",
            policy_version=0,
        )
        for _ in range(4)
    )
    rewards = tuple(Reward(value=float(j % 2), success=bool(j % 2)) for j in range(4))
    groups = [Group(prompt=PROMPTS[0], completions_G=completions, rewards_G=rewards)]
    learner.step(groups, ALGORITHM.advantages(groups))


def weights_of(learner):
    return {name: tensor.clone() for name, tensor in learner.weights().named_tensors()}


class Recording:
    """A channel whose messages to vLLM are kept."""

    def __init__(self, channel):
        self.channel, self.updates = channel, []
        self.vllm_backend, self.check_device = channel.vllm_backend, lambda device: None

    def send(self, weights, processes):
        def send(spec, call_all):
            def recorded(method, argument, meanwhile):
                if method == "update_weights":
                    self.updates.append(argument["update_info"])
                call_all(method, argument, meanwhile)

            return type(weights).send(weights, spec, recorded)

        weights.send = send
        return self.channel.send(weights, processes)


@pytest.fixture(scope="module")
def engine(patch, learner, tied_model):
    patch.setenv("FAKE_GPU_UUID", "GPU-1")
    patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(SUPPORT), os.environ.get("PYTHONPATH")])))
    transfer = {"weight_transfer_config": {"backend": "ipc"}, "worker_extension_cls": "fake_gpu_receiver.Receiver"}
    engine = VllmEngine(num_threads=1, engine_args=transfer)
    channel = IpcChannel()
    channel.buffer_bytes = 4096  # below what a user may set: every matrix of the tiny model is larger
    engine.start(
        RolloutSpec(model_path=tied_model, dtype="float32", max_length=64, seed=0, weight_channel=Recording(channel))
    )
    yield engine
    engine.close()


@torch.no_grad()
def largest_gap(engine, weights, folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.load_state_dict(weights | {"lm_head.weight": weights["model.embed_tokens.weight"]})
    gap = 0.0
    for prompt, group in engine.generate(PROMPTS, sampling=SAMPLING):
        for completion in group:
            ids = torch.tensor([[*prompt.token_ids, *completion.token_ids.tolist()]])
            logprobs = torch.log_softmax(model(ids).logits[0, len(prompt.token_ids) - 1 : -1], dim=-1)
            exact = logprobs.gather(1, ids[0, len(prompt.token_ids) :, None]).squeeze(1)
            gap = max(gap, float((exact - torch.tensor(completion.logprobs)).abs().max()))
    return gap


def test_ipc_from_the_ranks_of_zero_3_to_vllm_on_the_second_gpu(learner, engine, tied_model):
    channel = engine._weight_channel
    for version in (1, 2):
        learn(learner, version)
        expected = weights_of(learner)
        assert largest_gap(engine, expected, tied_model) > 1e-2
        channel.updates.clear()
        metrics = engine.update_weights(learner.weights(), version=version)
        assert largest_gap(engine, expected, tied_model) <= 1e-4
        assert len(channel.updates) > 3, "it should take several chunks"
        assert all(set(update["ipc_handles"]) == {"GPU-0", "GPU-1"} for update in channel.updates)
        names = [name for update in channel.updates for name in update["names"]]
        assert sorted(names) == sorted(expected), "each once, and a tied lm_head not at all"
        assert set(metrics) == {"time/sync_gather_s", "time/sync_transfer_s", "time/sync_load_s"}
        assert all(value > 0 for value in metrics.values())
