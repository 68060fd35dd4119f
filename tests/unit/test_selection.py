"""Selection means what the Hub client's allow and ignore patterns mean."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.common.errors import UsageError
from shoal.common.selection import Selection

PATHS = ["README.md", "config.json", "data/a.json", "data/deep/b.json", "data/deep/.hidden", "Data/a.json", "x[1].bin"]


@pytest.mark.parametrize(
    ("include", "exclude", "expected"),
    [
        ((), (), PATHS),
        (("*.json",), (), ["config.json", "data/a.json", "data/deep/b.json", "Data/a.json"]),
        (("data/*.json",), (), ["data/a.json", "data/deep/b.json"]),
        (("data/",), (), ["data/a.json", "data/deep/b.json", "data/deep/.hidden"]),
        (("data\\deep\\",), (), ["data/deep/b.json", "data/deep/.hidden"]),
        (("data",), (), []),
        (("README.md", "config.???n"), (), ["README.md", "config.json"]),
        (("x[[]1].bin",), (), ["x[1].bin"]),
        (("x[1].bin",), (), []),
        ((), ("*.json", "data/"), ["README.md", "x[1].bin"]),
        (("data/*",), ("*/deep/*",), ["data/a.json"]),
        (("*",), ("*",), []),
    ],
)
def test_patterns(include: tuple[str, ...], exclude: tuple[str, ...], expected: list[str]) -> None:
    selection = Selection(include=include, exclude=exclude)
    assert [path for path in PATHS if selection.matches(path)] == expected


@pytest.mark.parametrize("patterns", [{"include": ("",)}, {"exclude": ("*.bin", "")}])
def test_an_empty_pattern_is_refused(patterns: dict[str, tuple[str, ...]]) -> None:
    with pytest.raises(UsageError, match="it is empty"):
        Selection(**patterns)


def test_whether_it_selects_and_how_it_is_shown() -> None:
    assert not Selection()
    assert str(Selection()) == "everything"
    selection = Selection(include=("*.bin",), exclude=("old/",))
    assert selection
    assert str(selection) == "--include *.bin --exclude old/*"


def test_normalizing_twice_changes_nothing() -> None:
    once = Selection(include=("a/", "b\\c"))
    assert Selection(include=once.include) == once


_TEXT = st.text(alphabet="aB./\\*?[]!-é", min_size=1, max_size=8)


@settings(max_examples=300, deadline=None)
@given(paths=st.lists(_TEXT, max_size=6), include=st.lists(_TEXT, max_size=3), exclude=st.lists(_TEXT, max_size=3))
def test_it_selects_what_the_hub_client_selects(paths: list[str], include: list[str], exclude: list[str]) -> None:
    from huggingface_hub.utils import filter_repo_objects

    theirs = list(filter_repo_objects(paths, allow_patterns=include or None, ignore_patterns=exclude or None))
    selection = Selection(include=tuple(include), exclude=tuple(exclude))
    assert [path for path in paths if selection.matches(path)] == theirs
