"""Limits of hosts from two mouths: the configuration, and administrators, whose word is stored and wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from .core import Core
from .store.runner import StoreRunner

HostPolicy: TypeAlias = tuple[float, float, int]
"""Requests/s, bytes/s and connections of the whole fleet; 0 is unlimited."""


async def set_policies(
    core: Core, store: StoreRunner, configured: Mapping[str, HostPolicy], *, before: Mapping[str, HostPolicy]
) -> None:
    """Put the configured limits in force. before: those of the configuration that was in force so far."""
    spoken = await store.run(store.store.host_policies)
    said = {policy.host for policy in spoken}
    for host in {**before, **configured}:
        limits = configured.get(host, (0.0, 0.0, 0))
        if host not in said and limits != before.get(host, (0.0, 0.0, 0)):
            core.hosts.set_policy(host, *limits)
    if not before:
        for policy in spoken:
            core.hosts.set_policy(policy.host, policy.requests_per_s, policy.bytes_per_s, policy.connections)
