"""
A server on the loopback interface that speaks the Hugging Face Hub's HTTP protocol and keeps what it is given.

    with HubServer({"hf_alice": "alice"}) as hub:
        subprocess.run(command, env=hub.environment("hf_alice", home=tmp_path))  # the real client, over HTTP
        assert hub.files("alice/model")["config.json"] == b"{}"

Repositories live in memory. A commit keeps its whole tree, so that old revisions read as they were. Large files go by
LFS: they are uploaded to, and redirected to, a second port that stands for the storage and the CDN of the Hub. The
client takes another port for another host, and must not send its token there.

What is left out: Xet (the client needs HF_HUB_DISABLE_XET=1), discussions, merging, organizations, kernels, buckets,
searching, and the git protocol.
"""

import base64
import hashlib
import json
import os
import re
import secrets
import socket
import socketserver
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml  # reads the metadata of cards; the client depends on it

COMMON = "7z arrow bin bz2 ckpt gz h5 joblib model msgpack npy npz onnx parquet pb pickle pkl pt pth rar safetensors"
COMMON += " tar tflite tgz wasm xz zip zst"
LFS_EXTENSIONS = {"models": COMMON, "spaces": COMMON, "datasets": COMMON + " wav flac mp3 ogg aac png jpg jpeg mp4"}
REGULAR_LIMIT = 10 * 1024 * 1024  # bytes; what is larger must go by LFS


class HubError(Exception):
    """An answer that refuses a request. `code` goes into the header from which the client picks its exception."""

    def __init__(self, status: int, message: str, code: str | None = None, headers: dict | None = None, **body):
        super().__init__(message)
        plain = " ".join(message.split()).encode("ascii", "replace").decode()
        headers = {"X-Error-Message": plain} | ({"X-Error-Code": code} if code else {}) | (headers or {})
        self.answer = reply({"error": message} | body, status, headers)


@dataclass
class Answer:
    """Status, body and headers to send."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


def reply(data: object, status: int = 200, headers: dict | None = None) -> Answer:
    return Answer(status, json.dumps(data).encode(), {"Content-Type": "application/json"} | (headers or {}))


@dataclass
class Fault:
    """What goes wrong, for which requests, how often (None: always)."""

    path: str
    method: str | None
    times: int | None
    answer: Answer | None = None  # None: the connection is closed
    after_bytes: int | None = None


@dataclass(frozen=True)
class Blob:
    """The content of a file, and whether git holds a pointer to it instead."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def pointer(self) -> bytes:
        size = len(self.content)
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {size}\n".encode()

    @cached_property
    def oid(self) -> str:
        """The name that git gives the file, or its pointer."""
        stored = self.pointer if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(stored) + stored).hexdigest()

    def info(self) -> dict:
        lfs = {"oid": self.sha256, "size": len(self.content), "pointerSize": len(self.pointer)}
        return {"size": len(self.content), "oid": self.oid} | ({"lfs": lfs} if self.lfs else {})


@dataclass(frozen=True)
class Commit:
    """A commit with its whole tree, by path."""

    oid: str
    parent: str | None
    tree: dict[str, Blob]
    title: str
    message: str
    author: str
    date: str

    def entry(self, path: str) -> dict | None:
        """A file or a folder, as listings show it."""
        if path in self.tree:
            return {"type": "file", "path": path} | self.tree[path].info()
        inside = sorted((name, blob.oid) for name, blob in self.tree.items() if name.startswith(path + "/"))
        digest = hashlib.sha1(repr(inside).encode()).hexdigest()
        return {"type": "directory", "path": path, "size": 0, "oid": digest} if inside else None


