"""The order of work, which both stores keep: largest first, unknown sizes before all, then by object id."""

from __future__ import annotations

from ...common.records import ObjectSpec
from .base import Cursor

UNKNOWN_SIZE_ORDER = 1 << 62
"""The weight of an object of unknown size in this order: above every real size, and still a signed 64-bit number."""


def order_weight(size: int | None) -> int:
    """The weight of an object of so many bytes."""
    return UNKNOWN_SIZE_ORDER if size is None else size


def cursor_after(spec: ObjectSpec) -> Cursor:
    """The place right after this object, as `Store.queued_objects` takes it. spec is as the store gave it."""
    return Cursor(order_weight(spec.size), spec.object_id)


def unit_specs(count: int) -> list[ObjectSpec]:
    """The units of a tool's schedule as objects, numbered from 0."""
    return [ObjectSpec(object_id=number + 1, path=f"unit-{number:06d}", size=None) for number in range(count)]
