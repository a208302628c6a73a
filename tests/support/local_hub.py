"""A hub on this machine that answers `huggingface_hub`'s own client as the real one does, as far as it is asked here.

Paths and fields are those that the client (2.4) sends and reads: repos/create, validate-yaml, preupload, git-lfs's
batch API, commit, repo info, tree, paths-info, resolve. It keeps files in memory and can be told to fail.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_localtokenthatmaywriteeverything"


@dataclass
class Repo:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    head: str = ""

    def commit(self, files: dict[str, bytes]) -> str:
        content = {**(self.commits[self.head] if self.head else {}), **files}
        number = f"{len(self.commits)}{sorted(content)}".encode()
        self.head = hashlib.sha1(number + b"".join(content.values())).hexdigest()
        self.commits[self.head] = content
        return self.head


class LocalHub:
    """``repos["model", "user/name"]``; ``failures``: what the next requests that fit a pattern get instead.

    ``hub.fail("PUT /lfs/", 500, times=2)``; the status "drop" closes the connection, "hang" stays silent.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.failures: list[list] = []
        self.ended = threading.Event()
        hub = self

        class Handler(_Handler):
            server_hub = hub

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def fail(self, pattern: str, status: int | str, *, times: int = 1, message: str = "") -> None:
        self.failures.append([re.compile(pattern), status, times, message])

    def add(self, kind: str, name: str, files: dict[str, bytes], *, private: bool = False) -> str:
        """A commit in a repository, which is made if it is not there; its id."""
        return self.repos.setdefault((kind, name), Repo(private)).commit(files)

    def files(self, kind: str, name: str) -> dict[str, bytes]:
        repo = self.repos[kind, name]
        return repo.commits[repo.head] if repo.head else {}

    def close(self) -> None:
        self.ended.set()
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_hub: LocalHub

    def log_message(self, *arguments) -> None:
        """The list of requests is enough."""

    def _handle(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.hub = self.server_hub
        line = f"{self.command} {self.path}"
        self.hub.requests.append(line)
        for failure in self.hub.failures:
            pattern, status, times, message = failure
            if times > 0 and pattern.search(line):
                failure[2] -= 1
                return self._fail(status, message)
        for pattern, method in _ROUTES:
            match = re.fullmatch(pattern, line.partition("?")[0])
            if match:
                return method(self, **match.groupdict())
        self._answer(404, {"error": f"this hub has no {line}"})
        return None

    do_GET = do_HEAD = do_POST = do_PUT = _handle

    def _fail(self, status: int | str, message: str) -> None:
        if status == "hang":
            self.hub.ended.wait(20)
        if not isinstance(status, int):
            self.close_connection = True
            return
        self._answer(status, {"error": message or f"told to fail with {status}"})

    def _answer(self, status: int, value: object = None, headers: dict[str, str] | None = None) -> None:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, text)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _may_write(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self._answer(401, {"error": "Invalid username or password."})
        return False

    def _repo(self, kind: str, name: str) -> Repo | None:
        repo = self.hub.repos.get((kind, name))
        if repo is None:
            self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        return repo

    def _commit_of(self, repo: Repo, revision: str) -> str | None:
        commit = repo.head if revision in ("main", "") else revision
        if commit in repo.commits:
            return commit
        self._answer(404, {"error": f"Invalid rev id: {revision}"}, {"X-Error-Code": "RevisionNotFound"})
        return None

    # -----------------------------------------------------------------------------------------------------------------
    # what is asked

    def create(self) -> None:
        if not self._may_write():
            return
        asked = json.loads(self.body)
        kind, name = asked.get("type", "model"), f"{asked['organization']}/{asked['name']}"
        url = f"{self.hub.url}/{'' if kind == 'model' else 'datasets/'}{name}"
        if (kind, name) in self.hub.repos:
            self._answer(409, {"error": f"You already created this {kind} repo", "url": url})
            return
        self.hub.repos[kind, name] = Repo(asked.get("visibility") == "private" or asked.get("private") is True)
        self.hub.repos[kind, name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        self._answer(200, {"url": url, "name": name, "id": "1"})

    def validate(self) -> None:
        import yaml

        content = json.loads(self.body)["content"]
        header = yaml.safe_load(content.split("---\n")[1])
        errors = [] if isinstance(header, dict) and "tags" in header else [{"message": "no metadata"}]
        self._answer(400 if errors else 200, {"errors": errors, "warnings": []})

    def info(self, kind: str, name: str, revision: str = "main") -> None:
        repo = self._repo(kind, name)
        commit = repo and self._commit_of(repo, revision)
        if repo and commit:
            siblings = [{"rfilename": path} for path in repo.commits[commit]]
            answer = {"id": name, "sha": commit, "private": repo.private, "siblings": siblings, "tags": []}
            self._answer(200, answer)

    def preupload(self, kind: str, name: str, revision: str) -> None:
        if not self._may_write() or self._repo(kind, name) is None:
            return
        modes = []
        for each in json.loads(self.body)["files"]:
            mode = "lfs" if each["path"].endswith((".safetensors", ".parquet")) else "regular"
            modes.append({"path": each["path"], "uploadMode": mode, "shouldIgnore": False})
        self._answer(200, {"files": modes})

    def batch(self, name: str) -> None:
        if not self._may_write():
            return
        objects = []
        for each in json.loads(self.body)["objects"]:
            found = {"oid": each["oid"], "size": each["size"]}
            if each["oid"] not in self.hub.objects:
                found["actions"] = {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}
            objects.append(found)
        self._answer(200, {"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        if hashlib.sha256(self.body).hexdigest() != oid:
            self._answer(422, {"error": "another content"})
            return
        self.hub.objects[oid] = self.body
        self._answer(200, b"")

    def commit(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name) if self._may_write() else None
        if repo is None:
            return
        files = {}
        for line in self.body.decode().splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
        commit = repo.commit(files)
        self._answer(200, {"success": True, "commitOid": commit, "commitUrl": f"{self.hub.url}/{name}/commit/{commit}"})

    def tree(self, kind: str, name: str, revision: str, folder: str | None = None) -> None:
        repo = self._repo(kind, name)
        commit = repo and self._commit_of(repo, revision)
        if repo and commit:
            files = {path: content for path, content in repo.commits[commit].items() if path.startswith(folder or "")}
            self._answer(200, [_entry(path, content) for path, content in files.items()])

    def paths(self, kind: str, name: str, revision: str) -> None:
        repo = self._repo(kind, name)
        commit = repo and self._commit_of(repo, revision)
        if repo and commit:
            asked = re.findall(r'"([^"]*)"', self.body.decode()) + re.findall(r"paths=([^&]*)", self.body.decode())
            files = repo.commits[commit]
            self._answer(200, [_entry(path, files[path]) for path in asked if path in files])

    def resolve(self, kind: str, name: str, revision: str, path: str) -> None:
        kind = kind or "model"
        repo = self._repo(kind, name)
        commit = repo and self._commit_of(repo, revision)
        if not repo or not commit:
            return
        content = repo.commits[commit].get(path)
        if content is None:
            self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        etag = hashlib.sha1(content).hexdigest()
        self._answer(200, content, {"X-Repo-Commit": commit, "ETag": f'"{etag}"', "Accept-Ranges": "none"})


def _entry(path: str, content: bytes) -> dict[str, object]:
    return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}


_NAME = r"(?P<name>[\w.-]+/[\w.-]+)"
_KIND = r"/api/(?P<kind>model|dataset)s/"
_ROUTES = [
    (r"POST /api/repos/create", _Handler.create),
    (r"POST /api/validate-yaml", _Handler.validate),
    (rf"GET {_KIND}{_NAME}", _Handler.info),
    (rf"GET {_KIND}{_NAME}/revision/(?P<revision>[^/]+)", _Handler.info),
    (rf"POST {_KIND}{_NAME}/preupload/(?P<revision>[^/]+)", _Handler.preupload),
    (rf"POST /(?:datasets/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    (r"PUT /lfs/(?P<oid>[0-9a-f]{64})", _Handler.put),
    (rf"POST {_KIND}{_NAME}/commit/(?P<revision>[^/]+)", _Handler.commit),
    (rf"GET {_KIND}{_NAME}/tree/(?P<revision>[^/]+)(?:/(?P<folder>.*))?", _Handler.tree),
    (rf"POST {_KIND}{_NAME}/paths-info/(?P<revision>[^/]+)", _Handler.paths),
    (rf"(?:GET|HEAD) /(?P<kind>dataset)s/{_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.*)", _Handler.resolve),
    (rf"(?:GET|HEAD) /(?P<kind>){_NAME}/resolve/(?P<revision>[^/]+)/(?P<path>.*)", _Handler.resolve),
]
