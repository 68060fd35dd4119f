"""Sizes, durations and rates: what is understood, what is refused, and the way back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import UsageError
from shoal.common.units import (
    DURATION_S_MAX,
    SIZE_BYTES_MAX,
    format_duration,
    format_rate,
    format_size,
    parse_duration,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        (0, 0),
        (4096, 4096),
        ("17", 17),
        ("17B", 17),
        ("64MiB", 64 * 1024**2),
        ("64mib", 64 * 1024**2),
        ("1.5GB", 1_500_000_000),
        ("1.5 GiB", 1_610_612_736),
        ("64M", 64 * 1024**2),
        ("2k", 2048),
        ("1TB", 10**12),
        (" 7 KB ", 7000),
        ("9007199254740993", 9007199254740993),
        ("0.1KB", 100),
        ("1.1KB", 1100),
        ("0.0001B", 1),
    ],
)
def test_sizes_that_are_understood(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "MiB", "-1", "+1", "1e3", "nan", "inf", "1.MiB", ".5MiB", "1,5GB", "10 parsecs", "1Mibit", "٣MiB",
     "1  MB", "10MiB/s", "0x10", -1, True, 1.5, None, [], "9" * 40, SIZE_BYTES_MAX + 1, "8EiB"],
)  # fmt: skip
def test_sizes_that_are_refused(text: object) -> None:
    with pytest.raises(UsageError) as caught:
        parse_size(text)  # pyright: ignore[reportArgumentType]
    assert repr(text) in str(caught.value) or str(text) in str(caught.value)
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("text", "rate"), [("0", 0), (0, 0), ("10MiB/s", 10 * 1024**2), ("10MiB", 10 * 1024**2), ("1.5MB /S", 1_500_000)]
)
def test_rates_that_are_understood(text: str | int, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["/s", "10MiB/m", "10/s/s", "-1/s", "fast", True, 0.5])
def test_rates_that_are_refused(text: object) -> None:
    with pytest.raises(UsageError, match="rate"):
        parse_rate(text)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("5m", 300), ("1h30m", 5400), ("250ms", 0.25), ("1.5h", 5400), ("2d", 172800), ("500us", 0.0005),
     (30, 30), (0.5, 0.5), ("30", 30), ("0", 0), ("1H30M", 5400), (" 3s ", 3)],
)  # fmt: skip
def test_durations_that_are_understood(text: str | float, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    ["", "s", "-3s", "30m1h", "1h1h", "1 h", "3 fortnights", "1.2.3s", "nan", "inf", "1e9", "٣s", float("nan"),
     float("inf"), -1, -0.5, True, None, "999999999999d", DURATION_S_MAX * 2, 10**400],
)  # fmt: skip
def test_durations_that_are_refused(text: object) -> None:
    with pytest.raises(UsageError, match="duration"):
        parse_duration(text)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0B"), (1023, "1023B"), (1024, "1KiB"), (1536, "1.5KiB"), (1024**2 - 1, "1MiB"), (64 * 1024**2, "64MiB"),
     (10_239, "10KiB"), (123_456_789, "118MiB"), (1024**3, "1GiB"), (SIZE_BYTES_MAX, "8EiB")],
)  # fmt: skip
def test_sizes_are_written_for_people(size: int, text: str) -> None:
    assert format_size(size) == text


def test_a_rate_is_a_size_per_second() -> None:
    assert format_rate(10 * 1024**2) == "10MiB/s"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.0001, "0s"), (0.25, "250ms"), (1, "1s"), (2.5, "2.5s"), (59.96, "1m"), (60, "1m"), (5400, "1h30m"),
     (3601, "1h"), (86400 * 2 + 3600, "2d1h"), (90061, "1d1h")],
)  # fmt: skip
def test_durations_are_written_for_people(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(0, 2**60))
def test_a_written_size_is_read_back_within_its_digits(size: int) -> None:
    assert parse_size(format_size(size)) == pytest.approx(size, rel=0.006, abs=1)


@given(st.floats(0, 1e8))
def test_a_written_duration_is_read_back_within_its_parts(seconds: float) -> None:
    assert parse_duration(format_duration(seconds)) == pytest.approx(seconds, rel=0.05, abs=0.001)


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_by_name(text: str) -> None:
    for parse in (parse_size, parse_rate, parse_duration):
        try:
            assert parse(text) >= 0
        except UsageError as error:
            assert repr(text) in str(error)
