"""Which GPUs ranks and workers get: nobody shares who must not, and what cannot work is refused with a way out."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from insight_rl.build import place_engines
from insight_rl.config import compose_config, parse_config
from insight_rl.errors import UsageError
from insight_rl.placement import PLACEMENTS, Placement, place, visible_devices
from insight_rl.run import build_parts


def gpus(*numbers):
    return tuple(f"cuda:{number}" for number in numbers)


@pytest.mark.parametrize(
    ("num_gpus", "num_ranks", "num_workers", "tensor_parallel_size", "placement", "workers"),
    [
        (1, 1, 1, 1, "colocated", [(0,)]),
        (8, 8, 1, 1, "colocated", [(0,)]),
        (8, 8, 8, 1, "colocated", [(0,), (1,), (2,), (3,), (4,), (5,), (6,), (7,)]),
        (8, 8, 2, 2, "colocated", [(0, 1), (4, 5)]),
        (8, 8, 3, 2, "colocated", [(0, 1), (2, 3), (4, 5)]),
        (8, 8, 1, 8, "colocated", [(0, 1, 2, 3, 4, 5, 6, 7)]),
        (8, 4, 2, 2, "separate", [(4, 5), (6, 7)]),
        (8, 6, 2, 1, "separate", [(6,), (7,)]),
        (2, 1, 1, 1, "separate", [(1,)]),
        (8, 0, 4, 2, "colocated", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        (8, 0, 1, 1, "separate", [(0,)]),
    ],
)
def test_layouts(num_gpus, num_ranks, num_workers, tensor_parallel_size, placement, workers):
    assert place(
        num_gpus=num_gpus,
        num_ranks=num_ranks,
        num_workers=num_workers,
        tensor_parallel_size=tensor_parallel_size,
        placement=placement,
    ) == Placement(ranks=gpus(*range(num_ranks)), workers=tuple(gpus(*numbers) for numbers in workers))


COUNTS = st.fixed_dictionaries(
    {
        "num_gpus": st.integers(0, 16),
        "num_ranks": st.integers(0, 16),
        "num_workers": st.integers(1, 16),
        "tensor_parallel_size": st.sampled_from([1, 2, 4, 8]),
        "placement": st.sampled_from(PLACEMENTS),
    }
)


@given(COUNTS)
def test_either_it_fits_or_the_settings_named_as_the_remedy_do(counts):
    try:
        placed = place(**counts)
    except UsageError as error:
        check_refusal(counts, str(error))
    else:
        check_placement(counts, placed)


def check_placement(counts, placed):
    num_gpus, size = counts["num_gpus"], counts["tensor_parallel_size"]
    assert len(placed.ranks) == counts["num_ranks"] and len(placed.workers) == counts["num_workers"]
    assert all(len(devices) == size for devices in placed.workers)
    of_workers = [device for devices in placed.workers for device in devices]
    if num_gpus == 0:
        assert {*placed.ranks, *of_workers} == {"cpu"}
        return
    assert placed.ranks == gpus(*range(len(placed.ranks))), "rank r finds its GPU by LOCAL_RANK"
    assert len(set(of_workers)) == len(of_workers), "no GPU has two workers"
    assert {*placed.ranks, *of_workers} <= set(gpus(*range(num_gpus)))
    if counts["num_ranks"] == 0:
        return
    if counts["placement"] == "separate":
        assert not set(of_workers) & set(placed.ranks)
    else:
        assert set(of_workers) <= set(placed.ranks)
    if counts["placement"] == "colocated" and counts["num_workers"] * size == counts["num_ranks"]:
        assert set(of_workers) == set(placed.ranks), "no GPU is idle while workers sample"


def check_refusal(counts, message):
    used, available = counts["num_workers"] * counts["tensor_parallel_size"], counts["num_gpus"]
    num_free = available - counts["num_ranks"] if counts["placement"] == "separate" else counts["num_ranks"]
    assert counts["num_ranks"] > available or used > (num_free if counts["num_ranks"] else available)
    reason, _, remedies = message.partition("; take ")
    assert re.match(r"(learner\.num_ranks|rollout\.num_workers)=\d+", reason)
    for remedy in remedies.split(" or "):
        settings = dict(re.findall(r"(?:learner|rollout)\.(\w+)=(\w+)", remedy))
        changed = counts | {key: value if key == "placement" else int(value) for key, value in settings.items()}
        # A learner that is too large is named first; the workers may have to change then too.
        if settings and counts["num_ranks"] <= available:
            place(**changed)


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"num_ranks": 4, "num_gpus": 2}, ["learner.num_ranks=4", "there are 2 GPUs", "learner.num_ranks=2"]),
        (
            {"num_workers": 2},
            ["rollout.num_workers=2", "they need 2 GPUs", "the learner has 1 GPU", "learner.num_ranks=2"],
        ),
        ({"num_workers": 2}, ["rollout.placement=separate", "rollout.num_workers=1"]),
        (
            {"placement": "separate", "num_ranks": 8},
            ["rollout.placement=separate", "the learner's 8 ranks leave 0 of 8 GPUs", "learner.num_ranks=7"],
        ),
        ({"tensor_parallel_size": 16, "num_ranks": 8}, ["they need 16 GPUs", "rollout.tensor_parallel_size=8"]),
    ],
)
def test_a_refusal_names_what_there_is_and_a_way_out(changes, parts):
    settings = {"num_gpus": 8, "num_ranks": 1, "num_workers": 1, "tensor_parallel_size": 1, "placement": "colocated"}
    with pytest.raises(UsageError) as error:
        place(**settings | changes)
    for part in parts:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("devices", "variable", "seen"),
    [
        (gpus(1, 0), None, "1,0"),
        (gpus(1, 2), "3,5,7", "5,7"),
        (gpus(0), "GPU-aaaa, GPU-bbbb", "GPU-aaaa"),
        (gpus(2), "", "2"),
    ],
)
def test_a_worker_sees_its_own_gpus_among_those_that_the_user_has_left(devices, variable, seen):
    environ = {} if variable is None else {"CUDA_VISIBLE_DEVICES": variable}
    assert visible_devices(devices, environ) == {"CUDA_VISIBLE_DEVICES": seen}


def test_without_gpus_the_environment_stays():
    assert visible_devices(("cpu",), {"CUDA_VISIBLE_DEVICES": "1"}) == visible_devices((), {}) == {}


def test_an_engine_without_workers_stays_in_the_trainers_process_and_needs_no_more_gpus_than_the_ranks(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert place_engines(SimpleNamespace(), 2).ranks == gpus(0, 1)
    workers = SimpleNamespace(num_workers=2, tensor_parallel_size=1, placement="colocated")
    assert place_engines(workers, 2).workers == (gpus(0), gpus(1))
    with pytest.raises(UsageError, match=r"rollout\.num_workers=2"):
        place_engines(workers, 1)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["rollout=transformers", "learner.num_ranks=2"], r"learner\.num_ranks=2"),
        (["rollout=vllm", "rollout.num_workers=2"], r"rollout\.num_workers=2"),
        (["rollout=vllm", "rollout.placement=separate"], r"rollout\.placement=separate"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_before_a_model_loads(overrides, named, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", None)
    config = parse_config(compose_config(["experiment=quickstart", *overrides]))
    with pytest.raises(UsageError, match=named):
        build_parts(config)
