"""``image_verification``: the digest of every stored image is compared, and the image wholly decoded; what is wrong is listed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import ClassVar, Final

from ..bases import (
    MAX_PIXELS,
    Batch,
    DefaultScheduler,
    Outcome,
    PythonFilterToolBase,
    Reported,
    RunnerToolBase,
    ToolContext,
)
from ..images import BadImage, decode
from ..registry import FilterRegister, RunnerRegister, SchedulerRegister

NAME: Final = "image_verification"
OPTIONS: Final = {"remove": "true: corrupted rows leave for filtered/image_verification (false: they are only listed)"}


@FilterRegister(NAME)
class ImageVerificationToolFilter(PythonFilterToolBase):
    """Digest and full decode of every stored image; corrupted rows are listed with reasons."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS


@SchedulerRegister(NAME)
class ImageVerificationScheduler(DefaultScheduler):
    """Units of about the same bytes."""


@RunnerRegister(NAME)
class ImageVerificationRunnerTool(RunnerToolBase):
    """Looks at every image."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._remove = self.flag("remove")
        self._pixels_max = self.integer("max_pixels", MAX_PIXELS, least=1)

    def apply(self, batch: Batch) -> Outcome:
        """Verify each row of the batch."""
        outcome = Outcome()
        for index in batch.visit():
            wrong = self._wrong(batch, index)
            if wrong is not None:
                outcome.reports.append(wrong)
                if self._remove:
                    outcome.leave.append(index)
        return outcome

    def _wrong(self, batch: Batch, index: int) -> Reported | None:
        """What is wrong with a row, or None. A row without a size is a file of another kind: it has nothing to decode."""
        data: bytes | None = batch.value("image", index)
        recorded: str | None = batch.value("hashsum_resized", index)
        if data is None:
            return Reported(index=index, reason="there are no bytes", kind="missing")
        digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
        if recorded is None or digest != recorded.lower():
            return Reported(
                index=index, reason=f"the digest is {digest}, recorded is {recorded or 'none'}", kind="digest"
            )
        size: list[int] | None = batch.value("resized_size", index)
        if not size:
            return None
        try:
            decode(data, size, batch.encoding, self._pixels_max).close()
        except BadImage as error:
            return Reported(index=index, reason=str(error), kind="undecodable")
        return None
