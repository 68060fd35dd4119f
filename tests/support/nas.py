"""A NAS to copy to: a small tmpfs where mounting is permitted, and the files that are copied."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shoal.agent.nas.book import CopyItem


def digest_of(content: bytes) -> str:
    """``sha256:HEX``."""
    return "sha256:" + hashlib.sha256(content).hexdigest()


def an_item(
    folder: Path, nas: Path, path: str = "sub/file.bin", content: bytes = b"content", **fields: Any
) -> CopyItem:
    """A file that is written below a folder, and that is to be copied."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    known: dict[str, Any] = {
        "queue": "q",
        "seq": 0,
        "job_id": "j1",
        "job_key": "k1",
        "nas": str(nas),
        "folder": str(folder),
        "base": "",
        "path": path,
        "source": "hf://acme/tiny",
        "name": path,
        "size": len(content),
        "digest": digest_of(content),
        "mtime_ns": file.stat().st_mtime_ns,
    }
    return CopyItem(**{**known, **fields})


class TmpfsNas:
    """A tmpfs that comes and goes, is read-only or full, as a NAS does. Only root may; see `tmpfs_nas`."""

    def __init__(self, path: Path, size: str) -> None:
        self.path = path
        self._size = size

    def mount(self) -> None:
        """Puts it there, empty."""
        _run("mount", "-t", "tmpfs", "-o", f"size={self._size},mode=0777", "tmpfs", str(self.path))

    def unmount(self) -> None:
        """Takes it away, with all that is on it. Fails where somebody keeps a file of it open."""
        _run("umount", str(self.path))

    def remount(self, options: str) -> None:
        """Changes its options: ``ro``, ``rw``, ``size=8m``."""
        _run("mount", "-o", f"remount,{options}", str(self.path))

    @property
    def mounted(self) -> bool:
        """Whether it is there."""
        return os.path.ismount(self.path)


@contextmanager
def tmpfs_nas(path: Path, size: str = "16m") -> Generator[TmpfsNas]:
    """A mounted NAS; skips the test, with the reason, where mounting is not permitted (in CI that is a failure).

    Where the folder above it is not there, it appears together with the NAS: nobody ever sees the empty mount point.
    """
    place = path if path.parent.is_dir() else path.parent.with_name(f"{path.parent.name} to be") / path.name
    place.mkdir(parents=True, exist_ok=True)
    nas = TmpfsNas(path, size)
    try:
        TmpfsNas(place, size).mount()
        if place != path:
            place.parent.rename(path.parent)  # which takes along what is mounted below it
    except (OSError, subprocess.CalledProcessError) as error:
        why = f"no file system can be mounted here: {getattr(error, 'stderr', error)}"
        if os.environ.get("CI") == "true" and os.geteuid() == 0:
            pytest.fail(why)
        pytest.skip(why)
    try:
        yield nas
    finally:
        while nas.mounted:
            subprocess.run(["umount", "-l", str(path)], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def files_of(nas: Path) -> dict[str, bytes]:
    """What lies on a NAS, but for its work folder."""
    found = (path for path in nas.rglob("*") if path.is_file() and ".shoal" not in path.relative_to(nas).parts)
    return {path.relative_to(nas).as_posix(): path.read_bytes() for path in found}
