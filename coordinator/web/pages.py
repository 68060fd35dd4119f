"""The pages: templates and static files, on top of the API. They hold no data: what they show, they ask the API for."""

from __future__ import annotations

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

TEMPLATES = web.AppKey("templates", jinja2.Environment)


def add_pages(app: web.Application, site: Site) -> None:
    """Add the pages and what they load. Every page is public: without a login it shows nothing but the way to log in."""
    app[TEMPLATES] = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
    if site.base_url:
        app.router.add_get(site.base_url, _to_index)
    app.router.add_get(f"{site.base_url}/", index)
    for path in sorted(STATIC.iterdir()) if STATIC.is_dir() else ():
        app.router.add_get(f"{site.base_url}/static/{path.name}", _static(path))


def render(request: web.Request, template: str, **values: object) -> web.Response:
    """A page from a template, which also has base_url and version."""
    site = request.app[SITE]
    text = request.app[TEMPLATES].get_template(template).render(base_url=site.base_url, version=site.version, **values)
    return web.Response(text=text, content_type="text/html")


async def index(request: web.Request) -> web.Response:
    """The page to begin with."""
    return render(request, "index.html")


async def _to_index(request: web.Request) -> web.Response:
    raise web.HTTPPermanentRedirect(f"{request.app[SITE].base_url}/")


def _static(path: Path) -> Handler:
    """A handler for one file: a request names one of the files that were there at the start, never a path."""

    async def serve(_request: web.Request) -> web.FileResponse:
        return web.FileResponse(path, headers={"Cache-Control": "no-cache"})

    setattr(serve, PUBLIC, True)
    return serve


for _page in (index, _to_index):
    setattr(_page, PUBLIC, True)
