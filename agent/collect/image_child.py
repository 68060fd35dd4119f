"""The process that decodes images: ``python -m shoal.agent.collect.image_child FD [opencv]``, with a socket at that descriptor.

It does one order after another, with no more memory than each allows, until the socket closes. Decoders of strangers' bytes run here so
that what kills one kills nothing else. It opens no connection, and no file but libraries. OpenCV is imported before this is ready where
the agent names it, else at the first order that wants it: a tenth of a second, and 40 MB, that Pillow's jobs need not pay.
"""

from __future__ import annotations

import io
import resource
import signal
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from .image_wire import ORDER, READY, no_opencv_frame, read_order, result_frame
from .images import ImageMade, ImageOrder, ImageRefused, process
from .resampling import load_opencv

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 << 20  # mallopt(3)'s largest M_MMAP_THRESHOLD on 64 bits
_PLUGINS: Final = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")
_BUFFER_BYTES: Final = 256 << 10
_CAUSE_CHARACTERS_MAX: Final = 300


def main() -> int:
    """Work until the agent closes the socket."""
    _die_with_parent()
    _keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for plugin in _PLUGINS:  # before the memory is limited, and before the first order
        import_module(f"PIL.{plugin}ImagePlugin")
    memory = _Memory()
    lacking = _no_opencv(memory) if "opencv" in sys.argv[2:] else None  # None: not tried yet
    with (
        socket.socket(fileno=int(sys.argv[1])) as line,
        cast("io.BufferedReader", line.makefile("rb", _BUFFER_BYTES)) as orders,
    ):
        line.sendall(READY)
        while len(head := orders.read(ORDER.size)) == ORDER.size:
            length, order = read_order(head)
            data = orders.read(length)
            if len(data) < length:  # the agent went away
                return 0
            if order.wants_opencv and lacking is None:
                lacking = _no_opencv(memory)
            memory.allow(order.memory_bytes)
            wanting = lacking if order.wants_opencv else ""
            reply, payload = no_opencv_frame(wanting) if wanting else result_frame(_made(data, order))
            line.sendall(reply + payload if payload else reply)
    return 0


def _made(data: bytes, order: ImageOrder) -> ImageMade | ImageRefused:
    try:
        return process(data, order)
    except ImageRefused as error:
        return error


def _no_opencv(memory: _Memory) -> str:
    """Import OpenCV. Returns "", or why it cannot be had."""
    try:
        with memory.unlimited():
            load_opencv()
    except (
        Exception
    ) as error:  # libraries that it needs, a NumPy of another age, a processor that is too old: anything comes
        return f"OpenCV cannot be imported: {type(error).__name__}: {error}".partition("\n")[0][:_CAUSE_CHARACTERS_MAX]
    return ""


class _Memory:
    """How much an image may take, beyond what this process has for itself."""

    def __init__(self) -> None:
        self._own_bytes = _address_space_bytes()
        self._allowed = 0

    def allow(self, memory_bytes: int) -> None:
        """So much for each image from now on."""
        if memory_bytes != self._allowed:
            self._allowed = memory_bytes
            _limit_memory(self._own_bytes + memory_bytes)

    @contextmanager
    def unlimited(self) -> Generator[None]:
        """What is mapped meanwhile is the process's own."""
        before = _address_space_bytes()
        _limit_memory(resource.RLIM_INFINITY)
        try:
            yield
        finally:
            self._own_bytes += _address_space_bytes() - before
            self._allowed = 0


def _limit_memory(limit: int) -> None:
    """limit: bytes of address space, or RLIM_INFINITY."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    bounds = [bound for bound in (limit, hard) if bound != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(bounds, default=resource.RLIM_INFINITY), hard))


def _address_space_bytes() -> int:
    """What this process has mapped already, libraries for the most part: it does not count against an image."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except (OSError, ValueError):
        return 512 << 20


def _die_with_parent() -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _keep_memory() -> None:
    """Pixels of one image are used again for the next.

    glibc gives blocks beyond 128 KiB back to the kernel as soon as they are free, and every page of the next image is then a fault:
    a fifth of the time of a small image (docs/decisions/0005-images.md). Where there is no mallopt, nothing is lost but that.
    """
    if sys.platform == "linux":
        import ctypes

        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
            mallopt(_M_TRIM_THRESHOLD, 4 * _KEPT_BYTES)  # with 2, still a tenth slower


if __name__ == "__main__":
    raise SystemExit(main())
