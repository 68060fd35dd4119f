"""What this agent knows of a job: where its files go, who serves them, what it may tell them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from ...common.hub_auth import authorization_for
from ...common.hub_errors import HubSubject
from ...common.records import JobSpec, ObjectSpec, OriginKind
from .crew import Crew
from .locations import Endpoints, Target
from .transfer import Transfer

if TYPE_CHECKING:
    from ...common.http import HttpClient
    from ...common.secrets import Secret
    from ..storage.destination import Destination


class JobContext:
    """A job that this agent works on. Lives in the event loop."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        destination: Destination,
        client: HttpClient,
        disk: Crew,
        hub_token: Callable[[], Secret | None],
    ) -> None:
        """Raises Refused for an endpoint that is no http(s) URL."""
        self.spec = spec
        self.destination = destination
        self.client = client
        self.endpoints = Endpoints(spec.endpoints)
        self.transfers: dict[int, Transfer] = {}  # by object id
        self._disk = disk
        self.hub_token = hub_token
        self._shared = asyncio.Lock()
        self._shared_checked = False

    @property
    def on_hub(self) -> bool:
        return self.spec.origin is OriginKind.HUB

    async def check_shared(self) -> None:
        """Before the first byte of the job: this agent sees the folder that the others write to. Raises NotShared."""
        if self._shared_checked:
            return
        async with self._shared:
            if not self._shared_checked:
                await self._disk.run(self.destination.check_shared).wait()
                self._shared_checked = True

    def authorization(self, target: Target) -> Secret | None:
        """The Authorization header for a target: the Hub token goes to the configured endpoints and nowhere else."""
        return authorization_for(target.url, self.endpoints.bases, self.hub_token()) if self.on_hub else None

    def subject(self, spec: ObjectSpec, target: Target, *, authenticated: bool) -> HubSubject:
        """The object as the Hub's errors name it."""
        return HubSubject(
            endpoint=target.endpoint or f"https://{target.host}",
            repo_kind=self.spec.repo_kind or "model",
            repo_id=self.spec.repo_id,
            revision=self.spec.revision,
            path=spec.path,
            authenticated=authenticated,
        )

    async def close(self) -> None:
        """Close every file of the job. No lease on it may be under way."""
        for transfer in list(self.transfers.values()):
            await transfer.close()
        self.transfers.clear()
        await self._disk.run(self.destination.close).wait()
