"""Every metric has exactly one entry, and the documentation is the dictionary."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import insight_rl
from insight_rl.monitor.dictionary import AREAS, ENTRIES, find_entry, render

ROOT = Path(insight_rl.__file__).resolve().parents[1]


def test_docs_are_the_dictionary_printed():
    assert (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8") == render()


def test_keys_are_unique_and_their_areas_are_described_and_together():
    keys = [entry.key for entry in ENTRIES]
    assert len(set(keys)) == len(keys)
    areas = [key.split("/")[0] for key in keys]
    assert list(dict.fromkeys(areas)) == list(AREAS)
    assert areas == sorted(areas, key=list(AREAS).index)


def test_every_key_that_the_package_writes_out_is_documented():
    literal = re.compile(rf'"((?:{"|".join(AREAS)})/[a-z0-9_]*[a-z0-9])"')
    found = {
        key
        for path in (ROOT / "insight_rl").rglob("*.py")
        if path.name != "dictionary.py"
        for key in literal.findall(path.read_text(encoding="utf-8"))
    }
    assert {"eval/accuracy", "reward/mean", "rollout/num_tokens"} <= found
    assert [key for key in sorted(found) if find_entry(key) is None] == []


@pytest.mark.parametrize(
    ("key", "entry"),
    [
        ("eval/pass_at_16", "eval/pass_at_{k}"),
        ("reward/status_no_answer", "reward/status_{status}"),
        ("reward/part_format", "reward/part_{name}"),
        ("time/select_share", "time/select_share"),
        ("reward/mean", "reward/mean"),
        ("memory/learner_rank_0_gib", "memory/{process}_gib"),
        ("memory/learner_rank_0_gpu_reserved_gib", "memory/{process}_gpu_reserved_gib"),
    ],
)
def test_patterns_stand_for_their_keys(key, entry):
    found = find_entry(key)
    assert found is not None
    assert found.key == entry


@pytest.mark.parametrize("key", ["eval/pass_at_", "eval/accuracy/x", "reward/unheard_of", "accuracy", "eval/accuracyx"])
def test_other_keys_have_no_entry(key):
    assert find_entry(key) is None
