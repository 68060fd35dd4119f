"""``shoal token`` and ``shoal backup``: what an administrator does to a coordinator's state, whether it runs or not."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..common.errors import ExitCode, NotWritable, UsageError
from ..common.units import format_size, parse_duration
from ..common.views import NewToken, Role, TokenView
from .output import moment, table, to_document
from .remote import RemoteCoordinator, connect
from .running import run

if TYPE_CHECKING:
    from ..common.settings import Settings
    from .daemons import OfflineState

DEFAULT_ADDRESS = "127.0.0.1:7070"

TOKEN_COLUMNS: Mapping[str, Callable[[TokenView], str]] = {
    "id": lambda token: token.token_id,
    "role": lambda token: token.role.value,
    "name": lambda token: token.name,
    "created": lambda token: moment(token.created_at),
    "expires": lambda token: moment(token.expires_at) if token.expires_at else "never",
}


def token(options: argparse.Namespace, settings: Settings) -> int:
    """``shoal token``: with --state on the state folder of a coordinator that does not run, else by asking the coordinator."""

    async def main() -> None:
        async with _api(options, settings) as api:
            await _act(api, options)

    run(main())
    return ExitCode.OK


def backup(options: argparse.Namespace, settings: Settings) -> int:
    """``shoal backup FILE``: a consistent copy of the coordinator's database. Raises UsageError if FILE exists, NotWritable."""
    path = Path(options.file)
    if path.exists() and not options.force:
        raise UsageError(f"file {path}", cause="it exists already", remedy="name another one, or say --force")

    async def main() -> int:
        async with _api(options, settings) as api:
            return await _save(api, path)

    size = run(main())
    if options.json:
        print(json.dumps({"file": str(path), "bytes": size}, indent=2))
    else:
        print(f"wrote {path}, {format_size(size)}")
    return ExitCode.OK


async def _save(api: RemoteCoordinator | OfflineState, path: Path) -> int:
    """The copy has its name when it is complete. Returns its size in bytes."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
            async for block in api.backup():
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        temporary.replace(path)
    except OSError as error:
        cause = error.strerror or str(error)
        raise NotWritable(f"file {path}", cause=cause, remedy="name a file in another folder") from None
    finally:
        temporary.unlink(missing_ok=True)
    return size


@asynccontextmanager
async def _api(options: argparse.Namespace, settings: Settings) -> AsyncGenerator[RemoteCoordinator | OfflineState]:
    if options.state:
        from .daemons import offline_tokens

        async with offline_tokens(settings) as state:
            yield state
    else:
        async with connect(settings, default_address=DEFAULT_ADDRESS) as remote:
            yield remote


async def _act(api: RemoteCoordinator | OfflineState, options: argparse.Namespace) -> None:
    expires_s = parse_duration(options.expires) if getattr(options, "expires", None) else None
    match options.action:
        case "create":
            _show(options, await api.create_token(Role(options.role), options.name, expires_s))
        case "rotate":
            grace_s = parse_duration(options.grace)
            _show(options, await api.rotate_token(options.token, grace_s, expires_s))
        case "list":
            views = await api.list_tokens()
            if options.json:
                print(json.dumps({"tokens": [to_document(view) for view in views]}, indent=2))
            else:
                print(table(views, TOKEN_COLUMNS))
        case _:
            await api.revoke_token(options.token)


def _show(options: argparse.Namespace, made: NewToken) -> None:
    """A new credential: the secret is the answer, what is said of it is for people."""
    if options.json:
        print(json.dumps({"token": made.token.reveal(), **to_document(made.view)}, indent=2))
        return
    print(made.token.reveal())
    print(f"{made.view.token_id}: keep it, it is not shown again", file=sys.stderr)
    if options.action == "rotate":
        print(f"{options.token} stays valid for {options.grace}, then it is worthless", file=sys.stderr)
