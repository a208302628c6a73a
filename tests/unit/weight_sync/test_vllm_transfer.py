"""The channels over vLLM's own transfer API: what can be checked without a CUDA device, in one process.

From ranks of their own to vLLM itself: tests/integration/test_weight_transfer.py.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from insight_rl.errors import RunStopped, UsageError
from insight_rl.weight_sync.base import TensorInfo
from insight_rl.weight_sync.vllm_transfer import IpcChannel, NcclChannel

SUPPORT = Path(__file__).parents[2] / "support"


@pytest.mark.parametrize(
    ("construct", "named"),
    [
        (lambda: IpcChannel(buffer_bytes=10), "buffer_bytes=10"),
        (lambda: NcclChannel(buffer_bytes=10), "buffer_bytes=10"),
        (lambda: IpcChannel().check_device("cpu"), "weight_sync='ipc': vLLM runs on a CPU"),
        (lambda: NcclChannel().check_device("cpu"), "weight_sync='nccl': vLLM runs on a CPU"),
    ],
)
def test_a_wrong_setting_is_named(construct, named):
    with pytest.raises(UsageError, match=named):
        construct()


@pytest.mark.parametrize("channel", [IpcChannel(), NcclChannel()])
def test_a_gpu_is_what_they_are_for(channel):
    channel.check_device("cuda")


class Weights:
    """The weights of the only rank, which is in this process."""

    rank = 0

    def __init__(self):
        self.tensors, self.sender, self.num_opened = {}, None, 0

    def describe(self):
        return [TensorInfo(name=name, dtype=t.dtype, shape=tuple(t.shape)) for name, t in self.tensors.items()]

    def named_tensors(self):
        yield from self.tensors.items()

    def send(self, spec, call_all):
        if spec is not None:
            self.num_opened += 1
            self.sender = spec.open(self, lambda method, argument: call_all(method, argument, lambda: None))
        return self.sender.send_weights()


class Process:
    """Takes vLLM's messages as the rollout process does; ``told`` is what it was called with."""

    device = "cuda"

    def __init__(self, rebuild=None, num_devices=1):
        self.rebuild, self.num_devices, self.received, self.told = rebuild, num_devices, {}, []
        self.busy, self.error = False, None

    def begin(self, method, /, **arguments):
        assert method == "transfer" and not self.busy
        self.busy = True
        self.told.append((arguments["method"], arguments["argument"]))

    def is_ready(self):
        return self.error is None or isinstance(self.error, Exception)

    def finish(self):
        self.busy = False
        if self.error is not None:
            raise self.error
        method, argument = self.told[-1]
        if method == "update_weights":
            self.update_weights(argument["update_info"])

    def update_weights(self, info):
        start, buffer = 0, self.rebuild(*info["ipc_handles"]["GPU-0"])
        parts = zip(info["names"], info["dtype_names"], info["shapes"], info["tensor_sizes"], strict=True)
        for name, dtype, shape, size in parts:
            data = buffer[start : start + size].clone()
            self.received[name] = data.view(getattr(torch, dtype)).reshape(shape)
            start += size


@pytest.fixture
def fake_gpu(monkeypatch, tmp_path):
    pytest.importorskip("vllm")
    monkeypatch.syspath_prepend(SUPPORT)
    import fake_gpu

    monkeypatch.setenv(fake_gpu.FOLDER, str(tmp_path))
    fake_gpu.install("GPU-0", monkeypatch.setattr)
    return fake_gpu


def test_a_tensor_larger_than_the_buffer_arrives_in_every_process(fake_gpu):
    """Every Qwen3's embedding is larger than the 256 MiB of the default."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"norm.weight": (7,), "embed_tokens.weight": (3000, 200), "q.weight": (40, 40), "k.weight": (500, 500)}
    weights, channel = Weights(), IpcChannel(buffer_bytes=1 << 20)
    weights.tensors = {
        name: torch.randn(size, generator=generator, dtype=torch.bfloat16) for name, size in sizes.items()
    }
    one, other, third = (Process(fake_gpu.rebuild_cuda_tensor) for _ in range(3))
    for processes in ([one, other], [one, other], [third], [one, third]):
        weights.tensors = {name: tensor + 1 for name, tensor in weights.tensors.items()}
        metrics = channel.send(weights, processes)
        assert all(value >= 0 for value in metrics.values())
        for process in processes:
            assert process.received.keys() == weights.tensors.keys()
            assert all(torch.equal(process.received[name], tensor) for name, tensor in weights.tensors.items())
    assert weights.num_opened == 3, "they meet again only where the processes are others"
    channel.reopen()
    channel.send(weights, [one, third])
    assert weights.num_opened == 4, "or the ranks have been started again"
    assert len([1 for method, _ in one.told if method == "update_weights"]) > 6, "more than one chunk a sync"


class Asking:
    """Weights whose ranks ask for one call."""

    def __init__(self, method, argument):
        self.request = method, argument

    def describe(self):
        return [TensorInfo(name="a", dtype=torch.float32, shape=(2,))]

    def send(self, spec, call_all):
        self.spec = spec
        call_all(*self.request, lambda: None)
        return SimpleNamespace(metrics=dict)


def test_every_gpu_has_its_own_rank_in_the_nccl_group():
    """vLLM counts its ranks from the offset that it is given, each process from the same unless told otherwise."""
    processes = [Process(num_devices=2), Process(num_devices=2), Process(num_devices=1)]
    weights = Asking("init_weight_transfer_engine", {"init_info": {"rank_offset": 1, "world_size": 6}})
    NcclChannel().send(weights, processes)
    assert weights.spec.settings["world_size"] == 6
    assert [process.told[0][1]["init_info"]["rank_offset"] for process in processes] == [1, 3, 5]


def test_a_broadcast_ends_with_a_process_that_fails_though_one_before_it_waits_for_ever():
    """In a collective the first never comes back when the second has failed; nor does it where a rank has."""
    hanging, failing = Process(), Process()
    hanging.error, failing.error = "never ready", RuntimeError("vLLM failed in transfer")
    with pytest.raises(RunStopped, match=r"weight_sync=nccl: .* \(vLLM failed in transfer\).* can be resumed"):
        NcclChannel().send(Asking("start_weight_update", None), [hanging, failing])

    class RankLost(Asking):
        def send(self, spec, call_all):
            def meanwhile():
                raise RuntimeError("learner rank 1 died")

            call_all(*self.request, meanwhile)

    for channel in (NcclChannel(), IpcChannel()):
        hanging.busy = False
        with pytest.raises(RuntimeError, match="learner rank 1 died"):
            channel.send(RankLost("start_weight_update", None), [hanging])


def test_ipc_goes_on_with_the_others_and_then_raises_so_that_all_can_send_again(fake_gpu):
    weights, channel = Weights(), IpcChannel(buffer_bytes=1 << 20)
    weights.tensors = {"a": torch.arange(400_000.0), "b": torch.arange(300_000.0)}
    one, lost = (Process(fake_gpu.rebuild_cuda_tensor) for _ in range(2))
    lost.error = RuntimeError("rollout worker 1 died")
    with pytest.raises(RuntimeError, match="rollout worker 1 died"):
        channel.send(weights, [one, lost])
    assert [method for method, _ in lost.told] == ["init_weight_transfer_engine"], "it gets no further calls"
    assert torch.equal(one.received["b"], weights.tensors["b"])
    new = Process(fake_gpu.rebuild_cuda_tensor)
    channel.send(weights, [one, new])
    assert weights.num_opened == 2
    assert torch.equal(new.received["a"], weights.tensors["a"])
