"""Servers of whole blocks of URLs: the same as `parse_url` says of each by itself."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shoal.common.collect_records import batch_of_path, batch_path
from shoal.common.errors import Refused
from shoal.common.http.url import parse_url
from shoal.common.policy import Policy
from shoal.coordinator.collect import servers
from shoal.coordinator.collect.servers import URL_BYTES_MAX, Servers

HOSTS = ("[::1]", "a.example", "B.example.", "ü.example", "127.1", "0x7f", "..", "-", "_")
MARKS = ("http", "https", "HTTP", "ftp", ":", "//", "://", "/", "?", "#", "@", "[", "]", ":80", ":443", ":65536", ":0")
ODD = ("%00", "%2f", "\x00", "\n", "\t", "\x7f", "\x85", "\u2028", " ", "\\", "é")
PIECES = st.sampled_from([*HOSTS, *MARKS, *ODD])
URLS = st.one_of(
    st.lists(PIECES, max_size=8).map("".join),
    st.lists(PIECES, max_size=6).map(lambda parts: "http://" + "".join(parts)),
    st.tuples(st.lists(PIECES, max_size=4), st.text(max_size=6)).map(
        lambda both: f"https://a.example{''.join(both[0])}{both[1]}"
    ),
)


def judged(urls: list[str | None], policy: Policy | None = None) -> list[tuple[str | None, str | None, str | None]]:
    texts, hosts, reasons = Servers(policy or Policy()).of(pa.array(urls, pa.string()))
    return list(zip(texts.to_pylist(), hosts.to_pylist(), reasons.to_pylist(), strict=True))


@settings(max_examples=400, deadline=None)
@given(st.lists(URLS, max_size=12))
@example(["http://a b.example/", "http://a.example\n", "http://a.example/ \x00 ", " http://a.example/"])
def test_a_block_is_judged_as_each_url_by_itself(urls: list[str]) -> None:
    for url, (text, host, reason) in zip(urls, judged([*urls]), strict=True):
        assert (host is None) != (reason is None)
        assert text in (url, url.strip(" \t\r\n"))
        try:
            parsed = parse_url(url.strip(" \t\r\n"))
        except Refused:
            assert host is None
            continue
        assert host is not None and text is not None
        assert host.startswith(("[", parsed.host.rstrip(".")))
        assert parse_url(text) == parsed
        assert batch_of_path(batch_path(host, 3)) == (host, 3)


def test_null_is_neither_used_nor_judged() -> None:
    assert judged([None, "http://a.example/", None]) == [
        (None, None, None),
        ("http://a.example/", "a.example", None),
        (None, None, None),
    ]


def test_the_limit_is_in_bytes() -> None:
    base = "http://a.example/"
    fits = base + "x" * (URL_BYTES_MAX - len(base))
    assert [row[1] is None for row in judged([fits, f"{fits}x", base + "é" * (URL_BYTES_MAX // 2)])] == [
        False,
        True,
        True,
    ]


def test_a_host_too_long_for_a_folder_is_no_server() -> None:
    host = ".".join(["a" * 50] * 4) + "." + "b" * 45
    (row,) = judged([f"http://{host}/"])
    assert row[2] == "unparsable URL: its host is too long for a folder's name"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "_HEADS_KEPT_MAX", 3)
    urls = [f"http://h{i}.example/" for i in range(20)]
    judge = Servers(Policy())
    for _ in range(2):
        assert judge.of(pa.array(urls))[1].to_pylist() == [f"h{i}.example" for i in range(20)]
    assert len(judge._known) <= 3


def test_policy_sees_the_host_without_port_and_dot() -> None:
    policy = Policy(allow=("a.example", "::1"))
    rows = judged(["http://a.example.:8080/", "http://[::1]:8080/", "http://b.example/"], policy)
    assert [row[1] for row in rows] == ["a.example:8080", "[::1]:8080", None]
    assert (rows[2][2] or "").startswith("refused by policy: ")
