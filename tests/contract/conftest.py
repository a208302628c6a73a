"""How contract tests make an option: composed from the whole tree and built as a run builds it."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from insight_rl.build import build_part
from insight_rl.config import compose_config


@pytest.fixture(scope="session")
def build_option():
    """``build_option("gate=admit_all", ...)``: the object of the first override's group."""

    def build(*overrides: str, config_dir: Path | None = None):
        group = overrides[0].partition("=")[0]
        tree = compose_config(overrides, config_dir=config_dir)
        return build_part(group, OmegaConf.to_container(tree[group], resolve=True))

    return build


@pytest.fixture
def own_option(tmp_path, monkeypatch, build_option):
    """``own_option("gate", code)``: the class ``Bad`` of ``code``, as an option of a --config-dir."""

    def build(group: str, code: str, settings: str = ""):
        option = tmp_path / "conf" / group / "bad.yaml"
        option.parent.mkdir(parents=True)
        (tmp_path / "conf" / f"bad_{group}.py").write_text(code)
        option.write_text(f"_target_: bad_{group}.Bad\n{settings}")
        monkeypatch.syspath_prepend(tmp_path / "conf")
        monkeypatch.delitem(__import__("sys").modules, f"bad_{group}", raising=False)
        return build_option(f"{group}=bad", config_dir=tmp_path / "conf")

    return build
