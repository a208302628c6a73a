"""A judge model's server in a thread of the test: real HTTP on a free port, and as bad as it is told to be."""

from __future__ import annotations

import itertools
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECTIONS = re.compile(r"^(#[0-9a-f]{12}) (question|reference answer|response|end)$", re.MULTILINE)


def sections_of(message: str) -> dict[str, str]:
    """The texts between the marks of the bundled template; the mark is the one that the first such line has."""
    mark = SECTIONS.search(message)[1]
    places = [match for match in SECTIONS.finditer(message) if match[1] == mark]
    names = [match[2] for match in places]
    texts = [message[a.end() + 1 : b.start() - 1] for a, b in itertools.pairwise(places)]
    return dict(zip(names, texts, strict=False))


def says(line: str, **more) -> dict:
    return {"choices": [{"message": {"role": "assistant", "content": line}, "finish_reason": "stop", **more}]}


def by_equality(message: str) -> dict:
    """Right where the response is the reference answer: a judge that cannot be talked to."""
    texts = sections_of(message)
    return says(f"VERDICT: {'RIGHT' if texts['response'] == texts['reference answer'] else 'WRONG'}")


class JudgeServer:
    """``script`` gets the message and returns a reply: JSON to send, a status, raw bytes, or a function of the handler.

    ``requests`` holds every body, ``headers`` the headers, ``most_at_once`` how many were under way together.
    """

    def __init__(self, script=by_equality):
        self.script = script
        self.requests, self.headers = [], []
        self.most_at_once = self._now = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                outer._answer(self)

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.handle_error = lambda *_: None  # the client hangs up: that is what is tested
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def _answer(self, handler):
        request = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        with self._lock:
            self.requests.append(request)
            self.headers.append(dict(handler.headers))
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
        try:
            reply = self.script(request["messages"][0]["content"])
            if callable(reply):
                reply(handler)
                return
            if isinstance(reply, int):
                reply = (reply, b"{}", {})
            if isinstance(reply, dict):
                reply = (200, json.dumps(reply).encode(), {})
            send(handler, *reply)
        finally:
            with self._lock:
                self._now -= 1

    def close(self):
        self._server.shutdown()
        self._server.server_close()


def send(handler, status, body, headers):
    handler.send_response(status)
    for name, value in {"Content-Length": str(len(body)), **headers}.items():
        handler.send_header(name, value)
    handler.end_headers()
    handler.wfile.write(body)


def stall(seconds):
    return lambda handler: time.sleep(seconds)


def drip(part: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"):
    """Ten bytes a second for three seconds, after ``head``."""

    def reply(handler):
        handler.wfile.write(head)
        for _ in range(30):
            handler.wfile.write(part)
            time.sleep(0.1)

    return reply


def endless(handler):
    """A body without a length, as fast as it goes."""
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        handler.wfile.write(b" " * 65_536)


def hang_up(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)
