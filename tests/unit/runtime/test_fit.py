"""What cannot work away from this machine, or only there, is refused in one line."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from insight_rl.errors import UsageError
from insight_rl.rollout.transformers import TransformersEngine
from insight_rl.rollout.transformers_workers import TransformersWorkers
from insight_rl.runtime.fit import check_fit
from insight_rl.weight_sync.adapter import AdapterChannel
from insight_rl.weight_sync.auto import AutoChannel
from insight_rl.weight_sync.object_store import ObjectStoreChannel
from insight_rl.weight_sync.shared_memory import SharedMemoryChannel

HERE, ELSEWHERE = SimpleNamespace(is_here=True), SimpleNamespace(is_here=False)


def test_what_fits_is_let_through():
    check_fit(HERE, TransformersEngine(), AutoChannel())
    check_fit(HERE, TransformersWorkers(), SharedMemoryChannel())
    check_fit(ELSEWHERE, TransformersWorkers(), AutoChannel())
    check_fit(ELSEWHERE, TransformersWorkers(), ObjectStoreChannel())


@pytest.mark.parametrize(
    ("runtime", "engine", "channel", "message"),
    [
        (ELSEWHERE, TransformersEngine, AutoChannel, "runtime='ray': this rollout engine samples in the trainer's"),
        (ELSEWHERE, TransformersWorkers, SharedMemoryChannel, "weight_sync='shared_memory': is for one machine"),
        (ELSEWHERE, TransformersWorkers, AdapterChannel, "weight_sync='adapter': is for one machine"),
        (HERE, TransformersWorkers, ObjectStoreChannel, "weight_sync='object_store': needs runtime=ray"),
    ],
)
def test_what_does_not_fit_is_named(runtime, engine, channel, message):
    with pytest.raises(UsageError, match=message):
        check_fit(runtime, engine(), channel())
