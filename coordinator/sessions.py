"""The coordinator's end of agents' sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .api import Close, Send

if TYPE_CHECKING:
    from ..common.records import AgentMessage
    from .service import Coordinator


@dataclass(slots=True)
class Session:
    """One agent's session: how to speak to it."""

    send: Send
    close: Close


class OpenSession:
    """The coordinator's end of a session; see `api.AgentSession`."""

    def __init__(self, coordinator: Coordinator, agent_id: str, session: Session) -> None:
        self._coordinator = coordinator
        self._agent_id = agent_id
        self._session = session

    def receive(self, message: AgentMessage) -> None:
        self._coordinator.received(self._agent_id, self._session, message)

    def lost(self) -> None:
        self._coordinator.lost(self._agent_id, self._session)
