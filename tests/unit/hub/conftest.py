"""A finished run of the bundled model, written without training; and a hub on this machine."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config
from insight_rl.paths import data_dir
from insight_rl.selector.decision_log import SCHEMA
from tests.support.local_hub import TOKEN, LocalHub

MIXTURE = (
    *("task=mixture", "model=qwen3-0.6b", "learner.lora.rank=8"),
    "task.parts.gsm8k.task.train_hub.revision=abc",
)
PROBLEMS = [f"p{number}" for number in range(40)]


def write_lines(path: Path, records: list[dict]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def write_run(run: Path, config: str) -> Path:
    """A run of two steps in the folder ``run``; held-out accuracy goes from 0.25 to 0.5."""
    run.mkdir(parents=True)
    (run / "config.yaml").write_text(config)
    totals = {"rollout/num_rollouts": 1024, "rollout/num_tokens": 9000, "time/device_s": 61.5}
    write_lines(run / "metrics.jsonl", [{"step": 0}, {"step": 1, **totals}, {"step": 2, **totals}])
    before = {problem: 4 if number < 10 else 0 for number, problem in enumerate(PROBLEMS)}
    after = {problem: 4 if number < 20 else 0 for number, problem in enumerate(PROBLEMS)}
    evaluations = [{"step": step, "samples": 4, "successes": found} for step, found in ((0, before), (2, after))]
    write_lines(run / "evaluations.jsonl", evaluations)
    versions = {"insight_rl": "0.1.0", "python": "3.11.9", "torch": "2.7.0"}
    (run / "versions.json").write_text(json.dumps([{"after_step": 0, "versions": versions}]))
    shutil.copytree(data_dir() / "tiny_countdown", run / "model", ignore=shutil.ignore_patterns("*.md"))
    (run / "decisions").mkdir()
    for step in (1, 2):
        rows = [
            {"step": step, "round": 0, "prompt_id": "a", "alpha": 1.0 * step, "beta": 1.0, "score": 0.5}
            | {"propensity": None, "chosen": True, "successes": 3, "judged": 8},
            {"step": step, "round": 0, "prompt_id": f"b{step}", "alpha": 1.0, "beta": 1.0, "score": 0.1}
            | {"propensity": None, "chosen": False, "successes": None, "judged": None},
        ]
        pq.write_table(pa.Table.from_pylist(rows, SCHEMA), run / "decisions" / f"step_{step:06d}.parquet")
    return run


@pytest.fixture(scope="session")
def recorded_config():
    """``config.yaml`` for some overrides, each written once."""
    texts: dict[tuple[str, ...], str] = {}

    def write(*overrides: str) -> str:
        if overrides not in texts:
            texts[overrides] = OmegaConf.to_yaml(compose_config(list(overrides)), resolve=True)
        return texts[overrides]

    return write


@pytest.fixture
def make_run(tmp_path, recorded_config):
    """``make_run(overrides)``: a run of two steps in ``tmp_path``; held-out accuracy goes from 0.25 to 0.5."""

    def make(*overrides: str) -> Path:
        return write_run(tmp_path / "somebody" / "demo", recorded_config(*(overrides or ["experiment=quickstart"])))

    return make


@pytest.fixture
def local_hub(tmp_path, monkeypatch):
    """A hub that the library and our commands talk to, with a token that may write; it waits before no retry."""
    import huggingface_hub
    from huggingface_hub import constants
    from huggingface_hub.utils import _http

    hub = LocalHub()
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # Its own protocol needs a storage service; without it the client speaks git-lfs.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(_http, "time", SimpleNamespace(sleep=lambda seconds: None, time=time.time))
    yield hub
    hub.close()
    huggingface_hub.set_client_factory(_http.default_client_factory)