class Repository:
    """Commits, the references that point to them, and the LFS objects that were uploaded."""

    def __init__(self, kind: str, name: str, private: bool, sdk: str | None):
        self.kind, self.name, self.private, self.sdk = kind, name, private, sdk
        self.owner = name.split("/")[0]
        self.gated: str | bool = False
        self.commits: dict[str, Commit] = {}
        self.refs: dict[str, str] = {}
        self.objects: dict[str, Blob] = {}
        self.parts: dict[str, dict[int, bytes]] = {}  # of multipart uploads under way
        lines = [f"*.{extension} filter=lfs diff=lfs merge=lfs -text\n" for extension in LFS_EXTENSIONS[kind].split()]
        tree = {".gitattributes": Blob("".join(lines).encode())}
        if kind == "spaces":
            tree["README.md"] = Blob(f"---\ntitle: {name}\nsdk: {sdk}\n---\n".encode())
        self.commit("refs/heads/main", tree, None, "initial commit", "", self.owner)

    def at(self, revision: str) -> Commit:
        for ref in (revision, f"refs/heads/{revision}", f"refs/tags/{revision}"):
            if ref in self.refs or ref in self.commits:
                return self.commits[self.refs.get(ref, ref)]
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def commit(self, ref: str, tree: dict, parent: Commit | None, title: str, message: str, author: str) -> Commit:
        """The tree is complete, and moving the reference is the last step: readers see all of a commit or nothing."""
        made = Commit(secrets.token_hex(20), parent and parent.oid, tree, title, message, author, now())
        self.commits[made.oid] = made
        self.refs[ref] = made.oid
        return made

    def history(self, commit: Commit) -> list[Commit]:
        commits = [commit]
        while commits[-1].parent:
            commits.append(self.commits[commits[-1].parent])
        return commits

    def last_change(self, commit: Commit, path: str) -> dict:
        entry = commit.entry(path)
        while commit.parent and self.commits[commit.parent].entry(path) == entry:
            commit = self.commits[commit.parent]
        return {"id": commit.oid, "title": commit.title, "date": commit.date}


@dataclass(eq=False)
class Request:
    """What was asked of the server, and what became of it."""

    hub: "HubServer"
    method: str
    path: str  # with its query
    headers: dict[str, str]  # names in lower case
    body: bytes = field(default=b"", repr=False)  # while it is answered
    received: int = 0  # bytes of the body
    sent: int = 0  # bytes of the answer's body
    status: int | None = None  # None: the connection was closed without an answer

    @cached_property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.path).query).items()}

    @property
    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def user(self) -> str | None:
        return self.hub.tokens.get(self.token)

    def repository(self, kind: str | None, name: str, to: str = "read") -> Repository:
        """
        The repository, if the user may read it, write to it, or use its storage. Whoever may read may propose changes
        in a pull request.
        """
        to = "read" if to == "write" and self.is_set("create_pr") and self.user else to
        repo = self.hub.repositories.get((kind or "models", name))
        if to == "storage":  # the address is signed for those who have no token
            if repo is None or self.query.get("signature") != self.hub.secret or self.token:
                raise HubError(403, "Storage wants the right signature, and no token")
            return repo
        if self.user is None and (repo is None or repo.private or to != "read"):
            raise HubError(401, "Invalid username or password.", "RepoNotFound")
        if repo is None or (repo.private and self.user != repo.owner):
            raise HubError(404, "Repository not found", "RepoNotFound")
        if to == "write" and self.user != repo.owner:
            raise HubError(403, f"Authorization error: {self.user} may not write to {name}")
        return repo

    def is_set(self, name: str) -> bool:
        return self.query.get(name, "").lower() in ("1", "true")

    def page(self, items: list) -> Answer:
        """One page of a list, and where the next one is."""
        start, size = int(self.query.get("cursor", 0)), self.hub.page_size
        query = "&".join(f"{key}={quote(value)}" for key, value in self.query.items() if key != "cursor")
        link = f'<{self.hub.url}{urlsplit(self.path).path}?{query}&cursor={start + size}>; rel="next"'
        return reply(items[start : start + size], headers={"Link": link} if start + size < len(items) else None)


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def read_card(text: str) -> tuple[dict, list[str], list[str]]:
    """The metadata at the top of a README, what is wrong with it, and what the Hub would warn of."""
    lines = text.lstrip().splitlines()
    if not lines or lines[0].rstrip() != "---":
        return {}, [], ["empty or missing yaml metadata in repo card"]
    end = next((number for number, line in enumerate(lines[1:], 1) if line.rstrip() == "---"), None)
    if end is None:
        return {}, ["the metadata block is not closed by a line ---"], []
    try:
        data = yaml.safe_load("\n".join(lines[1:end]))
    except yaml.YAMLError as error:
        return {}, [f"YAML metadata error: {error}"], []
    if not data:
        return {}, [], ["empty or missing yaml metadata in repo card"]
    if not isinstance(data, dict):
        return {}, ["the metadata must be a mapping"], []
    tags = data.get("tags") or []
    listed = isinstance(tags, list) and all(isinstance(tag, str) for tag in tags)
    return data, [] if listed else ['"tags" must be an array of strings'], []


