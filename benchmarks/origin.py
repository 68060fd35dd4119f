"""The origin of the benchmarks: nginx as a static Hub with its CDN, on loopback, from memory.

Throttling per connection is the kernel's: the listening sockets are made here with SO_MAX_PACING_RATE, which accepted sockets
inherit, and are handed to nginx by its own way of taking over sockets (the variable NGINX). nginx's `limit_rate` is no use: it
counts per request and gives a second's worth at once, so small ranges over one connection are not limited at all.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

from .measure import end_session

SO_MAX_PACING_RATE = getattr(socket, "SO_MAX_PACING_RATE", 47)  # asm-generic/socket.h; bytes/s, per socket
BACKLOG = 1024
READY_S = 10.0
STOP_S = 10.0
BLOCK_BYTES = 1 << 20


@dataclass(frozen=True, kw_only=True, slots=True)
class RepoFile:
    """A file of a repo. Args: size in bytes, sha256 of its bytes, git_oid (its blob's sha1), both hex."""

    path: str
    size: int
    sha256: str
    git_oid: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Repo:
    """A model repo ``bench/NAME``. Args: lfs (files live on the CDN and go by sha256, else on the Hub and go by git oid)."""

    name: str
    files: tuple[RepoFile, ...]
    lfs: bool

    @property
    def repo_id(self) -> str:
        return f"bench/{self.name}"

    @property
    def commit(self) -> str:
        """40 hex digits that stand for this content."""
        return hashlib.sha1("".join(file.git_oid for file in self.files).encode()).hexdigest()

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A running origin.

    Args: hub_url (for HF_ENDPOINT), cdn_url, bodies_log (bytes of each answer's body, a line each; None: not logged).
    """

    hub_url: str
    cdn_url: str
    bodies_log: Path | None

    def file_url(self, repo: Repo, file: RepoFile) -> str:
        """Where a file's bytes are served without a redirect."""
        if repo.lfs:
            return f"{self.cdn_url}/{repo.repo_id}/{file.path}"
        return f"{self.hub_url}/api/resolve-cache/models/{repo.repo_id}/{repo.commit}/{file.path}"

    def file_bytes_served(self) -> int:
        """Bytes of files that were sent so far, in all answers that have ended."""
        assert self.bodies_log is not None, "this origin does not log"
        return sum(int(line) for line in self.bodies_log.read_text().split())


def make_repo(root: Path, name: str, *, count: int, size: int, lfs: bool) -> Repo:
    """Write a repo of random files below ``root``, with what the API says about it.

    Args: count of files, size of each in bytes.
    """
    folder = root / "files" / name
    folder.mkdir(parents=True)
    width = len(str(count - 1))
    files = tuple(_write_file(folder, f"{name}-{number:0{width}}.bin", size) for number in range(count))
    repo = Repo(name=name, files=files, lfs=lfs)
    info = {
        "_id": repo.commit[:24],
        "id": repo.repo_id,
        "modelId": repo.repo_id,
        "sha": repo.commit,
        "private": False,
        "gated": False,
        "disabled": False,
        "tags": [],
        "downloads": 0,
        "likes": 0,
        "siblings": [{"rfilename": file.path} for file in files],
    }
    api = root / "api" / name
    api.mkdir(parents=True)
    (api / "info.json").write_text(json.dumps(info))
    (api / "tree.json").write_text(json.dumps([_tree_entry(file, lfs=lfs) for file in files]))
    return repo


def _write_file(folder: Path, path: str, size: int) -> RepoFile:
    sha256, git = hashlib.sha256(), hashlib.sha1(b"blob %d\0" % size)
    with (folder / path).open("wb") as out:
        for start in range(0, size, BLOCK_BYTES):
            block = os.urandom(min(BLOCK_BYTES, size - start))
            sha256.update(block)
            git.update(block)
            out.write(block)
    return RepoFile(path=path, size=size, sha256=sha256.hexdigest(), git_oid=git.hexdigest())


def _tree_entry(file: RepoFile, *, lfs: bool) -> dict[str, object]:
    entry: dict[str, object] = {"type": "file", "oid": file.git_oid, "size": file.size, "path": file.path}
    if lfs:
        entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 134}
    return entry


@contextmanager
def serve(
    nginx: str, root: Path, work: Path, repos: Sequence[Repo], *, rate_bytes_s: int = 0, log: bool = False
) -> Generator[Origin]:
    """An origin for the repos that `make_repo` wrote below ``root``; ends with the block.

    Args: nginx (its binary), work (a folder of its own, made here), rate_bytes_s (bytes/s per connection, on both ports; 0: as fast as
        it goes), log (count the bytes served). Raises RuntimeError when nginx does not come up.
    """
    work.mkdir()
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, work, ignore_errors=True)
        sockets = [stack.enter_context(listening_socket(rate_bytes_s)) for _ in range(2)]
        hub, cdn = (f"127.0.0.1:{listening.getsockname()[1]}" for listening in sockets)
        bodies_log = work / "bodies.log" if log else None
        config = _config(root, work, repos, hub=hub, cdn=cdn, bodies_log=bodies_log)
        stack.enter_context(running_nginx(nginx, work, config, sockets))
        origin = Origin(hub_url=f"http://{hub}", cdn_url=f"http://{cdn}", bodies_log=bodies_log)
        _await_ready(origin, repos, work)
        yield origin


