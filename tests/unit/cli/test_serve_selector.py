from __future__ import annotations

import socket

import pytest

from insight_rl.cli.main import main
from insight_rl.cli.serve_selector import is_loopback, listen, read_token
from insight_rl.errors import UsageError
from insight_rl.selector_service.client import RemoteSelector


@pytest.mark.parametrize(
    ("host", "local"), [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("0.0.0.0", False)]
)
def test_loopback_is_told_from_other_addresses(host, local):
    assert is_loopback(host) is local


def test_the_token_comes_from_the_file_first(tmp_path, monkeypatch):
    file = tmp_path / "token"
    file.write_text("token-of-the-file-0123456\n", encoding="utf-8")
    monkeypatch.setenv("SOME_TOKEN", "token-of-the-environment")
    assert read_token(file, "SOME_TOKEN") == "token-of-the-file-0123456"
    assert read_token(None, "SOME_TOKEN") == "token-of-the-environment"
    monkeypatch.delenv("SOME_TOKEN")
    assert read_token(None, "SOME_TOKEN") is None


@pytest.mark.parametrize("token", ["", "short", "with spaces in the middle of it", "ünicode-is-not-for-headers"])
def test_weak_tokens_are_refused(tmp_path, token):
    file = tmp_path / "token"
    file.write_text(token, encoding="utf-8")
    with pytest.raises(UsageError, match="at least 16"):
        read_token(file, "SOME_TOKEN")


def test_a_port_in_use_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=str(port)):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--host", "0.0.0.0", "--token-env", "NO_SUCH_VARIABLE"],
        ["--host", "no.such.host.invalid"],
        ["--port", "70000"],
        ["--snapshot-every", "0"],
        ["--token-file", "/no/such/file"],
    ],
)
def test_what_cannot_be_served_ends_with_code_2_and_one_line(arguments, capsys, tmp_path):
    assert main(["serve-selector", "--data-dir", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert len(message.splitlines()) == 1
    assert arguments[0] in message


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"url": "127.0.0.1:8700"}, "selector.url"),
        ({"hosts": {"settings": {}}}, "selector.hosts"),
        ({"hosts": {"name": "insight", "mu": 0.5}}, "selector.hosts"),
        ({"run": "a b"}, "selector.run"),
        ({"timeout_s": 0}, "selector.timeout_s"),
        ({"num_retries": -1}, "selector.num_retries"),
    ],
)
def test_bad_settings_of_the_client_are_named(settings, key):
    with pytest.raises(UsageError, match=key):
        RemoteSelector(**({"url": "http://127.0.0.1:1", "hosts": {"name": "insight"}} | settings))
