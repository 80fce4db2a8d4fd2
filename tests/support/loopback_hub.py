"""A Hugging Face hub on the loopback address: what huggingface_hub and datasets ask for, no more.

Repositories with pinned commits, large files behind a redirect to another host, gates, and
downloads that break off. What was asked for is kept, so that tests can say what was not.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit

import pyarrow
import pyarrow.parquet
import pytest

TOKEN = "hf_" + "Lb5" * 11
"""What opens gated repositories."""
PAGE = 5
"""Entries of one page of a listing."""
LARGE = (".safetensors", ".parquet", ".json.gz")
"""Ends of the names of files that the hub keeps as LFS."""


@dataclass
class Repository:
    """Folders by commit, the newest last; ``gated``: files for those alone who have the token."""

    commits: dict[str, Path]
    gated: bool = False

    def at(self, revision: str) -> str | None:
        """The commit that a revision names."""
        newest = list(self.commits)[-1]
        return newest if revision == "main" else revision if revision in self.commits else None


@dataclass
class LoopbackHub:
    """Repositories as ``models/org/name`` or ``datasets/org/name``; what was asked for."""

    endpoint: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    """Name of a large file -> after how many bytes each of its next downloads breaks off."""
    bodies: Counter[str] = field(default_factory=Counter)
    """How often the content of each file was asked for."""
    ranges: list[tuple[str, str]] = field(default_factory=list)
    """File, and the range that a download of it asked for."""
    tokens_elsewhere: list[str] = field(default_factory=list)
    """Tokens that reached the host of the large files."""

    def environment(self, home: Path) -> dict[str, str]:
        """What a command needs to ask this hub, with an empty cache in ``home``."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}

    def connect(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let this process ask this hub, with an empty cache in ``home``."""
        import datasets.config
        from huggingface_hub import constants

        template = f"{self.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1_000)  # it resumes at whole chunks
        monkeypatch.setattr(datasets.config, "HF_ENDPOINT", self.endpoint)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", home / "datasets")
        monkeypatch.setattr("time.sleep", lambda seconds: None)  # between its attempts
        monkeypatch.delenv("HF_TOKEN", raising=False)


@contextmanager
def loopback_hub() -> Iterator[LoopbackHub]:
    """A hub that serves until the context ends."""
    hub = LoopbackHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


def save_wikitext(folder: Path, splits: dict[str, list[str]]) -> Path:
    """Rows by split as the hub has WikiText-2: a Parquet file each, beside a larger text's."""
    configs = []
    for name, rows_of in (("wikitext-103-raw-v1", {}), ("wikitext-2-raw-v1", splits)):
        (folder / name).mkdir(parents=True)
        files = []
        for split in ("test", "train", "validation"):
            table = pyarrow.table({"text": rows_of.get(split, ["of another text\n"])})
            file = folder / name / f"{split}-00000-of-00001.parquet"
            pyarrow.parquet.write_table(table, file)
            files.append({"split": split, "path": f"{name}/{split}-*"})
        configs.append({"config_name": name, "data_files": files})
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(configs)}\n---\n# Texts\n")
    return folder


