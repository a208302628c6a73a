"""A run's config.yaml is plain values, whoever wrote it; what is none is one line, soon."""

from __future__ import annotations

import itertools

import pytest
from omegaconf import OmegaConf

from insight_rl.config import compose_config
from insight_rl.errors import UsageError
from insight_rl.recorded_config import MAX_BYTES, read_recorded_config

LINES = [f"{new}: &{new} [*{old}, *{old}]\n" for old, new in itertools.pairwise("abcdefghi")]
LAUGHS = "a: &a [x, x]\n" + "".join(LINES)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (LAUGHS.encode(), "an alias"),
        (b"a: &a {b: 1}\nc: {<<: *a}\n", "an alias"),
        (b"a: &a [*a]\n", "an alias"),
        (b"a: !!python/object/apply:os.system [id]\n", "could not determine a constructor"),
        (b"a: !mine 3\n", "could not determine a constructor"),
        (b"a: [1", "expected"),
        (b"[" * 5000, "not plain YAML"),
        (b"a: " + b"x" * MAX_BYTES, "larger than"),
        (b"\xff\xfe", "config.yaml"),
        (b"", "no settings"),
        (b"- 1\n", "no settings"),
        (b"1: 2\n", "no settings"),
    ],
)
def test_what_no_run_records_is_one_line(tmp_path, content, reason):
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UsageError, match=reason) as error:
        read_recorded_config(tmp_path)
    assert "config.yaml" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("overrides", [["task=mixture"], ["evaluation=general"], ["experiment=paper_countdown"]])
def test_what_a_run_records_is_read_as_it_was(tmp_path, overrides):
    tree = compose_config(overrides)
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(tree, resolve=True))
    assert read_recorded_config(tmp_path) == OmegaConf.to_container(tree)
