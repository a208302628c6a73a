"""`insight-rl push` against a hub on this machine, with the hub's own client: what arrives, and every way to fail."""

from __future__ import annotations

import json

import pytest
import yaml

from insight_rl.cli.main import main
from insight_rl.hub import upload
from tests.support.local_hub import TOKEN


def push(run, *words: str) -> int:
    return main(["push", f"run_dir={run}", "repo=user/name", *words])


def test_a_run_arrives_whole_and_private(make_run, local_hub, capsys):
    run = make_run()
    assert push(run, "records=true", "license=mit") == 0
    printed = capsys.readouterr().out
    assert f"sent: {local_hub.url}/user/name\n" in printed and f"{local_hub.url}/datasets/user/name-records" in printed
    files = local_hub.files("model", "user/name")
    assert files["model.safetensors"] == (run / "model" / "model.safetensors").read_bytes()
    assert files["tokenizer.json"] == (run / "model" / "tokenizer.json").read_bytes()
    header = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert header["license"] == "mit" and header["pipeline_tag"] == "text-generation"
    assert {"beliefs.parquet", "decisions.parquet", "README.md"} < local_hub.files(
        "dataset", "user/name-records"
    ).keys()
    assert all(repo.private and len(repo.commits) == 2 for repo in local_hub.repos.values())
    assert [line for line in local_hub.requests if "PUT" in line]  # by git-lfs, before the commit


def test_nothing_secret_and_no_local_path_is_sent(make_run, local_hub, monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123")
    run = make_run(
        "experiment=quickstart",
        "+monitor.wandb._target_=insight_rl.monitor.wandb.WandbMonitor",
        "+monitor.wandb.api_key=my-own-key-of-wandb",
        f"task.train_path={tmp_path}/private/rows.jsonl",
        f"run_group={TOKEN}",
        "arm=see-0123456789abcdef0123",
    )
    for name in ("config.json", "tokenizer_config.json"):
        settings = json.loads((run / "model" / name).read_text())
        more = {
            "_name_or_path": f"{tmp_path}/base",
            "tokenizer_file": f"{tmp_path}/t.json",
            "auto_map": {"A": "x--y.Z"},
        }
        (run / "model" / name).write_text(json.dumps(settings | more))
    assert push(run, "records=true") == 0
    sent = [content for repo in local_hub.repos.values() for content in repo.commits[repo.head].values()]
    sent.append(capsys.readouterr().out.replace(str(run), "").encode())
    for secret in (TOKEN, "0123456789abcdef0123", "my-own-key-of-wandb", str(tmp_path), "auto_map"):
        assert [content for content in sent if secret.encode() in content] == [], secret
    assert b"task.train_path=rows.jsonl" in local_hub.files("model", "user/name")["README.md"]


@pytest.mark.parametrize(
    ("pattern", "status", "times", "message"),
    [
        ("PUT /lfs/", 500, 9, "the hub answers 500"),
        ("POST .*/commit/", "drop", 1, "broke"),
        ("POST .*/commit/", "hang", 1, "broke (ReadTimeout"),
        ("POST .*/preupload/", 429, 9, "the hub answers 429"),
    ],
)
def test_what_fails_in_the_middle_goes_on_with_the_second_try(
    pattern, status, times, message, make_run, local_hub, monkeypatch, capsys
):
    monkeypatch.setattr(upload, "ANSWER_S", 0.5)
    run = make_run()
    local_hub.fail(pattern, status, times=times)
    assert push(run) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("insight-rl push")]
    assert message in line and "the same command goes on: what has arrived is not sent again" in line
    assert local_hub.files("model", "user/name").keys() == {".gitattributes"}
    local_hub.failures.clear()
    local_hub.requests.clear()
    had_arrived = bool(local_hub.objects)
    assert push(run) == 0
    assert "model.safetensors" in local_hub.files("model", "user/name")
    assert had_arrived == (not [line for line in local_hub.requests if line.startswith("PUT")])


def test_where_the_second_repository_failed_the_first_is_no_obstacle(make_run, local_hub, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    run = make_run()
    local_hub.fail("POST /api/datasets/.*/commit/", 503)
    assert push(run, "records=true") == 2
    assert push(run, "records=true") == 0
    assert "beliefs.parquet" in local_hub.files("dataset", "user/name-records")
    assert push(run, "license=mit") == 2  # another card: not what is there


def test_a_hiccup_is_tried_again_by_itself(make_run, local_hub):
    local_hub.fail("PUT /lfs/", 503, times=2)
    local_hub.fail("objects/batch", "drop")
    assert push(make_run()) == 0


@pytest.mark.parametrize(
    ("pattern", "status", "said", "message"),
    [
        (
            "repos/create",
            401,
            "Invalid username or password.",
            "does not accept the token; make one that may write at ",
        ),
        ("repos/create", 403, "No rights", "the token may not write there (No rights); take a name under your own"),
        ("/commit/", 400, f"bad {TOKEN}", "the hub refuses it with 400 (bad [hidden]); nothing was published"),
    ],
)
def test_a_refusal_says_what_to_do(pattern, status, said, message, make_run, local_hub, capsys):
    local_hub.fail(pattern, status, times=9, message=said)
    assert push(make_run()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_repository_with_other_files_is_not_written_over(make_run, local_hub, monkeypatch, tmp_path, capsys):
    run = make_run()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    local_hub.add("model", "user/name", {"README.md": b"mine", "other.txt": b"x"}, private=True)
    assert push(run) == 2
    assert "is there already, with 2 files (README.md, other.txt)" in capsys.readouterr().err
    assert local_hub.files("model", "user/name")["README.md"] == b"mine"
    assert push(run, "overwrite=true") == 0
    assert local_hub.files("model", "user/name")["other.txt"] == b"x"
    assert local_hub.files("model", "user/name")["README.md"] != b"mine"


def test_a_public_repository_gets_nothing_private(make_run, local_hub, capsys):
    local_hub.add("model", "user/name", {".gitattributes": b""})
    run = make_run()
    assert push(run) == 2
    assert "is there already and public, and private=true" in capsys.readouterr().err
    assert push(run, "private=false") == 0


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("asked", "dry_run=true"),
        ("no token", "there is no token; give one as HF_TOKEN, or by `hf auth login`"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("unreachable", "the hub at 127.0.0.1 cannot be reached"),
    ],
)
def test_a_dry_run_writes_everything_sends_nothing_and_says_why(case, reason, make_run, local_hub, monkeypatch, capsys):
    if case == "no token":
        monkeypatch.delenv("HF_TOKEN")
    elif case == "offline":
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    elif case == "unreachable":
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    run = make_run()
    assert push(run, *(["dry_run=true"] if case == "asked" else [])) == 0
    printed = capsys.readouterr().out
    assert printed.splitlines()[-1].startswith(f"dry run ({reason}") and "model.safetensors  3.4 MB" in printed
    assert (run / "hub" / "model" / "README.md").is_file() and local_hub.requests == []
    if case != "asked":
        assert push(run, "dry_run=false") == 2
        assert f"dry_run='false': nothing can be sent: {reason}" in capsys.readouterr().err
