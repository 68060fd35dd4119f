"""The process that decodes images: ``python -m shoal.agent.collect.image_child FD``, with a socket at that descriptor.

It does one order after another, with no more memory than each allows, until the socket closes. Decoders of strangers' bytes run here so
that what kills one kills nothing else. It opens no file and no connection.
"""

from __future__ import annotations

import io
import resource
import signal
import socket
import sys
from importlib import import_module
from pathlib import Path
from typing import Final, cast

from .image_wire import ORDER, READY, read_order, result_frame
from .images import ImageMade, ImageOrder, ImageRefused, process

_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_M_TRIM_THRESHOLD: Final = -1  # mallopt(3)
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 32 << 20  # mallopt(3)'s largest M_MMAP_THRESHOLD on 64 bits
_PLUGINS: Final = ("Bmp", "Gif", "Jpeg", "Mpo", "Png", "Tiff", "WebP")
_BUFFER_BYTES: Final = 256 << 10


def main() -> int:
    """Work until the agent closes the socket."""
    _die_with_parent()
    _keep_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the agent's to handle
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for plugin in _PLUGINS:  # before the memory is limited, and before the first order
        import_module(f"PIL.{plugin}ImagePlugin")
    own_bytes = _address_space_bytes()
    with (
        socket.socket(fileno=int(sys.argv[1])) as line,
        cast("io.BufferedReader", line.makefile("rb", _BUFFER_BYTES)) as orders,
    ):
        limit = 0
        line.sendall(READY)
        while len(head := orders.read(ORDER.size)) == ORDER.size:
            length, order = read_order(head)
            if order.memory_bytes != limit:
                limit = order.memory_bytes
                _limit_memory(own_bytes + limit)
            made = _made(orders, length, order)
            if made is None:
                return 0
            reply, payload = result_frame(made)
            line.sendall(reply + payload if payload else reply)
    return 0


def _made(orders: io.BufferedReader, length: int, order: ImageOrder) -> ImageMade | ImageRefused | None:
    """The result for the image that comes next; None when the agent went away."""
    data = orders.read(length)
    if len(data) < length:
        return None
    try:
        return process(data, order)
    except ImageRefused as error:
        return error


def _limit_memory(limit: int) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


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
