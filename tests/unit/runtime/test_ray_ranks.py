"""What ranks on several machines are told of each other; ranks that run are in tests/integration/test_ray_actors.py."""

from __future__ import annotations

import pytest

pytest.importorskip("ray")

from insight_rl.runtime.ray_actors import Whereabouts
from insight_rl.runtime.ray_ranks import rank_environments


def where(node):
    return Whereabouts(node=node, address=f"10.0.0.{ord(node)}", pid=1)


def test_ranks_meet_at_the_first_and_know_their_place_on_their_machine():
    def visible_gpus(ranks):
        return {"CUDA_VISIBLE_DEVICES": ",".join(f"gpu-of-{rank}" for rank in ranks)}

    found = rank_environments([where("b"), where("a"), where("b")], port=4711, visible_gpus=visible_gpus)
    assert {each["MASTER_ADDR"] for each in found} == {"10.0.0.98"}
    assert {each["MASTER_PORT"] for each in found} == {"4711"} and {each["WORLD_SIZE"] for each in found} == {"3"}
    assert [each["RANK"] for each in found] == ["0", "1", "2"]
    assert [each["LOCAL_RANK"] for each in found] == ["0", "0", "1"]
    assert [each["LOCAL_WORLD_SIZE"] for each in found] == ["2", "1", "2"]
    # LOCAL_RANK is the number of the rank's GPU among those that its process sees.
    assert [each["CUDA_VISIBLE_DEVICES"] for each in found] == ["gpu-of-0,gpu-of-2", "gpu-of-1", "gpu-of-0,gpu-of-2"]
