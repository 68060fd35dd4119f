"""What a host was like at first contact, made of its first answer. Pure."""

from __future__ import annotations

from ...common.collect_records import ErrorCode, HostProfile
from .answers import Failed
from .fetch import Timing


def profile_of(
    host: str, timing: Timing, failure: Failed | None, *, robots: str = "", crawl_delay_s: float = 0.0
) -> HostProfile:
    """robots as in HostProfile. A host that answers at all is reachable, whatever it answers."""
    reachable = timing.status > 0
    rate = timing.size / timing.seconds if timing.size > 0 and timing.seconds > 0 else -1.0
    is_ours = failure is not None and failure.code in (ErrorCode.NOT_AN_IMAGE, ErrorCode.OPTED_OUT)
    return HostProfile(
        host=host,
        reachable=reachable,
        protocol=timing.protocol if reachable else "",
        status=timing.status,
        latency_s=timing.latency_s,
        bytes_per_s=rate,
        content_type=timing.content_type,
        size=timing.size,
        ranges=timing.ranges,
        robots=robots,
        crawl_delay_s=crawl_delay_s,
        server=timing.server,
        error=failure.message if failure is not None and not is_ours else "",
    )
