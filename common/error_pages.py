"""Pages that servers send where a file should be: how to suspect one by its head. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .http import Headers

_HTML_NAMES: Final = (".html", ".htm", ".xhtml", ".php", ".asp", ".aspx", "/")
_JSON_NAMES: Final = (".json", ".jsonl", ".ndjson", ".ipynb", ".geojson", ".webmanifest", ".map")


def is_page(headers: Headers, path: str) -> bool:
    """Whether an answer is of a kind in which servers tell of errors, though the object's name promises another kind.

    path: of the object. Only worth a look where the size is not known, or to explain a wrong one.
    """
    kind = media_type(headers)
    name = path.lower()
    if is_html(headers):
        return not name.endswith(_HTML_NAMES)
    if kind in ("application/json", "application/problem+json"):
        return not name.endswith(_JSON_NAMES)
    return False


def is_html(headers: Headers) -> bool:
    """Whether an answer is a page for people."""
    return media_type(headers) in ("text/html", "application/xhtml+xml")


def media_type(headers: Headers) -> str:
    """The Content-Type without its parameters, in lower case; empty where there is none."""
    return headers.get("content-type").partition(";")[0].strip().lower()
