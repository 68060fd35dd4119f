"""A real nginx in front of something, on loopback, as long as a block runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .fleet import free_port, until


@contextmanager
def nginx(folder: Path, server: str, *, tls: tuple[Path, Path] | None = None) -> Iterator[int]:
    """Args: server, what stands in the server block; tls, certificate and key. Yields the port. Without nginx the test is skipped,
    or fails where the environment says CI=true."""
    program = shutil.which("nginx")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("nginx is not installed")
        pytest.skip("nginx is not installed")
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    keys = f"ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};" if tls else ""
    (folder / "nginx.conf").write_text(f"""
        {user} daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log;
        events {{ worker_connections 256; }}
        http {{
            access_log off; {temporary}
            server {{ listen 127.0.0.1:{port}{" ssl" if tls else ""}; {keys} {server} }}
        }}""")
    process = subprocess.Popen([program, "-c", folder / "nginx.conf", "-p", folder])

    def listens() -> bool:
        assert process.poll() is None, (folder / "error.log").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        until("nginx to listen", listens)
        yield port
    finally:
        process.terminate()
        process.wait()
