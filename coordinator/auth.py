"""Who may call what. Pure: no gRPC, no I/O.

Deny by default: a method that is not in the table is refused to everybody. On loopback everybody is let in, because the
permissions of the machine are the credential; every other address demands TLS and, on each call, a token or a client certificate.

A client certificate that one of `security.client_ca` signed stands for a role by its common name: ``agent:NAME`` or ``admin:NAME``.
A token that comes with it wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from ..common.channel import is_loopback
from ..common.errors import AccessDenied, Unauthenticated, UsageError
from ..common.settings_table import SecuritySettings
from ..common.views import Role, TokenView

AGENTS = frozenset({Role.AGENT})
ADMINS = frozenset({Role.ADMIN})
ALL = frozenset(Role)

ROLES: Mapping[str, frozenset[Role]] = {
    "/shoal.v1.FleetService/Session": AGENTS,
    "/shoal.v1.FleetService/ListManifest": AGENTS,
    "/shoal.v1.FleetService/SignObjects": AGENTS,
    "/shoal.v1.FleetService/ReadDocument": AGENTS,
    "/shoal.v1.JobService/SubmitJob": ADMINS,
    "/shoal.v1.JobService/GetJob": ADMINS,
    "/shoal.v1.JobService/ListJobs": ADMINS,
    "/shoal.v1.JobService/WatchJob": ADMINS,
    "/shoal.v1.JobService/ListObjects": ADMINS,
    "/shoal.v1.JobService/PauseJob": ADMINS,
    "/shoal.v1.JobService/ResumeJob": ADMINS,
    "/shoal.v1.JobService/CancelJob": ADMINS,
    "/shoal.v1.JobService/RetryJob": ADMINS,
    "/shoal.v1.FleetAdminService/GetFleet": ADMINS,
    "/shoal.v1.FleetAdminService/ListAgents": ADMINS,
    "/shoal.v1.FleetAdminService/DrainAgent": ADMINS,
    "/shoal.v1.FleetAdminService/GetQueue": ADMINS,
    "/shoal.v1.FleetAdminService/ListHosts": ADMINS,
    "/shoal.v1.FleetAdminService/SetHostPolicy": ADMINS,
    "/shoal.v1.FleetAdminService/CreateToken": ADMINS,
    "/shoal.v1.FleetAdminService/ListTokens": ADMINS,
    "/shoal.v1.FleetAdminService/RotateToken": ADMINS,
    "/shoal.v1.FleetAdminService/RevokeToken": ADMINS,
    "/shoal.v1.FleetAdminService/BackupState": ADMINS,
    "/grpc.health.v1.Health/Check": ALL,
    "/grpc.health.v1.Health/List": ALL,
    "/grpc.health.v1.Health/Watch": ALL,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ADMINS,
}


class Tokens(Protocol):
    """What checks tokens; `tokens.TokenBook`."""

    def check(self, presented: str) -> TokenView: ...

    def lapse(self, token_id: str) -> str: ...

    def watch(self, callback: Callable[[], None]) -> None: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Caller:
    """Who calls. token_id is empty for loopback and for a client certificate.

    principal is what an agent's identity is bound to: the token's name (its id where it has none) or the NAME of a certificate; so
    both may be renewed under the same name. Empty on loopback, where everybody is this machine.
    """

    name: str
    roles: frozenset[Role]
    token_id: str = ""
    principal: str = ""


LOCAL = Caller(name="this machine", roles=ALL)


def must_authenticate(listen: str, security: SecuritySettings) -> bool:
    """Whether calls to this bind address need a credential. Raises UsageError if the address may not be opened like this."""
    if is_loopback(listen) or security.insecure:
        return False
    if security.tls_cert is None or security.tls_key is None:
        raise UsageError(
            f"coordinator.listen {listen}",
            cause="an address that other machines can reach needs TLS and credentials",
            remedy="set security.tls_cert and security.tls_key and make tokens with shoal token create; "
            "or listen on 127.0.0.1; or say --insecure on a network that you trust",
        )
    return True


class Gate:
    """Decides on each call."""

    def __init__(self, *, closed: bool, tokens: Tokens) -> None:
        """Args: closed (whether calls need a credential)."""
        self._closed = closed
        self._tokens = tokens

    def admit(self, method: str, *, authorization: str, common_name: str) -> Caller:
        """The caller, if it may call the method (as ``/package.Service/Method``).

        Args: authorization (the metadata of that name, or empty), common_name (of a verified client certificate, or empty).
        Raises: Unauthenticated, AccessDenied.
        """
        allowed = ROLES.get(method)
        if allowed is None:
            raise AccessDenied(method, cause="nobody may call it")
        if not self._closed:
            return LOCAL
        caller = self._identify(authorization, common_name)
        if not caller.roles & allowed:
            held, needed = ", ".join(sorted(caller.roles)), ", ".join(sorted(allowed))
            raise AccessDenied(
                method,
                cause=f"the credential {caller.name!r} has the role {held}; the call needs {needed}",
                remedy=f"shoal token create --role {needed}",
            )
        return caller

    def lapse(self, caller: Caller) -> str:
        """Why the caller's credential holds no more; empty while it does. Asked again and again while a stream is open."""
        return self._tokens.lapse(caller.token_id) if caller.token_id else ""

    def _identify(self, authorization: str, common_name: str) -> Caller:
        if authorization:
            scheme, _, presented = authorization.partition(" ")
            if scheme.lower() != "bearer":
                raise Unauthenticated("authorization", cause="it is not a Bearer token")
            token = self._tokens.check(presented.strip())
            name = token.name or token.token_id
            return Caller(name=name, roles=frozenset({token.role}), token_id=token.token_id, principal=name)
        role, colon, name = common_name.partition(":")
        if colon and name and role in set(Role):
            return Caller(name=common_name, roles=frozenset({Role(role)}), principal=name)
        if common_name:
            cause = f"the common name {common_name!r} is neither agent:NAME nor admin:NAME"
            raise Unauthenticated("client certificate", cause=cause, remedy="set security.token, or use another one")
        raise Unauthenticated(
            "call",
            cause="it carries no credential",
            remedy="set security.token (SHOAL_SECURITY_TOKEN) to one that shoal token create made",
        )
