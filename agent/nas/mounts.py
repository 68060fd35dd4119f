"""Whether the NAS folder is the NAS: there, and not the empty folder that it is mounted over.

A mount point is a folder of the file system below, and stays there when the NAS is gone. Writing to it would fill the machine's
own disk. So the mount that a NAS folder was seen on is remembered, and must be there again; `nas.require_mount` says it from the start.
"""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, cast

from ...common.mounts import mount_of
from .trouble import NasDown, trouble_of


class Mounts:
    """Where NAS folders were mounted, in memory and in a file. Thread-safe."""

    def __init__(self, file: Path, *, require: bool) -> None:
        """file: need not be there, and is made at the first mount that is seen. require: the root file system is no NAS."""
        self._file = file
        self._require = require
        self._lock = threading.Lock()
        self._seen: dict[str, str] | None = None

    def check(self, nas: Path) -> None:
        """Look at the folder; this may hang as long as the NAS does. Raises NasDown."""
        try:
            if not nas.is_dir():
                nas.stat()
                raise NasDown(f"{nas}: it is not a folder")
        except FileNotFoundError:
            raise NasDown(f"{nas}: it is not there (mount the NAS, or make the folder)") from None
        except OSError as error:
            raise NasDown(str(trouble_of(error, str(nas)))) from None
        point, _ = mount_of(nas)
        if self._require and point in ("", "/"):
            raise NasDown(f"{nas}: it is on the root file system, so no NAS is mounted there (see nas.require_mount)")
        with self._lock:
            seen = self._read()
            before = seen.get(str(nas), "")
            if before and before != point and not os.path.ismount(before) and mount_of(Path(before))[0] != before:
                raise NasDown(
                    f"{nas}: {before} was mounted when it was used before, and is not now "
                    f"(mount it; if the NAS has moved for good, remove {self._file})"
                )
            if point not in ("", "/", before):
                seen[str(nas)] = point
                self._write(seen)

    def _read(self) -> dict[str, str]:
        if self._seen is None:
            self._seen = {}
            try:
                found: Any = json.loads(self._file.read_text(encoding="utf-8"))
            except (OSError, ValueError):
                found = {}
            if isinstance(found, dict):
                pairs = cast("dict[object, object]", found).items()
                self._seen = {str(nas): point for nas, point in pairs if isinstance(point, str)}
        return self._seen

    def _write(self, seen: dict[str, str]) -> None:
        temporary = self._file.with_name(f"{self._file.name}.{os.getpid()}.tmp")
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(seen, indent=1), encoding="utf-8")
            temporary.replace(self._file)
        except OSError:
            pass  # it is remembered in memory; the next look tries again
