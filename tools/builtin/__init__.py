"""The tools that come with Shoal. Their names and meanings are those of the reference tool."""

from __future__ import annotations


def load() -> None:
    """Register them."""
    from . import duplication_based, image_verification, resize, size_based

    _ = (duplication_based, image_verification, resize, size_based)
