"""``size_based``: images whose shorter side is below a threshold leave for filtered/size_based."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final, cast

from ..arrow import arrow, compute
from ..bases import DefaultScheduler, FilterRunnerTool, FilterToolBase, ToolContext
from ..records import Partition
from ..registry import FilterRegister, RunnerRegister, SchedulerRegister

if TYPE_CHECKING:
    import pyarrow as pa

NAME: Final = "size_based"
THRESHOLD: Final = 224  # as tools.threshold_size


@FilterRegister(NAME)
class SizeBasedFiltering(FilterToolBase):
    """Images whose shorter side is below threshold_size leave."""

    OPTIONS: ClassVar[Mapping[str, str] | None] = {"threshold_size": "pixels that the shorter side must have (224)"}
    columns: ClassVar[Sequence[str]] = ("original_size",)
    keep: ClassVar[Sequence[str]] = ("original_size",)

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._threshold = self.integer("threshold_size", THRESHOLD)

    def select(self, partition: Partition, rows: pa.RecordBatch) -> Any:
        """Rows whose min(original_size) is below the threshold. A row without a size, as a file that is no image, stays."""
        pa = arrow()
        pc = compute()

        sizes = cast("Any", rows.column("original_size"))
        # A list's least item: one flat minimum for each list that the item belongs to.
        parents = pc.list_parent_indices(sizes)
        least = pa.table({"row": parents, "side": pc.list_flatten(sizes)}).group_by("row").aggregate([("side", "min")])
        small = least.filter(pc.less(least.column("side_min"), self._threshold)).column("row")
        numbers = pa.array(range(rows.num_rows), pa.int64())
        return pc.is_in(numbers, value_set=small.combine_chunks().cast(pa.int64()))


@SchedulerRegister(NAME)
class SizeBasedScheduler(DefaultScheduler):
    """Units of about the same bytes."""


@RunnerRegister(NAME)
class SizeBasedRunner(FilterRunnerTool):
    """The small ones are moved."""