ROUTES: list[tuple[list[str], re.Pattern, str | None, Callable[..., Answer]]] = []
REPO = r"/api/(models|datasets|spaces)/([^/]+/[^/]+)"
PAGE = r"/(?:(datasets|spaces)/)?([^/]+/[^/]+)"
STORED = r"/storage/(models|datasets|spaces)/([^/]+/[^/]+)/([0-9a-f]{64})"


def route(methods: str, pattern: str, to: str | None = None) -> Callable:
    """
    Registers what answers a path. Its groups, with their quoting undone, become arguments. Where `to` says what is
    done to a repository, one argument, the repository, replaces the first two groups.
    """

    def register(function: Callable[..., Answer]) -> Callable[..., Answer]:
        ROUTES.append((methods.split(), re.compile(pattern), to, function))
        return function

    return register


@route("GET", "/api/whoami-v2")
def whoami(request: Request) -> Answer:
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    role = {"type": "access_token", "accessToken": {"displayName": "test", "role": "write"}}
    return reply({"type": "user", "name": request.user, "fullname": request.user, "orgs": [], "auth": role})


@route("POST", "/api/validate-yaml")
def validate_yaml(request: Request) -> Answer:
    _, errors, warnings = read_card(request.json.get("content", ""))
    data = {"errors": [{"message": error} for error in errors], "warnings": [{"message": w} for w in warnings]}
    return reply(data, 400 if errors else 200)


def _named(request: Request) -> tuple[str, str]:
    """The kind and the name of the repository that a body names."""
    if request.user is None:
        raise HubError(401, "Invalid username or password.")
    data = request.json
    return data.get("type", "model") + "s", f"{data.get('organization') or request.user}/{data['name']}"


@route("POST", "/api/repos/create")
def create_repository(request: Request) -> Answer:
    kind, name = _named(request)
    sdk, private = request.json.get("sdk"), request.json.get("visibility") == "private"
    url = request.hub.page_of(kind, name)
    if kind not in LFS_EXTENSIONS or (kind == "spaces" and not sdk):
        raise HubError(400, f"Cannot create a repository of type {kind} without sdk, or of an unknown type")
    if name.split("/")[0] != request.user:
        raise HubError(403, f"You don't have the rights to create a {kind[:-1]} under this namespace")
    if (kind, name) in request.hub.repositories:
        raise HubError(409, f"You already created this {kind[:-1]} repo", url=url)
    request.hub.repositories[kind, name] = Repository(kind, name, private, sdk)
    return reply({"url": url, "name": name, "id": name})


@route("DELETE", "/api/repos/delete")
def delete_repository(request: Request) -> Answer:
    repo = request.repository(*_named(request), to="write")
    del request.hub.repositories[repo.kind, repo.name]
    return reply({})


@route("PUT", f"{REPO}/settings", to="write")
def update_settings(request: Request, repo: Repository) -> Answer:
    repo.gated = request.json.get("gated", repo.gated)
    repo.private = request.json.get("visibility", "private" if repo.private else "public") == "private"
    return reply({"private": repo.private, "gated": repo.gated})


