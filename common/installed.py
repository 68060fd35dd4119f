"""Which optional packages there are."""

from __future__ import annotations

import importlib.util


def is_installed(module: str) -> bool:
    """Whether a module is there, without importing it: it may still be broken."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
