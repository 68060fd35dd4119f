"""``resize``: images whose longer side is above a limit are made smaller, in the encoding that they are stored in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Final

from ..arrow import compute
from ..bases import MAX_PIXELS, Batch, DefaultScheduler, FilterToolBase, Outcome, Reported, RunnerToolBase, ToolContext
from ..images import QUALITY, BadImage, smaller
from ..reading import DatasetReader
from ..registry import FilterRegister, RunnerRegister, SchedulerRegister
from ..tables import FilterTable

NAME: Final = "resize"
SIDE: Final = 224  # as tools.new_size

OPTIONS: Final = {
    "new_size": "the longest side in pixels; smaller images stay as they are (224)",
    "quality": "of JPEG and WebP images that are written anew (95)",
}


@FilterRegister(NAME)
class ResizeToolFilter(FilterToolBase):
    """Images whose longer side is above new_size are made smaller; image, resized_size and hashsum_resized are written anew."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS
    columns: ClassVar[Sequence[str]] = ("resized_size",)

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._side = self.integer("new_size", SIDE, least=1)

    def run(self, reader: DatasetReader, table: FilterTable) -> None:
        """Whole partitions, if any of their images is too large: listing each would make a table as long as the dataset."""
        for partition in reader.partitions():
            largest = 0
            with reader.skipping_damaged(partition):
                for _, rows in reader.batches(partition, self.columns):
                    largest = max(largest, _largest(rows.column("resized_size")))
                if largest > self._side:
                    table.add_partition(partition)


def _largest(sizes: Any) -> int:
    """The greatest item of lists; 0 when there is none."""
    pc = compute()

    return pc.max(pc.list_flatten(sizes)).as_py() or 0


@SchedulerRegister(NAME)
class ResizeToolScheduler(DefaultScheduler):
    """Units of about the same bytes."""


@RunnerRegister(NAME)
class ResizeRunnerTool(RunnerToolBase):
    """Makes the images smaller. One that cannot be decoded is reported and stays as it is."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = OPTIONS

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._side = self.integer("new_size", SIDE, least=1)
        self._quality = min(100, self.integer("quality", QUALITY, least=1))
        self._pixels_max = self.integer("max_pixels", MAX_PIXELS, least=1)

    def apply(self, batch: Batch) -> Outcome:
        """Resize what is too large."""
        outcome = Outcome()
        large = [index for index in batch.chosen if max(batch.value("resized_size", index) or [0]) > self._side]
        for index in batch.visit(large):
            try:
                made = smaller(
                    batch.value("image", index) or b"",
                    batch.value("resized_size", index),
                    batch.encoding,
                    side_max=self._side,
                    quality=self._quality,
                    pixels_max=self._pixels_max,
                )
            except BadImage as error:
                outcome.reports.append(Reported(index=index, reason=str(error), kind="undecodable"))
                continue
            if made is not None:
                data, size = made
                digest = hashlib.md5(data, usedforsecurity=False).hexdigest()
                outcome.changes[index] = {"image": data, "resized_size": size, "hashsum_resized": digest}
        return outcome
