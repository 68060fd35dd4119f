"""Ask an origin for bytes of an object, and check that the answer is what was asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ...common.error_pages import is_html, is_page
from ...common.errors import Changed, ProtocolViolation, RateLimited, ShoalError
from ...common.hub_auth import is_below_any
from ..throttle import Throttle
from .locations import Target
from .signatures import Signature
from .statuses import REFUSALS, status_error, wait_asked_s
from .store_answers import ERROR_BYTES_MAX, changed_since_listing, error_code, part_of_answer, store_answer_error
from .tries import SignatureRefused, SignedUrlRefused
from .validation import PAGE_BYTES_MAX, Asked, Body, Verdict, if_range_of, judge, page_error

if TYPE_CHECKING:
    from ...common.http import Response
    from .holding import Holding
    from .lanes import Lane
    from .pieces import Piece
    from .transfer import Transfer


@dataclass(frozen=True, slots=True)
class Answer:
    """A good answer whose body is still to be read. Whoever got it closes the response."""

    response: Response
    verdict: Verdict


class Asker:
    """Sends requests and judges their answers."""

    def __init__(self, *, throttle: Throttle, clock: Callable[[], float], wall_clock: Callable[[], float]) -> None:
        self._throttle = throttle
        self._clock = clock
        self._wall_clock = wall_clock

    async def ask(
        self, piece: Piece, holding: Holding, transfer: Transfer, lane: Lane, target: Target, *, small: bool
    ) -> Answer:
        """Ask the target for the piece, or for the whole object when it is small or the server knows no ranges.

        Raises what the answer stands for, and what ``HttpClient.request`` raises; the response is closed then.
        """
        job, spec = holding.job, transfer.spec
        whole = small or transfer.rangeless
        pinned = job.pinned(spec)
        signature = await job.signatures.of(spec.object_id) if job.signatures is not None else None
        asked = Asked(
            name=spec.path,
            byte_range=None if whole else (piece.at, piece.stop - piece.at),
            size=spec.size,
            validator=pinned or (transfer.validators.get(target.host, "") if target.direct else ""),
        )
        authorization = job.authorization(target)
        asked_last = target.host

        async def before_redirect(url: str) -> None:
            """A redirect is a request like any other: it waits for its host's budget. Who redirects has answered: if that was the
            probe of a half-open host, the turn may depend on it being told."""
            nonlocal asked_last
            self._throttle.answered(asked_last)
            asked_last = _host(url)
            await self._throttle.request_turn(asked_last)

        lane.planner.asked(piece, self._clock())
        response = await job.client.request(
            target.url if signature is None else signature.url,
            headers=(("If-Match", pinned),) if pinned else (),
            authorization=authorization,
            byte_range=asked.byte_range,
            if_range=None if whole or pinned else if_range_of(asked.validator),
            follow_redirects=not job.on_store,  # a signature is for one host
            before_redirect=before_redirect,
        )
        try:
            lane.planner.answered(piece, self._clock())
            if job.on_store:
                await self._check_store(response, holding, transfer, signature)
            else:
                self._check_status(response, holding, transfer, target, authenticated=authorization is not None)
            verdict = await self._check_answer(asked, response, transfer, on_store=job.on_store)
            self._throttle.answered(_host(response.url))
            self._remember(verdict, response, transfer, target, small=small)
        except BaseException:
            response.close()
            raise
        return Answer(response, verdict)

    def _check_status(
        self, response: Response, holding: Holding, transfer: Transfer, target: Target, *, authenticated: bool
    ) -> None:
        status = response.status
        if status < 400 or status == 416:
            return
        job, name = holding.job, transfer.spec.path
        host = _host(response.url)
        from_endpoint = is_below_any(response.url, job.endpoints.bases)
        if status in REFUSALS and (target.direct or response.redirects) and not from_endpoint:
            cause = f"{host} answered {status} to the URL that was redirected to"
            raise SignedUrlRefused(name, cause=cause, target=target)
        wait_s = wait_asked_s(status, response.headers, self._wall_clock())
        subject = None
        if job.on_hub and from_endpoint:
            subject = job.subject(transfer.spec, target, authenticated=authenticated)
        error = status_error(name, status, response.headers, host=host, subject=subject, wait_s=wait_s)
        if isinstance(error, RateLimited):
            self._throttle.throttled(host, error.retry_after_s, self._clock())
        else:
            self._throttle.failed(host)
        raise error

    async def _check_store(
        self, response: Response, holding: Holding, transfer: Transfer, signature: Signature | None
    ) -> None:
        """What `_check_status` does, for a store."""
        status = response.status
        if status < 300 or status == 416:
            return
        buffer, count = memoryview(bytearray(ERROR_BYTES_MAX)), 0
        try:
            count = await response.read_into(buffer)
        except ShoalError:
            pass  # the status is left
        code, host = error_code(bytes(buffer[:count])), _host(response.url)
        wait_s = wait_asked_s(status, response.headers, self._wall_clock())
        error = store_answer_error(transfer.spec.path, status, code, host=host, wait_s=wait_s)
        if isinstance(error, RateLimited):
            self._throttle.throttled(host, error.retry_after_s, self._clock())
        elif isinstance(error, SignatureRefused) and signature is not None and holding.job.signatures is not None:
            holding.job.signatures.refused(transfer.spec.object_id, signature)
        else:
            self._throttle.failed(host)
        raise error

    async def _check_answer(self, asked: Asked, response: Response, transfer: Transfer, *, on_store: bool) -> Verdict:
        path = transfer.spec.path
        status, part = response.status, response.content_range
        if on_store and (unsaid := part_of_answer(asked.byte_range, status, response.headers, response.body_length)):
            status, part = 206, unsaid
        suspicious = is_page(response.headers, path)
        try:
            verdict = judge(
                asked,
                status=status,
                headers=response.headers,
                content_range=part,
                body_length=response.body_length,
            )
        except Changed as error:
            raise (changed_since_listing(path) if on_store else error) from None
        except ProtocolViolation as error:
            raise (await self._page_error(response, path) if suspicious else None) or error from None
        if verdict.body is Body.PART and verdict.size is None and asked.size is None:
            transfer.rangeless = True  # asked for the whole, it will have to tell where the file ends
            raise ProtocolViolation(path, cause="the server sends a part and does not tell of what size the whole is")
        if suspicious and asked.size is None:
            if is_html(response.headers):
                page = await self._page_error(response, path)
                raise page or ProtocolViolation(path, cause="the server sent an HTML page instead of the file")
            transfer.doubtful = response.headers  # JSON may be the file itself: its body tells, once it is here
        return verdict

    async def _page_error(self, response: Response, path: str) -> ProtocolViolation | None:
        buffer = memoryview(bytearray(PAGE_BYTES_MAX))
        try:
            count = await response.read_into(buffer)
        except ShoalError:
            return None
        return page_error(path, response.headers, bytes(buffer[:count]))

    def _remember(
        self, verdict: Verdict, response: Response, transfer: Transfer, target: Target, *, small: bool
    ) -> None:
        """What a good answer tells of the object."""
        if not transfer.etag:
            etag = response.headers.get("x-linked-etag", response.headers.get("etag"))
            transfer.etag = etag.removeprefix("W/").strip('"')
        if small:
            return
        location = transfer.location
        assert location is not None
        # The URL that was asked may be signed for a while only: its signature is not the location's to keep.
        location.answered(target, response.url if response.redirects else target.url)
        host = location.target(self._clock()).host
        if verdict.validator and transfer.validators.setdefault(host, verdict.validator) != verdict.validator:
            raise Changed(transfer.spec.path)


def _host(url: str) -> str:
    """HOST or HOST:PORT of an absolute URL."""
    return url.split("/", 3)[2]
