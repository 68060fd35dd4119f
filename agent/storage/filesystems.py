"""How an ``OSError`` from a destination reads to a person, and which boot of the kernel wrote what lies there."""

from __future__ import annotations

import uuid
from functools import cache
from pathlib import Path

from ...common.disk_errors import disk_error

__all__ = ["boot_id", "disk_error"]


@cache
def boot_id() -> bytes:
    """16 bytes that differ from one boot of the kernel to the next (random(4)); zeros where the system has none."""
    try:
        return uuid.UUID(Path("/proc/sys/kernel/random/boot_id").read_text().strip()).bytes
    except (OSError, ValueError):
        return bytes(16)
