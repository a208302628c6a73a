"""Every rank and worker is in exactly one bundle, and what shares a GPU shares a bundle."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.placement import PLACEMENTS, place
from insight_rl.runtime.ray_bundles import Bundle, bundles_of


def placed(num_gpus, num_ranks, num_workers, size, placement):
    return place(
        num_gpus=num_gpus,
        num_ranks=num_ranks,
        num_workers=num_workers,
        tensor_parallel_size=size,
        placement=placement,
    )


def test_a_worker_over_two_gpus_is_one_bundle_with_their_ranks():
    assert bundles_of(placed(4, 4, 1, 2, "colocated")) == [
        Bundle(devices=("cuda:0", "cuda:1"), ranks=(0, 1), workers=(0,)),
        Bundle(devices=("cuda:2",), ranks=(2,), workers=()),
        Bundle(devices=("cuda:3",), ranks=(3,), workers=()),
    ]
    assert bundles_of(placed(3, 1, 1, 2, "separate")) == [
        Bundle(devices=("cuda:0",), ranks=(0,), workers=()),
        Bundle(devices=("cuda:1", "cuda:2"), ranks=(), workers=(0,)),
    ]
    first = bundles_of(placed(4, 4, 1, 2, "colocated"))[0]
    assert first.resources(cpus_per_process=2) == {"CPU": 6, "GPU": 2}


def test_without_gpus_every_process_is_a_bundle():
    bundles = bundles_of(placed(0, 2, 1, 1, "colocated"))
    assert [(bundle.ranks, bundle.workers) for bundle in bundles] == [((0,), ()), ((1,), ()), ((), (0,))]
    assert all(bundle.resources(cpus_per_process=1) == {"CPU": 1} for bundle in bundles)


@given(st.integers(0, 9), st.integers(1, 6), st.integers(1, 4), st.integers(1, 3), st.sampled_from(PLACEMENTS))
def test_nothing_is_left_out_or_reserved_twice(num_gpus, num_ranks, num_workers, size, placement):
    try:
        placement_ = placed(num_gpus, num_ranks, num_workers, size, placement)
    except UsageError:
        return
    bundles = bundles_of(placement_)
    assert sorted(rank for bundle in bundles for rank in bundle.ranks) == list(range(num_ranks))
    assert sorted(number for bundle in bundles for number in bundle.workers) == list(range(num_workers))
    devices = [device for bundle in bundles for device in bundle.devices]
    assert len(devices) == len(set(devices)) == placement_.num_gpus
    for bundle in bundles:
        if num_gpus:
            assert {placement_.ranks[rank] for rank in bundle.ranks} <= set(bundle.devices)
            assert all(placement_.workers[number] == bundle.devices for number in bundle.workers)
