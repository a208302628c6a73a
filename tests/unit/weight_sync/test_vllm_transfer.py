"""The channels over vLLM's own transfer API: what can be checked without a CUDA device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from insight_rl.errors import UsageError
from insight_rl.weight_sync.vllm_transfer import IpcChannel, NcclChannel


@pytest.mark.parametrize(
    ("construct", "named"),
    [
        (lambda: IpcChannel(buffer_bytes=10), "buffer_bytes=10"),
        (lambda: IpcChannel().check_device("cpu"), "weight_sync='ipc': vLLM runs on a CPU"),
        (lambda: NcclChannel().check_device("cpu"), "weight_sync='nccl': vLLM runs on a CPU"),
        (lambda: NcclChannel(num_workers=0), "num_workers=0"),
        (lambda: NcclChannel(num_workers=1, port=80), "port=80"),
    ],
)
def test_a_wrong_setting_is_named(construct, named):
    with pytest.raises(UsageError, match=named):
        construct()


@pytest.mark.parametrize("channel", [IpcChannel(), NcclChannel()])
def test_a_gpu_is_what_they_are_for(channel):
    channel.check_device("cuda")


class Weights:
    def __init__(self, tensors):
        self.tensors = tensors

    def named_tensors(self):
        yield from self.tensors.items()


class ReceivingProcess:
    """Takes vLLM's messages as the rollout process does, and reads each chunk out of the sender's buffer."""

    device = "cuda"

    def __init__(self, buffers):
        self.buffers, self.received, self.num_chunks, self.open = buffers, {}, 0, False

    def call(self, method, /, **arguments):
        assert method == "transfer"
        getattr(self, arguments["method"])(arguments["argument"])

    def init_weight_transfer_engine(self, argument):
        assert argument == {"init_info": {"packed": True}}

    def start_weight_update(self, argument):
        self.open = True

    def update_weights(self, argument):
        info, start = argument["update_info"], 0
        buffer = self.buffers[-1]
        self.num_chunks += 1
        parts = zip(info["names"], info["dtype_names"], info["shapes"], info["tensor_sizes"], strict=True)
        for name, dtype, shape, size in parts:
            data = buffer[start : start + size].clone()
            self.received[name] = data.view(getattr(torch, dtype)).reshape(shape)
            start += size

    def finish_weight_update(self, argument):
        self.open = False


@pytest.fixture
def without_gpu(monkeypatch):
    """vLLM's own sender with nothing replaced but the calls to CUDA; returns the buffers that it shares."""
    pytest.importorskip("vllm")
    from vllm.distributed.weight_transfer import ipc_engine, packed_tensor

    buffers, empty = [], torch.empty
    monkeypatch.setattr(torch, "empty", lambda *size, device=None, **rest: empty(*size, **rest))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(synchronize=lambda: None))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid="GPU-0"))
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    monkeypatch.setattr(torch.accelerator, "current_device_index", lambda: 0)

    def reduce_tensor(tensor):
        buffers.append(tensor)
        return None, (len(buffers),)

    for module in (ipc_engine, packed_tensor):
        monkeypatch.setattr(module, "reduce_tensor", reduce_tensor)
    return buffers


def test_a_tensor_larger_than_the_buffer_arrives(without_gpu):
    """Every Qwen3's embedding is larger than the 256 MiB of the default."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"norm.weight": (7,), "embed_tokens.weight": (3000, 200), "q.weight": (40, 40), "k.weight": (500, 500)}
    weights = {name: torch.randn(size, generator=generator, dtype=torch.bfloat16) for name, size in sizes.items()}
    process, channel = ReceivingProcess(without_gpu), IpcChannel(buffer_bytes=1 << 20)
    for _ in range(2):
        weights = {name: tensor + 1 for name, tensor in weights.items()}
        channel.send(Weights(weights), [process])
        assert not process.open
        assert process.received.keys() == weights.keys()
        assert all(torch.equal(process.received[name], tensor) for name, tensor in weights.items())
    assert process.num_chunks > 2, "the case should take more than one chunk a sync"
