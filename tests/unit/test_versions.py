"""Versions of a run: recorded at its start, compared when it goes on."""

from __future__ import annotations

import json
import subprocess

import pytest

from insight_rl import versions
from insight_rl.errors import UsageError
from insight_rl.versions import VERSIONS_FILE, current_versions, git_commit, read_versions, record_versions


def test_a_resume_with_other_versions_says_which_changed(tmp_path, monkeypatch):
    now = {"insight_rl": "0.1.0", "torch": "2.7.0", "vllm": "0.32.0"}
    monkeypatch.setattr(versions, "current_versions", lambda: dict(now))
    assert record_versions(tmp_path, step=0) == []
    assert record_versions(tmp_path, step=20) == []
    del now["vllm"]
    now |= {"torch": "2.8.0", "trl": "1.16.0"}
    (notice,) = record_versions(tmp_path, step=40)
    assert notice == (
        "versions changed after step 40: torch=2.8.0 (was 2.7.0), vllm=absent (was 0.32.0), trl=1.16.0 (was absent)"
    )
    assert [entry["after_step"] for entry in read_versions(tmp_path)] == [0, 40]
    assert record_versions(tmp_path, step=60) == []


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    assert read_versions(tmp_path) == [] == record_versions(tmp_path, step=30)
    assert read_versions(tmp_path) == [{"after_step": 30, "versions": current_versions()}]


@pytest.mark.parametrize("content", ["{", "{}", '[{"after_step": 1}]', '[{"after_step": 1, "versions": {"a": []}}]'])
def test_a_damaged_record_is_named(content, tmp_path):
    (tmp_path / VERSIONS_FILE).write_text(content)
    with pytest.raises(UsageError, match=r"versions\.json: .*restore it or delete it"):
        record_versions(tmp_path, step=1)


def test_what_is_installed_is_found_by_its_metadata():
    import numpy

    found = current_versions()
    assert found["numpy"] == numpy.__version__ and found["python"] and found["insight_rl"]
    assert json.loads(json.dumps(found)) == found


def test_a_checkout_has_a_commit_and_says_when_it_was_changed(tmp_path):
    assert git_commit(tmp_path) is None

    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    git("init")
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "first")
    commit = git_commit(tmp_path)
    assert commit is not None and len(commit) == 12
    (tmp_path / "file").write_text("b")
    assert git_commit(tmp_path) == f"{commit} (changed)"
