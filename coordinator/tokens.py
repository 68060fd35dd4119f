"""Credentials of the fleet: ``shoal_ROLE_ID_SECRET``, with a random id of 48 bits and a random secret of 256 bits.

Only the SHA-256 of the secret is stored. A plain hash is enough because the secret is random: there is nothing to guess from a
dictionary (RFC 6750, section 5.2, asks for short life and revocation instead). Rotation without downtime: `rotate` makes a second
one of the same name, and the first stays valid until its grace ends.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable

from ..common.errors import NotFound, Unauthenticated, UsageError
from ..common.secrets import Secret
from ..common.views import NewToken, Role, TokenView
from ..common.wire_values import NAME_CHARS_MAX
from .store.base import RevokedRow, TokenRow
from .store.runner import StoreRunner

ID_BYTES = 6
SECRET_BYTES = 32
LIFE_MAX_S = 100 * 366 * 86400.0

_TOKEN = re.compile(rf"shoal_(agent|admin)_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")
_NO_HASH = bytes(hashlib.sha256().digest_size)


class TokenBook:
    """All credentials of one coordinator: kept in the store, checked in memory."""

    def __init__(
        self,
        store: StoreRunner,
        wall_clock: Callable[[], float],
        *,
        random_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Args: wall_clock gives seconds since the epoch; random_bytes(n) gives n bytes that nobody can guess."""
        self._store = store
        self._wall_clock = wall_clock
        self._random_bytes = random_bytes
        self._rows: dict[str, TokenRow] = {}
        self._revoked: dict[str, RevokedRow] = {}
        self._watchers: list[Callable[[], None]] = []

    def watch(self, callback: Callable[[], None]) -> None:
        """Call back whenever a credential was revoked: what it opened is to end at once."""
        self._watchers.append(callback)

    async def load(self) -> None:
        """Read all credentials from the open store."""
        self._rows = {row.token_id: row for row in await self._store.run(self._store.store.tokens)}
        self._revoked = {row.token_id: row for row in await self._store.run(self._store.store.revoked_tokens)}

    async def create(self, role: Role, name: str, expires_s: float | None) -> NewToken:
        """Make a credential that is valid for so many seconds, for ever with None. Raises UsageError."""
        if len(name) > NAME_CHARS_MAX or not name.isprintable():
            raise UsageError("token name", cause=f"it must be at most {NAME_CHARS_MAX} printable characters")
        if expires_s is not None and not 0 < expires_s <= LIFE_MAX_S:
            raise UsageError("token expiry", cause="it must be longer than nothing and shorter than a century")
        token_id, secret = self._random_bytes(ID_BYTES).hex(), self._random_bytes(SECRET_BYTES).hex()
        await self._store.run(
            self._store.store.put_token,
            token_id,
            role=role.value,
            name=name,
            secret_hash=_hash(secret),
            expires_at=None if expires_s is None else self._wall_clock() + expires_s,
        )
        await self.load()
        return NewToken(token=Secret(f"shoal_{role.value}_{token_id}_{secret}"), view=_view(self._rows[token_id]))

    def list(self) -> list[TokenView]:
        """All credentials, oldest first, expired ones too."""
        return sorted(map(_view, self._rows.values()), key=lambda view: (view.created_at, view.token_id))

    async def revoke(self, token_id: str) -> None:
        """Make a credential worthless. Raises NotFound."""
        if not await self._store.run(self._store.store.delete_token, token_id):
            raise _not_found(token_id)
        await self.load()
        for watcher in self._watchers:
            watcher()

    async def rotate(self, token_id: str, *, grace_s: float, expires_s: float | None = None) -> NewToken:
        """Make a credential of the same role and name; the old one stays valid for grace_s seconds, or less if it expires before.

        expires_s: how long the new one is valid; None: as long as the old one was made for. What has no name is called by the old
        id from now on, so that both stand for the same agent. Raises NotFound, UsageError.
        """
        old = self._rows.get(token_id)
        if old is None:
            raise _not_found(token_id)
        if not 0 <= grace_s <= LIFE_MAX_S:
            raise UsageError("token grace", cause="it must not be negative, nor longer than a century")
        if self._expired(old):
            raise UsageError(f"token {token_id}", cause="it has expired", remedy="shoal token create makes a new one")
        life_s = expires_s if expires_s is not None or old.expires_at is None else old.expires_at - old.created_at
        made = await self.create(Role(old.role), old.name or token_id, life_s)
        ends_at = self._wall_clock() + grace_s
        if old.expires_at is None or ends_at < old.expires_at:
            await self._store.run(self._store.store.expire_token, token_id, ends_at)
            await self.load()
        return made

    def check(self, presented: str) -> TokenView:
        """The credential that was presented. Raises Unauthenticated; who does not know the secret is not told whether the id exists."""
        match = _TOKEN.fullmatch(presented)
        role, token_id, secret = match.groups() if match else ("", "", "")
        row = self._rows.get(token_id)
        right = hmac.compare_digest(_hash(secret), row.secret_hash if row else _NO_HASH)
        revoked = self._revoked.get(token_id)
        if revoked is not None and hmac.compare_digest(_hash(secret), revoked.secret_hash):
            raise Unauthenticated(
                f"token {token_id}", cause="it was revoked", remedy="shoal token create makes a new one"
            )
        if row is None or not right or row.role != role:
            raise Unauthenticated("token", cause="it is not known here", remedy="shoal token create makes a new one")
        if self._expired(row):
            raise Unauthenticated(
                f"token {token_id}", cause="it has expired", remedy="shoal token create makes a new one"
            )
        return _view(row)

    def lapse(self, token_id: str) -> str:
        """Why a credential that was checked before holds no more ("was revoked"); empty while it does."""
        row = self._rows.get(token_id)
        return "was revoked" if row is None else "has expired" if self._expired(row) else ""

    def stands(self, principal: str) -> bool:
        """Whether a valid credential of an agent goes by this name (`auth.Caller.principal`)."""
        agents = (row for row in self._rows.values() if row.role == Role.AGENT and not self._expired(row))
        return any(principal == (row.name or row.token_id) for row in agents)

    def _expired(self, row: TokenRow) -> bool:
        return row.expires_at is not None and self._wall_clock() >= row.expires_at


def _not_found(token_id: str) -> NotFound:
    return NotFound(f"token {token_id}", cause="there is none with this id", remedy="shoal token list shows all")


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def _view(row: TokenRow) -> TokenView:
    return TokenView(
        token_id=row.token_id, role=Role(row.role), name=row.name, created_at=row.created_at, expires_at=row.expires_at
    )
