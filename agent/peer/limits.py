"""What serving other agents may cost this one, and what it has cost so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PeerLimits:
    """Every bound of the server. Seconds, bytes, counts; of times, the time of the event loop."""

    upload_slots: int = 8
    """Bodies that move at once. Few at a time are each done sooner, and whoever is done first can pass on first."""
    slot_queue_max: int = 16
    """Further requests that may wait for a slot: about what the slots can take up within the wait."""
    slot_wait_s: float = 2.0
    """A request waits so long for a slot, then it gets 503: another holder may be free."""
    slot_hold_s: float = 1.0
    """A receiver that takes nothing for so long lends its slot to others until it goes on. Two retransmissions fit in."""
    upload_rate: float = 0.0
    """Bytes/s of all bodies together; 0 for no limit."""
    connections_max: int = 512
    """Each costs one socket, one open file while it sends, and some KiB. Below the usual 1024 open files of a process."""
    connections_per_address_max: int = 64
    """One machine may run several agents with some connections each, but may not take all."""
    head_bytes_max: int = 8192
    """The usual limit of servers for a request line with its fields; ours have about 500 bytes."""
    head_timeout_s: float = 10.0
    """From the first byte of a request to the end of its head, from accepting a connection to its first byte, and for TLS to
    shake hands."""
    idle_timeout_s: float = 75.0
    """Between requests. Longer than our client keeps a connection, so that it is the client who closes."""
    write_stall_s: float = 20.0
    """A receiver that takes nothing for so long is cut off."""
    stall_s: float = 30.0
    """Bytes that have not arrived here for so long are given up: the receiver asks elsewhere. Our client's own patience."""
    retry_after_s: int = 1
    """What 503 asks for: a slot is free again after a chunk or two."""
    linger_s: float = 1.0
    """After the last answer of a connection, so long is what the other side still sends thrown away, or it could lose the answer."""

    def __post_init__(self) -> None:
        counts = (self.upload_slots, self.connections_max, self.connections_per_address_max, self.head_bytes_max)
        times = (self.slot_hold_s, self.head_timeout_s, self.idle_timeout_s, self.write_stall_s, self.stall_s)
        if min(counts) < 1 or min(times) <= 0:
            raise ValueError("a limit of the peer exchange leaves nothing to serve with")
        if min(self.upload_rate, self.slot_queue_max, self.slot_wait_s, self.retry_after_s, self.linger_s) < 0:
            raise ValueError("a limit of the peer exchange is negative")


@dataclass(kw_only=True, slots=True)
class PeerCounters:
    """Totals since the start, and what is so now."""

    sent_bytes: int = 0  # of bodies
    requests: int = 0  # whole heads that were read, good or not
    refused: int = 0  # answers that are not 200 or 206, and connections that were turned away
    cut: int = 0  # bodies that were broken off, by either side
    active_uploads: int = 0  # bodies that have begun and not ended
    connections: int = 0  # open now
