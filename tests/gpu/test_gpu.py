"""What has to work on a GPU before anything else does: the checks of scripts/check_gpu.py that say most.

None of these has been run yet: so far the project has been built and tested on CPUs alone.
"""

from __future__ import annotations

import importlib
import time

import pytest
import torch

from insight_rl.paths import conf_dir

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.xdist_group("gpu"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(
    "name", ["accelerate", "zero-2 checkpointing", "zero-3", "load zero-2 checkpointing", "run ipc", "run ipc sleep"]
)
def test_on_a_gpu(name, tmp_path_factory, monkeypatch):
    monkeypatch.syspath_prepend(str(conf_dir().parent / "scripts"))
    check_gpu = importlib.import_module("check_gpu")
    place = check_gpu.Place(device="cuda", folder=tmp_path_factory.getbasetemp())
    lacking = check_gpu.CHECKS[name].lacking(place)
    if lacking is not None:
        pytest.skip(lacking)
    result = check_gpu.run_apart(name, place, time.monotonic() + 500)
    assert result["status"] == "ok", f"{result.get('reason')}\n{result.get('log')}"