@route("GET", f"{REPO}(?:/revision/([^/]+))?", to="read")
def repository_info(request: Request, repo: Repository, revision: str | None) -> Answer:
    commit = repo.at(revision or "main")
    siblings = [{"rfilename": path} for path in sorted(commit.tree)]
    if request.is_set("blobs"):
        for sibling in siblings:
            info = commit.tree[sibling["rfilename"]].info()
            lfs = info.get("lfs") and info["lfs"] | {"sha256": info["lfs"]["oid"]}
            sibling.update(size=info["size"], blobId=info["oid"], lfs=lfs)
    card = read_card(commit.tree["README.md"].content.decode())[0] if "README.md" in commit.tree else {}
    data = {"id": repo.name, "author": repo.owner, "private": repo.private, "gated": repo.gated, "sdk": repo.sdk}
    data |= {"sha": commit.oid, "lastModified": commit.date, "createdAt": repo.history(commit)[-1].date}
    data |= {"siblings": siblings, "tags": card.get("tags") or [], "downloads": 0, "likes": 0, "disabled": False}
    data |= {key: card[key] for key in ("library_name", "pipeline_tag") if key in card}
    # Dates in a card are written as text.
    return reply(data | ({"cardData": json.loads(json.dumps(card, default=str))} if card else {}))


@route("GET", f"{REPO}/refs", to="read")
def list_refs(request: Request, repo: Repository) -> Answer:
    def below(folder: str) -> list[dict]:
        found = [(ref, oid) for ref, oid in repo.refs.items() if ref.startswith(folder)]
        return [{"name": ref.removeprefix(folder), "ref": ref, "targetCommit": oid} for ref, oid in found]

    pulls = {"pullRequests": below("refs/pr/")} if request.is_set("include_prs") else {}
    return reply({"branches": below("refs/heads/"), "converts": [], "tags": below("refs/tags/")} | pulls)


@route("POST DELETE", f"{REPO}/(branch|tag)/([^/]+)", to="write")
def change_refs(request: Request, repo: Repository, what: str, given: str) -> Answer:
    ref, target = f"refs/{'heads' if what == 'branch' else 'tags'}/{given}", request.json.get("startingPoint")
    if request.method == "POST" and what == "tag":  # the address says what to tag, the body under which name
        ref, target = f"refs/tags/{request.json['tag']}", given
    if request.method == "DELETE":
        if ref == "refs/heads/main":
            raise HubError(403, "The default branch cannot be deleted")
        if repo.refs.pop(ref, None) is None:
            raise HubError(404, f"Invalid rev id: {given}", "RevisionNotFound")
    elif ref in repo.refs:
        raise HubError(409, f"Reference {ref} already exists")
    else:
        repo.refs[ref] = repo.at(target or "main").oid
    return reply({})


@route("GET", f"{REPO}/commits/([^/]+)", to="read")
def list_commits(request: Request, repo: Repository, revision: str) -> Answer:
    def show(made: Commit) -> dict:
        authors = [{"user": made.author}]
        return {"id": made.oid, "title": made.title, "message": made.message, "authors": authors, "date": made.date}

    return request.page([show(made) for made in repo.history(repo.at(revision))])


def _entries(repo: Repository, commit: Commit, paths: list[str], expand: bool) -> list[dict]:
    entries = [entry for path in paths if (entry := commit.entry(path.strip("/")))]
    return [e | ({"lastCommit": repo.last_change(commit, e["path"])} if expand else {}) for e in entries]


@route("GET", f"{REPO}/tree/([^/]+)(?:/(.+))?", to="read")
def list_tree(request: Request, repo: Repository, revision: str, folder: str | None) -> Answer:
    commit = repo.at(revision)
    root, depth = PurePosixPath(folder or "."), None if request.is_set("recursive") else 1
    known = {entry for path in map(PurePosixPath, commit.tree) for entry in (path, *path.parents)}
    paths = [str(path) for path in known if root in path.parents[:depth]]
    if folder and not paths:
        raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
    return request.page(_entries(repo, commit, sorted(paths), request.is_set("expand")))


