"""Other programs' downloaders in place of our own connections: hf_transfer, and the Hub's client library (which brings Xet).

They only bring the bytes of one large Hub object into a file beside its partial file, which then takes the partial file's
place: verified and published it is as always. Whatever goes wrong with one, our own engine does the work, and the log says so
once. Each download runs in a process of its own (`backend_child.py`), which is killed when its lease ends.

A backend cannot be told of budgets and limits of the line: with `fetch.rate_limit` it is not used.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..common.errors import MissingExtra, ShoalError, TransferError
from ..common.installed import is_installed
from ..common.logs import get_logger
from ..common.secrets import redact
from .engine.options import Backend, EngineOptions
from .storage.workfolder import TEMPORARY, plain_name

if TYPE_CHECKING:
    from .engine.holding import Holding
    from .engine.transfer import Transfer

_AT_ONCE: Final = 2  # objects; each uses many connections already
_PACKAGES: Final[dict[Backend, str]] = {"hf_transfer": "hf_transfer", "hub": "huggingface_hub"}
_WARNINGS_MAX: Final = 10

log = get_logger("agent.backend")


class Backends:
    """Fills partial files by the backend that is configured."""

    def __init__(self, options: EngineOptions) -> None:
        self._options = options
        self._name: Backend = options.backend
        self._turn = asyncio.Semaphore(_AT_ONCE)
        self._numbers = itertools.count()
        self._warned: set[str] = set()

    async def fill(self, holding: Holding, transfer: Transfer) -> bool:
        """Bring the whole object into the open partial file. Returns False when our own engine is to do it.

        Raises what the disk raises.
        """
        size = transfer.spec.size
        if self._name == "native" or not holding.job.on_hub or size is None or self._options.rate_limit:
            return False
        if self._options.rules.policy.rules_redirects:
            return False  # another program follows redirects without asking
        if transfer.have:
            return False  # what is there already is worth more than another program's speed
        part = holding.job.destination.path / transfer.partial.path
        agent = plain_name(self._options.agent_id)
        to = part.with_name(f"{part.stem}.{agent}.backend-{next(self._numbers)}{TEMPORARY}")
        # Not among the partial files: what is cleaned there by name are files.
        folder = to.parent.with_name(f"backend-{to.stem}")
        try:
            async with self._turn:
                order = await self._order(holding, transfer, to, folder)
                await _run_child(order)
            if to.stat().st_size != size:
                raise TransferError(transfer.spec.path, cause="the backend brought another number of bytes")
        except Exception as error:
            self._warn(error)
            to.unlink(missing_ok=True)
            return False
        except BaseException:
            to.unlink(missing_ok=True)
            raise
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        try:
            await transfer.adopt(to)
        finally:
            to.unlink(missing_ok=True)
        holding.fetched += size
        return True

    async def _order(self, holding: Holding, transfer: Transfer, to: Path, folder: Path) -> dict[str, object]:
        """What the child is told. Raises MissingExtra, and what asking for the object raises."""
        package = _PACKAGES[self._name]
        if not is_installed(package):
            remedy = 'pip install "shoal[hf-transfer]"' if self._name == "hf_transfer" else f"pip install {package}"
            raise MissingExtra(package, cause="it is not installed", remedy=remedy)
        assert transfer.location is not None
        target = transfer.location.target(asyncio.get_running_loop().time())
        if self._name == "hf_transfer":
            url, headers = await _resolve(holding, transfer)
            connections = self._options.connections_per_host
            return {"backend": self._name, "url": url, "headers": headers, "to": str(to), "connections": connections}
        job, token = holding.job.spec, holding.job.hub_token()
        return {
            "backend": self._name,
            "repo_id": job.repo_id,
            "path": transfer.spec.path,
            "repo_type": job.repo_kind,
            "revision": job.commit or job.revision,
            "endpoint": target.endpoint,
            "token": token.reveal() if token else "",
            "to": str(to),
            "folder": str(folder),
        }

    def _warn(self, error: Exception) -> None:
        text = redact(str(error) if isinstance(error, ShoalError) else f"{type(error).__name__}: {error}")
        if text not in self._warned and len(self._warned) < _WARNINGS_MAX:
            self._warned.add(text)
            log.warning("backend.failed", backend=self._name, error=text, instead="shoal's own engine")


async def _resolve(holding: Holding, transfer: Transfer) -> tuple[str, dict[str, str]]:
    """Where the bytes are, and what to send there: the token only to the endpoint itself."""
    assert transfer.location is not None
    target = transfer.location.target(asyncio.get_running_loop().time())
    authorization = holding.job.authorization(target)
    response = await holding.job.client.request(target.url, authorization=authorization, byte_range=(0, 1))
    async with response:
        if response.status not in (200, 206):
            raise TransferError(transfer.spec.path, cause=f"the server answered {response.status}")
        if authorization is None or response.redirects:
            return response.url, {}
        return response.url, {"authorization": authorization.reveal()}


async def _run_child(order: dict[str, object]) -> None:
    """Run the backend's process to its end; it is killed when this is cancelled. Raises TransferError with what it said."""
    pipe = asyncio.subprocess.PIPE
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "shoal.agent.backend_child", stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe
    )
    try:
        _, said = await child.communicate(json.dumps(order).encode())
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        raise
    if child.returncode:
        lines = said.decode(errors="replace").strip().splitlines() or [f"it ended with {child.returncode}"]
        raise TransferError(f"backend {order['backend']}", cause=redact(lines[-1])[:500])
