"""The stand-in Hub: what the Hub's HTTP API does for downloads, on two ports of this machine (Hub and CDN).

It satisfies the unmodified huggingface_hub client; `tests/integration/test_standin_hub.py` proves that. ::

    async with StandInHub([HubRepo("acme/tiny", {"config.json": b"{}"})]) as hub:
        hub.faults.add(Status(503), fraction=0.3)
        ...  # a client with endpoint=hub.url
        assert hub.log.count(kind="resolve") == 1

Tests that block take `hub_in_thread`; people take ``python -m support.hub --help`` (in ``tests/``).
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager, AsyncExitStack

from .cdn import CdnSite, UrlSigner
from .hub_access import RepoTable
from .hub_repo import HubRepo
from .hub_site import HubSite
from .stand_in import StandIn, in_thread

PAGE_ENTRIES = 1000  # as the Hub's own tree pages
URL_TTL_S = 3600.0  # as the Hub's own signed URLs
UNREACHABLE_URL = "http://127.0.0.1:1"  # nothing listens there


class StandInHub(StandIn):
    """A Hub and its CDN.

    Args:
        repos: what it serves; `add` brings more.
        tokens: valid tokens besides the readers of the repos.
        prefix: a path such as "/hf" that the Hub is below, as behind a mirror.
        page_entries: of each page of a tree listing.
        url_ttl_s: seconds that a signed URL is good for.
        xet_url: the Xet server that repos with ``xet`` announce; by default one that cannot be reached.
        host, port, cdn_host, cdn_port: where to listen; port 0 takes a free one.
        tls, seed, wall_clock: see `StandIn`.
    """

    def __init__(
        self,
        repos: Iterable[HubRepo] = (),
        *,
        tokens: Collection[str] = (),
        prefix: str = "",
        page_entries: int = PAGE_ENTRIES,
        url_ttl_s: float = URL_TTL_S,
        xet_url: str = UNREACHABLE_URL,
        host: str = "127.0.0.1",
        port: int = 0,
        cdn_host: str = "127.0.0.1",
        cdn_port: int = 0,
        tls: bool = False,
        seed: int = 0,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__(tls=tls, seed=seed, wall_clock=wall_clock)
        self._prefix = f"/{prefix.strip('/')}" if prefix.strip("/") else ""
        self._addresses = (host, port), (cdn_host, cdn_port)
        self._repos = RepoTable(repos, tokens)
        signer = UrlSigner(url_ttl_s)
        self._hub_site = HubSite(self._repos, signer, prefix=self._prefix, page_entries=page_entries, xet_url=xet_url)
        self._cdn_site = CdnSite(self._repos, signer)

    @property
    def url(self) -> str:
        """The Hub's endpoint (HF_ENDPOINT), with the prefix."""
        return self._hub_site.base_url

    @property
    def cdn_url(self) -> str:
        """The CDN's origin."""
        return self._hub_site.cdn_url

    def add(self, repo: HubRepo) -> HubRepo:
        """Publishes one more repo. Raises ValueError when its kind and id are taken."""
        self._repos.add(repo)
        return repo

    async def _start(self, stack: AsyncExitStack, tls: ssl.SSLContext | None) -> None:
        hub, cdn = self._addresses
        self._hub_site.cdn_url = await self._listen(stack, "cdn", self._cdn_site, *cdn, tls)
        self._hub_site.base_url = await self._listen(stack, "hub", self._hub_site, *hub, tls) + self._prefix


def hub_in_thread(
    repos: Iterable[HubRepo] = (),
    *,
    tokens: Collection[str] = (),
    prefix: str = "",
    page_entries: int = PAGE_ENTRIES,
    url_ttl_s: float = URL_TTL_S,
    tls: bool = False,
    seed: int = 0,
) -> AbstractContextManager[StandInHub]:
    """``with hub_in_thread([repo]) as hub:`` runs a `StandInHub` in its own thread and event loop."""
    return in_thread(
        StandInHub(
            repos,
            tokens=tokens,
            prefix=prefix,
            page_entries=page_entries,
            url_ttl_s=url_ttl_s,
            tls=tls,
            seed=seed,
        )
    )


if __name__ == "__main__":
    from .serve_hub import main

    main()
