import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.http.message import Headers
from shoal.common.http.ratelimit_headers import RateLimit, parse_ratelimit, parse_retry_after

NOW = 1_000_000_000.0  # Sun, 09 Sep 2001 01:46:40 GMT


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("0", 0.0),
        ("120", 120.0),
        (" 7 ", 7.0),
        ("999999999", 86400.0),
        ("Sun, 09 Sep 2001 01:48:40 GMT", 120.0),
        ("Sunday, 09-Sep-01 01:48:40 GMT", 120.0),
        ("Sun Sep  9 01:48:40 2001", 120.0),
        ("Sun, 09 Sep 2001 01:00:00 GMT", 0.0),
        ("Sun, 09 Sep 2099 01:00:00 GMT", 86400.0),
        ("", None),
        ("-5", None),
        ("1.5", None),
        ("soon", None),
        ("\u0665", None),
        ("1" * 5000, None),
        ("Sun, 99 Sep 2001 99:99:99 GMT", None),
        ("Sun, 09 Sep 99999999 01:00:00 GMT", None),
    ],
)
def test_retry_after(value: str, expected: float | None):
    assert parse_retry_after(Headers([("Retry-After", value)]), NOW) == expected


def test_no_header():
    assert parse_retry_after(Headers(), NOW) is None
    assert parse_ratelimit(Headers()) is None


def test_the_hubs_form():
    headers = Headers(
        [("RateLimit", '"resolvers";r=0;t=55'), ("RateLimit-Policy", '"fixed window";"resolvers";q=3000;w=300')]
    )
    assert parse_ratelimit(headers) == RateLimit(
        policy="resolvers", remaining=0, reset_s=55.0, quota=3000, window_s=300.0
    )


def test_without_a_policy_and_without_a_reset():
    found = parse_ratelimit(Headers([("RateLimit", '"api";r=7')]))
    assert found == RateLimit(policy="api", remaining=7, reset_s=0.0, quota=None, window_s=None)


def test_the_tightest_of_several():
    headers = Headers(
        [
            ("RateLimit", '"a";r=5;t=1, "b,;";r=2;t=3'),
            ("RateLimit", '"c";r=2;t=9'),
            ("RateLimit-Policy", '"c";q=10;w=60, "a";q=1;w=1'),
        ]
    )
    assert parse_ratelimit(headers) == RateLimit(policy="c", remaining=2, reset_s=9.0, quota=10, window_s=60.0)


@pytest.mark.parametrize(
    "value",
    ["", '"a"', '"a";t=5', "r=0;t=5", '"a";r=-1', '"a";r=x', '"a;r=1', '"a";r=' + "9" * 40, "," * 4000, '"' * 999],
)
def test_senseless_forms_are_ignored(value: str):
    assert parse_ratelimit(Headers([("RateLimit", value)])) is None


def test_waits_are_capped():
    found = parse_ratelimit(Headers([("RateLimit", '"a";r=0;t=999999999')]))
    assert found is not None and found.reset_s == 86400.0


@given(st.text(max_size=80))
def test_hostile_values_never_raise(value: str):
    headers = Headers([("Retry-After", value), ("RateLimit", value), ("RateLimit-Policy", value)])
    wait_s = parse_retry_after(headers, NOW)
    assert wait_s is None or 0.0 <= wait_s <= 86400.0
    parse_ratelimit(headers)
