"""Whose an agent's identity is: bound to a credential's name, and to nobody else as long as that is good."""

from __future__ import annotations

import pytest

from shoal.common.errors import AccessDenied
from shoal.common.views import Role
from shoal.coordinator.auth import LOCAL, Caller
from shoal.coordinator.identities import IdentityBook
from shoal.coordinator.store.memory import MemoryStore
from shoal.coordinator.store.runner import StoreRunner
from shoal.coordinator.tokens import TokenBook

NOW = 1_700_000_000.0


@pytest.fixture
def runner() -> StoreRunner:
    return StoreRunner(MemoryStore(clock=lambda: NOW), blocks=False)


@pytest.fixture
def tokens(runner: StoreRunner) -> TokenBook:
    return TokenBook(runner, lambda: NOW)


@pytest.fixture
def book(runner: StoreRunner, tokens: TokenBook) -> IdentityBook:
    return IdentityBook(runner, tokens)


async def caller(tokens: TokenBook, name: str) -> Caller:
    view = (await tokens.create(Role.AGENT, name, None)).view
    principal = view.name or view.token_id
    return Caller(name=principal, roles=frozenset({Role.AGENT}), token_id=view.token_id, principal=principal)


def certificate(name: str) -> Caller:
    return Caller(name=f"agent:{name}", roles=frozenset({Role.AGENT}), principal=name)


async def test_the_first_credential_has_it_and_another_is_refused(book: IdentityBook, tokens: TokenBook) -> None:
    mine, other = await caller(tokens, "node1"), await caller(tokens, "node2")
    await book.claim("a1", "one", mine)
    await book.claim("a1", "one", mine)
    with pytest.raises(AccessDenied, match="belongs to the credential 'node1'; this one is 'node2'"):
        await book.claim("a1", "one", other)
    await book.claim("a2", "two", other)


async def test_a_renewed_credential_of_the_same_name_is_the_same(book: IdentityBook, tokens: TokenBook) -> None:
    await book.claim("a1", "one", await caller(tokens, "node1"))
    await book.claim("a1", "one", await caller(tokens, "node1"))
    await book.claim("a1", "one", certificate("node1"))


async def test_a_rotated_credential_without_a_name_is_the_same(book: IdentityBook, tokens: TokenBook) -> None:
    mine = await caller(tokens, "")
    await book.claim("a1", "one", mine)
    new = (await tokens.rotate(mine.token_id, grace_s=60)).view
    roles = frozenset({Role.AGENT})
    await book.claim("a1", "one", Caller(name=new.name, roles=roles, token_id=new.token_id, principal=new.name))


async def test_when_the_credential_is_gone_the_next_one_takes_over(book: IdentityBook, tokens: TokenBook) -> None:
    mine, other = await caller(tokens, "node1"), await caller(tokens, "node2")
    await book.claim("a1", "one", mine)
    await tokens.revoke(mine.token_id)
    await book.claim("a1", "one", other)
    with pytest.raises(AccessDenied):
        await book.claim("a1", "one", await caller(tokens, "node1"))


async def test_what_is_bound_to_a_certificate_stays_so(book: IdentityBook, tokens: TokenBook) -> None:
    await book.claim("a1", "one", certificate("node1"))
    with pytest.raises(AccessDenied):
        await book.claim("a1", "one", await caller(tokens, "node2"))


async def test_on_loopback_nothing_is_bound(book: IdentityBook, tokens: TokenBook, runner: StoreRunner) -> None:
    await book.claim("a1", "one", LOCAL)
    assert runner.store.identities() == {}
    await book.claim("a1", "one", await caller(tokens, "node1"))
    await book.claim("a1", "one", LOCAL)


async def test_it_is_remembered(book: IdentityBook, tokens: TokenBook, runner: StoreRunner) -> None:
    mine, other = await caller(tokens, "node1"), await caller(tokens, "node2")
    await book.claim("a1", "one", mine)
    later = IdentityBook(runner, tokens)
    await later.load()
    with pytest.raises(AccessDenied):
        await later.claim("a1", "one", other)
    await later.claim("a1", "one", mine)
