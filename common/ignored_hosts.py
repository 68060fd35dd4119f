"""Hosts that are not asked: by the job's settings, and by ``ignored.csv`` in the dataset's folder, which may change at any time."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Final

from .collect_records import host_of_server

REREAD_S: Final = 5.0
_SETTINGS: Final = "the settings ignore it"
_FILE: Final = "ignored.csv names it"


class IgnoredHosts:
    """Why a host is not asked. Reading the file is its owner's business (`take_file`)."""

    def __init__(self, hosts: Iterable[str]) -> None:
        self._set = {host.lower(): _SETTINGS for host in hosts}
        self._file: dict[str, str] = {}
        self._version: object = None

    def refusal(self, host: str) -> str:
        """Why the host is not asked; "" where it is. A host without its port stands for all its ports."""
        if not self._set and not self._file:
            return ""
        host = host.lower()
        for name in (host, host.rpartition(":")[0] if not host.endswith("]") else ""):
            found = self._set.get(name) or self._file.get(name)
            if name and found:
                return found
        return ""

    def take_file(self, found: tuple[object, bytes] | None) -> None:
        """The file as it is now, with what changes when it does; None: it is not there."""
        version, data = found if found is not None else (None, b"")
        if version != self._version or found is None:
            self._version = version
            self._file = _read(data)


def _read(data: bytes) -> dict[str, str]:
    """Host to reason. Columns server_name and reason; a file without a heading has them in this order."""
    rows = csv.reader(io.StringIO(data.decode("utf-8-sig", errors="replace")))
    found: dict[str, str] = {}
    name_at, reason_at = 0, 1
    try:
        for number, row in enumerate(rows):
            if number == 0 and "server_name" in row:
                name_at = row.index("server_name")
                reason_at = row.index("reason") if "reason" in row else len(row)
            elif len(row) > name_at and row[name_at].strip():
                reason = row[reason_at].strip() if len(row) > reason_at else ""
                found[host_of_server(row[name_at].strip()).lower()] = reason or _FILE
    except csv.Error:
        pass  # what was read before the damaged line counts
    return found
