"""CUDA calls for a machine without a GPU, so that vLLM's own weight transfer engines run there as they are.

What is replaced does what the real call does, as far as these engines see it: the memory of a "GPU" is a file that
every process can map, a handle is its name, and the communicator sends through vLLM's own ``StatelessProcessGroup``.
Nothing here shows that CUDA IPC or NCCL themselves work.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import nullcontext
from types import SimpleNamespace

FOLDER = "FAKE_GPU_FOLDER"
"""Environment variable: where the memory of the GPUs lies."""


def rebuild_cuda_tensor(name, size, *rest):
    import torch

    return torch.from_file(name, shared=True, size=size, dtype=torch.uint8)


def reduce_tensor(tensor):
    # The real handle has the number of the device at index 6; the receiver puts its own there.
    return rebuild_cuda_tensor, (tensor.gpu_memory, tensor.numel(), None, None, None, None, 0)


def install(uuid, patch=setattr, *, holds_weights=False):
    """Give this process the GPU ``uuid``. ``holds_weights``: the tensors that it sends are on that GPU."""
    import torch
    from torch.multiprocessing import reductions
    from vllm.distributed.device_communicators import pynccl
    from vllm.distributed.weight_transfer import ipc_engine, packed_tensor

    real_empty = torch.empty
    stream = SimpleNamespace(synchronize=lambda: None, cuda_stream=0)

    def empty(*size, device=None, **rest):
        """Memory on the GPU, for the buffers of the transfer."""
        if device is None or torch.device(device).type != "cuda":
            return real_empty(*size, device=device, **rest)
        (num_bytes,) = size
        with tempfile.NamedTemporaryFile(dir=os.environ[FOLDER], delete=False) as file:
            file.truncate(num_bytes)
        tensor = rebuild_cuda_tensor(file.name, num_bytes)
        tensor.gpu_memory = file.name
        return tensor

    patch(torch, "empty", empty)
    patch(reductions, "reduce_tensor", reduce_tensor)
    patch(reductions, "rebuild_cuda_tensor", rebuild_cuda_tensor)
    patch(torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=uuid))
    patch(torch.cuda, "current_stream", lambda *arguments: stream)
    patch(torch.cuda, "stream", lambda *arguments: nullcontext())
    patch(torch.cuda, "synchronize", lambda *arguments: None)
    patch(torch.cuda, "ipc_collect", lambda: None)
    patch(torch.accelerator, "synchronize", lambda *arguments: None)
    patch(torch.accelerator, "current_device_index", lambda: 0)

    patch(packed_tensor, "_get_streams", lambda device, count: (stream,) * count)
    for module in (ipc_engine, packed_tensor):
        patch(module, "reduce_tensor", reduce_tensor)

    class Communicator:
        """``PyNcclCommunicator`` for broadcasts, with its demand that a tensor be on the communicator's device."""

        def __init__(self, group, device):
            self.group, self.rank, self.device = group, group.rank, torch.device("cuda", device)

        def broadcast(self, tensor, src, stream=None):
            if self.rank == src:
                where = self.device if holds_weights else tensor.device
                assert where == self.device, f"created to work on {self.device}, but the input tensor is on {where}"
                self.group.broadcast_obj(bytes(tensor.numpy()), src)
            else:
                tensor.copy_(torch.frombuffer(bytearray(self.group.broadcast_obj(None, src)), dtype=torch.uint8))

        def destroy(self):
            self.group = None

    patch(pynccl, "PyNcclCommunicator", Communicator)


def make_rank(make_worker):
    """Builds a rank's worker, in a process that has the GPU of its number."""
    install(f"GPU-{os.environ['LOCAL_RANK']}", holds_weights=True)
    return make_worker()
