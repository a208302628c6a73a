"""Cutting weights into the objects that go to the store; whole runs with it: tests/integration/test_ray_run.py."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from insight_rl.errors import UsageError
from insight_rl.weight_sync.checksum import checksum
from insight_rl.weight_sync.object_store import ObjectStoreChannel, into_shards


def test_shards_hold_every_tensor_once_and_a_copy_of_it():
    buffer = torch.zeros(4)

    def tensors():
        """As a gather has it: each is valid only until the next."""
        for number in range(5):
            yield f"w{number}", buffer.fill_(number)
        yield "large", torch.ones(100)

    shards = list(into_shards(tensors(), 32))
    assert [sorted(shard) for shard in shards] == [["w0", "w1"], ["w2", "w3"], ["w4"], ["large"]]
    assert all(shard[name].eq(int(name[1])).all() for shard in shards[:3] for name in shard)
    assert list(into_shards(iter(()), 32)) == []


def test_a_checksum_sees_every_bit_and_no_order():
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor([[1, 2]])}
    assert checksum(one.items()) == checksum(reversed(one.items()))
    for other in (
        one | {"a": torch.tensor([1.0, 2.0000002])},
        one | {"a": torch.tensor([[1.0, 2.0]])},
        one | {"b": torch.tensor([[1, 2]], dtype=torch.int32)},
        {"a": one["a"], "c": one["b"]},
    ):
        assert checksum(other.items()) != checksum(one.items())


def test_without_a_cluster_it_is_refused_before_anything_is_sent():
    with pytest.raises(UsageError, match=r"weight_sync='object_store'.*runtime=ray"):
        ObjectStoreChannel().send(None, [SimpleNamespace(is_here=True)])
