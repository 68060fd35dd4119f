"""``--quant``: from the names of quantizations to the files of a repo, as if they had been named with --include."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from ..common.errors import UsageError
from ..common.library.quantization import group_files
from ..common.uri import HubUri, parse_uri
from ..common.views import SubmitRequest

if TYPE_CHECKING:
    from ..common.settings import Settings


async def with_quantizations(
    settings: Settings, requests: Sequence[SubmitRequest], labels: Sequence[str]
) -> list[SubmitRequest]:
    """The requests with the files of these quantizations; one request for each repo, as each names its files in its own way.

    Includes that were given are added to, excludes still count. Raises UsageError for what is not of the Hub, NotFound that lists what
    there is, and what asking the Hub raises.
    """
    from .embedded import hub_questions

    made: list[SubmitRequest] = []
    async with hub_questions(settings) as questions:
        for request in requests:
            for text in request.uris:
                uri = parse_uri(text)
                if not isinstance(uri, HubUri):
                    raise UsageError(text, cause="only Hub repos have quantizations", remedy="leave --quant out")
                if request.revision and not uri.revision:
                    uri = replace(uri, revision=request.revision)
                files = await questions.files(uri)
                has_config = any(path == "config.json" for path, _ in files)
                config = await questions.config(uri) if has_config else None
                grouping = group_files(files, config=config, repo_id=uri.repo_id)
                rows = [row for label in labels for row in grouping.select(label)]
                paths = dict.fromkeys(path for row in rows for path in grouping.files_for(row))
                include = (*request.include, *(glob.escape(path) for path in paths))
                made.append(replace(request, uris=(text,), include=include))
    return made
