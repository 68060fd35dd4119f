"""What the commands of a launch touch: which folders must be there on which nodes, and which servers must answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..client.options import build_parser
from ..client.transfer import read_requests
from ..common.http.proxies import ProxyChooser
from ..common.http.url import parse_url
from ..common.records import Delivery, Layout
from ..common.uri import HttpUri, HubUri, parse_uri
from ..common.wiring import proxies

if TYPE_CHECKING:
    import argparse

    from ..common.settings import Settings


@dataclass(frozen=True, kw_only=True, slots=True)
class Places:
    """Of one command. folder is None for a dataset in a store; shared: all nodes must see the same folder, else each has its own.
    kind names the template that fits; servers are URLs of what is asked first."""

    kind: str
    folder: Path | None
    shared: bool = True
    must_exist: bool = False
    servers: tuple[str, ...] = ()


def places_of(words: Sequence[str], settings: Settings, cwd: Path) -> Places:
    """Of a command that `read_commands` has let through. Raises UsageError for one that names no source or no destination."""
    options = build_parser().parse_args(list(words))
    if options.command == "get":
        return _of_get(options, settings)
    if options.command == "collect":
        from ..client.collecting import collect_request

        destination = collect_request(settings, options).destination
        folder = None if destination.startswith("s3://") else Path(destination)
        return Places(kind="collect", folder=folder)
    data = options.dataset or settings.tools.data
    folder = cwd / Path(data).expanduser() if data else None
    return Places(kind="tools", folder=folder, must_exist=True)


def _of_get(options: argparse.Namespace, settings: Settings) -> Places:
    requests = read_requests(options, settings)
    request = requests[0]
    is_cache = request.layout is Layout.HUB_CACHE
    servers = {server for asked in requests for text in asked.uris if (server := _server(text, settings.hub.endpoint))}
    return Places(
        kind="repos" if request.delivery is Delivery.SPREAD else "broadcast",
        folder=settings.hub.cache if is_cache else Path(request.destination),
        shared=request.delivery is Delivery.SPREAD,
        servers=tuple(sorted(servers)),
    )


def held_dataset(words: Sequence[str], settings: Settings) -> AbstractContextManager[None]:
    """The lock of the dataset that a ``collect`` works on, to be held as long as it does. Entering raises Busy, NotWritable."""
    from ..client.collecting import collect_request
    from ..client.dataset_alone import alone

    return alone(settings, collect_request(settings, build_parser().parse_args(list(words))))


def _server(text: str, hub: Sequence[str]) -> str:
    uri = parse_uri(text, bare_hub=True, hub_endpoints=hub)
    if isinstance(uri, HubUri):
        return hub[0]
    return uri.origin + "/" if isinstance(uri, HttpUri) else ""  # of a store, only its client knows the address


def servers_of(all_places: Sequence[Places], settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What nodes must reach for these commands, as ``HOST:PORT``: the servers, or the proxies on the way to them. Raises UsageError."""
    chooser = ProxyChooser(proxies(settings, environ))
    urls = [parse_url(server) for server in sorted({server for places in all_places for server in places.servers})]
    found = [chooser.choose(url) or url for url in urls]
    return list(dict.fromkeys(f"{f'[{url.host}]' if ':' in url.host else url.host}:{url.port}" for url in found))
