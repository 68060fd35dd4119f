"""Sources turned into manifests: Hub repos, S3-compatible stores, single URLs, local files.

==================  ================================================================================
module              what it knows
==================  ================================================================================
base                what a source is asked and what it answers
hub, hub_api        Hub repos; the Hub's API with fail-over between endpoints
s3                  an object of a store, or everything under a prefix
http, file          one URL; a local file or folder
asking              one HTTP question, asked again while that can help
intake              which names are let into a manifest
==================  ================================================================================
"""

from __future__ import annotations

from ...common.policy import Policy
from ...common.uri import FileUri, HttpUri, HubUri
from .base import Resolved, Source, SourceContext, SourceRequest

__all__ = ["Policy", "Resolved", "Source", "SourceContext", "SourceRequest", "open_source"]


def open_source(request: SourceRequest, context: SourceContext) -> Source:
    """The source that a request names. Asks nothing of anybody yet. Raises UsageError for what is not supported."""
    uri = request.uri
    if isinstance(uri, HubUri):
        from .hub import HubSource

        return HubSource(request, uri, context)
    if isinstance(uri, HttpUri):
        from .http import HttpSource

        return HttpSource(request, uri, context)
    if isinstance(uri, FileUri):
        from .file import FileSource

        return FileSource(request, uri, context)
    from .s3 import S3Source

    return S3Source(request, uri, context)
