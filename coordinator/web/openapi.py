"""The OpenAPI 3.1 document, made from what the handlers declare."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from .routing import PATH_PATTERN, PATH_TEXT_CHARS_MAX, Problem, Route
from .schema import Components, fields_of

CSRF_HEADER = "X-CSRF-Token"
COOKIE = "shoal_session"


def document(routes: Iterable[Route], *, version: str, base_url: str, closed: bool) -> dict[str, Any]:
    """The document. base_url is the prefix of every path; closed says whether callers must log in."""
    components = Components()
    problem = components.schema_of(Problem)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, components, problem, closed=closed)
    found: dict[str, Any] = {"schemas": components.schemas}
    if closed:
        found["securitySchemes"] = {
            "token": {
                "type": "http",
                "scheme": "bearer",
                "description": "What shoal token create --role admin prints.",
            },
            "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "Set by POST /api/login."},
        }
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Shoal",
            "version": version,
            "description": "Downloads, models on disk and the fleet. Sizes are bytes, rates bytes/s, durations seconds, "
            "moments seconds since the epoch. Errors are problem documents (RFC 9457).",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": base_url or "/"}],
        "paths": paths,
        "components": found,
    }


def _operation(route: Route, components: Components, problem: dict[str, Any], *, closed: bool) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation_id,
        "summary": route.summary,
        "tags": [route.tag],
        "responses": _responses(route, components, problem, closed=closed),
    }
    if route.description:
        operation["description"] = route.description
    if parameters := _parameters(route, components, closed=closed):
        operation["parameters"] = parameters
    if route.body is not None:
        schema = components.schema_of(route.body)
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    if closed:
        operation["security"] = [] if route.public else [{"token": []}, {"session": []}]
    return operation


def _parameters(route: Route, components: Components, *, closed: bool) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in route.path_names:
        schema = {"type": "string", "minLength": 1, "maxLength": PATH_TEXT_CHARS_MAX, "pattern": PATH_PATTERN}
        found.append({"name": name, "in": "path", "required": True, "schema": schema})
    for field, hint in fields_of(route.query) if route.query is not None else ():
        schema = components.field_schema(field, hint)
        parameter: dict[str, Any] = {"name": field.name, "in": "query", "schema": schema}
        if description := schema.pop("description", ""):
            parameter["description"] = description
        if "default" not in schema and field.name in (components.object_schema(route.query).get("required") or ()):
            parameter["required"] = True
        found.append(parameter)
    if route.changes:
        # A bearer token stands for itself; a browser's cookie does not.
        found.append(
            {
                "name": CSRF_HEADER,
                "in": "header",
                "required": not closed,
                "description": "What GET /api/session tells. Not needed with a bearer token.",
                "schema": {"type": "string"},
            }
        )
    return found


def _responses(route: Route, components: Components, problem: dict[str, Any], *, closed: bool) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    if route.status == 204:
        answers["204"] = {"description": "Done"}
    elif route.answer is not None:
        schema = components.schema_of(route.answer)
        answers[str(route.status)] = {
            "description": route.summary,
            "content": {"application/json": {"schema": schema}},
        }
    else:
        answers[str(route.status)] = {
            "description": route.summary,
            "content": {route.content_type: {"schema": {"type": "string"}}},
        }
    statuses = {*route.errors}
    if route.query is not None or route.body is not None or route.path_names:
        statuses |= {400, 422}
    if route.body is not None:
        statuses |= {413, 415}
    if route.path_names:
        statuses |= {403, 404}
    if route.changes:
        statuses.add(403)
    if closed and not route.public:
        statuses |= {401, 403}
    for status in sorted(statuses):
        answers[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {"application/problem+json": {"schema": problem}},
        }
    return answers
