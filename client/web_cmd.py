"""``shoal web password``: the hash of a password for ``web.password_hash``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, UsageError
from ..common.passwords import PASSWORD_CHARS_MAX, hash_password

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


def web(options: argparse.Namespace, settings: Settings) -> int:
    """Ask for a password, twice on a terminal, once from a pipe, and print its hash. Raises UsageError."""
    print(hash_password(_ask()))
    if sys.stderr.isatty():
        print("put it into web.password_hash, or into a file that web.password_hash_file names", file=sys.stderr)
    return ExitCode.OK


def _ask() -> str:
    if not sys.stdin.isatty():
        return sys.stdin.readline(PASSWORD_CHARS_MAX + 2).rstrip("\r\n")
    import getpass

    password = getpass.getpass("Password: ")
    if getpass.getpass("Again: ") != password:
        raise UsageError("password", cause="the two are not the same", remedy="try again")
    return password
