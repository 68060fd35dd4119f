"""The API against its own OpenAPI document: schemathesis asks what is right and what is wrong by it, and checks the answers."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from threading import Thread
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis.errors import Unsatisfiable
    from schemathesis import GenerationMode
    from schemathesis.config import PositiveDataAcceptanceConfig

from shoal.common.views import SubmitRequest
from shoal.coordinator.web.openapi import document
from shoal.coordinator.web.server import ROUTES
from support.web import WebSite, web_site

EXAMPLES = 10  # of each operation, right ones and wrong ones: about half a minute in all


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WebSite]:
    """A site with a job or two, on a loop of its own: schemathesis asks from this thread."""
    ready: list[WebSite] = []
    loop = asyncio.new_event_loop()
    begun, stop = asyncio.Event(), asyncio.Event()

    async def serve() -> None:
        async with web_site(tmp_path_factory.mktemp("web"), {"hub.offline": True, "library.places": False}) as made:
            uris = ("hf://acme/one", "hf://acme/two", "https://127.0.0.1:9/file")
            await made.coordinator.submit(SubmitRequest(uris=uris, destination="/data"))
            ready.append(made)
            begun.set()
            await stop.wait()

    thread = Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    asyncio.run_coroutine_threadsafe(begun.wait(), loop).result(30)
    try:
        yield ready[0]
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(30)
        loop.close()


DOCUMENT = document(ROUTES, version="test", base_url="", closed=False)
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
# 422: of the right form, and yet no source, no folder, no way to log in: a schema has no words for that.
ACCEPTED = (*PositiveDataAcceptanceConfig().expected_statuses, 422)
SCHEMA.config.checks.positive_data_acceptance = PositiveDataAcceptanceConfig(expected_statuses=list(ACCEPTED))
OPERATIONS = [found.ok() for found in SCHEMA.get_all_operations()]
STREAM = "/api/events"  # never ends


def test_every_operation_can_be_asked() -> None:
    assert len(OPERATIONS) == len(ROUTES) > 30


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    "operation",
    [each for each in OPERATIONS if each.path != STREAM],
    ids=lambda each: f"{each.method.upper()} {each.path}",
)
def test_answers_are_those_of_the_document(operation: Any, mode: GenerationMode, site: WebSite) -> None:
    csrf = site.server.site.local_csrf

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        if case.headers and "X-CSRF-Token" in case.headers and case.meta.generation.mode is GenerationMode.POSITIVE:
            case.headers["X-CSRF-Token"] = csrf
        case.call_and_validate(base_url=site.url)

    try:
        ask()
    except Unsatisfiable:  # nothing can be wrong with a request that takes nothing
        assert mode is GenerationMode.NEGATIVE
