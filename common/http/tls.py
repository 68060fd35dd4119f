"""TLS contexts, made once and only when an https URL is asked for: ``ssl`` costs milliseconds to import, the CA list more to load."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConnectFailed, TlsFailed, TransferError, UsageError

if TYPE_CHECKING:
    import ssl


@dataclass(frozen=True, kw_only=True, slots=True)
class TlsOptions:
    """How servers prove who they are. ``verify=False`` accepts anybody: the caller warns about it, loudly and once."""

    verify: bool = True
    ca_bundle: str = (
        ""  # file or folder of CA certificates to trust instead of the system's; empty: the system's and SSL_CERT_FILE
    )


class TlsContexts:
    """The one client context of a process or job, made at first use."""

    def __init__(self, options: TlsOptions) -> None:
        self._options = options
        self._context: ssl.SSLContext | None = None
        self._seen: object = None

    def get(self) -> ssl.SSLContext:
        """The context, made anew when the CA bundle changed: authorities are rotated. Raises UsageError when it cannot be used."""
        stamp = self._stamp()
        if self._context is None or stamp != self._seen:
            self._seen = stamp
            try:
                self._context = self._make()
            except UsageError:
                if self._context is None:
                    raise  # else it is half written, and what it held before is good until it changes again
        return self._context

    def _stamp(self) -> object:
        if not self._options.ca_bundle:
            return None
        try:
            stat = Path(self._options.ca_bundle).stat()
        except OSError:
            return None
        return stat.st_ino, stat.st_size, stat.st_mtime_ns

    def _make(self) -> ssl.SSLContext:
        import ssl

        bundle = self._options.ca_bundle
        if not self._options.verify:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        elif bundle:
            try:
                folder = Path(bundle).is_dir()
                context = ssl.create_default_context(
                    cafile=None if folder else bundle, capath=bundle if folder else None
                )
            except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
                raise UsageError(
                    f"hub.ca_bundle {bundle}",
                    cause=f"it cannot be used: {getattr(error, 'strerror', None) or error}",
                    remedy="name a PEM file or a folder of hashed CA certificates",
                ) from error
        else:
            context = ssl.create_default_context()  # OpenSSL itself honours SSL_CERT_FILE and SSL_CERT_DIR here
        context.set_alpn_protocols(["http/1.1"])
        return context


def handshake_failure(host: str, error: OSError) -> TransferError:
    """The error that a failed handshake with ``host`` becomes: TlsFailed with cause and remedy, ConnectFailed for a mere break."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        return TlsFailed(
            host,
            cause=f"its certificate is not trusted: {error.verify_message or error.reason}",
            remedy="set hub.ca_bundle to your organisation's CA file, or as a last resort hub.verify_tls=false",
        )
    if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
        reason = (error.reason or "unknown").lower().replace("_", " ")
        return TlsFailed(
            host,
            cause=f"the TLS handshake failed: {reason}",
            remedy="check the scheme and port of the URL; behind an inspecting proxy set hub.ca_bundle or hub.verify_tls=false",
        )
    return ConnectFailed(host, cause=f"the connection broke during the TLS handshake: {error}")
