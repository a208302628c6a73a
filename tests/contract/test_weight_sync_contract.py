"""What every weight channel of conf/weight_sync promises.

Those that need a GPU are held here to what can be seen without one: their settings, and vLLM's interface as installed.
"""

from __future__ import annotations

import dataclasses
import inspect
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from insight_rl.errors import UsageError
from insight_rl.paths import conf_dir
from insight_rl.placement import PLACEMENTS
from insight_rl.weight_sync.base import SyncSeconds, TensorInfo
from insight_rl.weight_sync.vllm_transfer import ControlClient, IpcChannel, NcclChannel, as_vllm_source

OPTIONS = sorted(file.stem for file in (conf_dir() / "weight_sync").glob("*.yaml"))
NEED_A_GPU = {"ipc", "nccl"}
NEED_A_CLUSTER = {"object_store"}
"""Whole runs with it: tests/integration/test_ray_run.py."""


class Weights:
    """Two tensors, which change with ``value``."""

    def __init__(self, value):
        self.tensors = {"a.weight": torch.full((3, 2), value), "b.weight": torch.full((5,), -value)}
        self.saved_in = None

    def describe(self):
        return [TensorInfo(name=name, dtype=t.dtype, shape=tuple(t.shape)) for name, t in self.tensors.items()]

    def named_tensors(self):
        yield from self.tensors.items()

    def save(self, folder):
        from safetensors.torch import save_file

        self.saved_in = folder
        save_file(self.tensors, folder / "model.safetensors")
        return SyncSeconds()

    # To a channel an adapter is tensors as well.
    describe_adapter = describe
    save_adapter = save


class Process:
    """Loads what it is sent at once, as the rollout process does while ``finish`` waits."""

    device, is_here = "cpu", True

    def __init__(self):
        self.loaded = None
        self.files = []

    def begin(self, method, /, **arguments):
        self.call(method, **arguments)

    def finish(self):
        """``begin`` has waited."""

    def call(self, method, /, **arguments):
        from safetensors.torch import load_file

        assert method in ("reload", "load_adapter")
        self.files = sorted(Path(arguments["folder"]).glob("*.safetensors"))
        self.loaded = {name: tensor.clone() for file in self.files for name, tensor in load_file(file).items()}


def names_its_side_in_vllm(channel):
    if channel.vllm_backend is not None:
        factory = pytest.importorskip("vllm.distributed.weight_transfer.factory")
        assert channel.vllm_backend in factory.WeightTransferTrainerFactory._registry


def says_at_once_for_which_devices_it_is(channel):
    """Before an engine is started for nothing. A GPU is not refused by any; a CPU by those that need one, in words."""
    channel.check_device("cuda")
    try:
        channel.check_device("cpu")
    except UsageError as error:
        assert "weight_sync" in str(error)
        with pytest.raises(UsageError):
            channel.check_device("cpu")


def says_at_once_for_which_placements_it_is(channel):
    """No placement is refused without a word, and at least one is good."""
    refused = []
    for placement in PLACEMENTS:
        try:
            channel.check_placement(placement)
        except UsageError as error:
            refused.append(placement)
            assert f"rollout.placement={placement}" in str(error)
    assert set(refused) < set(PLACEMENTS)


def replaces_the_weights_before_it_returns(channel):
    """In every process; and they may be others than before, as one that has died is replaced."""
    first, second, third = Process(), Process(), Process()
    for value, processes in ((1.0, [first, second]), (2.0, [first, third]), (2.0, [second])):
        weights = Weights(value)
        metrics = channel.send(weights, processes)
        assert all(isinstance(key, str) for key in metrics)
        for process in processes:
            assert process.loaded.keys() == weights.tensors.keys()
            assert all(torch.equal(process.loaded[name], tensor) for name, tensor in weights.named_tensors())


def leaves_nothing_behind(channel):
    process = Process()
    weights = Weights(1.0)
    channel.send(weights, [process])
    assert process.files and not any(file.exists() for file in process.files)
    assert not weights.saved_in.exists()


def leaves_nothing_behind_when_loading_fails(channel):
    weights, process = Weights(1.0), Process()

    def fail(method, /, **arguments):
        raise RuntimeError("vLLM says no")

    process.call = fail
    with pytest.raises(RuntimeError, match="vLLM says no"):
        channel.send(weights, [process])
    assert not weights.saved_in.exists()


ANYWHERE = (
    names_its_side_in_vllm,
    says_at_once_for_which_devices_it_is,
    says_at_once_for_which_placements_it_is,
)
ON_A_CPU = (replaces_the_weights_before_it_returns, leaves_nothing_behind, leaves_nothing_behind_when_loading_fails)


@pytest.mark.parametrize(
    ("option", "promise"),
    [
        (option, promise)
        for option in OPTIONS
        for promise in (*ANYWHERE, *(() if option in NEED_A_GPU | NEED_A_CLUSTER else ON_A_CPU))
    ],
)
def test_a_weight_channel(option, promise, build_option):
    promise(build_option(f"weight_sync={option}"))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_channel_is_refused_on_a_cpu_if_and_only_if_it_needs_a_gpu(option, build_option):
    channel = build_option(f"weight_sync={option}")
    if option in NEED_A_GPU:
        with pytest.raises(UsageError, match=f"weight_sync=.{option}"):
            channel.check_device("cpu")
    else:
        channel.check_device("cpu")


