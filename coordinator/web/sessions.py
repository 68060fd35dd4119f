"""Logins: sessions that the server keeps, and how often somebody may try. Pure: takes `now`, does no I/O.

A session's id is known to the browser alone; here it is kept as its SHA-256. A restart ends all sessions.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SECRET_BYTES = 32
SESSIONS_MAX = 1000
"""Sessions at once; a new one ends the oldest."""
ADDRESSES_MAX = 10_000

TRIES_PER_ADDRESS, TRY_EVERY_S = 10, 30.0
"""Failed logins of one address at once, and how long until it may try once more."""
TRIES_IN_ALL, TRY_IN_ALL_EVERY_S = 100, 1.0
"""The same of everybody together: many addresses of one attacker."""


@dataclass(frozen=True, kw_only=True, slots=True)
class WebSession:
    """Somebody who logged in. token_id is set if that was with a token."""

    user: str
    csrf: str
    ends_at: float
    token_id: str = ""


class Sessions:
    """All sessions."""

    def __init__(self, *, life_s: float, random_text: Callable[[], str] = lambda: secrets.token_urlsafe(SECRET_BYTES)):
        self.life_s = life_s
        self._random_text = random_text
        self._open: OrderedDict[bytes, WebSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._open)

    def begin(self, user: str, now: float, *, token_id: str = "") -> tuple[str, WebSession]:
        """A new session and its id, which is for the cookie alone."""
        session_id = self._random_text()
        session = WebSession(user=user, csrf=self._random_text(), ends_at=now + self.life_s, token_id=token_id)
        while len(self._open) >= SESSIONS_MAX:
            self._open.popitem(last=False)
        self._open[_key(session_id)] = session
        return session_id, session

    def find(self, session_id: str, now: float) -> WebSession | None:
        """The session with this id, if it lasts."""
        session = self._open.get(_key(session_id))
        if session is not None and session.ends_at <= now:
            del self._open[_key(session_id)]
            return None
        return session

    def end(self, session_id: str) -> None:
        """End a session, if there is one."""
        self._open.pop(_key(session_id), None)


def _key(session_id: str) -> bytes:
    return hashlib.sha256(session_id.encode(errors="surrogatepass")).digest()


def same_text(a: str, b: str) -> bool:
    """Compare in constant time."""
    return hmac.compare_digest(a.encode(errors="surrogatepass"), b.encode(errors="surrogatepass"))


class _Bucket:
    """Tries that are left; they come back one by one."""

    def __init__(self, size: int, every_s: float, now: float) -> None:
        self._size, self._every_s = size, every_s
        self._left, self._at = float(size), now

    def _refill(self, now: float) -> None:
        self._left = min(self._size, self._left + (now - self._at) / self._every_s)
        self._at = now

    def wait_s(self, now: float) -> float:
        self._refill(now)
        return 0.0 if self._left >= 1 else (1 - self._left) * self._every_s

    def take(self) -> None:
        self._left -= 1

    def give_back(self) -> None:
        self._left = min(self._size, self._left + 1)

    @property
    def is_full(self) -> bool:
        return self._left >= self._size


class LoginLimit:
    """How often who may try to log in. A try is taken before the password is looked at, and given back if it was right."""

    def __init__(self, now: float) -> None:
        self._all = _Bucket(TRIES_IN_ALL, TRY_IN_ALL_EVERY_S, now)
        self._by_address: OrderedDict[str, _Bucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_address)

    def take(self, address: str, now: float) -> float:
        """Take a try. Returns 0, or for how many seconds there is none; then nothing was taken."""
        own = self._by_address.get(address)
        if own is None:
            own = self._by_address[address] = _Bucket(TRIES_PER_ADDRESS, TRY_EVERY_S, now)
            while len(self._by_address) > ADDRESSES_MAX:
                self._by_address.popitem(last=False)
        self._by_address.move_to_end(address)
        wait_s = max(own.wait_s(now), self._all.wait_s(now))
        if wait_s > 0:
            return wait_s
        own.take()
        self._all.take()
        return 0.0

    def right(self, address: str) -> None:
        """The try was a right password."""
        self._all.give_back()
        self._by_address.pop(address, None)