@route("POST", f"{REPO}/paths-info/([^/]+)", to="read")
def paths_info(request: Request, repo: Repository, revision: str) -> Answer:
    form = parse_qs(request.body.decode())
    return reply(_entries(repo, repo.at(revision), form.get("paths", []), form.get("expand") in (["true"], ["True"])))


def _matches(path: str, pattern: str) -> bool:
    """Whether a pattern of .gitattributes or .gitignore means the path, or a folder around it."""
    names = [path, *map(str, PurePosixPath(path).parents)][:-1] if pattern.strip("/") else []
    pattern, anywhere = pattern.strip("/"), "/" not in pattern.rstrip("/")
    return any(fnmatch(PurePosixPath(name).name if anywhere else name, pattern) for name in names)


def _is_lfs(tree: dict[str, Blob], path: str) -> bool:
    lines = tree[".gitattributes"].content.decode().splitlines() if ".gitattributes" in tree else []
    return any("filter=lfs" in line and _matches(path, line.split()[0]) for line in lines)


@route("POST", f"{REPO}/preupload/([^/]+)", to="write")
def preupload(request: Request, repo: Repository, revision: str) -> Answer:
    commit = repo.at(revision)
    ignore = request.json.get("gitIgnore", commit.tree.get(".gitignore", Blob(b"")).content.decode())
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]

    def advise(path: str, size: int) -> dict:
        is_lfs = size > request.hub.lfs_size or _is_lfs(commit.tree, path)
        advice = {"path": path, "uploadMode": "lfs" if is_lfs else "regular"}
        advice["shouldIgnore"] = any(_matches(path, pattern) for pattern in patterns)
        present = commit.tree.get(path)
        return advice | ({"oid": present.sha256 if present.lfs else present.oid} if present else {})

    return reply({"files": [advise(f["path"], f["size"]) for f in request.json["files"]], "commitOid": commit.oid})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/batch", to="propose")