_API = re.compile(
    r"/api/((?:models|datasets)/[^/]+/[^/]+)(?:/(revision|tree|paths-info)/([^/]+)/?(.*))?"
)
_FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
_LARGE = re.compile(r"/large/((?:models|datasets)/[^/]+/[^/]+)/([^/]+)/(.+)")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self._read = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if asked := _LARGE.fullmatch(path):
            self._large(*asked.groups())
        elif asked := _FILE.fullmatch(path):
            kind, name, revision, file = asked.groups()
            self._file(f"{kind or 'models/'}{name}", revision, file)
        elif asked := _API.fullmatch(path):
            self._api(*asked.groups())
        else:
            self._refuse(404, "", "Not found")

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _api(self, name: str, what: str | None, revision: str | None, below: str | None) -> None:
        """Tell of a repository, also of a gated one: what it has is public, its files are not."""
        found = self._found(name, revision or "main")
        if found is None:
            return
        repository, commit = found
        folder = repository.commits[commit]
        files = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
        if what == "tree":
            self._tree(folder, files, below or "")
        elif what == "paths-info":
            wanted = parse_qs(self._read.decode()).get("paths", [])
            self._json([_entry(folder, file) for file in files if file in wanted])
        else:
            siblings = [{"rfilename": file} for file in files]
            gated = "auto" if repository.gated else False
            told = {
                "id": name.split("/", 1)[1],
                "sha": commit,
                "siblings": siblings,
                "gated": gated,
            }
            self._json({**told, "_id": commit[:24], "private": False, "tags": [], "downloads": 0})

    def _tree(self, folder: Path, files: list[str], below: str) -> None:
        query = parse_qs(urlsplit(self.path).query)
        if below:
            files = [file for file in files if file.startswith(f"{below}/")]
        folders = {p.as_posix() for file in files for p in Path(file).parents} - {".", below}
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": f} for f in folders]
        entries += [_entry(folder, file) for file in files]
        if query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            depth = below.count("/") + 1 if below else 0
            entries = [each for each in entries if str(each["path"]).count("/") == depth]
        if below and not files:
            self._refuse(404, "EntryNotFound", f"{below} does not exist")
            return
        begin = int(query.get("cursor", ["0"])[0])
        headers = {}
        if begin + PAGE < len(entries):
            base = re.sub(r"[?&]cursor=\d+", "", self.path)
            sign = "&" if "?" in base else "?"
            following = f"{self.hub.endpoint}{base}{sign}cursor={begin + PAGE}"
            headers["Link"] = f'<{following}>; rel="next"'
        self._json(entries[begin : begin + PAGE], headers)

    def _file(self, name: str, revision: str, file: str) -> None:
        found = self._found(name, revision)
        if found is None:
            return
        repository, commit = found
        if repository.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._refuse(401, "GatedRepo", f"Access to {name} is restricted. Please log in.")
            return
        path = repository.commits[commit] / file
        if not path.is_file():
            self._refuse(404, "EntryNotFound", "Entry not found")
            return
        headers = {"X-Repo-Commit": commit}
        if not file.endswith(LARGE):
            self._content(path, file, headers | {"ETag": f'"{_blob(path)}"'})
            return
        elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")
        self._answer(302, b"", headers | {
            "Location": f"{elsewhere}/large/{name}/{commit}/{file}",
            "X-Linked-Etag": f'"{_sha256(path)}"',
            "X-Linked-Size": str(path.stat().st_size),
        })  # fmt: skip

    def _large(self, name: str, commit: str, file: str) -> None:
        """The host of large files, which asks for no token: its addresses are signed."""
        if token := self.headers.get("Authorization"):
            self.hub.tokens_elsewhere.append(token)
        path = self.hub.repositories[name].commits[commit] / file
        self._content(path, file, {"ETag": f'"{_sha256(path)}"', "Accept-Ranges": "bytes"})

    def _content(self, path: Path, file: str, headers: dict[str, str]) -> None:
        body, status = path.read_bytes(), 200
        if asked := self.headers.get("Range"):
            first, last = asked.removeprefix("bytes=").split("-")
            self.hub.ranges.append((file, asked))
            end = int(last) + 1 if last else len(body)
            headers |= {"Content-Range": f"bytes {first}-{end - 1}/{len(body)}"}
            body, status = body[int(first) : end], 206
        cut = None
        if self.command == "GET":
            self.hub.bodies[file] += 1
            if cuts := self.hub.cuts.get(file):
                cut = cuts.pop(0)
        self._answer(status, body, headers, cut)

    def _found(self, name: str, revision: str) -> tuple[Repository, str] | None:
        repository = self.hub.repositories.get(name)
        if repository is None:
            # the hub does not tell what is private from what is not there
            self._refuse(401, "RepoNotFound", "Repository not found")
            return None
        commit = repository.at(revision)
        if commit is None:
            self._refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
            return None
        return repository, commit

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        told = {"Content-Type": "application/json; charset=utf-8", **(headers or {})}
        self._answer(200, json.dumps(value).encode(), told)

    def _refuse(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Code": code} if code else {}
        body = json.dumps({"error": message}).encode()
        self._answer(status, body, headers | {"X-Error-Message": message})

    def _answer(
        self, status: int, body: bytes, headers: dict[str, str], cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _entry(folder: Path, file: str) -> dict[str, object]:
    path = folder / file
    size = path.stat().st_size
    entry: dict[str, object] = {"type": "file", "oid": _blob(path), "size": size, "path": file}
    if file.endswith(LARGE):
        entry["lfs"] = {"oid": _sha256(path), "size": size, "pointerSize": 134}
    return entry


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _blob(path: Path) -> str:
    """Name of a file's content in git."""
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0%b" % (len(content), content)).hexdigest()
