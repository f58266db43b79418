"""A Hub on this machine: it answers the real client's requests for kernel repositories and misbehaves where a test asks for it.

Repositories are commits with branches and tags. Small files are served as the Hub serves git files (ETag is the git blob's sha1), files of
`LFS_SUFFIXES` as it serves LFS files: a redirect to another host with ``X-Linked-Etag`` and ``X-Linked-Size``, where no token may arrive.

Example:
    >>> with LoopbackHub() as hub:
    ...     commit = hub.add("acme/norms", {"build/torch-universal/metadata.json": b"{}"})
    ...     hub.fail("*/resolve/*", status=503, times=2)
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import TracebackType
from urllib.parse import parse_qs, unquote, urlsplit

from hosted import LFS_SUFFIXES, Repository, as_bytes, entry, files_of, git_blob_sha1, lfs_pointer
from hub_server import HubServer


@dataclass(frozen=True)
class Request:
    """A request that reached the server, with its headers by their names in small letters, and what it was answered."""

    method: str
    path: str
    headers: Mapping[str, str]
    status: int
    to_cdn: bool = False

    def __str__(self) -> str:
        return f"{self.method} {self.path} -> {self.status}{' (cdn)' if self.to_cdn else ''}"


@dataclass
class Fault:
    """Something that goes wrong with requests whose path matches `path` (a glob), `times` times or always; see `LoopbackHub.fail`."""

    path: str
    method: str | None = None
    times: int | None = None
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    cut_after: int | None = None
    delay: float = 0.0
    change: Callable[[bytes], bytes] | None = None
    happened: int = 0

    def concerns(self, method: str, path: str) -> bool:
        if self.times is not None and self.happened >= self.times:
            return False
        return (self.method is None or self.method == method) and fnmatch.fnmatchcase(path, self.path)


class LoopbackHub:
    """The server. `requests` has everything that was asked of it, `tokens` the ones that open private and gated repositories."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.organizations: dict[str, bool] = {}
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self.tokens: set[str] = set()
        self.page_size = 1000
        self._lock = threading.Lock()
        self._ports = [0, 0]
        self.start()
        self.url, self.cdn_url = (f"http://127.0.0.1:{port}" for port in self._ports)

    def __enter__(self) -> LoopbackHub:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Answer, after a `stop` at the same addresses as before."""
        self._servers = [_server(self, port, to_cdn=to_cdn) for port, to_cdn in zip(self._ports, (False, True), strict=True)]
        self._ports = [server.server_port for server in self._servers]
        self._threads = [threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True) for server in self._servers]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop answering; connections are refused from then on. Stopping twice is fine."""
        for server in self._servers:
            server.shutdown()
            server.hang_up()
            server.server_close()
        for thread in self._threads:
            thread.join()
        self._servers, self._threads = [], []

    # --- what is on it ---

    def add(
        self,
        repo_id: str,
        files: Path | Mapping[str, bytes | str],
        *,
        version: int | None = 1,
        branch: str | None = None,
        tag: str | None = None,
        trusted: bool | None = None,
        private: bool = False,
        gated: bool = False,
    ) -> str:
        """Publish a commit and return its id. Branch ``v<version>``, `branch`, `tag` and ``main`` point to it afterwards.

        Args:
            repo_id: Organization and name.
            files: A directory in Hub layout, or path -> content; any path, also one that a client must refuse.
            version: The version's branch; None for none.
            branch: A further branch.
            tag: A tag.
            trusted: Whether the organization is a trusted publisher from now on. An organization that was not there is one by default.
            private: Whether only `tokens` open it.
            gated: Whether it needs one of `tokens` to download, not to see.
        """
        organization = repo_id.split("/")[0]
        self.organizations[organization] = self.organizations.get(organization, True) if trusted is None else trusted
        repository = self.repositories.setdefault(repo_id, Repository())
        repository.private, repository.gated = private, gated
        content = files_of(files) if isinstance(files, Path) else {path: as_bytes(text) for path, text in files.items()}
        listing = "\n".join(f"{git_blob_sha1(content[path])} {path}" for path in sorted(content))
        commit = hashlib.sha1(f"{repo_id} {len(repository.commits)}\n{listing}".encode()).hexdigest()
        repository.commits[commit] = content
        names = ["main", *([f"v{version}"] if version is not None else []), *([branch] if branch else [])]
        repository.branches.update(dict.fromkeys(names, commit))
        if tag:
            repository.tags[tag] = commit
        return commit

    def rename(self, repo_id: str, new_id: str) -> None:
        """Give a repository another name; requests for the old one are redirected, as the Hub does."""
        self.repositories[new_id] = self.repositories[repo_id]
        self.repositories[repo_id] = Repository(renamed_to=new_id)
        self.organizations.setdefault(new_id.split("/")[0], True)

    # --- what goes wrong ---

    def fail(
        self,
        path: str,
        *,
        method: str | None = None,
        times: int | None = None,
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        cut_after: int | None = None,
        delay: float = 0.0,
        change: Callable[[bytes], bytes] | None = None,
    ) -> Fault:
        """Let requests whose path matches the glob go wrong, `times` times or (None) always.

        Args:
            path: Glob over the path without query, e.g. ``"*/resolve/*/layers.py"``.
            method: Only this one, e.g. ``"GET"``.
            times: How often.
            status: Answer this status, with `headers` and `body`, instead of what was asked for.
            headers: Additional headers, also without a status.
            body: Of the answer with `status`.
            cut_after: Close the connection after so many bytes of the body.
            delay: Wait so many seconds first.
            change: What to make of the body; the headers still describe the original, except for its length.
        """
        fault = Fault(path, method, times, status, headers or {}, body, cut_after, delay, change)
        self.faults.append(fault)
        return fault

    def fault_for(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.concerns(method, path):
                    fault.happened += 1
                    return fault
        return None

    # --- what was asked ---

    def record(self, request: Request) -> None:
        # Nothing about kernels: the client asks it once a day where it finds that a coding agent runs it.
        if request.path == "/api/agent-harnesses":
            return
        with self._lock:
            self.requests.append(request)

    def downloads(self) -> list[str]:
        """The paths of the files whose content was asked for, in order, as ``<path in the repository>``."""
        asked = [match for request in self.requests if request.method == "GET" and (match := _RESOLVE.match(request.path))]
        return [unquote(match["path"]) for match in asked]


_API = re.compile(r"^/api/kernels/(?P<repo>[^/]+/[^/]+?)(?:/(?P<what>refs|tree|revision)(?:/(?P<rest>.*))?)?$")
_RESOLVE = re.compile(r"^/kernels/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)$")
_ORGANIZATION = re.compile(r"^/api/organizations/(?P<name>[^/]+)/overview$")


class _Handler(BaseHTTPRequestHandler):
    """One connection. Subclassed per server with the hub it belongs to."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub
    to_cdn: bool

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing; the hub's `requests` is the log."""

    def do_GET(self) -> None:
        self._fault = self.hub.fault_for(self.command, urlsplit(self.path).path)
        fault = self._fault
        if fault is not None:
            time.sleep(fault.delay)
            if fault.status is not None:
                return self._answer(fault.status, fault.body, {})
        path = urlsplit(self.path).path
        if self.to_cdn:
            return self._cdn(path)
        if match := _ORGANIZATION.match(path):
            return self._organization(match["name"])
        if match := _API.match(path):
            return self._api(match["repo"], match["what"], match["rest"] or "")
        if match := _RESOLVE.match(path):
            return self._resolve(match["repo"], unquote(match["revision"]), unquote(match["path"]))
        return self._answer(404, b"no such page", {})

    do_HEAD = do_GET

    # --- the pages ---

    def _organization(self, name: str) -> None:
        if name not in self.hub.organizations:
            return self._answer(404, b'{"error": "This organization does not exist"}', {})
        return self._json(
            {
                "name": name,
                "fullname": name,
                "avatarUrl": "",
                "type": "org",
                "numUsers": 1,
                "trustedKernelPublisher": self.hub.organizations[name],
            }
        )

    def _api(self, repo_id: str, what: str | None, rest: str) -> None:
        repository = self._repository(repo_id)
        if repository is None:
            return None
        if what == "refs":
            return self._json(
                {
                    "branches": [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": c} for n, c in repository.branches.items()],
                    "tags": [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": c} for n, c in repository.tags.items()],
                    "converts": [],
                }
            )
        revision, _, folder = rest.partition("/")
        commit = self._commit(repository, unquote(revision) or "main")
        if commit is None:
            return None
        if what == "tree":
            return self._tree(repository.commits[commit], unquote(folder).strip("/"))
        return self._json({"id": repo_id, "author": repo_id.split("/")[0], "sha": commit, "private": repository.private, "gated": False})

    def _tree(self, files: dict[str, bytes], folder: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        inside = {path: content for path, content in files.items() if not folder or path.startswith(folder + "/")}
        if folder and not inside:
            return self._error(404, "EntryNotFound", f"{folder} does not exist")
        depth = folder.count("/") + 1 if folder else 0
        recursive = query.get("recursive", [""])[0].lower() in ("true", "1")
        folders = sorted({"/".join(path.split("/")[:end]) for path in inside for end in range(depth + 1, path.count("/") + 1)})
        entries: list[dict[str, object]] = [
            {"type": "directory", "oid": hashlib.sha1(name.encode()).hexdigest(), "size": 0, "path": name}
            for name in folders
            if recursive or name.count("/") == depth
        ]
        entries += [entry(path, content) for path, content in sorted(inside.items()) if recursive or path.count("/") == depth]
        start = int(query.get("cursor", ["0"])[0])
        end = start + self.hub.page_size
        headers = {}
        if end < len(entries):
            page = f"{self.hub.url}{urlsplit(self.path).path}?recursive={recursive}&cursor={end}"
            headers["Link"] = f'<{page}>; rel="next"'
        return self._json(entries[start:end], headers)

    def _resolve(self, repo_id: str, revision: str, path: str) -> None:
        repository = self._repository(repo_id)
        commit = self._commit(repository, revision) if repository is not None else None
        if repository is None or commit is None:
            return None
        if repository.gated and not self._authorized():
            return self._error(403, "GatedRepo", f"Access to {repo_id} is restricted and you are not in the authorized list.")
        content = repository.commits[commit].get(path)
        if content is None:
            return self._error(404, "EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if not path.endswith(LFS_SUFFIXES):
            return self._content(content, headers | {"ETag": f'"{git_blob_sha1(content)}"'})
        digest = hashlib.sha256(content).hexdigest()
        location = f"{self.hub.cdn_url}/{repo_id}/{commit}/{path}"
        linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(content)), "Location": location}
        return self._answer(302, b"", headers | linked | {"ETag": f'"{git_blob_sha1(lfs_pointer(content))}"'})

    def _cdn(self, path: str) -> None:
        organization, name, commit, file = path.removeprefix("/").split("/", 3)
        content = self.hub.repositories[f"{organization}/{name}"].commits[commit][unquote(file)]
        return self._content(content, {"ETag": f'"{hashlib.md5(content).hexdigest()}"', "Accept-Ranges": "bytes"})

    # --- who may see what ---

    def _repository(self, repo_id: str) -> Repository | None:
        repository = self.hub.repositories.get(repo_id)
        if repository is not None and repository.renamed_to is not None:
            location = self.path.replace(f"/kernels/{repo_id}", f"/kernels/{repository.renamed_to}", 1)
            self._answer(307, b"", {"Location": location})
            return None
        if repository is not None and (not repository.private or self._authorized()):
            return repository
        # The Hub does not tell a private repository from one that does not exist.
        self._error(404 if self._authorized() else 401, "RepoNotFound", "Repository not found")
        return None

    def _authorized(self) -> bool:
        return self.headers.get("Authorization", "").removeprefix("Bearer ") in self.hub.tokens

    def _commit(self, repository: Repository, revision: str) -> str | None:
        commit = repository.commit_of(revision)
        if commit is None:
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return commit

    # --- answers ---

    def _json(self, value: object, headers: Mapping[str, str] | None = None) -> None:
        self._answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})})

    def _error(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        self._answer(status, json.dumps({"error": message}).encode(), {"X-Error-Code": code, "X-Error-Message": message, **(headers or {})})

    def _content(self, content: bytes, headers: Mapping[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            return self._answer(200, content, headers)
        first, last = int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
        if first >= len(content):
            return self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        return self._answer(206, content[first : last + 1], {**headers, "Content-Range": f"bytes {first}-{last}/{len(content)}"})

    def _answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        fault = self._fault
        headers_sent = {name.lower(): value for name, value in self.headers.items()}
        self.hub.record(Request(self.command, urlsplit(self.path).path, headers_sent, status, self.to_cdn))
        if fault is not None and fault.change is not None and self.command == "GET":
            body = fault.change(body)
        self.send_response(status)
        for name, value in {**headers, **(fault.headers if fault is not None else {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is not None and fault.cut_after is not None:
            self.wfile.write(body[: fault.cut_after])
            self.close_connection = True
            return
        self.wfile.write(body)


def _server(hub: LoopbackHub, port: int, *, to_cdn: bool) -> HubServer:
    return HubServer(("127.0.0.1", port), type("Handler", (_Handler,), {"hub": hub, "to_cdn": to_cdn}))
