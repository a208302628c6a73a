import json

import pytest

from insight_rl.checkpoint import CheckpointStore, part_folder
from insight_rl.errors import UsageError


def save(store, step, *, accuracy=None, text="weights"):
    return store.save(step, {"learner": lambda folder: (folder / "w").write_text(text)}, accuracy=accuracy)


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
    "content", ["[]", "3", "null", '{"format": 1}', '{"format": 1, "accuracy": null, "parts": [], "files": {"w": 1}}']
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
