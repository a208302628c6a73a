"""vLLM's own transfer engines on both sides, between ranks of DeepSpeed and vLLM, with the CUDA calls alone replaced.

See tests/support/fake_gpu.py for what that shows and what not. The learner has two ranks, on GPU-0 and GPU-1; the vLLM
engine runs on GPU-1.
"""

from __future__ import annotations

import functools
import os
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from insight_rl.algorithm.algorithm import Algorithm
from insight_rl.algorithm.loss import GRPO
from insight_rl.errors import RanksLost
from insight_rl.learner.deepspeed import DeepSpeedLearner
from insight_rl.learner.settings import StartSpec
from insight_rl.rollout.base import RolloutSpec
from insight_rl.rollout.vllm import VllmEngine
from insight_rl.types import Completion, Group, Prompt, Reward, Sampling
from insight_rl.weight_sync.vllm_transfer import IpcChannel, NcclChannel

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
        self.vllm_backend = channel.vllm_backend
        self.check_device = self.check_placement = lambda name: None

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
        parts = [metrics[f"time/sync_{part}_s"] for part in ("gather", "transfer", "load")]
        assert all(seconds > 0 for seconds in parts)


class TrainersWeights:
    """The old way: what the trainer's process can send by itself, after the ranks have handed it everything."""

    rank = 0

    def __init__(self, learner):
        self.weights, self.describe = learner.weights(), learner.weights().describe
        self.named_tensors = self.weights.named_tensors

    def send(self, spec, call_all):
        def call(method, argument):
            call_all(method, argument, lambda: None)

        return spec.open(self, call).send_weights()


class Model(torch.nn.Module):
    """The receiving side's model: keeps what it is given."""

    def __init__(self):
        super().__init__()
        self.loaded = {}

    def load_weights(self, weights):
        self.loaded.update((name, tensor.clone()) for name, tensor in weights)


class Receiver:
    """A rollout process that is a thread of this one: vLLM's own NCCL engine over a model that only keeps."""

    device, num_devices = "cuda", 1

    def __init__(self):
        from vllm.distributed.weight_transfer.nccl_engine import NCCLWeightTransferEngine

        self.model, self.error, self.thread = Model(), None, None
        parallel = SimpleNamespace(data_parallel_index=0, world_size=1, rank=0)
        config = SimpleNamespace(parallel_config=parallel, model_config=SimpleNamespace())
        self.engine = NCCLWeightTransferEngine(None, config, torch.device("cpu"), self.model)

    def begin(self, name, /, *, method, argument):
        self.thread = threading.Thread(target=self.run, args=(method, argument), daemon=True)
        self.thread.start()

    def run(self, method, argument):
        try:
            if method == "init_weight_transfer_engine":
                self.engine.init_transfer_engine(self.engine.parse_init_info(argument["init_info"]))
            elif method == "update_weights":
                self.engine.update_weights(argument["update_info"])
        except Exception as error:
            self.error = error

    def is_ready(self):
        self.thread.join(0.1)
        return not self.thread.is_alive()

    def finish(self):
        self.thread.join()
        if self.error is not None:
            raise self.error


@pytest.fixture
def receivers(learner, monkeypatch):
    import fake_gpu

    fake_gpu.install("GPU-0", monkeypatch.setattr)
    return [Receiver(), Receiver()]


def test_nccl_from_rank_0_of_zero_3_to_two_processes(learner, receivers):
    channel = NcclChannel()
    channel.buffer_bytes = 1 << 16  # several packets
    for version in (3, 4):
        learn(learner, version)
        expected = weights_of(learner)
        channel.send(learner.weights(), receivers)
        for receiver in receivers:
            assert receiver.model.loaded.keys() == expected.keys()
            assert all(torch.equal(receiver.model.loaded[name], tensor) for name, tensor in expected.items())


def test_nccl_from_the_trainer_is_refused_as_by_nccl(learner, receivers):
    """With the mend taken out: the weights that the ranks handed over are in main memory."""
    with pytest.raises(AssertionError, match="created to work on cuda:0, but the input tensor is on cpu"):
        NcclChannel().send(TrainersWeights(learner), receivers[:1])
    # vLLM's sender leaves a thread that waits for the receiver, which waits for the broadcast.
    receivers[0].is_ready = lambda: True
    receivers[0].thread = SimpleNamespace(join=lambda: None)


def test_ipc_from_the_trainer_does_not_reach_the_second_gpu(learner, engine, receivers):
    """With the mend taken out: the trainer can share the memory of its own GPU alone."""
    process = engine._pool.workers[0]
    with pytest.raises(Exception, match="IPC handle not found for GPU UUID GPU-1"):
        IpcChannel().send(TrainersWeights(learner), [process])
    with pytest.raises(Exception, match="weight update has begun and not ended"):
        process.call("generate", requests={})


def test_a_rank_that_dies_amid_a_transfer_ends_it_at_once(learner, receivers):
    """Last of all: the learner is gone afterwards."""
    pids = [child.pid for child in learner._processes._ranks]
    channel = NcclChannel()
    channel.send(learner.weights(), receivers)
    receivers[1].run = lambda method, argument: os.kill(pids[1], signal.SIGKILL)
    receivers[0].run = lambda method, argument: threading.Event().wait(60)
    started = time.monotonic()
    with pytest.raises(RanksLost, match="learner rank 1 died in send_weights"):
        channel.send(learner.weights(), receivers)
    assert time.monotonic() - started < 30
