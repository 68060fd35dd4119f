"""Servers that are wrong in one way each, in threads of their own: certificates, proxies, clocks, silence. ::

with https_server(chain) as port:
    ...
with proxy(refuse=407) as port:
    ...
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

POLL_S = 0.05
RELAY_S = 60.0  # a tunnel that is silent for longer is over
DAY = datetime.timedelta(days=1)


class Issuer:
    """A certificate authority that also signs what it should not: for other names, for times gone by."""

    def __init__(self, folder: Path, *, now: datetime.datetime, organisation: str = "Example Corp") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._now = folder, now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation),
                x509.NameAttribute(NameOID.COMMON_NAME, "inspecting proxy"),
            ]
        )
        self.ca = folder / "ca.pem"
        usage = x509.KeyUsage(
            digital_signature=True,
            key_cert_sign=True,
            crl_sign=True,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            encipher_only=False,
            decipher_only=False,
        )
        certificate = (
            self._builder(self._name, self._key, now - 400 * DAY, now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.ca.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def chain(
        self,
        file: str,
        *,
        name: str = "localhost",
        begins: datetime.timedelta = -DAY,
        ends: datetime.timedelta = 30 * DAY,
        self_signed: bool = False,
    ) -> Path:
        """A PEM file with key and certificate for one DNS name and 127.0.0.1 (the address with "localhost" alone)."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"server {file}")])
        names: list[x509.GeneralName] = [x509.DNSName(name)]
        if name == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = (
            self._builder(subject, key, self._now + begins, self._now + ends, issuer=subject if self_signed else None)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        )
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        pem = self._folder / f"{file}.pem"
        pem.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        return pem

    def _builder(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        begins: datetime.datetime,
        ends: datetime.datetime,
        issuer: x509.Name | None = None,
    ) -> x509.CertificateBuilder:
        signer = key if issuer is not None else self._key
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer or self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begins)
            .not_valid_after(ends)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )


@contextmanager
def _serving(server: ThreadingHTTPServer) -> Generator[int]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": POLL_S}, daemon=True)
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients here go away on purpose."""


@dataclass
class Page:
    """What a server answers to everything, and what it was asked."""

    status: int = 200
    body: bytes = b"[]"
    headers: Mapping[str, str] = field(default_factory=lambda: {"Content-Type": "application/json"})
    clock: Callable[[], float] | None = None  # seconds since 1970, for its Date
    asked: list[str] = field(default_factory=list)


@contextmanager
def web_server(page: Page | None = None, *, chain: Path | None = None) -> Generator[int]:
    """A server that answers everything with one page; with a chain it speaks TLS. Yields its port on 127.0.0.1."""
    shown = page or Page()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None: ...

        def date_time_string(self, timestamp: int | None = None) -> str:
            return formatdate(shown.clock(), usegmt=True) if shown.clock else super().date_time_string(timestamp)

        def do_GET(self) -> None:
            shown.asked.append(self.path)
            self.send_response(shown.status)
            for name, value in shown.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(shown.body)))
            self.end_headers()
            self.wfile.write(shown.body)

    server = _Quiet(("127.0.0.1", 0), Handler)
    if chain is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    with _serving(server) as port:
        yield port


@contextmanager
def proxy(*, refuse: int = 0, to: int | None = None) -> Generator[tuple[int, list[str]]]:
    """A proxy that speaks CONNECT. refuse: the status that it answers instead; to: the port that every tunnel leads to.

    Yields its port and the list of what it was asked for, with the credentials that came along.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

        def do_CONNECT(self) -> None:
            asked.append(f"{self.path} {self.headers.get('Proxy-Authorization', '')}".strip())
            if refuse:
                self.send_response(refuse)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            host, _, port = self.path.rpartition(":")
            address = ("127.0.0.1", to) if to is not None else (host, int(port))
            with socket.create_connection(address, timeout=RELAY_S) as onward:
                self.send_response_only(200)
                self.end_headers()
                _relay(self.connection, onward)
            self.close_connection = True

        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(refuse or 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with _serving(_Quiet(("127.0.0.1", 0), Handler)) as port:
        yield port, asked


def _relay(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            readable, _, _ = select.select([one, other], [], [], RELAY_S)
            if not readable:
                return
            for source in readable:
                data = source.recv(65536)
                if not data:
                    return
                (other if source is one else one).sendall(data)


@contextmanager
def black_hole() -> Generator[int]:
    """A port that takes connections and never says a word. Yields it."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield listener.getsockname()[1]


@contextmanager
def closed_port() -> Generator[int]:
    """A port that nobody listens on, and that nobody else can be given meanwhile: it is bound. Yields it."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]
