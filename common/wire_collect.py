"""Dataset jobs, their tools and their hosts, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from shoal.v1 import work_pb2 as work

from .collect_records import (
    CollectSpec,
    Content,
    DatasetFormat,
    HostProfile,
    ImageEncoding,
    Resampler,
    Restart,
    ToolSpec,
)
from .records import Tally
from .wire_values import EnumCodec, amount, count, each, name, prose, texts, violation

CONTENT = EnumCodec(Content, work.Content, "CONTENT")
IMAGE_ENCODING = EnumCodec(ImageEncoding, work.ImageEncoding, "IMAGE_ENCODING")
RESAMPLER = EnumCodec(Resampler, work.Resampler, "RESAMPLER")
DATASET_FORMAT = EnumCodec(DatasetFormat, work.DatasetFormat, "DATASET_FORMAT")

_RESTARTS = {
    Restart.NOTHING: work.RESTART_UNSPECIFIED,
    Restart.PARTITIONING: work.RESTART_PARTITIONING,
    Restart.PROFILING: work.RESTART_PROFILING,
    Restart.FAILED: work.RESTART_FAILED,
}
_RESTARTS_BACK = {number: restart for restart, number in _RESTARTS.items()}


def _encode_pairs(pairs: Iterable[tuple[str, str]]) -> list[work.Pair]:
    return [work.Pair(name=key, value=value) for key, value in pairs]


def _decode_pairs(pairs: Sequence[work.Pair], field: str) -> tuple[tuple[str, str], ...]:
    return each(lambda pair: (pair.name, pair.value), pairs, field)


def encode_collect_spec(spec: CollectSpec | None) -> work.CollectSpec | None:
    """How a URL table is collected."""
    if spec is None:
        return None
    return work.CollectSpec(
        tables=spec.tables,
        columns=_encode_pairs(spec.columns),
        carry=spec.carry,
        batch_size=spec.batch_size,
        content=CONTENT.number(spec.content),
        image_size=spec.image_size,
        image_encoding=IMAGE_ENCODING.number(spec.image_encoding),
        image_quality=spec.image_quality,
        resampler=RESAMPLER.number(spec.resampler),
        format=DATASET_FORMAT.number(spec.format),
        row_group_bytes=spec.row_group_bytes,
        request_timeout_s=spec.request_timeout_s,
        idle_timeout_s=spec.idle_timeout_s,
        attempts=spec.attempts,
        redirects_max=spec.redirects_max,
        body_bytes_max=spec.body_bytes_max,
        pixels_max=spec.pixels_max,
        decode_timeout_s=spec.decode_timeout_s,
        decode_memory_bytes=spec.decode_memory_bytes,
        robots=spec.robots,
        respect_ai_opt_out=spec.respect_ai_opt_out,
        allow_private_addresses=spec.allow_private_addresses,
        user_agent=spec.user_agent,
        rate=spec.rate,
        rate_multiplier=spec.rate_multiplier,
        connections=spec.connections,
        backoff_initial_s=spec.backoff_initial_s,
        backoff_cap_s=spec.backoff_cap_s,
        host_patience_s=spec.host_patience_s,
        robots_of=[work.HostRobots(host=host, obey=obey) for host, obey in spec.robots_of],
        ignored=spec.ignored,
        restart=_RESTARTS[spec.restart],
        restart_codes=spec.restart_codes,
    )


def decode_collect_spec(spec: work.CollectSpec) -> CollectSpec:
    """How a URL table is collected."""
    restart = _RESTARTS_BACK.get(spec.restart)
    if restart is None:
        raise violation("CollectSpec.restart", f"{spec.restart} is not known")
    if spec.batch_size < 1 or spec.attempts < 1:
        raise violation("CollectSpec", "batch_size and attempts are at least 1")
    return CollectSpec(
        tables=texts(spec.tables, "CollectSpec.tables"),
        columns=_decode_pairs(spec.columns, "CollectSpec.columns"),
        carry=texts(spec.carry, "CollectSpec.carry"),
        batch_size=spec.batch_size,
        content=CONTENT.member(spec.content, "CollectSpec.content"),
        image_size=count(spec.image_size, "CollectSpec.image_size"),
        image_encoding=IMAGE_ENCODING.member(spec.image_encoding, "CollectSpec.image_encoding"),
        image_quality=count(spec.image_quality, "CollectSpec.image_quality"),
        resampler=RESAMPLER.optional(spec.resampler, "CollectSpec.resampler") or Resampler.PILLOW,
        format=DATASET_FORMAT.member(spec.format, "CollectSpec.format"),
        row_group_bytes=count(spec.row_group_bytes, "CollectSpec.row_group_bytes"),
        request_timeout_s=amount(spec.request_timeout_s, "CollectSpec.request_timeout_s"),
        idle_timeout_s=amount(spec.idle_timeout_s, "CollectSpec.idle_timeout_s"),
        attempts=spec.attempts,
        redirects_max=count(spec.redirects_max, "CollectSpec.redirects_max"),
        body_bytes_max=count(spec.body_bytes_max, "CollectSpec.body_bytes_max"),
        pixels_max=count(spec.pixels_max, "CollectSpec.pixels_max"),
        decode_timeout_s=amount(spec.decode_timeout_s, "CollectSpec.decode_timeout_s"),
        decode_memory_bytes=count(spec.decode_memory_bytes, "CollectSpec.decode_memory_bytes"),
        robots=spec.robots,
        respect_ai_opt_out=spec.respect_ai_opt_out,
        allow_private_addresses=spec.allow_private_addresses,
        user_agent=spec.user_agent,
        rate=amount(spec.rate, "CollectSpec.rate"),
        rate_multiplier=amount(spec.rate_multiplier, "CollectSpec.rate_multiplier"),
        connections=count(spec.connections, "CollectSpec.connections"),
        backoff_initial_s=amount(spec.backoff_initial_s, "CollectSpec.backoff_initial_s"),
        backoff_cap_s=amount(spec.backoff_cap_s, "CollectSpec.backoff_cap_s"),
        host_patience_s=amount(spec.host_patience_s, "CollectSpec.host_patience_s"),
        robots_of=each(lambda one: (one.host, one.obey), spec.robots_of, "CollectSpec.robots_of"),
        ignored=texts(spec.ignored, "CollectSpec.ignored"),
        restart=restart,
        restart_codes=each(int, spec.restart_codes, "CollectSpec.restart_codes"),
    )


def encode_tool_spec(spec: ToolSpec | None) -> work.ToolSpec | None:
    """A tool's run over a dataset."""
    if spec is None:
        return None
    return work.ToolSpec(
        name=spec.name,
        load=spec.load,
        load_digest=spec.load_digest,
        allow_unregistered=spec.allow_unregistered,
        reset=spec.reset,
        options=_encode_pairs(spec.options),
        workers=spec.workers,
    )


