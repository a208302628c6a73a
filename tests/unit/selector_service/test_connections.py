"""Connections that never finish a request: over a real uvicorn, since the mend lies in how it keeps them."""

import contextlib
import socket
import threading

import httpx
import pytest
import uvicorn

from insight_rl.selector_service.connections import allowed_connections, bounded_protocol


async def answer(scope, receive, send):
    message = await receive()
    while message.get("more_body"):
        message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.contextmanager
def serving(**limits):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(answer, http=bounded_protocol(**limits), log_level="warning", lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join(30)


def half_request(port, text=b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n"):
    connection = socket.create_connection(("127.0.0.1", port), timeout=60)
    connection.sendall(text)
    return connection


def ask(port, client=httpx):
    return client.get(f"http://127.0.0.1:{port}/").text


def closed(connection):
    """Whether the service has ended the connection; waits until it does."""
    try:
        received = connection.recv(100)
        return received == b"" or received.startswith(b"HTTP/1.1 408")
    except ConnectionResetError:
        return True


def test_half_requests_beyond_the_limit_do_not_keep_others_out(capfd):
    with serving(max_connections=5, request_timeout_s=3600) as port:
        held = [half_request(port) for _ in range(12)]
        assert ask(port) == "ok"
        assert all(map(closed, held[:7])), "the oldest make room"
        for connection in held:
            connection.close()
    assert "more than 5 were open at once" in capfd.readouterr().err


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"GET / HTT",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf",
        b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n4\r\nha",
    ],
    ids=["nothing", "half a header", "half a body", "half a chunk"],
)
def test_a_request_that_does_not_arrive_in_time_is_closed_and_logged(capfd, text):
    with serving(max_connections=50, request_timeout_s=0.3) as port:
        assert closed(half_request(port, text))
        assert ask(port) == "ok"
    assert "had not arrived after 0.3 s; the last was from 127.0.0.1" in capfd.readouterr().err


def test_the_second_request_of_a_connection_has_the_same_deadline():
    with serving(max_connections=50, request_timeout_s=0.3) as port:
        connection = half_request(port, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.sendall(b"GET / HTT")
        assert closed(connection)


def test_whole_requests_are_answered_however_many_follow_on_a_connection():
    with serving(max_connections=2, request_timeout_s=30) as port, httpx.Client() as client:
        assert [ask(port, client) for _ in range(20)] == ["ok"] * 20


def test_no_more_connections_than_files_can_be_opened(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda kind: (256, 4096))
    assert allowed_connections(1000) == 192
    assert allowed_connections(10) == 10
    monkeypatch.setattr("resource.getrlimit", lambda kind: (20, 20))
    assert allowed_connections(1000) == 1