@contextmanager
def running_nginx(
    nginx: str, work: Path, config: str, sockets: Sequence[socket.socket]
) -> Generator[subprocess.Popen[bytes]]:
    """nginx with this configuration, taking over these sockets; ends with the block. Args: work (its folder, which exists)."""
    (work / "nginx.conf").write_text(config)
    numbers = [listening.fileno() for listening in sockets]
    server = subprocess.Popen(
        [nginx, "-p", str(work), "-e", str(work / "error.log"), "-c", str(work / "nginx.conf")],
        env={"NGINX": "".join(f"{number};" for number in numbers)},
        pass_fds=numbers,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield server
    finally:
        _stop(server)


def listening_socket(rate_bytes_s: int = 0, address: tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
    """A socket for nginx to take over. Args: rate_bytes_s (bytes/s of each connection; 0: as fast as it goes)."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if rate_bytes_s:
        listening.setsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, rate_bytes_s)
    listening.bind(address)
    listening.listen(BACKLOG)
    # nginx takes over a socket as it is: with a blocking one, a worker that lost the race for a connection would hang in accept().
    listening.setblocking(False)
    return listening


def _await_ready(origin: Origin, repos: Sequence[Repo], work: Path) -> None:
    await_answer(f"{origin.hub_url}/api/models/{repos[0].repo_id}", work)


def await_answer(url: str, work: Path) -> None:
    """The sockets listen already: the first answer tells that nginx is up. Raises RuntimeError."""
    opener = build_opener(ProxyHandler({}))
    try:
        with opener.open(url, timeout=READY_S) as answer:
            answer.read()
    except OSError as error:
        log = work / "error.log"
        said = log.read_text()[-2000:] if log.exists() else "nothing"
        raise RuntimeError(f"nginx did not come up ({error}); it said: {said}") from None


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        end_session(server)


def _config(root: Path, work: Path, repos: Sequence[Repo], *, hub: str, cdn: str, bodies_log: Path | None) -> str:
    etags = "\n".join(
        f"    {file.path} {file.sha256 if repo.lfs else file.git_oid};" for repo in repos for file in repo.files
    )
    sizes = "\n".join(f"    {file.path} {file.size};" for repo in repos if repo.lfs for file in repo.files)
    temporary = "\n".join(
        f"  {name}_temp_path {work}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    counted = f"access_log {bodies_log} bodies;" if bodies_log else ""
    return f"""\
daemon off;
worker_processes 2;
pid {work}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  log_format bodies '$body_bytes_sent';
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  open_file_cache max=4096;
  absolute_redirect off;
  default_type application/octet-stream;
  map_hash_max_size 65536;
  map_hash_bucket_size 256;
{temporary}
  map $file $etag_of_file {{
{etags}
  }}
  map $file $size_of_file {{
    default "";
{sizes}
  }}
  server {{
    listen {hub};
{"".join(_hub_locations(root, repo, cdn=cdn, counted=counted) for repo in repos)}
  }}
  server {{
    listen {cdn};
    root {root}/files;
    {counted}
    location /bench/ {{ alias {root}/files/; }}
  }}
}}
"""


def _hub_locations(root: Path, repo: Repo, *, cdn: str, counted: str) -> str:
    """The Hub's answers about one repo; a file's `$file` is the key of the two maps."""
    about = f"/api/models/{repo.repo_id}"
    info = f"{{ default_type application/json; alias {root}/api/{repo.name}/info.json; }}"
    commit = f"add_header X-Repo-Commit {repo.commit};"
    if repo.lfs:
        resolve = f"""add_header X-Linked-Etag '"$etag_of_file"'; add_header X-Linked-Size $size_of_file;
      return 302 http://{cdn}/{repo.repo_id}/$file;"""
    else:
        resolve = f"return 307 /api/resolve-cache/models/{repo.repo_id}/{repo.commit}/$file;"
    return f"""
    location = {about} {info}
    location = {about}/revision/main {info}
    location = {about}/revision/{repo.commit} {info}
    location = {about}/tree/{repo.commit} {{ default_type application/json; alias {root}/api/{repo.name}/tree.json; }}
    location = {about}/tree/main {{ default_type application/json; alias {root}/api/{repo.name}/tree.json; }}
    location ~ ^/{repo.repo_id}/resolve/[^/]+/(?<file>.+)$ {{
      {commit} {resolve}
    }}
    location ~ ^/api/resolve-cache/models/{repo.repo_id}/[^/]+/(?<file>.+)$ {{
      {counted} {commit} etag off; add_header ETag '"$etag_of_file"';
      alias {root}/files/{repo.name}/$file;
    }}
"""
