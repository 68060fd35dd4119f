"""What the library keeps in its state folder: an index, what the Hub said, and where downloads went.

All of it can be lost: the index is made again, the Hub asked again. So a file that is cut or changed by something else (its first
line is a checksum of the rest) counts as one that is not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

from ..logs import get_logger

INDEX: Final = "index.json"
CHECKS: Final = "checks.json"
PLACES: Final = "places"
PLACES_MAX: Final = 10_000  # folders; the oldest are forgotten

log = get_logger("library")


def read_state(path: Path) -> object:
    """The JSON value in a state file; None when there is none, or it is damaged."""
    try:
        head, _, body = path.read_bytes().partition(b"\n")
        if head.decode(errors="replace") != _checksum(body):
            log.warning("library.state_damaged", file=str(path), meaning="it is made again")
            return None
        return json.loads(body)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        log.warning("library.state_unreadable", file=str(path), cause=str(error))
        return None


def write_state(path: Path, value: object) -> None:
    """Replace a state file at once. One that cannot be written costs time later, and is no error."""
    body = json.dumps(value, separators=(",", ":")).encode(errors="surrogatepass")
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(6)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            temporary.write_bytes(_checksum(body).encode() + b"\n" + body)
            temporary.replace(path)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    except OSError as error:
        log.warning("library.state_not_written", file=str(path), cause=str(error))


def remember_place(state: Path, folder: Path) -> None:
    """Note that files were delivered to a folder, so that the library looks there. One that cannot be noted is no error."""
    line = json.dumps(str(folder)).encode() + b"\n"
    path = state / PLACES
    try:
        if path.exists() and line in path.read_bytes():
            return
        state.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, line)  # one write of a short line: those of several processes do not mix
        finally:
            os.close(fd)
    except OSError as error:
        log.warning("library.place_not_noted", folder=str(folder), cause=str(error))


def known_places(state: Path) -> list[Path]:
    """The folders that were noted, the newest last; lines that are no paths are passed over."""
    try:
        lines = (state / PLACES).read_bytes().splitlines()
    except OSError:
        return []
    return list(dict.fromkeys(_paths(lines)))[-PLACES_MAX:]


def _paths(lines: Iterable[bytes]) -> Iterable[Path]:
    for line in lines:
        try:
            value: object = json.loads(line)
        except ValueError:
            continue
        if isinstance(value, str) and value.startswith("/") and "\0" not in value:
            yield Path(value)


def _checksum(body: bytes) -> str:
    return hashlib.sha256(body, usedforsecurity=False).hexdigest()
