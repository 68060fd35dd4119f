"""Where an object is asked for, and what is done after a failure."""

from __future__ import annotations

import random

import pytest

from shoal.agent.engine.locations import Endpoints, Location, Target
from shoal.agent.engine.options import ENDPOINT_REST_S, RESOLVES_MAX
from shoal.agent.engine.tries import SignedUrlRefused, Tries, for_the_report
from shoal.agent.throttle import Throttle
from shoal.common.errors import (
    AccessDenied,
    ConnectFailed,
    HttpStatus,
    NoSpace,
    NotFound,
    ProtocolViolation,
    RateLimited,
    Refused,
    ShoalError,
    TimedOut,
    Truncated,
    UsageError,
)
from shoal.common.retry import Backoff

BASES = ("https://one", "https://two/prefix/", "https://three")
SIGNED = "https://cdn:8443/x?Signature=abc"


def location(url: str = "/o/n/resolve/main/a", bases: tuple[str, ...] = BASES) -> Location:
    return Location("a", url, Endpoints(bases))


def test_paths_are_taken_below_the_first_endpoint() -> None:
    where = location()
    assert where.target(0.0).url == "https://one/o/n/resolve/main/a"
    assert where.refused(where.target(0.0), NotFound("a"))
    assert where.target(0.0).url == "https://two/prefix/o/n/resolve/main/a"


def test_a_redirect_is_remembered_until_it_fails() -> None:
    where = location()
    first = where.target(0.0)
    where.answered(first, SIGNED)
    direct = where.target(0.0)
    assert (direct.url, direct.host, direct.direct, direct.endpoint) == (SIGNED, "cdn:8443", True, "https://one")
    assert where.located
    where.forget(direct)
    assert not where.located and where.target(0.0) == first


def test_only_the_present_url_is_forgotten() -> None:
    where = location()
    where.answered(where.target(0.0), SIGNED)
    old = where.target(0.0)
    where.forget(old)
    where.answered(where.target(0.0), SIGNED + "2")
    where.forget(old)  # another stream met the old one's end late
    assert where.target(0.0).url == SIGNED + "2"


def test_the_first_refusal_counts_when_all_refuse() -> None:
    where = location()
    errors = [AccessDenied("gated"), NotFound("b"), NotFound("c")]
    assert [where.refused(where.target(0.0), error) for error in errors] == [True, True, False]
    with pytest.raises(AccessDenied, match="gated"):
        where.target(0.0)
    where.pardon()
    assert where.target(0.0).endpoint == "https://one"


def test_an_unreachable_endpoint_rests_for_all_objects() -> None:
    endpoints = Endpoints(BASES)
    one, other = Location("a", "/a", endpoints), Location("b", "/b", endpoints)
    one.unreachable(one.target(0.0), 0.0)
    assert other.target(1.0).endpoint == "https://two/prefix"
    assert other.target(ENDPOINT_REST_S + 1).endpoint == "https://one"
    for _ in BASES:
        one.unreachable(one.target(1.0), 1.0)
    assert one.target(2.0).endpoint == "https://one", "when all rest, the first is asked again"


def test_absolute_urls_have_one_place() -> None:
    where = location("https://web/a?b=c")
    assert where.target(0.0) == Target(url="https://web/a?b=c", host="web", endpoint="", direct=False)
    assert not where.refused(where.target(0.0), NotFound("a"))
    with pytest.raises(NotFound):
        where.target(0.0)


@pytest.mark.parametrize("url", ["ftp://x/a", "https://user:secret@x/a", "x", ""])
def test_bad_urls(url: str) -> None:
    with pytest.raises(Refused) as caught:
        location(url)
    assert "secret" not in str(caught.value)


def test_a_path_without_endpoints() -> None:
    with pytest.raises(UsageError):
        location(bases=())


# -- tries


def tries(retries: int = 3) -> Tries:
    throttle = Throttle(rate_limit=0.0, clock=lambda: 0.0)
    backoff = Backoff(initial_s=1.0, max_s=8.0)
    return Tries(transient_retries=retries, backoff=backoff, throttle=throttle, rng=random.Random(1))


def after(counted: Tries, error: ShoalError, where: Location) -> float | None:
    return counted.after(error, where, where.target(0.0), 0.0)


@pytest.mark.parametrize(
    "error",
    [ConnectFailed("a"), TimedOut("a"), Truncated("a"), HttpStatus("a", status=502), HttpStatus("a", status=408)],
)
def test_transient_failures_are_retried_with_growing_waits(error: ShoalError) -> None:
    counted, where = tries(), location("https://web/a")
    waits = [after(counted, error, where) for _ in range(4)]
    assert waits[3] is None
    for wait, ceiling in zip(waits[:3], (1, 2, 4), strict=True):
        assert wait is not None and 0 <= wait <= ceiling


def test_progress_forgives() -> None:
    counted, where = tries(1), location("https://web/a")
    for _ in range(10):
        assert after(counted, Truncated("a"), where) is not None
        counted.progress()


def test_the_next_endpoint_gets_its_own_retries() -> None:
    counted, where = tries(2), location()
    endpoints: list[str] = []
    for _ in range(9):
        endpoints.append(where.target(0.0).endpoint)
        last = after(counted, HttpStatus("a", status=500), where)
    assert endpoints == ["https://one"] * 3 + ["https://two/prefix"] * 3 + ["https://three"] * 3
    assert last is None


def test_final_errors_ask_elsewhere_at_once() -> None:
    counted, where = tries(), location()
    assert after(counted, NotFound("a"), where) == 0.0
    assert where.target(0.0).endpoint == "https://two/prefix"
    assert tries().after(NoSpace("a"), location(), None, 0.0) is None


def test_nonsense_is_not_asked_for_long() -> None:
    counted, where = tries(8), location("https://web/a")
    waits = [after(counted, ProtocolViolation("a"), where) for _ in range(3)]
    assert waits[0] is not None and waits[1] is not None and waits[2] is None


def test_waiting_is_never_counted() -> None:
    counted, where = tries(0), location("https://web/a")
    for _ in range(100):
        assert after(counted, RateLimited("a", retry_after_s=0.0), where) is not None
        wait = after(counted, RateLimited("a", retry_after_s=5.0), where)
        assert wait is not None and wait >= 5.0


def test_signed_urls() -> None:
    counted, where = tries(), location()
    for turn in range(20):
        where.answered(where.target(0.0), f"{SIGNED}{turn}")
        old = where.target(0.0)
        refused = SignedUrlRefused("a", cause="403", target=old)
        assert counted.after(refused, where, old, 0.0) == 0.0, "an old one is resolved again at once"
    fresh = where.target(0.0)
    assert not fresh.direct
    refused = SignedUrlRefused("a", cause="403", target=fresh)
    waits = [counted.after(refused, where, fresh, 0.0) for _ in range(RESOLVES_MAX + 1)]
    assert None not in waits[:-1] and waits[-1] is None
    assert isinstance(for_the_report(refused), AccessDenied)
