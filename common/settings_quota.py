"""The settings of quotas."""

# setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from dataclasses import dataclass

from .settings_fields import setting
from .settings_kinds import DURATION, SIZE, integer


@dataclass(frozen=True, kw_only=True, slots=True)
class QuotaSettings:
    bytes: int = setting(SIZE, "0", "Bytes of jobs that one user may submit in a period. 0: no limit.")
    jobs: int = setting(integer(0, 1_000_000_000), 0, "Jobs that one user may submit in a period. 0: no limit.")
    period: float = setting(DURATION, "24h", "The period: it ends now and moves on with the clock.")
