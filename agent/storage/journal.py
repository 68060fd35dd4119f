"""The journal of a job's finished files, so that a job that is run again need not hash what it has.

One text file per job and agent in the work folder; each line is the CRC-32 of the rest, a blank and a manifest entry. The
first line names the boot of the kernel that wrote it. It only ever saves work: a line that is torn or damaged is skipped, a
line that does not fit the file on the disk is not believed, and a journal from before a boot is not believed at all unless
the files that it names were fsynced.
"""

from __future__ import annotations

import json
import os
import threading
import zlib
from collections.abc import Iterator

from ...common.manifest import ManifestEntry


class Journal:
    """Appends finished files. Owns fd. Thread-safe."""

    def __init__(self, fd: int, *, boot_id: bytes, durable: bool) -> None:
        """Go on with the journal open for reading and appending (O_APPEND) at fd; begin anew where it is not to be believed.

        durable says that files are fsynced before they are noted. Raises OSError; fd is then still the caller's.
        """
        self._fd = fd
        self._lock = threading.Lock()
        head = {"boot": boot_id.hex(), "durable": durable}
        if _head(fd) != head:
            os.ftruncate(fd, 0)
            self._put(json.dumps(head))

    def append(self, entry: ManifestEntry) -> None:
        """Note a finished file. Raises OSError."""
        self._put(entry.to_json())

    def close(self) -> None:
        """Close the file. Safe to call twice."""
        with self._lock:
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _put(self, text: str) -> None:
        body = text.encode()
        # The line end comes first: whatever became of the line before (a crash, a full disk), this one stands alone.
        os.write(self._fd, b"\n%08x %s" % (zlib.crc32(body), body))


def read_journal(fd: int, *, boot_id: bytes) -> Iterator[ManifestEntry]:
    """The sound lines of the journal open at fd, from its beginning; none when it is not to be believed."""
    head = _head(fd)
    if head is None or not (head.get("durable") is True or head.get("boot") == boot_id.hex()):
        return
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        while line := file.readline(_LINE_BYTES_MAX):
            body = _sound(line.rstrip(b"\n"))
            if body is None:
                continue
            try:
                yield ManifestEntry.from_json(body)
            except ValueError:
                continue


_LINE_BYTES_MAX = 64 << 10


def _sound(line: bytes) -> bytes | None:
    """The body of a line (without its end) that is whole."""
    body = line[9:]
    return body if body and line[:9] == b"%08x " % zlib.crc32(body) else None


def _head(fd: int) -> dict[str, object] | None:
    body = _sound(os.pread(fd, 200, 0).lstrip(b"\n").partition(b"\n")[0])
    return json.loads(body) if body is not None else None
