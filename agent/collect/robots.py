"""robots.txt, where a job obeys it (RFC 9309): read once for each host of a run, parsed by protego.

======================= =============================================
the host answers        its URLs
======================= =============================================
2xx                     as the file says
another 4xx             may all be fetched (section 2.3.1.3)
429, 5xx, nothing       must not be for now: asked again after a while
======================= =============================================
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ...common.collect_records import CollectSpec, ErrorCode
from ...common.errors import MissingExtra, ShoalError
from ...common.http import HttpClient, Url
from ...common.http.redirects import FOLLOWED
from ...common.http.url import parse_url, resolve_reference
from .answers import Failed, kind_of_status, of_error
from .gate import Answer, HostGate

if TYPE_CHECKING:
    from ...common.http import Response

BYTES_MAX: Final = 500 << 10  # section 2.5: a parser reads at least so much
REDIRECTS_MAX: Final = 5  # section 2.3.1.2
UNREACHABLE_S: Final = 30.0  # until a host whose file could not be read is asked for it again
HOSTS_MAX: Final = 10_000


@dataclass(slots=True)
class Rules:
    """What a host's file says. state as in HostProfile.robots, but for "allowed" and its likes, which depend on the URLs."""

    state: str  # "none", "read", "unreachable"
    parser: Any = None
    crawl_delay_s: float = 0.0
    expires_s: float = float("inf")

    def allows(self, url: str, agent: str) -> bool:
        if self.state == "unreachable":
            return False
        return self.parser is None or bool(self.parser.can_fetch(url, agent))

    def described(self, urls: Sequence[str], agent: str) -> str:
        """HostProfile.robots for these URLs."""
        if self.state != "read":
            return self.state
        allowed = [self.allows(url, agent) for url in urls]
        return "allowed" if all(allowed) else "partly" if any(allowed) else "disallowed"


class Robots:
    """The rules of all hosts of a run."""

    def __init__(
        self, spec: CollectSpec, client: HttpClient, gate: HostGate, *, product: str, clock: Callable[[], float]
    ) -> None:
        """product: our name, as robots.txt files call us."""
        self._spec = spec
        self._of = dict(spec.robots_of)
        self._client = client
        self._gate = gate
        self.product = product
        self._clock = clock
        self._rules: dict[str, Rules] = {}
        self._reading: dict[str, asyncio.Lock] = {}

    async def against(self, url: Url, host: str) -> Failed | None:
        """What robots.txt has against fetching the URL; None where nothing, or where nobody asks for it."""
        on = self._of.get(
            host, self._of.get(url.host, self._spec.robots)
        )  # a name without a port stands for all its ports
        if not on or url.target == "/robots.txt":
            return None
        rules = await self.rules(url, host)
        if rules.state == "unreachable":
            return Failed(
                ErrorCode.REFUSED, "its robots.txt cannot be read, so nothing may be fetched for now", retry=True
            )
        return None if rules.allows(url.text, self.product) else Failed(ErrorCode.REFUSED, "robots.txt disallows it")

    async def rules(self, url: Url, host: str) -> Rules:
        """The rules of a URL's host, read where they are not known."""
        rules = self._rules.get(host)
        if rules is not None and self._clock() < rules.expires_s:
            return rules
        async with self._reading.setdefault(host, asyncio.Lock()):
            rules = self._rules.get(host)
            if rules is None or self._clock() >= rules.expires_s:
                if len(self._rules) >= HOSTS_MAX:
                    self._rules.clear()
                rules = self._rules[host] = await self._read(f"{url.scheme}://{url.authority}/robots.txt", host)
                if rules.crawl_delay_s:
                    self._gate.seen(host, Answer.OK, crawl_delay_s=rules.crawl_delay_s)
        self._reading.pop(host, None)
        return rules

    async def _read(self, url: str, host: str) -> Rules:
        unreachable = Rules("unreachable", expires_s=self._clock() + UNREACHABLE_S)
        try:
            async with asyncio.timeout(self._spec.request_timeout_s):
                for _ in range(REDIRECTS_MAX + 1):
                    async with self._gate.request(host):
                        response = await self._client.request(url, follow_redirects=False)
                        async with response:
                            if response.status not in FOLLOWED or "location" not in response.headers:
                                return await self._rules_of(response, host, unreachable)
                            onward = resolve_reference(parse_url(url), response.headers.get("location"))
                            url, host = onward.text, onward.authority
        except TimeoutError:
            self._gate.seen(host, Answer.TIMEOUT)
        except ShoalError as error:
            kind = of_error(error)[1]
            if kind is not None:
                self._gate.seen(host, kind)
        return unreachable

    async def _rules_of(self, response: Response, host: str, unreachable: Rules) -> Rules:
        status = response.status
        self._gate.seen(host, Answer.OK if status == 404 else kind_of_status(status), status=status)
        if status == 429 or status >= 500:
            return unreachable
        if status >= 300:
            return Rules("none")
        with memoryview(bytearray(BYTES_MAX)) as view:
            count = await response.read_into(view)
            text = bytes(view[:count]).decode("utf-8", errors="replace")
        parser = _parse(text)
        delay: Any = parser.crawl_delay(self.product)
        return Rules("read", parser=parser, crawl_delay_s=float(delay or 0.0))


def _parse(text: str) -> Any:
    try:
        from protego import Protego  # pyright: ignore[reportMissingTypeStubs]
    except ImportError:
        raise MissingExtra(
            "robots.txt", cause="protego is not installed", remedy="pip install 'shoal[images]'"
        ) from None
    return Protego.parse(text)
