import json
import threading

import numpy as np
import pytest

from insight_rl import checkpoint
from insight_rl.checkpoint import CheckpointStore, StatePart, part_folder
from insight_rl.errors import UsageError
from insight_rl.hashed_files import WriteCancelled, digest_of, hashed_file
from insight_rl.state_codec import load_state


def at_once(text):
    """A part that is in its folder before training goes on."""

    def write(folder):
        (folder / "w").write_text(text)

    return write


class Slow:
    """A part that writes once it may, or fails as it is told to."""

    def __init__(self, *, error=None, check_error=None):
        self.error, self.check_error = error, check_error
        self.may_write = threading.Event()

    def __call__(self, folder):
        self.folder = folder
        return self

    def write(self, cancelled):
        digests = {}
        with hashed_file(self.folder / "w", cancelled, digests) as file:
            file.write(b"half")
            while not self.may_write.wait(0.01):
                if cancelled.is_set():
                    raise WriteCancelled("told to stop")
            if self.error is not None:
                raise self.error
            file.write(b" and half")
        return digests

    def check(self):
        if self.check_error is not None:
            raise self.check_error


def save(store, step, *, accuracy=None, text="weights"):
    store.save(step, {"learner": at_once(text)}, accuracy=accuracy)
    store.wait()
    return store.folder / f"step_{step:06d}"


def names(store):
    return sorted(path.name for path in store.folder.glob("step_*"))


def test_keeps_the_newest_and_the_best(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=2)
    for step, accuracy in [(1, 0.1), (2, 0.9), (3, None), (4, 0.5), (5, 0.4)]:
        save(store, step, accuracy=accuracy)
    assert names(store) == ["step_000002", "step_000004", "step_000005"]
    assert (store.folder / "latest").read_text() == "step_000005"
    assert (store.folder / "best").read_text() == "step_000002"