def lfs_batch(request: Request, repo: Repository) -> Answer:
    chunk = request.hub.chunk_size

    def instruct(oid: str, size: int) -> dict:
        if oid in repo.objects:
            return {"oid": oid, "size": size}
        upload: dict = {"href": request.hub.stored_at(repo, oid)}
        if chunk and size > chunk:
            header = {str(n): f"{upload['href']}&part={n}" for n in range(1, -(-size // chunk) + 1)}
            upload["header"] = header | {"chunk_size": str(chunk)}
        verify = f"{request.hub.page_of(repo.kind, repo.name)}.git/info/lfs/objects/verify"
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": verify}}}

    return reply({"objects": [instruct(each["oid"], each["size"]) for each in request.json["objects"]]})


@route("POST", rf"{PAGE}\.git/info/lfs/objects/verify", to="read")
def lfs_verify(request: Request, repo: Repository) -> Answer:
    found = repo.objects.get(request.json["oid"])
    if found is None or len(found.content) != request.json["size"]:
        raise HubError(404, f"Object {request.json['oid']} of {request.json['size']} bytes was not uploaded")
    return reply({})


def _keep(repo: Repository, oid: str, content: bytes) -> None:
    blob = Blob(content, lfs=True)
    if blob.sha256 != oid:
        raise HubError(400, f"{len(content)} bytes with sha256 {blob.sha256} came in place of {oid}")
    repo.objects[oid] = blob


@route("PUT", STORED, to="storage")
def store(request: Request, repo: Repository, oid: str) -> Answer:
    if "part" in request.query:
        repo.parts.setdefault(oid, {})[int(request.query["part"])] = request.body
    else:
        _keep(repo, oid, request.body)
    return Answer(headers={"ETag": f'"{hashlib.md5(request.body).hexdigest()}"'})


@route("POST", STORED, to="storage")
def complete_multipart(request: Request, repo: Repository, oid: str) -> Answer:
    parts = repo.parts.pop(oid, {})
    etags = {number: f'"{hashlib.md5(part).hexdigest()}"' for number, part in parts.items()}
    if {part["partNumber"]: part["etag"] for part in request.json["parts"]} != etags:
        raise HubError(400, "The parts listed are not those uploaded")
    _keep(repo, oid, b"".join(parts[number] for number in sorted(parts)))
    return reply({})


def _part_of(request: Request, content: bytes, headers: dict[str, str]) -> Answer:
    """The file, or the range of it that is asked for."""
    headers |= {"Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not match or match.groups() == ("", ""):
        return Answer(200, content, headers)
    start, end, size = *match.groups(), len(content)
    first = int(start) if start else max(size - int(end), 0)
    last = min(int(end), size - 1) if start and end else size - 1
    if first > last:
        raise HubError(416, "Requested range not satisfiable", headers={"Content-Range": f"bytes */{size}"})
    return Answer(206, content[first : last + 1], headers | {"Content-Range": f"bytes {first}-{last}/{size}"})


@route("GET HEAD", STORED, to="storage")
def fetch(request: Request, repo: Repository, oid: str) -> Answer:
    return _part_of(request, repo.objects[oid].content, {"ETag": f'"{oid}"'})


@route("GET HEAD", f"{PAGE}/resolve/([^/]+)/(.+)", to="read")
def resolve(request: Request, repo: Repository, revision: str, path: str) -> Answer:
    if repo.gated and request.user != repo.owner:
        raise HubError(403 if request.user else 401, f"Access to {repo.name} is restricted", "GatedRepo")
    commit = repo.at(revision)
    headers = {"X-Repo-Commit": commit.oid}
    if path not in commit.tree:
        raise HubError(404, "Entry not found", "EntryNotFound", headers)
    blob = commit.tree[path]
    if not blob.lfs:
        return _part_of(request, blob.content, headers | {"ETag": f'"{blob.oid}"'})
    linked = {"X-Linked-Etag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.content))}
    return Answer(302, b"Found", headers | linked | {"Location": request.hub.stored_at(repo, blob.sha256)})


@route("POST", f"{REPO}/commit/([^/]+)", to="write")
def create_commit(request: Request, repo: Repository, revision: str) -> Answer:
    is_pull = request.is_set("create_pr")
    parent = repo.at(revision)
    ref = revision if revision.startswith("refs/") else f"refs/heads/{revision}"
    if is_pull:
        ref = f"refs/pr/{1 + sum(each.startswith('refs/pr/') for each in repo.refs)}"
    elif ref not in repo.refs or ref.startswith("refs/tags/"):
        raise HubError(400, f"{revision} is not a branch")
    (_, header), *operations = [(line["key"], line["value"]) for line in map(json.loads, request.body.splitlines())]
    if not header.get("summary"):
        raise HubError(400, "A commit needs a summary")
    if header.get("parentCommit", parent.oid) != parent.oid:
        raise HubError(412, "A commit has happened since. Please refresh and try again.")
    tree = dict(parent.tree)
    for key, value in operations:
        _apply(repo, parent, tree, key, value)
    card = tree.get("README.md", Blob(b""))
    if card != parent.tree.get("README.md") and (errors := read_card(card.content.decode())[1]):
        raise HubError(400, f"Invalid metadata in README.md: {errors}")
    # A commit without changes is made all the same: it is the client that avoids it.
    made = repo.commit(ref, tree, parent, header["summary"], header.get("description", ""), request.user)
    page = request.hub.page_of(repo.kind, repo.name)
    pull = {"pullRequestUrl": f"{page}/discussions/{ref.rsplit('/', 1)[-1]}"} if is_pull else {}
    return reply({"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}"} | pull)


def _apply(repo: Repository, parent: Commit, tree: dict[str, Blob], key: str, value: dict) -> None:
    """Carries out one operation of a commit on `tree`."""
    path = value["path"].strip("/")
    if not path or {"..", ".git", ""} & set(path.split("/")):
        raise HubError(400, f"Invalid path {value['path']!r}")
    if key in ("deletedFile", "deletedFolder"):
        gone = [each for each in tree if each == path or (key == "deletedFolder" and each.startswith(path + "/"))]
        if not gone:
            raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        for each in gone:
            del tree[each]
    elif key == "file":
        content = value["content"].encode()
        tree[path] = Blob(base64.b64decode(content) if value.get("encoding") == "base64" else content)
        if len(tree[path].content) > REGULAR_LIMIT:
            raise HubError(400, f"Your push was rejected because it contains files larger than 10 MiB: {path}")
    elif key == "lfsFile":
        if value["oid"] not in repo.objects:
            raise HubError(400, f"An LFS pointer pointed to a file that does not exist. Offending file: {path}")
        tree[path] = repo.objects[value["oid"]]
        if not _is_lfs(tree, path):
            known = tree.get(".gitattributes", Blob(b"")).content
            tree[".gitattributes"] = Blob(known + f"{path} filter=lfs diff=lfs merge=lfs -text\n".encode())
    elif key == "copyFile":
        source = (repo.at(value["srcRevision"]) if value.get("srcRevision") else parent).tree
        if value["srcPath"] not in source:
            raise HubError(404, f"A file with this name doesn't exist: {value['srcPath']}", "EntryNotFound")
        tree[path] = source[value["srcPath"]]
    else:
        raise HubError(400, f"Unknown operation {key!r}")


class _Listener(ThreadingHTTPServer):
    """One port. Connections that clients keep open are closed with it."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, hub: "HubServer", is_storage: bool):
        self.hub, self.is_storage, self.connections = hub, is_storage, set()
        super().__init__(("127.0.0.1", 0), _Handler)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # the method in between asks the name service
        self.server_name, self.server_port = self.server_address

    def get_request(self) -> tuple:
        connection, address = super().get_request()
        self.connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket) -> None:
        self.connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: socket.socket, client_address: tuple) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)

    def stop(self) -> None:
        self.shutdown()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    """Reads a request, applies the fault that is set for it, or has it answered."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body are two writes

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        hub: HubServer = self.server.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(hub, self.command, self.path, headers)
        hub.requests.append(request)
        fault = hub.take_fault(request)
        drops = fault is not None and fault.answer is None
        length = int(headers.get("content-length", 0))
        stop = fault.after_bytes if drops and length else None
        request.body = self.rfile.read(length if stop is None else min(stop, length))
        request.received = len(request.body)
        if stop is not None or request.received < length or "transfer-encoding" in headers:  # storage wants a length
            return self.hang_up()
        answer = fault.answer if fault and fault.answer else hub.answer(request, self.server.is_storage)
        request.body = b""
        if drops and fault.after_bytes is None:
            return self.hang_up()
        sent = answer.body[: fault.after_bytes if drops else None] if self.command != "HEAD" else b""
        request.status, request.sent = answer.status, len(sent)
        self.send_response(answer.status)
        for name, value in ({"Content-Length": str(len(answer.body))} | answer.headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)
        if drops:
            self.hang_up()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def hang_up(self) -> None:
        self.close_connection = True
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


@dataclass(eq=False)
class HubServer:
    """
    The server: a context manager that listens while it is open.

    Args:
        tokens: User names by token. Any other token is refused.
        lfs_size: Files of more bytes go by LFS, whatever their extension.
        chunk_size: LFS files of more bytes are uploaded in parts of that many. None: never.
        page_size: Entries on a page of a listing.
    """

    tokens: dict[str, str]
    lfs_size: int = REGULAR_LIMIT
    chunk_size: int | None = None
    page_size: int = 1000

    def __post_init__(self):
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.requests: list[Request] = []
        self.secret = secrets.token_hex(8)
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        self._listeners = [_Listener(self, is_storage) for is_storage in (False, True)]
        self.url, self.storage_url = (f"http://127.0.0.1:{each.server_port}" for each in self._listeners)
        for each in self._listeners:
            threading.Thread(target=each.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        for each in self._listeners:
            each.stop()

    def environment(self, token: str | None, home: Path) -> dict[str, str]:
        """The environment for a process whose client is to talk to this server, with an empty cache in `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        ours |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        theirs = re.compile("(HF|HUGGINGFACE|TRANSFORMERS)_.*|.*_proxy", re.IGNORECASE)
        kept = {name: value for name, value in os.environ.items() if not theirs.fullmatch(name)}
        return kept | ours | ({"HF_TOKEN": token} if token else {})

    def files(self, name: str, revision: str = "main", kind: str = "models") -> dict[str, bytes]:
        """What a repository holds, by path, without the .gitattributes that every repository has."""
        tree = self.repositories[kind, name].at(revision).tree
        return {path: blob.content for path, blob in tree.items() if path != ".gitattributes"}

    def calls(self, method: str | None = None, path: str = "") -> list[Request]:
        """The requests so far with that method, and a path (with its query) in which the expression is found."""
        return [each for each in self.requests if method in (None, each.method) and re.search(path, each.path)]

    def fail(
        self, *, path: str = "", method: str | None = None, times: int | None = 1, status: int = 503, **headers: str
    ) -> None:
        """
        Answers the next `times` requests (None: all) whose path matches the expression with an error. They change
        nothing. `headers` are added with `_` written as `-`, such as `Retry_After="1"`.
        """
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = reply({"error": f"A fault that a test asked for: {status}"}, status, named)
        self._faults.append(Fault(path, method, times, answer))

    def drop(
        self, *, path: str = "", method: str | None = None, times: int | None = 1, after_bytes: int | None = None
    ) -> None:
        """
        Closes the connection of the next `times` requests (None: all) whose path matches the expression: after
        `after_bytes` of the body that is sent to the server, which then changes nothing, or where there is none, of
        the body of the answer. Where `after_bytes` is None, the request is carried out, and only its answer is lost.
        """
        self._faults.append(Fault(path, method, times, None, after_bytes))

    def heal(self) -> None:
        """Takes all faults back."""
        self._faults.clear()

    def page_of(self, kind: str, name: str) -> str:
        return f"{self.url}/{name}" if kind == "models" else f"{self.url}/{kind}/{name}"

    def stored_at(self, repo: Repository, oid: str) -> str:
        return f"{self.storage_url}/storage/{repo.kind}/{repo.name}/{oid}?signature={self.secret}"

    def take_fault(self, request: Request) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.times != 0 and fault.method in (None, request.method) and re.search(fault.path, request.path):
                    fault.times = None if fault.times is None else fault.times - 1
                    return fault
        return None

    def answer(self, request: Request, is_storage: bool) -> Answer:
        """What the Hub, or its storage, would answer. One request at a time."""
        path = urlsplit(request.path).path
        try:
            if request.token and not is_storage and not request.user:
                raise HubError(401, "Invalid credentials in Authorization header")
            for methods, pattern, to, function in ROUTES:
                if (
                    is_storage == (to == "storage")
                    and request.method in methods
                    and (match := pattern.fullmatch(path))
                ):
                    given = [group and unquote(group) for group in match.groups()]
                    with self._lock:
                        repo = [request.repository(given.pop(0), given.pop(0), to)] if to else []
                        return function(request, *repo, *given)
            raise HubError(404, f"This server has no {request.method} {path}")
        except HubError as error:
            return error.answer
        except Exception:
            traceback.print_exc()
            return reply({"error": f"A fault of the server itself:\n{traceback.format_exc()}"}, 500)
