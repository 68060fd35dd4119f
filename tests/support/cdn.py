"""The stand-in Hub's CDN: LFS files behind signed URLs that expire."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import Counter
from collections.abc import Iterable
from urllib.parse import quote, urlencode

from .faults import ExpireUrl, Fault
from .http_answer import Answer, Entity, RequestHead, text_answer
from .hub_access import RepoTable
from .hub_repo import HubFile, HubRepo
from .listener import Route

SIGNATURE = "&Signature="


class UrlSigner:
    """Signs paths and judges signed ones: HMAC-SHA256 over path and query, an expiry, a count of uses.

    Args: ttl_s (seconds that a URL is good for, unless an `ExpireUrl` fault says less).
    """

    def __init__(self, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._key = secrets.token_bytes(32)
        self._issued = 0
        self._uses: Counter[str] = Counter()

    def sign(self, path: str, query: dict[str, str], *, wall_now: float, faults: Iterable[Fault]) -> str:
        """``path`` with ``query``, expiry and signature. Two calls never give the same URL."""
        limits = [fault.after_s for fault in faults if isinstance(fault, ExpireUrl) and fault.after_s is not None]
        self._issued += 1
        expires = wall_now + min(limits, default=self._ttl_s)
        signed = f"{path}?{urlencode({**query, 'Issue': self._issued, 'Expires': f'{expires:.3f}'})}"
        return f"{signed}{SIGNATURE}{self._mac(signed)}"

    def refusal(self, head: RequestHead, faults: Iterable[Fault]) -> Answer | None:
        """403 for a URL that is unsigned, altered, expired or used up; None for a good one, which is then used once."""
        signed, _, signature = head.target.rpartition(SIGNATURE)
        if not hmac.compare_digest(self._mac(signed).encode(), signature.encode("utf-8", "replace")):
            return _access_denied("The signature does not match")
        if head.wall_now >= float(head.query["Expires"]):
            return _access_denied("Request has expired")
        self._uses[signature] += 1
        limits = [fault.after_uses for fault in faults if isinstance(fault, ExpireUrl) and fault.after_uses is not None]
        if self._uses[signature] > min(limits, default=self._uses[signature]):
            return _access_denied("Request has expired")
        return None

    def _mac(self, text: str) -> str:
        return hmac.new(self._key, text.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def _access_denied(message: str) -> Answer:
    xml = f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>AccessDenied</Code><Message>{message}</Message></Error>'
    return text_answer(xml, status=403, content_type="application/xml")


class CdnSite:
    """The CDN's side: bytes for who holds a signed URL. It knows no tokens."""

    def __init__(self, repos: RepoTable, signer: UrlSigner) -> None:
        self._repos = repos
        self._signer = signer

    def route(self, head: RequestHead) -> Route:
        """Every path is a file's; the signature decides."""
        query = head.query
        path = query.get("Path")
        repo = "/".join(head.segments[:-1]) or None

        def respond(head: RequestHead, faults: list[Fault]) -> Answer | Entity:
            refusal = self._signer.refusal(head, faults)
            if refusal is not None or repo is None or path is None:
                return refusal or _access_denied("Access Denied")
            return _entity(self._repos[repo], self._repos[repo].file(path, query["Commit"]), head)

        return Route(kind="cdn", repo=repo, path=path, respond=respond)


def cdn_target(repo: HubRepo, commit: str, file: HubFile) -> tuple[str, dict[str, str]]:
    """Path and query of an LFS file on the CDN, to be signed."""
    return f"/{quote(repo.key)}/{file.etag}", {"Path": file.path, "Commit": commit}


def _entity(repo: HubRepo, file: HubFile, head: RequestHead) -> Entity:
    # An object store's ETag is its own: equal for equal bytes, but never the file's sha256.
    etag = f'"{hashlib.md5(file.etag.encode(), usedforsecurity=False).hexdigest()}-1"'
    return Entity(
        content=file.content,
        etag=etag,
        last_modified=repo.modified_at(head.query["Commit"]).timestamp(),
        content_type="binary/octet-stream",
        range_required=file.path in repo.range_required,
    )
