"""Machines of a benchmark: network namespaces around one bridge, each link shaped both ways.

`python -m benchmarks.netns` measures a link. Every machine is a namespace with one end of a veth pair; the other ends are ports of
a bridge in a namespace of its own, so that no interface of the host is touched or can be reached. A link is shaped by two token
buckets (tbf): at the machine's end for what it sends, at the bridge's end for what it receives. Namespaces are named
`shoalbench-PID-NAME`, and a run first removes those of processes that are gone.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

PREFIX = "shoalbench"
STREAM = Path(__file__).with_name("swarm_stream.py")
HOST = "eth0"
BRIDGE = "bridge"
HUB = "hub"
COMMAND_S = 20.0
BURST_BYTES_MIN = (
    128 << 10
)  # two packets of segmentation offload (64 KiB): a bucket smaller than one would have to split it
BURST_S = 0.004  # a tick of a kernel with 250 Hz: what must be let through at once if the timer is that coarse
QUEUE_S = 0.05  # a queue of 50 ms, as an access router has; deep enough for one stream to fill the link
STREAM_BYTES = 64 << 20
STREAM_S = 60.0
STREAM_PORT = 9


@dataclass(frozen=True, kw_only=True, slots=True)
class Traffic:
    """What a machine's link has carried. Args: sent, received (bytes of frames)."""

    sent: int
    received: int


class Network:
    """Machines by name, as a context manager.

    Args:
        links: name (letters, digits) -> bit/s each way, None for a link that is not shaped.
        congestion: TCP's congestion control in every namespace, such as "cubic"; None: the kernel's default.

    Raises: NetworkFailed when a command of iproute2 fails; needs root.
    """

    def __init__(self, links: Mapping[str, int | None], *, congestion: str | None = None) -> None:
        self.links = dict(links)
        self.congestion = congestion
        self._addresses = {name: f"10.77.{number // 200}.{number % 200 + 10}" for number, name in enumerate(links)}

    def __enter__(self) -> Self:
        remove_stale()
        try:
            self._make()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove all namespaces, and with them their links. What runs in them must have been ended."""
        for name in (*self.links, HUB):
            with contextlib.suppress(NetworkFailed):  # never made, or gone
                _run("ip", "netns", "del", _namespace(name))

    def address(self, name: str) -> str:
        """A machine's address; only the other machines can reach it."""
        return self._addresses[name]

    def command(self, name: str, command: Sequence[str]) -> list[str]:
        """A command as it runs on a machine. The process that is started becomes it, so its id is the command's."""
        return ["ip", "netns", "exec", _namespace(name), *command]

    def traffic(self, name: str) -> Traffic:
        """Counters of a machine's interface. They count a large packet that the card would split as one frame, with one header."""
        shown = _run("ip", "netns", "exec", _namespace(name), "cat", "/proc/net/dev")
        found = re.search(rf"^\s*{HOST}:(.*)$", shown, re.MULTILINE)
        assert found, f"{name} has no {HOST}"
        fields = found[1].split()
        return Traffic(sent=int(fields[8]), received=int(fields[0]))

    def goodput(self, source: str, sink: str, *, size: int = STREAM_BYTES) -> float:
        """Payload bytes/s of one plain TCP stream between two machines, once it has got going. Raises NetworkFailed."""
        address = self.address(sink)
        receiver = subprocess.Popen(
            self.command(sink, [sys.executable, "-I", "-S", str(STREAM), "receive", address, str(STREAM_PORT)]),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        try:
            assert receiver.stdout is not None
            receiver.stdout.readline()  # it listens
            send = [sys.executable, "-I", "-S", str(STREAM), "send", address, str(STREAM_PORT), str(size)]
            _run(*self.command(source, send), timeout_s=STREAM_S)
            out, _ = receiver.communicate(timeout=STREAM_S)
        except subprocess.TimeoutExpired:
            raise NetworkFailed(f"{size} bytes from {source} to {sink} took longer than {STREAM_S:.0f} s") from None
        finally:
            receiver.kill()
            receiver.wait()
        return float(out)

    def _make(self) -> None:
        hub = _namespace(HUB)
        for name in (HUB, *self.links):
            _run("ip", "netns", "add", _namespace(name))
            _sysctl(_namespace(name), "net.ipv6.conf.all.disable_ipv6=1")
            if self.congestion:
                _sysctl(_namespace(name), f"net.ipv4.tcp_congestion_control={self.congestion}")
            _run("ip", "-n", _namespace(name), "link", "set", "lo", "up")
        _run("ip", "-n", hub, "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0")
        _run("ip", "-n", hub, "link", "set", BRIDGE, "up")
        for number, (name, rate) in enumerate(self.links.items()):
            machine, port = _namespace(name), f"port{number}"
            _run("ip", "-n", machine, "link", "add", HOST, "type", "veth", "peer", "name", port, "netns", hub)
            _run("ip", "-n", machine, "address", "add", f"{self.address(name)}/16", "dev", HOST)
            _run("ip", "-n", hub, "link", "set", port, "master", BRIDGE, "up")
            _run("ip", "-n", machine, "link", "set", HOST, "up")
            if rate is not None:
                _shape(machine, HOST, rate)
                _shape(hub, port, rate)


class NetworkFailed(Exception):
    """A command of iproute2 failed."""


def remove_stale() -> None:
    """Remove namespaces of runs whose process is gone: a run that was killed could not."""
    for line in _run("ip", "netns", "list").splitlines():
        found = re.match(rf"({PREFIX}-(\d+)-\w+)", line)
        if found and not Path("/proc", found[2]).exists():
            with contextlib.suppress(NetworkFailed):
                _run("ip", "netns", "del", found[1])


def _namespace(name: str) -> str:
    return f"{PREFIX}-{os.getpid()}-{name}"


def _shape(namespace: str, interface: str, bits_s: int) -> None:
    burst = max(BURST_BYTES_MIN, int(bits_s / 8 * BURST_S))
    bucket = ["rate", f"{bits_s}bit", "burst", f"{burst}b", "latency", f"{QUEUE_S * 1000:.0f}ms"]
    _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", "tbf", *bucket)


def _sysctl(namespace: str, assignment: str) -> None:
    _run("ip", "netns", "exec", namespace, "sysctl", "-q", "-w", assignment)


def _run(*command: str, timeout_s: float = COMMAND_S) -> str:
    # A session of its own: Ctrl+C is for the benchmark, which then needs these commands to clean up.
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        start_new_session=True,
    )
    if done.returncode:
        raise NetworkFailed(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.netns", description="Goodput of a shaped link.")
    parser.add_argument("--mbit", type=int, nargs="+", default=[200], help="rates of the links, Mbit/s")
    parser.add_argument("--congestion", help="TCP's congestion control (default: the kernel's)")
    arguments = parser.parse_args()
    for mbit in arguments.mbit:
        rate = mbit * 1_000_000
        with Network({"a": rate, "b": rate}, congestion=arguments.congestion) as network:
            goodput = network.goodput("a", "b")
        print(f"{mbit} Mbit/s: {goodput / 1e6:.2f} MB/s of payload, {goodput * 8 / rate:.4f} of the nominal rate")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except NetworkFailed as failure:
        print(f"benchmarks.netns: {failure}", file=sys.stderr)
        sys.exit(1)
