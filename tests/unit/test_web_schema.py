"""Dataclasses to and from JSON, their schemas, chunk maps, and what handlers declare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.common.errors import ShoalError, UnsafeName, UsageError, all_error_classes
from shoal.common.intervals import IntervalSet
from shoal.common.views import ActiveObjectView
from shoal.coordinator.web import openapi
from shoal.coordinator.web.models import DownloadBody, JobsQuery, chunk_map
from shoal.coordinator.web.routing import path_text, problem_of, status_of
from shoal.coordinator.web.schema import Components, decode, decode_query, described, encode
from shoal.coordinator.web.server import ROUTES


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    """Inner."""

    x: int = described("A number.", minimum=0, maximum=9)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    """Outer."""

    text: str = described("Some text.", maxLength=5, pattern="^[a-z]*$")
    number: float = 1.5
    flag: bool = False
    colour: Colour | None = None
    inner: Inner | None = None
    many: tuple[int, ...] = described("Numbers.", (), maxItems=3)


def test_what_comes_in_is_read() -> None:
    given = {"text": "abc", "number": 2, "colour": "red", "inner": {"x": 3}, "many": [1, 2.0]}
    assert decode(Outer, given) == Outer(text="abc", number=2.0, colour=Colour.RED, inner=Inner(x=3), many=(1, 2))
    assert decode(Outer, {"text": "", "colour": None}) == Outer(text="")


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ([], "body"),
        ({}, "body.text"),
        ({"text": 1}, "body.text"),
        ({"text": "abcdef"}, "body.text"),
        ({"text": "A"}, "body.text"),
        ({"text": "a\0"}, "body.text"),
        ({"text": "\ud800"}, "body.text"),
        ({"text": "", "number": "1"}, "body.number"),
        ({"text": "", "number": True}, "body.number"),
        ({"text": "", "number": float("inf")}, "body.number"),
        ({"text": "", "flag": 1}, "body.flag"),
        ({"text": "", "colour": "green"}, "body.colour"),
        ({"text": "", "inner": {"x": 10}}, "body.inner.x"),
        ({"text": "", "inner": {"x": -1}}, "body.inner.x"),
        ({"text": "", "inner": {"x": 1.5}}, "body.inner.x"),
        ({"text": "", "inner": {}}, "body.inner.x"),
        ({"text": "", "inner": []}, "body.inner"),
        ({"text": "", "many": [1, 2, 3, 4]}, "body.many"),
        ({"text": "", "many": ["a"]}, "body.many[0]"),
        ({"text": "", "many": "a"}, "body.many"),
        ({"text": "", "txet": ""}, "body.'txet'"),
    ],
)
def test_what_does_not_fit_names_the_field(given: object, names: str) -> None:
    with pytest.raises(UsageError) as caught:
        decode(Outer, given)
    assert caught.value.thing == names


def test_an_unknown_field_suggests_the_nearest() -> None:
    with pytest.raises(UsageError) as caught:
        decode(Outer, {"text": "", "txet": ""})
    assert caught.value.remedy == "did you mean text?"


def test_queries_are_read_by_type() -> None:
    assert decode_query(JobsQuery, [("limit", "5"), ("state", "failed")]) == JobsQuery(limit=5, state="failed")  # pyright: ignore
    for pairs in (
        [("limit", "5"), ("limit", "6")],
        [("limit", "0")],
        [("limit", "1e2")],
        [("limit", "")],
        [("x", "1")],
    ):
        with pytest.raises(UsageError):
            decode_query(JobsQuery, pairs)


def test_numbers_that_json_lacks_become_null() -> None:
    assert encode({"a": float("nan"), "b": (1, None, Colour.RED), "c": Inner(x=1)}) == {
        "a": None,
        "b": [1, None, "red"],
        "c": {"x": 1},
    }


def test_the_schema_says_what_reading_demands() -> None:
    schema = Components().object_schema(Outer)
    assert schema["required"] == ["text"] and schema["additionalProperties"] is False
    assert schema["properties"]["text"] == {
        "type": "string",
        "pattern": "^[a-z]*$",
        "description": "Some text.",
        "maxLength": 5,
    }
    assert schema["properties"]["many"]["maxItems"] == 3


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_nothing_that_comes_in_breaks_the_reading(value: Any) -> None:
    for document in (
        value,
        {"uris": value},
        {"uris": ["a/b"], "priority": value},
        {"uris": ["a/b"], "include": [value]},
    ):
        try:
            decode(DownloadBody, document)
        except UsageError:
            pass


# ---- chunk maps -----------------------------------------------------------------------------------------------------


def shown(size: int | None, done: IntervalSet, cells: int) -> str:
    return chunk_map(ActiveObjectView(object_id=1, path="a", size=size, done_bytes=done.total, done=tuple(done)), cells)


def test_a_chunk_map_shows_how_full_each_part_is() -> None:
    assert shown(100, IntervalSet([(0, 25), (50, 55)]), 4) == "9010"
    assert shown(100, IntervalSet([(0, 99)]), 2) == "98"  # not 9: a byte is missing
    assert shown(3, IntervalSet([(0, 3)]), 128) == "999"
    assert shown(None, IntervalSet([(0, 3)]), 8) == shown(10, IntervalSet(), 8) == ""


@given(
    st.integers(1, 5000),
    st.lists(st.tuples(st.integers(0, 5000), st.integers(1, 900)), max_size=8),
    st.integers(1, 300),
)
def test_chunk_maps_count_every_byte_once(size: int, spans: list[tuple[int, int]], cells: int) -> None:
    done = IntervalSet()
    for start, length in spans:
        if start < size:
            done.add(start, min(size, start + length))
    digits = shown(size, done, cells)
    if not done:
        assert digits == ""
        return
    count = min(cells, size)
    assert len(digits) == count
    for cell, digit in enumerate(digits):
        inside = range(-(-cell * size // count), -(-(cell + 1) * size // count))
        have = sum(done.covers(x, x + 1) for x in inside)
        assert digit == ("9" if have == len(inside) else str(min(8, 9 * have // len(inside))))


# ---- what handlers declare ------------------------------------------------------------------------------------------


def test_the_document_describes_every_route() -> None:
    made = openapi.document(ROUTES, version="1", base_url="/shoal", closed=True)
    assert made["openapi"].startswith("3.1") and made["servers"] == [{"url": "/shoal"}]
    told = {(method.upper(), path) for path, methods in made["paths"].items() for method in methods}
    assert told == {(route.method, route.path) for route in ROUTES}
    references = {part.partition('"')[0] for part in json.dumps(made).split("#/components/schemas/")[1:]}
    assert references <= set(made["components"]["schemas"])


def test_the_fixed_names_are_there() -> None:
    fixed = {
        ("POST", "/download"),
        ("GET", "/api/status"),
        ("GET", "/api/jobs"),
        ("GET", "/api/jobs/{job_id}"),
        *(("POST", f"/api/jobs/{{job_id}}/{action}") for action in ("pause", "resume", "cancel", "retry")),
        ("GET", "/api/models"),
        ("POST", "/api/models/update"),
        ("POST", "/api/models/delete"),
        ("GET", "/api/inspect"),
        ("GET", "/api/events"),
        ("GET", "/healthz"),
        ("GET", "/metrics"),
    }
    assert fixed <= {(route.method, route.path) for route in ROUTES}


def test_operations_have_names_of_their_own_and_a_summary() -> None:
    names = [route.operation_id for route in ROUTES]
    assert len(names) == len(set(names))
    assert all(route.summary for route in ROUTES)


def test_only_what_must_be_is_public() -> None:
    assert {route.path for route in ROUTES if route.public} == {"/healthz", "/api/session", "/api/login"}


def test_the_guide_names_every_route() -> None:
    guide = (Path(__file__).resolve().parents[2] / "docs/web-api.md").read_text(encoding="utf-8")
    for route in ROUTES:
        assert f"`{route.method} {route.path}`" in guide, f"{route.method} {route.path}"


@pytest.mark.parametrize("text", ["..", "../a", "a/b", "a\\b", "a\0", "a\n", "\u202e", "a..b", ""])
def test_names_in_paths_name_no_folders(text: str) -> None:
    with pytest.raises((UnsafeName, UsageError)):
        path_text("job_id", text)


def test_every_error_has_a_status_and_keeps_its_remedy() -> None:
    special: Mapping[str, dict[str, Any]] = {"http-status": {"status": 500}, "rate-limited": {"retry_after_s": 1.0}}
    for kind in all_error_classes():
        if kind.__module__ != ShoalError.__module__:
            continue
        error = kind("thing", cause="cause", remedy="remedy", **special.get(kind.code, {}))
        for asked_origin in (False, True):
            status = status_of(error, asked_origin=asked_origin)
            assert 400 <= status < 600
            assert not (asked_origin and status == 401)  # a page would ask for a login that helps nothing
        problem = problem_of(error, 400)
        assert (problem.code, problem.cause, problem.remedy) == (kind.code, "cause", "remedy")


def test_two_types_of_one_name_are_noticed() -> None:
    one = dataclasses.make_dataclass("Thing", [("a", int)])
    other = dataclasses.make_dataclass("ThingView", [("b", int)])
    components = Components()
    components.schema_of(one)
    components.schema_of(one)
    with pytest.raises(TypeError, match="both called Thing"):
        components.schema_of(other)
