"""Which server a URL is of, and whether it may be asked.

What `parse_url` says of a URL depends on two things only: on its head (scheme and authority), and on whether the rest holds a control
character. So heads are cut off by one regular expression over a whole block, and each distinct head is judged once. All else
(blanks around it, control characters, no scheme) is judged row by row. Both ways end in `parse_url`, which is what an agent reads
the URL with: a row that is let through here is one that an agent can ask for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ...common.collect_records import server_name
from ...common.dataset_rows import arrow_part
from ...common.dataset_schema import arrow
from ...common.errors import Refused
from ...common.http.url import DEFAULT_PORTS, host_port, parse_url
from ...common.policy import Policy
from .reasons import Reason

if TYPE_CHECKING:
    import pyarrow as pa

URL_BYTES_MAX: Final = 8192  # as for sources (common/uri.py): what web servers commonly accept as a request line
_HEADS_KEPT_MAX: Final = 100_000  # some tens of MB
_NAME_BYTES_MAX: Final = 255  # of one component of a path (NAME_MAX, limits.h)
_HEAD: Final = r"^(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://[^/?#\x00-\x20\x7f]*)(?:[/?#]|$)"
_CONTROL: Final = r"[\x00-\x1f\x7f]"
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*):")
_BLANKS: Final = " \t\r\n"


class Verdict(NamedTuple):
    """The server of a URL, or why it is not used; the other is ``""``."""

    host: str = ""
    reason: str = ""


class Servers:
    """Judges URLs by the rules of one site."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._known: dict[str, Verdict] = {}

    def of(self, urls: pa.StringArray) -> tuple[pa.StringArray, pa.StringArray, pa.StringArray]:
        """For each URL: itself without blanks around it, its server (null: not used), the reason (null: used).

        A null URL has neither.
        """
        pa, pc = arrow(), arrow_part("compute")
        odd = _odd(urls)
        plain = pc.if_else(odd, None, urls) if odd.true_count else urls
        heads = pc.struct_field(pc.extract_regex(plain, _HEAD), "head").dictionary_encode()
        verdicts = [self._judge(head) for head in heads.dictionary.to_pylist()]
        text = pa.string()
        hosts = pa.array([verdict.host or None for verdict in verdicts], text).take(heads.indices)
        reasons = pa.array([verdict.reason or None for verdict in verdicts], text).take(heads.indices)
        alone = pc.and_(pc.is_null(heads.indices), pc.is_valid(urls))
        if not alone.true_count:
            return urls, hosts, reasons
        left: list[str] = pc.filter(urls, alone).to_pylist()
        rows = [self._judge_alone(url) for url in left]
        # replace_with_mask takes the replacements in the order of the rows that the mask names.
        urls = pc.replace_with_mask(urls, alone, pa.array([row[0] for row in rows], text))
        hosts = pc.replace_with_mask(hosts, alone, pa.array([row[1].host or None for row in rows], text))
        reasons = pc.replace_with_mask(reasons, alone, pa.array([row[1].reason or None for row in rows], text))
        return urls, hosts, reasons

    def _judge_alone(self, url: str) -> tuple[str, Verdict]:
        if len(url) > URL_BYTES_MAX or len(url.encode()) > URL_BYTES_MAX:
            return url, Verdict(reason=Reason.LONG_URL)
        bare = url.strip(_BLANKS)
        return bare, self._decide(bare)

    def _judge(self, head: str) -> Verdict:
        if (known := self._known.get(head)) is None:
            if len(self._known) >= _HEADS_KEPT_MAX:
                self._known.clear()
            known = self._known[head] = self._decide(head)
        return known

    def _decide(self, url: str) -> Verdict:
        scheme = _SCHEME.match(url)
        if scheme and scheme[1].lower() not in DEFAULT_PORTS:
            return Verdict(reason=Reason.SCHEME)
        try:
            parsed = parse_url(url)
        except Refused as refusal:
            return Verdict(reason=f"{Reason.UNPARSABLE}: {refusal.cause}")
        name = parsed.host.rstrip(".")
        is_default = parsed.port == DEFAULT_PORTS[parsed.scheme]
        host = host_port(name, None if is_default else parsed.port)
        if len(f"server_name={server_name(host)}") > _NAME_BYTES_MAX:
            return Verdict(reason=f"{Reason.UNPARSABLE}: its host is too long for a folder's name")
        try:
            self._policy.check_encrypted(url, "URL")
            self._policy.check_host(name)
        except Refused as refusal:
            return Verdict(reason=f"{Reason.POLICY}: {refusal.cause}")
        return Verdict(host=host)


def _odd(urls: Any) -> Any:
    """Where a URL is too long, holds a control character or ends in a blank."""
    pc = arrow_part("compute")
    unclear = pc.invert(pc.ascii_is_printable(urls))
    if unclear.true_count:
        held = pc.match_substring_regex(pc.filter(urls, unclear), _CONTROL)
        unclear = pc.replace_with_mask(unclear, pc.fill_null(unclear, False), held)
    is_long = pc.greater(pc.binary_length(urls), URL_BYTES_MAX)
    return pc.fill_null(pc.or_(pc.or_(unclear, is_long), pc.ends_with(urls, " ")), False)
