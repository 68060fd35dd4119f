"""A fleet that other machines could reach: TLS, and a credential on every call."""

from __future__ import annotations

from pathlib import Path

from .fleet import Fleet
from .fleet_certificates import Authority

RECHECK_S = 5.0  # coordinator/calls.py: how often open streams are checked


class ClosedFleet(Fleet):
    """A fleet on an address that is not loopback, with an administrator's and an agent's token that were made before it ran."""

    def __init__(self, folder: Path, *, endpoint: str, authority: Authority, **options: str) -> None:
        cert, key = authority.sign("coordinator", "server")
        super().__init__(
            folder,
            endpoint=endpoint,
            environ={"SHOAL_SECURITY_TLS_CA": str(authority.ca), "SHOAL_COORDINATOR_HEARTBEAT": "500ms"},
            listen="0.0.0.0",
            coordinator_environ={
                "SHOAL_SECURITY_TLS_CERT": str(cert),
                "SHOAL_SECURITY_TLS_KEY": str(key),
                **options,
            },
            authority=authority.ca,
        )
        self.tokens: list[str] = []
        self.credential = self.token("admin", "me")
        self.shoal.environ["SHOAL_SECURITY_TOKEN"] = self.credential

    def token(self, role: str, name: str, *more: str | Path) -> str:
        """A new credential: written into the state folder, unless the coordinator runs."""
        offline = () if self.coordinator.running else ("--state", self.state)
        made = self.ask("token", "create", "--role", role, "--name", name, *offline, *more)
        self.tokens.append(made["token"])
        return made["token"]

    def as_agent(self, token: str) -> dict[str, str]:
        """The environment of an agent with this token in a file, as a service manager would give it."""
        file = self.folder / f"token {len(list(self.folder.glob('token *')))}"
        file.write_text(token + "\n")
        file.chmod(0o600)
        return {"SHOAL_SECURITY_TOKEN_FILE": str(file)}

    def id_of(self, token: str) -> str:
        """The id by which a credential is listed and revoked."""
        return token.split("_")[2]
