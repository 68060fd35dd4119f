"""Credentials: made of randomness, stored as hashes, refused when wrong, expired or revoked."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace

import pytest

from shoal.common.errors import NotFound, Unauthenticated, UsageError
from shoal.common.views import Role
from shoal.coordinator.store.base import RevokedRow, TokenRow
from shoal.coordinator.store.runner import StoreRunner
from shoal.coordinator.tokens import TokenBook


class TokenStore:
    """The part of a store that holds credentials."""

    def __init__(self, clock: Clock) -> None:
        self.rows: dict[str, TokenRow] = {}
        self.revoked: list[RevokedRow] = []
        self._clock = clock

    def put_token(self, token_id: str, *, role: str, name: str, secret_hash: bytes, expires_at: float | None) -> None:
        self.rows[token_id] = TokenRow(
            token_id=token_id,
            role=role,
            name=name,
            secret_hash=secret_hash,
            created_at=self._clock(),
            expires_at=expires_at,
        )

    def tokens(self) -> list[TokenRow]:
        return list(self.rows.values())

    def delete_token(self, token_id: str) -> bool:
        row = self.rows.pop(token_id, None)
        if row is not None:
            self.revoked.append(RevokedRow(token_id=token_id, secret_hash=row.secret_hash, revoked_at=self._clock()))
        return row is not None

    def revoked_tokens(self) -> list[RevokedRow]:
        return self.revoked

    def expire_token(self, token_id: str, expires_at: float) -> None:
        self.rows[token_id] = replace(self.rows[token_id], expires_at=expires_at)


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(clock: Clock) -> TokenStore:
    return TokenStore(clock)


@pytest.fixture
def book(clock: Clock, store: TokenStore) -> TokenBook:
    serial = itertools.count(1)
    return TokenBook(StoreRunner(store, blocks=False), clock, random_bytes=lambda n: next(serial).to_bytes(n))


async def test_a_token_opens_and_tells_who_it_is(book: TokenBook) -> None:
    made = await book.create(Role.AGENT, "node7", None)
    assert made.token.reveal() == f"shoal_agent_{1:012x}_{2:064x}"
    assert book.check(made.token.reveal()) == made.view
    assert made.view.name == "node7" and made.view.role is Role.AGENT and made.view.expires_at is None


async def test_only_a_hash_is_stored_and_nothing_shows_the_secret(book: TokenBook, store: TokenStore) -> None:
    made = await book.create(Role.ADMIN, "alice", 60)
    secret = made.token.reveal().rpartition("_")[2]
    (row,) = store.rows.values()
    assert row.secret_hash == hashlib.sha256(secret.encode()).digest()
    assert secret not in repr(row) + repr(made) + repr(book.list()) + repr(book)


async def test_the_secret_has_256_bits_of_real_randomness(clock: Clock, store: TokenStore) -> None:
    asked: list[int] = []

    def random_bytes(n: int) -> bytes:
        asked.append(n)
        return bytes(n)

    await TokenBook(StoreRunner(store, blocks=False), clock, random_bytes=random_bytes).create(Role.AGENT, "", None)
    assert asked == [6, 32]


@pytest.mark.parametrize(
    "change",
    [
        lambda token: token[:-1] + ("0" if token[-1] != "0" else "1"),
        lambda token: token.replace("agent", "admin"),
        lambda token: token + "0",
        lambda token: token.upper(),
        lambda token: token + "\n",
        lambda token: token.replace("_", "-"),
        lambda token: "shoal_agent_ffffffffffff_" + token.rpartition("_")[2],
        lambda token: "",
        lambda token: "x" * 100_000,
        lambda token: "shoal_agent_\u0661" + token[13:],
    ],
)
async def test_a_token_that_is_not_right_is_refused(book: TokenBook, change) -> None:
    made = await book.create(Role.AGENT, "node7", None)
    with pytest.raises(Unauthenticated) as caught:
        book.check(change(made.token.reveal()))
    assert str(caught.value).startswith("token: it is not known here")  # no word on whether the id exists


async def test_a_token_expires(book: TokenBook, clock: Clock) -> None:
    made = await book.create(Role.AGENT, "node7", 60)
    assert made.view.expires_at == clock.now + 60
    clock.now += 59.9
    assert book.check(made.token.reveal()) and not book.lapse(made.view.token_id)
    clock.now += 0.1
    assert book.lapse(made.view.token_id)
    with pytest.raises(Unauthenticated, match="has expired"):
        book.check(made.token.reveal())


async def test_rotation_both_are_valid_until_the_old_one_is_revoked(book: TokenBook) -> None:
    old = await book.create(Role.AGENT, "node7", None)
    new = await book.create(Role.AGENT, "node7", None)
    assert [view.token_id for view in book.list()] == [old.view.token_id, new.view.token_id]
    assert book.check(old.token.reveal()) and book.check(new.token.reveal())
    await book.revoke(old.view.token_id)
    assert book.lapse(old.view.token_id)
    with pytest.raises(Unauthenticated):
        book.check(old.token.reveal())
    assert book.check(new.token.reveal()) == new.view


async def test_rotation_in_place_keeps_name_role_and_life(book: TokenBook, clock: Clock) -> None:
    old = await book.create(Role.AGENT, "node7", 3600)
    clock.now += 600
    new = await book.rotate(old.view.token_id, grace_s=60)
    assert new.view.token_id != old.view.token_id
    assert (new.view.name, new.view.role, new.view.expires_at) == ("node7", Role.AGENT, clock.now + 3600)
    assert book.check(old.token.reveal()).expires_at == clock.now + 60
    clock.now += 60
    with pytest.raises(Unauthenticated, match="has expired"):
        book.check(old.token.reveal())
    assert book.check(new.token.reveal()) == new.view


async def test_rotation_never_lengthens_the_old_ones_life_and_may_end_it_at_once(book: TokenBook, clock: Clock) -> None:
    short = await book.create(Role.ADMIN, "", 10)
    forever = await book.rotate(short.view.token_id, grace_s=1000, expires_s=500)
    assert book.check(short.token.reveal()).expires_at == clock.now + 10
    assert forever.view.name == short.view.token_id  # so that both are the same to whom it matters
    assert forever.view.expires_at == clock.now + 500
    await book.rotate(forever.view.token_id, grace_s=0)
    assert book.lapse(forever.view.token_id) == "has expired"


async def test_what_cannot_be_rotated(book: TokenBook, clock: Clock) -> None:
    with pytest.raises(NotFound, match="token 00ff"):
        await book.rotate("00ff", grace_s=0)
    made = await book.create(Role.AGENT, "n", 10)
    for grace_s in (-1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="token grace"):
            await book.rotate(made.view.token_id, grace_s=grace_s)
    clock.now += 10
    with pytest.raises(UsageError, match="it has expired"):
        await book.rotate(made.view.token_id, grace_s=60)


async def test_only_who_has_a_revoked_token_is_told_that_it_was_revoked(book: TokenBook) -> None:
    made = await book.create(Role.AGENT, "node7", None)
    told: list[str] = []
    book.watch(lambda: told.append(book.lapse(made.view.token_id)))
    await book.revoke(made.view.token_id)
    assert told == ["was revoked"]
    with pytest.raises(Unauthenticated, match=f"token {made.view.token_id}: it was revoked"):
        book.check(made.token.reveal())
    with pytest.raises(Unauthenticated, match="token: it is not known here"):
        book.check(made.token.reveal()[:-4] + "ffff")


async def test_a_name_stands_as_long_as_one_of_its_agents_credentials_is_valid(book: TokenBook, clock: Clock) -> None:
    old = await book.create(Role.AGENT, "node7", None)
    unnamed = await book.create(Role.AGENT, "", None)
    await book.create(Role.ADMIN, "alice", None)
    assert book.stands("node7") and book.stands(unnamed.view.token_id)
    assert not book.stands("alice") and not book.stands("")
    await book.create(Role.AGENT, "node7", 60)
    await book.revoke(old.view.token_id)
    assert book.stands("node7")
    clock.now += 60
    assert not book.stands("node7")


async def test_tokens_outlive_the_process(book: TokenBook, clock: Clock, store: TokenStore) -> None:
    made = await book.create(Role.ADMIN, "alice", None)
    later = TokenBook(StoreRunner(store, blocks=False), clock)
    with pytest.raises(Unauthenticated):
        later.check(made.token.reveal())
    await later.load()
    assert later.check(made.token.reveal()) == made.view


async def test_what_cannot_be_revoked_or_made(book: TokenBook) -> None:
    with pytest.raises(NotFound, match="token 00ff"):
        await book.revoke("00ff")
    for expires_s in (0, -1, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="token expiry"):
            await book.create(Role.AGENT, "n", expires_s)
    for name in ("n" * 257, "a\nb", "\u202e"):
        with pytest.raises(UsageError, match="token name"):
            await book.create(Role.AGENT, name, None)
