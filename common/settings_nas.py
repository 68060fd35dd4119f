"""The settings of the copies on a NAS."""

# ruff: noqa: RUF009  # setting() makes a dataclass field: nothing is shared between instances

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .settings_fields import setting
from .settings_kinds import BOOLEAN, DURATION, OPTIONAL_PATH, RATE, SIZE, integer


@dataclass(frozen=True, kw_only=True, slots=True)
class NasSettings:
    path: Path | None = setting(
        OPTIONAL_PATH,
        "",
        "Folder on a NAS that every finished file is copied to, beside the downloads. It must be there. Empty: none.",
    )
    enabled: bool = setting(BOOLEAN, True, "Copy. false: nothing is copied, whatever a job asks for.")
    preserve_structure: bool = setting(
        BOOLEAN, True, "ORG/NAME/PATH on the NAS. false: all files in one folder, as ORG_NAME_PATH."
    )
    delete_after_copy: bool = setting(
        BOOLEAN,
        False,
        "Remove the local file when its job has ended and what was read back from the NAS has the right digest.",
    )
    require_mount: bool = setting(
        BOOLEAN, False, "Copy nothing while path is on the root file system: the NAS is not mounted."
    )
    recheck: bool = setting(
        BOOLEAN, False, "Hash files that are on the NAS already, instead of believing the record beside them."
    )
    copies: int = setting(integer(1, 64), 2, "Files that one agent copies at once.")
    rate_limit: int = setting(
        RATE, "0", "Bytes per second of one agent's copies, what is read back to verify included. 0: no limit."
    )
    memory_limit: int = setting(SIZE, "16MiB", "Memory for the buffers of one agent's copies.")
    backoff_initial: float = setting(
        DURATION, "2s", "How long a copy waits after its first failure, at most; doubled each time."
    )
    backoff_max: float = setting(DURATION, "5m", "The longest wait before a copy is tried again.")
    wait: float = setting(
        DURATION,
        "60s",
        "How long a run on one machine waits, once all is downloaded, for a NAS that makes no progress.",
    )
    drain: float = setting(DURATION, "5s", "How long a stopping agent waits for a NAS that hangs.")
    stall: float = setting(DURATION, "30s", "A NAS that is silent for so long is reported as hanging.")