def test_a_damaged_newest_checkpoint_falls_back_and_says_so(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    sound, damaged = save(store, 1), save(store, 2)
    (damaged / "learner" / "w").write_text("weightz")
    path, notices = store.newest_sound()
    assert path == sound
    assert "step_000002" in notices[0] and "learner/w is not as it was written" in notices[0]


@pytest.mark.parametrize(
    "content", ["[]", "3", "null", '{"format": 2}', '{"format": 2, "accuracy": null, "parts": [], "files": {"w": 1}}']
)
def test_a_manifest_that_is_no_manifest_falls_back(content, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    sound, damaged = save(store, 1), save(store, 2)
    (damaged / "w").write_text("x")
    (damaged / "manifest.json").write_text(content)
    path, notices = store.newest_sound()
    assert path == sound and len(notices) == 1
    save(store, 3)  # prunes, and reads every manifest for it


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest", "no manifest"])
def test_every_kind_of_damage_is_found_and_never_a_fresh_start(tmp_path, damage):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    path = save(store, 1)
    if damage == "truncate":
        (path / "learner" / "w").write_text("")
    elif damage == "remove":
        (path / "learner" / "w").unlink()
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    else:
        (path / "manifest.json").unlink()
    with pytest.raises(UsageError, match="no sound checkpoint"):
        store.newest_sound()


def test_a_write_cut_short_leaves_no_checkpoint(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=3)
    save(store, 1)

    def die(folder):
        (folder / "w").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.save(2, {"learner": die}, accuracy=None)
    store.wait()
    assert names(store) == ["step_000001"]
    assert store.newest_sound()[0].name == "step_000001"
    save(store, 2)
    assert not list(store.folder.glob(".writing_*"))


def test_a_missing_part_is_an_error(tmp_path):
    path = save(CheckpointStore(tmp_path / "checkpoints", keep_last=1), 1)
    assert json.loads((path / "manifest.json").read_text())["parts"] == ["learner"]
    with pytest.raises(UsageError, match="no part 'selector'"):
        part_folder(path, "selector")


def test_a_deleted_run_folder_is_not_made_again(tmp_path):
    store = CheckpointStore(tmp_path / "run" / "checkpoints", keep_last=1)
    with pytest.raises(FileNotFoundError):
        save(store, 1)
    assert not (tmp_path / "run").exists()


def test_training_goes_on_before_a_checkpoint_is_whole_and_it_holds_what_was(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    beliefs, slow = np.arange(4.0), Slow()
    store.save(1, {"selector": StatePart({"beliefs": beliefs, "pending": ["p7"]}), "learner": slow}, accuracy=None)
    beliefs += 100
    assert names(store) == [] and store.newest_name() is None
    store.check()
    slow.may_write.set()
    store.wait()
    path, _ = store.newest_sound()
    state = load_state(part_folder(path, "selector"))
    assert state["beliefs"].tolist() == [0, 1, 2, 3] and state["pending"] == ["p7"]
    assert (path / "learner" / "w").read_text() == "half and half"
    assert (store.folder / "latest").read_text() == "step_000001"


def test_the_next_one_waits_for_the_one_before(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=5)
    first, begun = Slow(), []

    def second(folder):
        begun.append((folder, names(store)))

    store.save(1, {"learner": first}, accuracy=None)
    threading.Timer(0.1, first.may_write.set).start()
    store.save(2, {"learner": second}, accuracy=None)
    assert [whole for _, whole in begun] == [["step_000001"]], "the state of 2 was fixed while 1 was written"
    store.wait()
    assert names(store) == ["step_000001", "step_000002"]


@pytest.mark.parametrize("notices", ["check", "wait", "save"])
def test_what_a_writer_fails_of_reaches_the_run_and_the_ones_before_stay(notices, tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    save(store, 1)
    slow = Slow(error=OSError(28, "No space left on device"))
    store.save(2, {"learner": slow}, accuracy=None)
    writer = store._writer
    slow.may_write.set()
    writer.join()
    with pytest.raises(OSError, match="No space left"):
        {"check": store.check, "wait": store.wait, "save": lambda: save(store, 3)}[notices]()
    assert store.newest_sound()[0].name == "step_000001"
    store.check()
    save(store, 4)
    assert names(store) == ["step_000004"] and not list(store.folder.glob(".writing_*"))


def test_a_wait_ends_where_those_who_write_have_failed(tmp_path):
    """The writer's thread waits for the ranks and cannot know it."""
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    store.save(1, {"learner": Slow(check_error=OSError(5, "Input/output error"))}, accuracy=None)
    with pytest.raises(OSError, match="Input/output"):
        store.wait()
    store.abandon()


def test_an_abandoned_one_is_never_whole(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    store.save(1, {"learner": Slow()}, accuracy=None)
    writer = store._writer
    store.abandon()
    assert not writer.is_alive() and names(store) == []
    store.check()
    save(store, 2)
    assert names(store) == ["step_000002"] and not list(store.folder.glob(".writing_*"))


def test_what_is_hashed_while_it_is_written_is_not_read_again(tmp_path, monkeypatch):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    monkeypatch.setattr(checkpoint, "digest_of", lambda path: pytest.fail(f"{path} was read again"))
    store.save(1, {"trainer": StatePart({"step": 1, "losses": np.ones(1000)})}, accuracy=None)
    store.wait()
    monkeypatch.undo()
    path, notices = store.newest_sound()
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest["files"] == {name: digest_of(path / name) for name in ("trainer/state.json", "trainer/arrays.npz")}
    assert notices == [] and manifest["write_s"] >= 0


def test_a_folder_deleted_while_it_is_written_to_is_told(tmp_path):
    store = CheckpointStore(tmp_path / "checkpoints", keep_last=1)
    slow = Slow()
    store.save(1, {"learner": slow}, accuracy=None)
    writing = next(store.folder.glob(".writing_*"))
    for path in sorted(writing.rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    writing.rmdir()
    slow.may_write.set()
    with pytest.raises(FileNotFoundError):
        store.wait()