def decode_tool_spec(spec: work.ToolSpec) -> ToolSpec:
    """A tool's run over a dataset."""
    return ToolSpec(
        name=name(spec.name, "ToolSpec.name"),
        load=spec.load,
        load_digest=spec.load_digest,
        allow_unregistered=spec.allow_unregistered,
        reset=spec.reset,
        options=_decode_pairs(spec.options, "ToolSpec.options"),
        workers=count(spec.workers, "ToolSpec.workers"),
    )


def encode_profile(profile: HostProfile | None) -> work.HostProfile | None:
    """What a host was like at first contact. Texts that it sent are cut."""
    if profile is None:
        return None
    return work.HostProfile(
        host=profile.host,
        reachable=profile.reachable,
        protocol=prose(profile.protocol, 100),
        status=profile.status,
        latency_s=profile.latency_s,
        bytes_per_s=profile.bytes_per_s,
        content_type=prose(profile.content_type, 200),
        size=profile.size,
        ranges=profile.ranges,
        robots=profile.robots,
        crawl_delay_s=profile.crawl_delay_s,
        server=prose(profile.server, 200),
        error=prose(profile.error, 1000),
    )


def decode_profile(profile: work.HostProfile) -> HostProfile:
    """What a host was like at first contact."""
    if not (math.isfinite(profile.latency_s) and math.isfinite(profile.bytes_per_s)):
        raise violation("HostProfile", "a figure is not finite")
    return HostProfile(
        host=name(profile.host, "HostProfile.host"),
        reachable=profile.reachable,
        protocol=profile.protocol,
        status=count(profile.status, "HostProfile.status"),
        latency_s=profile.latency_s,
        bytes_per_s=profile.bytes_per_s,
        content_type=profile.content_type,
        size=profile.size,
        ranges=profile.ranges,
        robots=profile.robots,
        crawl_delay_s=amount(profile.crawl_delay_s, "HostProfile.crawl_delay_s"),
        server=profile.server,
        error=profile.error,
    )


def encode_tally(tally: Tally) -> list[work.CodeCount]:
    """Rows by code."""
    return [work.CodeCount(code=code, rows=rows) for code, rows in tally]


def decode_tally(tally: Sequence[work.CodeCount], field: str) -> Tally:
    """Rows by code."""
    return each(lambda one: (one.code, count(one.rows, field)), tally, field)
