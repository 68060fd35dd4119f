"""One TCP stream for `netns.py`: `python -I -S swarm_stream.py receive HOST PORT`, then `… send HOST PORT BYTES`.

The receiver prints a line when it listens, and at the end the bytes per second of the last three quarters: the first one has TCP's
slow start and what the token bucket had saved up.
"""

from __future__ import annotations

import socket
import sys
import time

BLOCK_BYTES = 1 << 18
CONNECT_S = 10.0
SILENCE_S = 30.0


def receive(host: str, port: int) -> float:
    with socket.create_server((host, port)) as server:
        server.settimeout(CONNECT_S)
        print("ready", flush=True)
        stream, _ = server.accept()
    block = memoryview(bytearray(BLOCK_BYTES))
    moments: list[tuple[float, int]] = []
    with stream:
        stream.settimeout(SILENCE_S)
        total = 0
        while count := stream.recv_into(block):
            total += count
            moments.append((time.perf_counter(), total))
    begin, before = next(moment for moment in moments if moment[1] >= total / 4)
    end, _ = moments[-1]
    return (total - before) / (end - begin)


def send(host: str, port: int, size: int) -> None:
    block = bytes(BLOCK_BYTES)
    with socket.create_connection((host, port), CONNECT_S) as stream:
        stream.settimeout(SILENCE_S)
        for start in range(0, size, BLOCK_BYTES):
            stream.sendall(block[: size - start])


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        print(receive(sys.argv[2], int(sys.argv[3])))
    else:
        send(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
