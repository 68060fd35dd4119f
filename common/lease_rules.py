"""When is who holds a lease file still alive? The decision alone: no clock, no file.

The holder touches its file again and again, as often as the file itself says. A watcher sees the file's text and its time of
modification, which the file server gives. It takes the holder for dead

* at once, when the file is gone or its process is known to have ended (only a process of the same machine can know that);
* when it has watched the file for a whole expiry, by its own clock, and nothing changed;
* sooner, when the time between the file's last change and the watcher's own touch *by the file server's clock* is above the
  expiry, and a shorter look (a third of it) saw no change. The look is for servers that let each machine set times by its own clock
  (Lustre): what another machine's clock says is never enough.

Only differences between times of the same clock count, so machines need not agree on the time. (Leases: C. Gray and D. Cheriton,
SOSP 1989; that a lock on a file system needs a fence as well: M. Kleppmann, "How to do distributed locking", 2016. The fence is in
`lease_file.py`: a lease that was taken for dead is taken away first, so that its holder finds it gone.)
"""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass
from typing import Any, Final, cast

from .processes import ProcessName

BEATS_PER_EXPIRY: Final = 6
LOOK_SHARE: Final = 3  # the shorter look takes one so-manieth of the expiry: two beats
EXPIRY_S_MIN: Final = 0.2
EXPIRY_S_MAX: Final = 3600.0
TEXT_BYTES_MAX: Final = 500


class Life(enum.Enum):
    """What is known of a lease's holder."""

    LIVING = enum.auto()  # or not known to be dead
    DEAD = enum.auto()


@dataclass(frozen=True, kw_only=True, slots=True)
class Holder:
    """Who holds a lease, as its file says. token is random: one for every time that a lease is taken."""

    process: ProcessName
    host: str
    expiry_s: float
    token: str
    about: str = ""

    def to_text(self) -> bytes:
        """The file's text."""
        return json.dumps(
            {
                "host": self.host[:80],
                "boot": self.process.boot,
                "namespace": self.process.namespace,
                "pid": self.process.pid,
                "started": self.process.started,
                "expiry_s": self.expiry_s,
                "token": self.token,
                "about": self.about[:80],
            }
        ).encode()[:TEXT_BYTES_MAX]

    @property
    def name(self) -> str:
        """For people."""
        return f"process {self.process.pid} on {self.host}"


def holder_of(text: bytes) -> Holder | None:
    """What a lease's file says; None for one that is torn or damaged."""
    try:
        raw: Any = json.loads(text)
    except ValueError:
        return None
    if not isinstance(raw, dict):
        return None
    fields = cast("dict[str, Any]", raw)
    words = [fields.get(name) for name in ("boot", "namespace", "started", "host", "token", "about")]
    pid, expiry_s = fields.get("pid"), fields.get("expiry_s")
    if not all(isinstance(word, str) for word in words) or type(pid) is not int or pid <= 0:
        return None
    if isinstance(expiry_s, bool) or not isinstance(expiry_s, (int, float)):
        return None
    if not EXPIRY_S_MIN <= expiry_s <= EXPIRY_S_MAX:
        return None
    boot, namespace, started, host, token, about = cast("list[str]", words)
    return Holder(
        process=ProcessName(boot, namespace, pid, started),
        host=host,
        expiry_s=float(expiry_s),
        token=token,
        about=about,
    )


@dataclass(frozen=True, slots=True)
class Seen:
    """A lease's file as it is now: its text, and when it was changed last by the file server's clock (ns)."""

    text: bytes
    changed_ns: int


class Watch:
    """What one watcher remembers of one lease. Not thread-safe."""

    def __init__(self, *, expiry_s: float) -> None:
        """expiry_s: of a lease whose file does not say; seconds."""
        self._expiry_s = expiry_s
        self._seen: Seen | None = None
        self._since = 0.0

    def judge(self, seen: Seen | None, *, now: float, server_now_ns: int, is_gone: bool | None) -> Life:
        """Is the holder alive? Args:
        seen: its file, None when there is none.
        now: the watcher's own clock, in seconds; server_now_ns: what the watcher's own touch was stamped with.
        is_gone: what is known of the holder's process.
        """
        if seen is None or is_gone:
            return Life.DEAD
        holder = holder_of(seen.text)
        expiry_s = holder.expiry_s if holder is not None else self._expiry_s
        if seen != self._seen:
            self._seen, self._since = seen, now
        watched_s = now - self._since
        age_s = (server_now_ns - seen.changed_ns) / 1e9
        if watched_s >= expiry_s or (age_s >= expiry_s and watched_s >= expiry_s / LOOK_SHARE):
            return Life.DEAD
        return Life.LIVING
