"""The pages: templates and static files, on top of the API. They hold no data: what they show, they ask the API for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from aiohttp import web
from aiohttp.typedefs import Handler

from .guard import PUBLIC, SITE

if TYPE_CHECKING:
    from .site import Site

FOLDER = Path(__file__).parent
STATIC = FOLDER / "static"
CONTENT_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
"""Named here, as what the machine's own tables say differs, and browsers refuse scripts of another type (nosniff)."""

TEMPLATES = web.AppKey("templates", jinja2.Environment)


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page. page names its template and its script; a page that is no tab is reached from elsewhere."""

    path: str
    page: str
    title: str
    tab: bool = True


PAGES = (
    Page(path="/", page="download", title="Download"),
    Page(path="/activity", page="activity", title="Activity"),
    Page(path="/library", page="library", title="Library"),
    Page(path="/fleet", page="fleet", title="Fleet"),
    Page(path="/collections", page="collections", title="Collections"),
    Page(path="/login", page="login", title="Log in", tab=False),
)


def add_pages(app: web.Application, site: Site) -> None:
    """Add the pages and what they load. Every page is public: without a login it shows nothing but the way to log in."""
    app[TEMPLATES] = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        trim_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    if site.base_url:
        app.router.add_get(site.base_url, _to_index)
    for page in PAGES:
        app.router.add_get(f"{site.base_url}{page.path}", _page(page))
    for path in sorted(STATIC.iterdir()):
        if path.suffix in CONTENT_TYPES:
            app.router.add_get(f"{site.base_url}/static/{path.name}", _static(path))


def _page(page: Page) -> Handler:
    """A handler for one page. Nothing of the request gets into it."""

    async def serve(request: web.Request) -> web.Response:
        site = request.app[SITE]
        text = (
            request.app[TEMPLATES]
            .get_template(f"{page.page}.html")
            .render(
                base_url=site.base_url,
                version=site.version,
                page=page.page,
                title=page.title,
                tabs=[each for each in PAGES if each.tab],
            )
        )
        return web.Response(text=text, content_type="text/html")

    setattr(serve, PUBLIC, True)
    return serve


async def _to_index(request: web.Request) -> web.Response:
    raise web.HTTPPermanentRedirect(f"{request.app[SITE].base_url}/")


setattr(_to_index, PUBLIC, True)


def _static(path: Path) -> Handler:
    """A handler for one file: a request names one of the files that were there at the start, never a path."""
    content_type = CONTENT_TYPES[path.suffix]

    async def serve(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(path, headers={"Content-Type": content_type, "Cache-Control": "no-cache"})

    setattr(serve, PUBLIC, True)
    return serve
