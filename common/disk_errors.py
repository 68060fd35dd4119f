"""How an ``OSError`` from a disk reads to a person."""

from __future__ import annotations

import errno

from .errors import Conflict, NoSpace, NotWritable, ShoalError, UnsafeName

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_IN_THE_WAY = frozenset({errno.EISDIR, errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST})


def disk_error(error: OSError, thing: str) -> ShoalError:
    """The error to raise for an ``OSError`` met while writing thing below a destination."""
    cause = (error.strerror or str(error)).lower()
    if error.errno in _NO_SPACE:
        return NoSpace(thing, cause=cause, remedy="free some space or quota, or choose another destination")
    if error.errno in _IN_THE_WAY:
        return Conflict(thing, cause=f"something else of that name is in the way: {cause}", remedy="move it away")
    if error.errno == errno.ELOOP:
        return UnsafeName(
            thing, cause="a symbolic link lies where a file or folder of ours should be", remedy="remove it"
        )
    if error.errno == errno.ENAMETOOLONG:
        return UnsafeName(thing, cause="the name is too long for this file system")
    if error.errno in {errno.EMFILE, errno.ENFILE}:
        return NotWritable(thing, cause="too many open files", remedy="raise the limit with ulimit -n")
    return NotWritable(thing, cause=cause, remedy="check the destination's permissions, mount and disk")
