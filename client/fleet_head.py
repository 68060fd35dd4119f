"""The head of a fleet that lives for one run: a coordinator as the child of this process, and what is needed to reach it.

Whoever starts agents on the nodes of an allocation (Slurm, MPI, Ray) starts a `FleetHead` first. Certificate and credentials are made
for this run. Agents get theirs from whoever starts them, by the standard input of a `ChildDaemon`, by MPI or by Ray: never by
an argument, and never by a file that outlives the run.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ..common.channel import is_loopback, split_host
from ..common.errors import UsageError
from ..common.secrets import Secret
from ..common.settings import Settings, load_settings
from ..common.views import Role
from .children import ChildDaemon
from .fleet_certificate import make_certificate

if TYPE_CHECKING:
    from .remote import RemoteCoordinator

TOKEN_NAME = "launch"
_SECURITY = ("tls_cert", "tls_key", "tls_ca", "client_ca", "token")


class FleetHead:
    """A coordinator for one run. Use: ``start()``, then ``close()`` in any case; or as a context manager.

    Its state lies in a temporary folder, which goes with it, unless `overrides` names ``coordinator.state``: then a later run with the
    same folder goes on where this one stopped.
    """

    def __init__(
        self,
        overrides: Mapping[str, object],
        *,
        hosts: Sequence[str],
        listen_host: str = "",
        config: str = "",
    ) -> None:
        """Args: overrides are settings by name, before all others; hosts are the names and IP addresses at which the nodes may
        reach this one, at least one; listen_host is what to listen on, by default the first of them; config is ``--config``.
        """
        self.hosts = tuple(hosts)
        self.config = config
        self.port = 0
        self.authority = ""
        """PEM text of the certificate that the coordinator shows; empty where it speaks no TLS."""
        self.overrides = dict(overrides)
        """The settings that were given for the whole fleet, by name."""
        self._listen_host = listen_host or self.hosts[0]
        self._child = ChildDaemon("coordinator")
        self._stack = ExitStack()
        self._client_side: dict[str, object] = {}
        self._certificate = ""
        self.tls_files: tuple[Path, Path] | None = None
        """Certificate and key, as long as it runs, for what else this node serves to the others."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the coordinator and wait until it listens. Blocks.

        Raises UsageError, MissingExtra without the package ``cryptography``, Busy if another coordinator has the state, TimedOut.
        """
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="shoal-head-")))
        mine: dict[str, object] = {"coordinator.state": str(folder / "state"), **self.overrides}
        mine["coordinator.listen"] = address_of(self._listen_host, 0)
        settings = self._load(mine)
        if settings.swarm.tls:
            cause = "the nodes of a fleet that lives for one run have no certificates of their own"
            raise UsageError("swarm.tls", cause=cause, remedy="run agents with certificates, and name the coordinator")
        security = _security(settings, self.hosts, folder)
        self._certificate = str(security["security.tls_cert"])
        if self._certificate:
            self.tls_files = Path(self._certificate), Path(str(security["security.tls_key"]))
        self.authority = Path(self._certificate).read_text(encoding="ascii") if self._certificate else ""
        self._client_side = {**security, "security.tls_cert": "", "security.tls_key": ""}
        self._stack.callback(self._child.stop)
        ready = self._child.start({**mine, **security}, folder=str(folder), config=self.config, tokens=TOKEN_NAME)
        self.port = split_host(ready.rpartition(" ")[2])[1]

    def close(self) -> None:
        """Stop the coordinator. Safe to call at any time and again."""
        self._stack.close()

    def poll(self) -> int | None:
        """The coordinator's exit code; None as long as it runs."""
        return self._child.poll()

    @property
    def address(self) -> str:
        """HOST:PORT at the first of the hosts, once it has started."""
        return address_of(self.hosts[0], self.port)

    @property
    def agent_token(self) -> Secret:
        """The credential to join with, once it has started."""
        return self._child.tokens[Role.AGENT]

    @property
    def admin_token(self) -> Secret:
        """The credential to submit jobs and govern the fleet with, once it has started."""
        return self._child.tokens[Role.ADMIN]

    def agent_settings(self) -> dict[str, object]:
        """What an agent needs to join, credential included; without ``security.tls_ca``: its child process writes `authority` into
        a file of its own."""
        return self._joining(self.agent_token)

    def client_settings(self) -> dict[str, object]:
        """What a client in this process or in a child of it needs, credential included."""
        return {**self.overrides, **self._joining(self.admin_token), "security.tls_ca": self._certificate}

    @asynccontextmanager
    async def client(self) -> AsyncGenerator[RemoteCoordinator]:
        """The coordinator, asked as an administrator."""
        from .remote import connect

        async with connect(self._load(self.client_settings())) as remote:
            yield remote

    def _joining(self, token: Secret) -> dict[str, object]:
        return {**self._client_side, "security.token": token.reveal(), "coordinator.address": self.address}

    def _load(self, overrides: Mapping[str, object]) -> Settings:
        config_file = Path(self.config) if self.config else None
        return load_settings(environ=os.environ, cwd=Path.cwd(), overrides=overrides, config_file=config_file)


def address_of(host: str, port: int) -> str:
    """HOST:PORT, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _security(settings: Settings, hosts: Sequence[str], folder: Path) -> dict[str, object]:
    """How the fleet's coordinator is reached, by the same rules as any: beyond loopback with TLS and credentials, unless
    security.insecure says otherwise. The certificate is made here."""
    security: dict[str, object] = {f"security.{name}": "" for name in _SECURITY}
    security["security.insecure"] = settings.security.insecure
    if not settings.security.insecure and not is_loopback(settings.coordinator.listen):
        cert, key = make_certificate(hosts, folder)
        security |= {"security.tls_cert": str(cert), "security.tls_key": str(key)}
    return security
