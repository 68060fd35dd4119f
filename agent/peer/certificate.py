"""The certificate of the peer exchange, read again when its files change: renewal needs no restart."""

from __future__ import annotations

import ssl
from pathlib import Path

from ...common.errors import UsageError
from ...common.logs import get_logger

log = get_logger("agent.peer")


class PeerCertificate:
    """A TLS context for connections of peers; new connections are shown the newest certificate."""

    def __init__(self, cert: Path, key: Path) -> None:
        """Raises UsageError for files that cannot be used."""
        self._cert = cert
        self._key = key
        self._seen = self._stamp()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(self.context)

    def renew(self) -> None:
        """Take up what the files hold now, if they changed. Files that do not fit, half written ones for instance, are left alone
        until they change again."""
        stamp = self._stamp()
        if stamp == self._seen:
            return
        self._seen = stamp
        try:
            self._load(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))  # a pair that does not fit would spoil the one in use
            self._load(self.context)
        except UsageError as error:
            log.warning("certificate.refused", error=str(error))
        else:
            log.info("certificate.renewed", file=str(self._cert))

    def _stamp(self) -> list[tuple[int, int, int]]:
        stats = [path.stat() for path in (self._cert, self._key) if path.exists()]
        return [(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats]

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key, password="")
        except (ssl.SSLError, OSError) as error:
            raise UsageError(f"security.tls_cert {self._cert}", cause=f"it cannot be used: {error}") from None
