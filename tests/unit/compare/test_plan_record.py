"""The plan is fixed before the first run, and what changes afterwards is refused or told."""

import hashlib
import json

import pytest

from insight_rl.compare.plan import load_plan
from insight_rl.compare.plan_record import check_hash, read_plan, read_status, record_plan, sources_digest
from insight_rl.errors import UsageError


def plan(*overrides):
    return load_plan(["compare=smoke", *overrides])


def test_the_plan_and_its_hash_are_written_once_and_read_back(tmp_path):
    assert record_plan(plan(), tmp_path) == []
    text = (tmp_path / "plan.yaml").read_bytes()
    # As `sha256sum -c plan.sha256` reads it.
    assert (tmp_path / "plan.sha256").read_text() == f"{hashlib.sha256(text).hexdigest()}  plan.yaml\n"
    assert read_plan(tmp_path).overrides == plan().overrides
    versions = json.loads((tmp_path / "versions.json").read_text())
    assert {"python", "insight_rl", "sources", "torch", "numpy"} <= versions.keys()
    assert record_plan(plan("processes=1", "output_dir=elsewhere", "keep_models=true"), tmp_path) == []
    assert (tmp_path / "plan.yaml").read_bytes() == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("smallest_effect=0.02", r"smallest_effect=0\.02: the comparison in .* was planned with 0\.01"),
        ("budget.size=3", r"budget\.size=3: .* was planned with 2"),
        ("seeds.first=7", r"seeds\.first=7: .* was planned with 0"),
        ("seeds.number=1", r"seeds\.number=1: .* was planned with 2"),
        ('arms.insight=["selector=insight","selector.mu=0.5"]', r"arms\.insight=.*was planned with"),
        ("primary.metric=final", r"primary\.metric='final'"),
    ],
)
def test_a_changed_plan_is_refused_with_the_first_difference(change, message, tmp_path):
    record_plan(plan(), tmp_path)
    before = (tmp_path / "plan.yaml").read_bytes()
    with pytest.raises(UsageError, match=message):
        record_plan(plan(change), tmp_path)
    assert (tmp_path / "plan.yaml").read_bytes() == before


def test_seeds_and_exclusions_may_be_added_in_the_open(tmp_path):
    record_plan(plan(), tmp_path)
    (more,) = record_plan(plan("seeds.number=4"), tmp_path)
    assert more == "seeds.number was changed from 2 to 4 after the first run"
    (excluded,) = record_plan(plan("seeds.number=4", "+exclusions.random_seed1=disk full"), tmp_path)
    assert "exclusions" in excluded
    assert read_status(tmp_path)["changes"] == [more, excluded]
    assert read_plan(tmp_path).seeds.number == 4
    # Said once.
    assert record_plan(plan("seeds.number=4", "+exclusions.random_seed1=disk full"), tmp_path) == []


def test_an_edited_plan_is_found_by_its_hash(tmp_path):
    record_plan(plan(), tmp_path)
    check_hash(tmp_path)
    file = tmp_path / "plan.yaml"
    file.write_text(file.read_text().replace("smallest_effect: 0.01", "smallest_effect: 0.05"))
    for look in (check_hash, read_plan, lambda folder: record_plan(plan(), folder)):
        with pytest.raises(UsageError, match="the plan was edited after the first run"):
            look(tmp_path)


def test_other_code_is_told(tmp_path):
    record_plan(plan(), tmp_path)
    file = tmp_path / "versions.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"numpy": "1.0", "sources": "0123"}))
    numpy, sources = record_plan(plan(), tmp_path)
    assert numpy.startswith("numpy was 1.0 at the first run and is ")
    assert sources == f"sources was 0123 at the first run and is {sources_digest()} now"


def test_a_plan_is_data_and_never_code(tmp_path):
    text = "setting: !!python/object/apply:os.system [true]\n"
    (tmp_path / "plan.yaml").write_text(text)
    (tmp_path / "plan.sha256").write_text(hashlib.sha256(text.encode()).hexdigest())
    with pytest.raises(UsageError, match=r"plan\.yaml"):
        read_plan(tmp_path)
    with pytest.raises(UsageError, match=r"has no plan\.yaml: not the folder of a comparison"):
        read_plan(tmp_path / "nowhere")
