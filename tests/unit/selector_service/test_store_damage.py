"""A data folder that is not as the service left it: recovered from what is sound, or refused in words."""

import sqlite3

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from insight_rl.errors import UsageError
from insight_rl.selector_service import schema
from insight_rl.selector_service.hosting import Host
from insight_rl.selector_service.options import SelectorOptions
from insight_rl.selector_service.schema import Refused
from insight_rl.selector_service.store import Store

OPTIONS = SelectorOptions()


def opened(folder, snapshot_every=4):
    return Host(folder, make_selector=OPTIONS.make, snapshot_every=snapshot_every)


def made(folder, num_steps=6):
    host = opened(folder)
    ids = [f"p{i}" for i in range(60)]
    host.put_chunk("pool", 0, schema.PoolChunk(ids=ids))
    host.pool("pool").seal(schema.SealPool(num_prompts=60))
    host.create(schema.CreateRun(run="run", pool="pool", num_rollouts=8, seed=7))
    for step in range(num_steps):
        advance(host.run("run"), step)
    return host


def advance(run, step):
    ids = run.select(schema.SelectRequest(step=step, num_prompts=5)).ids
    seen = [schema.Observation(id=each, num_judged=8, num_successes=int(each[1:]) % 9) for each in ids]
    run.observe(schema.ObserveRequest(step=step, observations=seen))
    return ids


def spoil(folder, version, change):
    """Change the bytes of a snapshot where it lies; -1 stands for the newest."""
    with sqlite3.connect(folder / "selector.sqlite") as db:
        versions = [row[0] for row in db.execute("SELECT version FROM snapshots ORDER BY version")]
        chosen = versions[version]
        blob = db.execute("SELECT state FROM snapshots WHERE version = ?", (chosen,)).fetchone()[0]
        db.execute("UPDATE snapshots SET state = ? WHERE version = ?", (change(blob), chosen))
    return versions


def flip(position, bit):
    def change(blob):
        changed = bytearray(blob)
        changed[position % len(blob)] ^= 1 << bit
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    "change",
    [flip(400, 3), lambda blob: blob[: len(blob) // 2], lambda blob: b"", lambda blob: b"garbage" * 100],
    ids=["one bit", "cut off", "empty", "garbage"],
)
@pytest.mark.parametrize("which", [(-1,), (-1, -2)], ids=["the newest snapshot", "both snapshots"])
def test_a_damaged_snapshot_is_passed_over_and_the_log_replayed(tmp_path, change, which):
    host = made(tmp_path / "data")
    digest = host.run("run").state().digest
    host.store.close()  # without the snapshots of an orderly end
    for version in which:
        spoil(tmp_path / "data", version, change)
    host = opened(tmp_path / "data")
    assert host.run("run").state().digest == digest
    advance(host.run("run"), 6)
    host.close()


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_flipped_bit_changes_a_state_or_stops_a_run(tmp_path_factory, position, bit):
    folder = tmp_path_factory.mktemp("data")
    host = made(folder, num_steps=3)
    digest = host.run("run").state().digest
    host.store.close()
    spoil(folder, -1, flip(position, bit))
    host = opened(folder)
    assert host.run("run").state().digest == digest
    host.store.close()


def test_a_fork_whose_only_snapshot_is_damaged_is_refused_by_name(tmp_path):
    host = made(tmp_path)
    host.fork("run", schema.ForkRun(name="again", version=7))
    host.store.close()
    with sqlite3.connect(tmp_path / "selector.sqlite") as db:
        db.execute("UPDATE snapshots SET state = x'00' WHERE run_id = (SELECT id FROM runs WHERE run = 'again')")
    host = opened(tmp_path)
    with pytest.raises(Refused, match=r"run again: snapshot 7 cannot be read .* restore"):
        host.run("again").state()
    assert host.run("run").state().version == 12, "the others are served"
    host.store.close()


def test_a_damaged_request_in_the_log_is_refused_by_its_number(tmp_path):
    made(tmp_path, num_steps=1).store.close()
    with sqlite3.connect(tmp_path / "selector.sqlite") as db:
        db.execute("UPDATE operations SET request = '{\"st' WHERE version = 2")
        db.execute("DELETE FROM snapshots")
    host = opened(tmp_path)
    with pytest.raises(Refused, match=r"operation 2 \(observe\) cannot be replayed"):
        host.run("run").state()
    host.store.close()


def test_ids_of_a_pool_that_have_changed_on_disk_are_noticed(tmp_path):
    made(tmp_path, num_steps=1).store.close()
    with sqlite3.connect(tmp_path / "selector.sqlite") as db:
        db.execute("UPDATE chunks SET content = replace(content, 'p17', 'p71x')")
    host = opened(tmp_path)
    with pytest.raises(Refused, match="pool pool is damaged"):
        host.run("run").state()
    host.store.close()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda whole: b"", "it is empty"),
        (lambda whole: b"garbage" * 5000, "not a database"),
        (lambda whole: whole[: len(whole) // 2], "damaged"),
        (lambda whole: whole[:5000], "damaged"),
        (lambda whole: whole[:4096] + bytes(len(whole) - 4096), "damaged"),
    ],
    ids=["0 bytes", "garbage", "half", "cut in the second page", "zeros"],
)
def test_a_damaged_file_is_refused_and_never_taken_for_a_new_one(tmp_path, damage, found):
    host = made(tmp_path)
    host.close()
    file = tmp_path / "selector.sqlite"
    for leftover in tmp_path.glob("selector.sqlite-*"):
        leftover.unlink()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    for _ in range(2):  # the folder's lock is free again after the refusal
        with pytest.raises(UsageError, match=r"--data-dir: .*selector.sqlite is damaged \(.*\); restore") as refusal:
            Store(tmp_path)
        assert found in str(refusal.value)
        assert "\n" not in str(refusal.value)
    file.write_bytes(whole)
    host = opened(tmp_path)
    assert host.run("run").info().version == 12
    host.close()


def test_a_service_killed_before_its_first_commit_starts_again(tmp_path):
    with sqlite3.connect(tmp_path / "selector.sqlite") as db:
        db.execute("PRAGMA journal_mode = WAL")
    Store(tmp_path).close()


def test_states_are_the_same_whatever_the_damage_before(tmp_path):
    whole, spoiled = made(tmp_path / "whole"), made(tmp_path / "spoiled")
    spoiled.store.close()
    spoil(tmp_path / "spoiled", -1, flip(300, 0))
    spoiled = opened(tmp_path / "spoiled")
    chosen = [[advance(host.run("run"), step) for step in range(6, 12)] for host in (whole, spoiled)]
    assert np.array_equal(*chosen)
    for host in (whole, spoiled):
        host.close()
