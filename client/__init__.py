"""How a person speaks to Shoal: command line, Python API, embedded mode.

::

    from shoal.client import download

    result = download("hf://ORG/NAME", to="models/NAME")
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .api import FetchedFile, Result, download

__all__ = ["FetchedFile", "Result", "download"]


def __getattr__(name: str) -> object:
    # The API pulls in both daemons; `shoal --help` imports this package too and must not pay for them.
    if name in __all__:
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
