"""Budgets of hosts and what was met there, to and from ``shoal.v1`` messages. Decoding raises `ProtocolViolation`."""

from __future__ import annotations

from shoal.v1 import fleet_admin_service_pb2 as admin
from shoal.v1 import work_pb2 as work

from .records import Answer, HostBudget, HostObservation
from .views import HostCondition, HostShareView, HostView
from .wire_values import EnumCodec, amount, count, each, name, violation

ANSWER = EnumCodec(Answer, work.Answer, "ANSWER")
HOST_CONDITION = EnumCodec(HostCondition, admin.HostCondition, "HOST_CONDITION")


def _status(value: int, field: str) -> int:
    if not -1 <= value <= 999:
        raise violation(field, f"{value} is no status")
    return value


def encode_host_observation(seen: HostObservation) -> work.HostObservation:
    """What an agent met at a host."""
    return work.HostObservation(
        host=seen.host,
        ok=seen.ok,
        throttled=seen.throttled,
        errors=seen.errors,
        retry_after_s=seen.retry_after_s,
        timeouts=seen.timeouts,
        unreachable=seen.unreachable,
        refused=seen.refused,
        status=seen.status,
        latency_s=seen.latency_s,
        crawl_delay_s=seen.crawl_delay_s,
        waiting=seen.waiting,
        probe=seen.probe,
        probe_answer=None if seen.probe_answer is None else ANSWER.number(seen.probe_answer),
    )


def decode_host_observation(seen: work.HostObservation) -> HostObservation:
    """What an agent met at a host."""
    return HostObservation(
        host=name(seen.host, "HostObservation.host"),
        ok=count(seen.ok, "HostObservation.ok"),
        throttled=count(seen.throttled, "HostObservation.throttled"),
        errors=count(seen.errors, "HostObservation.errors"),
        retry_after_s=amount(seen.retry_after_s, "HostObservation.retry_after_s"),
        timeouts=count(seen.timeouts, "HostObservation.timeouts"),
        unreachable=count(seen.unreachable, "HostObservation.unreachable"),
        refused=count(seen.refused, "HostObservation.refused"),
        status=_status(seen.status, "HostObservation.status"),
        latency_s=amount(seen.latency_s, "HostObservation.latency_s"),
        crawl_delay_s=amount(seen.crawl_delay_s, "HostObservation.crawl_delay_s"),
        waiting=count(seen.waiting, "HostObservation.waiting"),
        probe=count(seen.probe, "HostObservation.probe"),
        probe_answer=ANSWER.optional(seen.probe_answer, "HostObservation.probe_answer"),
    )


def encode_host_budget(budget: HostBudget) -> work.HostBudget:
    """A share of a host's budget."""
    return work.HostBudget(
        host=budget.host,
        requests_per_s=budget.requests_per_s,
        bytes_per_s=budget.bytes_per_s,
        blocked_s=budget.blocked_s,
        burst=budget.burst,
        connections=budget.connections,
        leased=budget.leased,
        nothing=budget.nothing,
        probe=budget.probe,
        initial=budget.initial,
        unless_held=budget.unless_held,
    )


def decode_host_budget(budget: work.HostBudget) -> HostBudget:
    """A share of a host's budget."""
    return HostBudget(
        host=name(budget.host, "HostBudget.host"),
        requests_per_s=amount(budget.requests_per_s, "HostBudget.requests_per_s"),
        bytes_per_s=amount(budget.bytes_per_s, "HostBudget.bytes_per_s"),
        blocked_s=amount(budget.blocked_s, "HostBudget.blocked_s"),
        burst=amount(budget.burst, "HostBudget.burst"),
        connections=count(budget.connections, "HostBudget.connections"),
        leased=budget.leased,
        nothing=budget.nothing,
        probe=budget.probe,
        initial=amount(budget.initial, "HostBudget.initial"),
        unless_held=budget.unless_held,
    )


def encode_host(view: HostView) -> admin.Host:
    """An origin host."""
    return admin.Host(
        host=view.host,
        requests_per_s=view.requests_per_s,
        bytes_per_s=view.bytes_per_s,
        blocked_s=view.blocked_s,
        throttled=view.throttled,
        errors=view.errors,
        connections=view.connections,
        condition=HOST_CONDITION.number(view.condition),
        rate_now=view.rate_now,
        rate_measured=view.rate_measured,
        last_status=view.last_status,
        ok=view.ok,
        timeouts=view.timeouts,
        unreachable=view.unreachable,
        refused=view.refused,
        crawl_delay_s=view.crawl_delay_s,
        shares=map(_encode_share, view.shares),
    )


def decode_host(host: admin.Host) -> HostView:
    """An origin host."""
    return HostView(
        host=name(host.host, "Host.host"),
        requests_per_s=amount(host.requests_per_s, "Host.requests_per_s"),
        bytes_per_s=amount(host.bytes_per_s, "Host.bytes_per_s"),
        blocked_s=amount(host.blocked_s, "Host.blocked_s"),
        throttled=count(host.throttled, "Host.throttled"),
        errors=count(host.errors, "Host.errors"),
        connections=count(host.connections, "Host.connections"),
        condition=HOST_CONDITION.optional(host.condition, "Host.condition") or HostCondition.OPEN,
        rate_now=amount(host.rate_now, "Host.rate_now"),
        rate_measured=amount(host.rate_measured, "Host.rate_measured"),
        last_status=_status(host.last_status, "Host.last_status"),
        ok=count(host.ok, "Host.ok"),
        timeouts=count(host.timeouts, "Host.timeouts"),
        unreachable=count(host.unreachable, "Host.unreachable"),
        refused=count(host.refused, "Host.refused"),
        crawl_delay_s=amount(host.crawl_delay_s, "Host.crawl_delay_s"),
        shares=each(_decode_share, host.shares, "Host.shares"),
    )


def _encode_share(share: HostShareView) -> admin.HostShare:
    return admin.HostShare(
        agent=share.agent,
        requests_per_s=share.requests_per_s,
        bytes_per_s=share.bytes_per_s,
        connections=share.connections,
        probe=share.probe,
    )


def _decode_share(share: admin.HostShare) -> HostShareView:
    return HostShareView(
        agent=name(share.agent, "HostShare.agent"),
        requests_per_s=amount(share.requests_per_s, "HostShare.requests_per_s"),
        bytes_per_s=amount(share.bytes_per_s, "HostShare.bytes_per_s"),
        connections=count(share.connections, "HostShare.connections"),
        probe=share.probe,
    )