@pytest.mark.parametrize(
    ("option", "placement", "backend"),
    [
        ("auto", "colocated", "ipc"),
        ("auto", "separate", "nccl"),
        ("ipc", "colocated", "ipc"),
        ("nccl", "separate", "nccl"),
        ("shared_memory", "separate", None),
    ],
)
def test_what_vllm_is_told_fits_the_placement(option, placement, backend, build_option):
    channel = build_option(f"weight_sync={option}")
    channel.check_placement(placement)
    assert channel.vllm_backend == backend


@pytest.mark.parametrize(("option", "placement"), [("ipc", "separate"), ("nccl", "colocated")])
def test_a_placement_that_cannot_work_is_refused(option, placement, build_option):
    with pytest.raises(UsageError, match=rf"weight_sync='{option}': with rollout\.placement={placement}"):
        build_option(f"weight_sync={option}").check_placement(placement)


BROKEN = {
    says_at_once_for_which_placements_it_is: "class Bad:\n    vllm_backend = None",
    says_at_once_for_which_devices_it_is: "class Bad:\n    vllm_backend = None",
    names_its_side_in_vllm: 'class Bad:\n    vllm_backend = "pigeon"',
    replaces_the_weights_before_it_returns: "class Bad:\n    def send(self, weights, processes): return {}",
    leaves_nothing_behind: (
        "import pathlib, tempfile\n"
        "class Bad:\n    def send(self, weights, processes):\n        folder = tempfile.mkdtemp()\n"
        "        weights.save(pathlib.Path(folder))\n        processes[0].call('reload', folder=folder)"
    ),
    leaves_nothing_behind_when_loading_fails: (
        "import pathlib, shutil, tempfile\n"
        "class Bad:\n    def send(self, weights, processes):\n        folder = tempfile.mkdtemp()\n"
        "        weights.save(pathlib.Path(folder))\n        processes[0].call('reload', folder=folder)\n"
        "        shutil.rmtree(folder)"
    ),
}


@pytest.mark.parametrize("promise", [*ANYWHERE, *ON_A_CPU])
def test_a_weight_channel_that_breaks_a_promise_is_found(promise, own_option, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises((AssertionError, AttributeError)):
        promise(own_option("weight_sync", BROKEN[promise]))


def test_every_channel_that_needs_a_gpu_is_an_option():
    assert set(OPTIONS) >= NEED_A_GPU


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (("weight_sync=ipc", "weight_sync.buffer_bytes=10"), r"weight_sync\.buffer_bytes=10"),
        (("weight_sync=nccl", "weight_sync.buffer_bytes=10"), r"weight_sync\.buffer_bytes=10"),
        (("weight_sync=shared_memory", "weight_sync.folder=/no/such"), r"weight_sync\.folder='/no/such'"),
        (("weight_sync=shared_memory", "+weight_sync.port=1"), r"weight_sync\.port=1"),
    ],
)
def test_a_wrong_setting_is_named(overrides, named, build_option):
    with pytest.raises(UsageError, match=named):
        build_option(*overrides)


@pytest.mark.slow  # importing vLLM takes ten seconds
@pytest.mark.xdist_group("vllm")
@pytest.mark.skipif(find_spec("vllm") is None, reason="needs vLLM")
class TestVllmAsInstalled:
    """The interface that the two GPU channels were written against is that of the vLLM at hand."""

    @pytest.mark.parametrize(
        ("channel", "module", "name", "ours"),
        [
            (IpcChannel, "ipc_engine", "IPCTrainerInitInfo", "rank packed packed_buffer_size_bytes"),
            (NcclChannel, "nccl_engine", "NCCLTrainerInitInfo", "rank master_address master_port world_size"),
        ],
    )
    def test_the_settings_of_a_sender(self, channel, module, name, ours):
        import importlib

        info = getattr(importlib.import_module(f"vllm.distributed.weight_transfer.{module}"), name)
        fields = dataclasses.fields(info)
        required = {field.name for field in fields if field.default is field.default_factory is dataclasses.MISSING}
        assert required <= set(ours.split()) <= {field.name for field in fields}
        assert info.backend == channel.vllm_backend

    def test_the_way_a_sender_is_opened(self):
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        signature = inspect.signature(WeightTransferTrainerFactory.trainer_init)
        signature.bind(object(), client=object(), source=object())

    def test_what_is_called_on_a_sender(self):
        from vllm.distributed.weight_transfer.base import TrainerWeightTransferEngine

        inspect.signature(TrainerWeightTransferEngine.send_weights).bind(object())
        assert "source" in inspect.signature(TrainerWeightTransferEngine.__init__).parameters

    def test_our_client_has_every_method_of_theirs(self):
        from vllm.distributed.weight_transfer.base import VLLMWeightSyncClient

        for name, method in inspect.getmembers(VLLMWeightSyncClient, inspect.isfunction):
            if not name.startswith("_"):
                theirs, ours = (inspect.signature(each).parameters for each in (method, getattr(ControlClient, name)))
                assert ours.keys() == theirs.keys(), name

    def test_our_source_is_one_of_theirs(self):
        from vllm.distributed.weight_transfer.base import WeightSource

        source = as_vllm_source(Weights(1.0))
        assert isinstance(source, WeightSource)
        described = [(each.name, each.dtype, each.shape) for each in source.metadata()]
        for _ in range(2):  # each round is a fresh pass
            assert [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in source] == described
