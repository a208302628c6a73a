"""Files of a run folder of somebody else: links out of it, devices and giants are refused, before anything is read."""

from __future__ import annotations

import os

import pytest

from insight_rl.cli.main import main
from insight_rl.errors import UsageError
from insight_rl.hub.run_files import RunFiles, take

NAMES = ("model/config.json", "model/model.safetensors", "config.yaml", "metrics.jsonl", "versions.json", "model")


@pytest.mark.parametrize("name", [*NAMES, "decisions/step_000001.parquet", "decisions", "evaluations.jsonl"])
def test_a_link_out_of_the_folder_is_refused(name, make_run, tmp_path, capsys):
    run, secret = make_run(), tmp_path / "secret"
    (run / name).rename(secret)
    (run / name).symlink_to(secret)
    assert main(["push", f"run_dir={run}", "repo=user/name", "records=true", "dry_run=true"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{run / name}: is a link out of the run's folder" in line
    assert not (run / "hub" / "records").exists()


@pytest.mark.parametrize("name", ["checkpoints", "checkpoints/step_000001", "checkpoints/step_000001/learner/x"])
def test_a_checkpoint_that_lies_elsewhere_is_refused(name, make_run, tmp_path, capsys):
    run = make_run()
    (tmp_path / "elsewhere").mkdir()
    (run / name).parent.mkdir(parents=True, exist_ok=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    assert main(["push", f"run_dir={run}", "repo=user/name", "checkpoint=latest", "dry_run=true"]) == 2
    assert f"{run / name}: is a link out of the run's folder" in capsys.readouterr().err


def test_a_link_within_the_folder_is_a_file_of_it(make_run):
    run = make_run()
    (run / "model" / "model.safetensors").rename(run / "weights")
    (run / "model" / "model.safetensors").symlink_to("../weights")
    assert main(["push", f"run_dir={run}", "repo=user/name", "dry_run=true"]) == 0
    assert not (run / "hub" / "model" / "model.safetensors").is_symlink()


def test_what_is_no_file_and_what_is_too_large_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "circle").symlink_to("circle")
    (tmp_path / "large").write_bytes(b"123456")
    (tmp_path / "many").mkdir()
    for number in range(4):
        (tmp_path / "many" / str(number)).write_bytes(b"12")
    files = RunFiles(tmp_path)
    with pytest.raises(UsageError, match="is no regular file"):
        files.file("pipe")
    with pytest.raises(UsageError, match="cannot be read"):
        files.file("circle")
    with pytest.raises(UsageError, match="has 6 bytes, more than the 5"):
        files.file("large", max_bytes=5)
    with pytest.raises(UsageError, match="more than the 1 that"):
        files.folder("many", max_bytes=7)
    with pytest.raises(UsageError, match="is no folder"):
        files.folder("large")
    with pytest.raises(UsageError, match="has 4 files, more than 3"):
        files.folder("many", max_files=3)
    assert files.file("nothing") is None and files.folder("nothing") == {}


def test_a_file_is_taken_by_a_second_name_or_copied(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    take(tmp_path / "a", tmp_path / "new" / "b")
    assert (tmp_path / "a").samefile(tmp_path / "new" / "b")
    monkeypatch.setattr(os, "link", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("another disk")))
    take(tmp_path / "a", tmp_path / "c")
    assert (tmp_path / "c").read_text() == "x" and not (tmp_path / "a").samefile(tmp_path / "c")


def test_code_and_pickles_of_a_model_folder_stay_here(make_run, capsys):
    run = make_run()
    for name in ("modeling_evil.py", "pytorch_model.bin", ".env", "README.md"):
        (run / "model" / name).write_text("x")
    (run / "adapter").mkdir()
    (run / "adapter" / "adapter_model.bin").write_text("x")
    assert main(["push", f"run_dir={run}", "repo=user/name", "dry_run=true"]) == 0
    assert "left out, since no model needs it: .env, README.md, modeling_evil.py" in capsys.readouterr().out
    sent = {path.name for path in (run / "hub").rglob("*")}
    assert not sent & {"modeling_evil.py", "pytorch_model.bin", ".env", "adapter_model.bin"}


def test_an_output_folder_in_use_is_left_alone(make_run, tmp_path, capsys):
    run = make_run()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    words = ["push", f"run_dir={run}", "repo=user/name", "dry_run=true"]
    assert main([*words, f"output_dir={tmp_path / 'there'}"]) == 2
    assert "is there already and not empty" in capsys.readouterr().err
    (run / "hub").symlink_to(tmp_path / "there")
    assert main(words) == 2
    assert "is a link; remove it" in capsys.readouterr().err
    assert (tmp_path / "there" / "file").exists()
