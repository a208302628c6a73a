"""The small version of ``scripts/check_ray.py``: a run over two Ray nodes decides as one of local processes."""

from __future__ import annotations

import importlib

import pytest

from insight_rl.paths import conf_dir

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def check_ray(monkeypatch):
    monkeypatch.syspath_prepend(conf_dir().parent / "scripts")
    return importlib.import_module("check_ray")


def test_a_run_over_two_nodes_selects_and_learns_what_a_local_one_does(check_ray, tmp_path):
    with check_ray.two_nodes() as address:
        result = check_ray.compare(tmp_path, address, ["trainer.num_steps=2", "rollout.num_workers=1"])
    assert result.num_steps == 2 and result.same_selections
    assert max(result.largest_gap.values()) <= 1e-4
    assert len(result.checksums) == 2 and all(len(of_sync) == 2 for of_sync in result.checksums)
    assert result.same_weights, "two ranks' weights reach the worker bit by bit"
