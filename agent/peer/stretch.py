"""What can be sent to peers: the contract between the server and whoever owns the files.

The server never sees a path. It asks a shelf for a stretch of bytes, and the stretch for the open file in which the next of them lie.
"""

from __future__ import annotations

from typing import Protocol


class Stretch(Protocol):
    """Bytes of one request, in order. They may lie in several files, and the last of them may not have arrived yet."""

    @property
    def length(self) -> int:
        """Bytes from the first to the last."""
        ...

    def ready(self, sent: int) -> tuple[int, int, int]:
        """Where the bytes after the first ``sent`` lie, of which there are some: (file descriptor, offset, count).

        A count of 0 says that they have not arrived. The descriptor stays open until the next call of ``ready`` or ``close``. Only
        bytes that were checked may be given out: they are on their way to others the moment after. Must not block.
        """
        ...

    async def more(self, sent: int) -> None:
        """Return when ``ready(sent)`` has something. Raises ShoalError when it never will."""
        ...

    def close(self) -> None:
        """Nobody reads this stretch any more. Called exactly once; must not block."""
        ...


class Shelf(Protocol):
    """Everything that this agent has for others. Each method raises NotFound for what it does not have and does not await.

    Other errors become answers too: Busy and whatever else a retry may help, 503; AccessDenied and Refused, 403; the rest, 500.
    """

    async def object_size(self, job_id: str, object_id: int) -> int:
        """Bytes of an object, of which not all need have arrived."""
        ...

    async def open_object(self, job_id: str, object_id: int, start: int, stop: int) -> Stretch:
        """The bytes from ``start`` up to ``stop``, with 0 <= start < stop <= size, or 0, 0 of an empty object."""
        ...

    async def bundle_size(self, job_id: str, bundle: int, first_object: int, last_object: int) -> int:
        """Bytes of all small files of a bundle together.

        Raises NotFound too when the first and the last object of the bundle are not these: what the asker may have was decided by them.
        """
        ...

    async def open_bundle(
        self, job_id: str, bundle: int, first_object: int, last_object: int, start: int, stop: int
    ) -> Stretch:
        """The bytes from ``start`` up to ``stop`` of the files of a bundle, one after the other. Raises as ``bundle_size``."""
        ...
