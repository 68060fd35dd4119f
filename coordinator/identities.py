"""Which credential each agent's identity belongs to, so that nobody takes over another agent's leases.

An agent's id is no secret: it is in logs and in the messages of whoever can read them. So the first Hello of an id binds it to the
credential that it came with, by the credential's name (`auth.Caller.principal`)::

    (unknown) --Hello with credential A--> bound to A --Hello with A, renewed or not--> bound to A
    bound to A --Hello with B, while a credential named A is valid--> refused, A's session goes on
    bound to A --Hello with B, when no credential named A is valid any more--> bound to B

On loopback everybody is this machine, and nothing is bound or refused. A certificate cannot be asked whether it is valid, so what is
bound to one stays bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..common.errors import AccessDenied
from ..common.logs import get_logger
from .store.runner import StoreRunner

if TYPE_CHECKING:
    from .auth import Caller
    from .tokens import TokenBook

TOKEN, CERTIFICATE = "token", "certificate"

log = get_logger("coordinator.identities")


class IdentityBook:
    """All bindings of one coordinator: kept in the store, checked in memory."""

    def __init__(self, store: StoreRunner, tokens: TokenBook) -> None:
        self._store = store
        self._tokens = tokens
        self._bound: dict[str, str] = {}

    async def load(self) -> None:
        """Read all bindings from the open store."""
        self._bound = await self._store.run(self._store.store.identities)

    async def claim(self, agent_id: str, name: str, caller: Caller) -> None:
        """An agent says that it has this id. name: its own name, for people. On return the binding is on disk.

        Raises AccessDenied when the identity belongs to another credential.
        """
        if not caller.principal:
            return
        kind, _, owner = self._bound.get(agent_id, "").partition(" ")
        if owner and owner != caller.principal:
            if kind == CERTIFICATE or self._tokens.stands(owner):
                error = AccessDenied(
                    f"hello of agent {name}",
                    cause=f"its identity belongs to the credential {owner!r}; this one is {caller.principal!r}",
                    remedy="give each agent a --data folder and a credential of its own; to renew a credential: shoal token rotate",
                )
                log.warning("hello.refused", agent=name, caller=caller.principal, belongs_to=owner)
                raise error
            log.warning("identity.moved", agent=name, caller=caller.principal, belonged_to=owner)
        bound = f"{TOKEN if caller.token_id else CERTIFICATE} {caller.principal}"
        if self._bound.get(agent_id) != bound:
            self._bound[agent_id] = bound
            await self._store.run(self._store.store.put_identity, agent_id, bound)
