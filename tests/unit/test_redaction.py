"""What leaves the machine has no secret in it, and what is none stays readable."""

from __future__ import annotations

from pathlib import Path

import pytest

from insight_rl.redaction import (
    is_secret_name,
    plain_values_redacted,
    with_short_home,
    without_paths,
    without_secrets,
)

SECRET = ("HF_TOKEN", "WANDB_API_KEY", "api_key", "apiKey", "AWS_SECRET_ACCESS_KEY", "MYSQL_PWD", "db.password", "AUTH")
OPEN = (
    "TOKENIZERS_PARALLELISM",
    "trainer.max_tokens",
    "learner.tokens_per_micro_batch",
    "max_completion_tokens",
    "PWD",
    "PYTHONPATH",
    "path_key",
    "key_element",
    "author",
)


@pytest.mark.parametrize("name", SECRET)
def test_a_secret_is_known_by_its_name(name):
    assert is_secret_name(name)


@pytest.mark.parametrize("name", [name for name in OPEN if name != "path_key"])
def test_a_setting_is_no_secret(name):
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("monitor.wandb.api_key=abcdefgh123", "monitor.wandb.api_key=[hidden]"),
        ("http://me:pass@proxy:80/x", "http://[hidden]@proxy:80/x"),
        ("see hf_ABCDEFGHIJKLMNOPQRSTUVWX here", "see [hidden] here"),
        ("key: sk-proj-0123456789abcdefgh", "key: [hidden]"),
        ("a value-of-the-token b", "a [hidden] b"),
        ("HF_TOKEN: 'x y z'", "HF_TOKEN: [hidden]"),
        ("trainer.max_tokens=100 seed=3", "trainer.max_tokens=100 seed=3"),
        ("commit 6e411822289c6e411822289c6e411822289cabcd", "commit 6e411822289c6e411822289c6e411822289cabcd"),
        ("token: null", "token: null"),
        ("task.train_hub={name: openai/gsm8k, split: train}", "task.train_hub={name: openai/gsm8k, split: train}"),
    ],
)
def test_a_text_keeps_all_but_its_secrets(text, shown):
    assert without_secrets(text, {"HF_TOKEN": "value-of-the-token", "SOME_KEY": "a"}) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("task.train_path=/home/me/x.jsonl seed=1", "task.train_path=x.jsonl seed=1"),
        ("~/runs/demo and ~me/a/b.txt", "demo and b.txt"),
        ("'/a b/c'", "'/a b/c'"),  # a space ends a path
        ("openai/gsm8k https://huggingface.co/a/b 1/2", "openai/gsm8k https://huggingface.co/a/b 1/2"),
        ("[/srv/data/a.csv, /srv/data/b.csv]", "[a.csv, b.csv]"),
    ],
)
def test_an_absolute_path_is_its_last_part(text, shown):
    assert without_paths(text) == shown


def test_home_is_a_tilde(monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/me"))
    assert with_short_home("/home/me/x:/home/me:/home/meg") == "~/x:~:/home/meg"


def test_a_tree_is_redacted_by_the_names_of_its_keys():
    tree = {"monitor": {"wandb": {"api_key": "abc", "project": "p"}}, "paths": ["/home/me/x.py"], "lr": 0.1}
    shown = {"monitor": {"wandb": {"api_key": "[hidden]", "project": "p"}}, "paths": ["x.py"], "lr": 0.1}
    assert plain_values_redacted(tree) == shown
