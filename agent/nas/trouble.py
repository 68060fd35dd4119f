"""What can go wrong with a copy, by what follows from it, and how an error of the system reads."""

from __future__ import annotations

import errno

_OF_THE_NAS = frozenset(
    {
        *(errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.ETIMEDOUT),
        *(errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.ECONNRESET),
        *(errno.ECONNREFUSED, errno.EREMOTEIO, errno.ESHUTDOWN),
    }
)
"""Errors that say something of the whole file system or its server, not of one file."""

NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT})


class CopyTrouble(Exception):
    """A copy did not come about. The text is for people: what, and what to do."""


class NasDown(CopyTrouble):
    """The NAS does not work now; no copy can."""


class FileTrouble(CopyTrouble):
    """This file could not be copied now; others may be."""


class NeverCopied(CopyTrouble):
    """This file can never be copied, whatever is tried."""


class Held(CopyTrouble):
    """Somebody else is copying this file."""


class Stopped(CopyTrouble):
    """We are to stop."""


def trouble_of(error: OSError, thing: str) -> CopyTrouble:
    """What an error met on the NAS means. thing: the NAS folder, or the file on it."""
    text = (error.strerror or str(error)).lower()
    if error.errno == errno.EROFS:
        return NasDown(f"{thing}: it is mounted read-only")
    if error.errno in _OF_THE_NAS:
        return NasDown(f"{thing}: {text}")
    if error.errno in NO_SPACE:
        return FileTrouble(f"{thing}: no space left on the NAS, or no quota")
    return FileTrouble(f"{thing}: {text}")
