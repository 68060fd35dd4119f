"""The decisions of collecting: answers, rows, budgets, addresses, hosts that are ignored, footers."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest

from shoal.agent.collect.answers import Failed, kind_of_status, of_error, of_status, opted_out, shown
from shoal.agent.collect.beside import safe_key
from shoal.agent.collect.budget import Budget
from shoal.agent.collect.documents import merged_profiles
from shoal.agent.collect.fetch import Timing
from shoal.agent.collect.footer import Footer, footer_from_json, tally_of
from shoal.agent.collect.gate import Answer
from shoal.agent.collect.place import next_shard
from shoal.agent.collect.profile import profile_of
from shoal.agent.collect.rows import RowQueue
from shoal.common.collect_records import ErrorCode
from shoal.common.errors import (
    ConnectFailed,
    ProtocolViolation,
    RedirectRefused,
    Refused,
    ShoalError,
    TimedOut,
    TlsFailed,
    Truncated,
)
from shoal.common.http.addresses import inward_reason
from shoal.common.ignored_hosts import IgnoredHosts
from shoal.common.retry import Backoff


@pytest.mark.parametrize(
    ("status", "retry", "throttled", "kind"),
    [
        (204, False, False, Answer.ERROR),
        (304, False, False, Answer.ERROR),
        (400, False, False, Answer.ERROR),
        (401, False, False, Answer.REFUSED),
        (403, False, False, Answer.REFUSED),
        (404, False, False, Answer.ERROR),
        (408, False, False, Answer.ERROR),
        (410, False, False, Answer.REFUSED),
        (429, True, True, Answer.THROTTLED),
        (451, False, False, Answer.REFUSED),
        (500, True, False, Answer.ERROR),
        (502, True, False, Answer.ERROR),
        (503, True, True, Answer.THROTTLED),
        (599, True, False, Answer.ERROR),
    ],
)
def test_statuses(status: int, retry: bool, throttled: bool, kind: Answer) -> None:
    failure = of_status(status)
    assert failure is not None and failure.code == status and str(status) in failure.message
    assert (failure.retry, failure.throttled, kind_of_status(status)) == (retry, throttled, kind)


def test_good_statuses() -> None:
    assert of_status(200) is of_status(203) is None
    assert kind_of_status(200) is Answer.OK


@pytest.mark.parametrize(
    ("error", "code", "retry", "kind"),
    [
        (Refused("x", cause="it leads to a private address"), ErrorCode.REFUSED, False, None),
        (RedirectRefused("x", cause="in a circle"), ErrorCode.NETWORK, False, Answer.ERROR),
        (TlsFailed("x"), ErrorCode.NETWORK, False, Answer.CONNECT),
        (ConnectFailed("x"), ErrorCode.NETWORK, True, Answer.CONNECT),
        (TimedOut("x"), ErrorCode.NETWORK, True, Answer.TIMEOUT),
        (Truncated("x"), ErrorCode.NETWORK, True, Answer.ERROR),
        (ProtocolViolation("x"), ErrorCode.NETWORK, True, Answer.ERROR),
    ],
)
def test_errors(error: ShoalError, code: ErrorCode, retry: bool, kind: Answer | None) -> None:
    failure, said = of_error(error)
    assert (failure.code, failure.retry, said) == (code, retry, kind)
    assert failure.message


@pytest.mark.parametrize(
    ("tag", "out"),
    [
        ("noai", True),
        ("NoAI, noimageai", True),
        ("noarchive, noindex", True),
        ("googlebot: noindex", False),
        ("shoal: noai", True),
        ("unavailable_after: 25 Jun 2026 15:00:00 PST", False),
        ("max-image-preview: none, noimageai", True),
        ("all", False),
        ("", False),
    ],
)
def test_opting_out(tag: str, out: bool) -> None:
    assert opted_out(tag) is out


def test_text_from_outside_is_one_short_line() -> None:
    assert shown("a\r\nb\x1b[31m") == "a b [31m"
    assert len(shown("x" * 9999)) == 500


def queue(count: int, attempts: int = 3, tries: dict[int, int] | None = None) -> RowQueue:
    return RowQueue(
        range(count), attempts=attempts, backoff=Backoff(initial_s=1, max_s=8), rng=random.Random(1), tries=tries
    )


def test_a_row_is_tried_so_often_and_then_settled() -> None:
    rows = queue(1)
    failure = Failed(500, "x", retry=True)
    now = 0.0
    for _ in range(2):
        assert rows.take(now) == 0
        assert rows.take(now) is None
        assert rows.failed(0, failure, now) is None
        due_s = rows.due_s(now)
        assert due_s is not None
        now += due_s
    assert rows.take(now) == 0
    assert rows.failed(0, failure, now) == 2
    assert rows.left == 0 and rows.due_s(now) is None


def test_a_final_failure_is_final_at_once() -> None:
    rows = queue(2)
    assert rows.take(0) == 0
    assert rows.failed(0, Failed(404, "x"), 0) == 0
    assert rows.left == 1


def test_a_throttled_row_waits_for_its_host_alone() -> None:
    rows = queue(1)
    rows.take(0)
    assert rows.failed(0, Failed(429, "x", retry=True, throttled=True), 0) is None
    assert rows.take(0) == 0
    assert rows.settle(0) == 1


def test_tries_of_earlier_runs_count() -> None:
    rows = queue(1, tries={0: 2})
    rows.take(0)
    assert rows.failed(0, Failed(500, "x", retry=True), 0) == 2
    rows = queue(2, tries={1: 1})
    assert rows.drain() == [0, 1] and rows.left == 2
    assert (rows.settle(0), rows.settle(1), rows.left) == (0, 1, 0)


def test_a_row_that_was_put_back_is_next() -> None:
    rows = queue(3)
    row = rows.take(0)
    assert row == 0
    rows.put_back(row)
    assert rows.take(0) == 0 and rows.tried() == {}


async def test_the_budget_bounds_what_is_under_way() -> None:
    budget = Budget(100)
    first, second, third = budget.share(), budget.share(), budget.share()
    await first.grow(60)
    await second.grow(40)
    waiting = asyncio.ensure_future(third.grow(50))
    await asyncio.sleep(0)
    # The first who finds no room becomes the elder and goes on; all others wait.
    assert budget.used == 150 and waiting.done()
    other = asyncio.ensure_future(first.grow(10))
    await asyncio.sleep(0)
    assert not other.done()
    await third.grow(5)
    third.close()
    await asyncio.sleep(0)
    assert other.done() and budget.used == 110
    late = budget.share()
    blocked = asyncio.ensure_future(late.grow(1))
    await asyncio.sleep(0)
    assert not blocked.done()
    blocked.cancel()
    await asyncio.gather(blocked, return_exceptions=True)
    for share in (first, second, late):
        share.close()
        share.close()
    assert budget.used == 0


async def test_the_budget_never_stands_still() -> None:
    budget = Budget(100)

    async def body(size: int) -> None:
        share = budget.share()
        for _ in range(size // 10):
            await share.grow(10)
            await asyncio.sleep(0)
            assert budget.used <= 100 + size
        share.close()

    async with asyncio.timeout(60):
        await asyncio.gather(*(body(90) for _ in range(20)))
    assert budget.used == 0


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "100.64.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "fec0::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "2002:7f00:1::",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "::127.0.0.1",
        "fe80::1%eth0",
    ],
)  # fmt: skip
def test_addresses_that_lead_inwards(address: str) -> None:
    assert inward_reason(address)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::"]
)
def test_addresses_of_the_web(address: str) -> None:
    assert inward_reason(address) == ""


def test_ignored_hosts() -> None:
    hosts = IgnoredHosts(("Bad.example",))
    assert hosts.refusal("bad.example") and hosts.refusal("bad.example:8080")
    assert not hosts.refusal("good.example")
    hosts.take_file((1, b"\xef\xbb\xbfreason,server_name\r\ntoo slow,Slow.example%3A81\r\n,other.example\r\n"))
    assert hosts.refusal("slow.example:81") == "too slow" and not hosts.refusal("slow.example")
    assert hosts.refusal("other.example") and hosts.refusal("bad.example")
    hosts.take_file((2, b"plain.example,because\n"))
    assert hosts.refusal("plain.example") == "because" and not hosts.refusal("slow.example:81")
    hosts.take_file(None)
    assert not hosts.refusal("plain.example")


def test_footers() -> None:
    footer = Footer(pair="p", job="j", tally=tally_of(Counter({404: 2, 200: 5, -1: 1, 500: 0})))
    assert footer.tally == ((200, 5), (-1, 1), (404, 2))
    assert footer_from_json(footer.to_json()) == footer
    for text in ("{}", "[]", "3", "no"):
        with pytest.raises(ValueError):
            footer_from_json(text)


def test_keys_of_shards_are_safe() -> None:
    assert safe_key("0b1c-22") == "0b1c-22"
    for uuid in ("../x", "a/b", "", "CON", "a.b", "x\0", "é\u202e", "x" * 300, "sha256-1"):
        assert safe_key(uuid).startswith("sha256-")
    assert next_shard(["00000.tar", "00007.tar", "x.tar"]) == 8 and next_shard([]) == 0


def test_a_profile_says_what_was_seen() -> None:
    timing = Timing(latency_s=0.1, seconds=0.5, status=200, size=1000, content_type="image/png", protocol="HTTP/1.1")
    profile = profile_of("h", timing, None, robots="partly", crawl_delay_s=2.0)
    assert profile.reachable and profile.bytes_per_s == 2000 and profile.robots == "partly" and profile.error == ""
    profile = profile_of("h", Timing(), Failed(ErrorCode.NETWORK, "refused"))
    assert not profile.reachable and profile.error == "refused" and profile.status == 0


def test_profiles_of_hosts_that_were_not_measured_again_stay() -> None:
    head = b"server_name,server\n"
    assert merged_profiles(b"", head + b"a,x\n") == head + b"a,x\n"
    assert merged_profiles(head + b"b,old\na,old\n", head + b"a,new\n") == head + b"a,new\nb,old\n"
    assert merged_profiles(head + b"b,\xff\nbroken\n", head) == head + "b,\ufffd\n".encode()
    assert merged_profiles(b"name\nb\n", head + b"a,x\n") == head + b"a,x\n", "of another time"
