"""The channels over vLLM's own transfer API: what can be checked without a CUDA device."""

from __future__ import annotations

import pytest

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
