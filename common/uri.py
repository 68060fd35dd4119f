"""One grammar for every source.

=====================================================  ============================================================
``hf://[datasets/|spaces/]ORG/NAME[@REV][/PATH]``      a Hub repo, or a folder or file of it
``https://HUB/…/ORG/NAME[/(tree|blob|resolve)/REV…]``  the same, as copied from a browser
``s3://BUCKET/KEY`` and ``s3://BUCKET/PREFIX/``        an object; everything under a prefix
``https://…``, ``http://…``                            one file
``file:///PATH``                                       a local file or folder
=====================================================  ============================================================

The ``hf`` form is the one that the Hub's own client reads: the path is literal, the revision may be percent-encoded, and
``refs/pr/N`` and ``refs/convert/NAME`` are whole without it. Different spellings of one source have one canonical form.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from urllib.parse import quote, unquote_to_bytes

from .errors import UsageError
from .paths import unsafe_character
from .secrets import REDACTED, redact
from .uri_records import DEFAULT_PORTS, FileUri, HttpUri, HubUri, RepoKind, S3Uri, SourceUri

__all__ = [
    "HUB_ENDPOINTS",
    "FileUri",
    "HttpUri",
    "HubUri",
    "RepoKind",
    "S3Uri",
    "SourceUri",
    "check_revision",
    "parse_list_file",
    "parse_uri",
]

URI_CHARACTERS_MAX = 8192  # what web servers commonly accept as a request line
HUB_ENDPOINTS = ("https://huggingface.co",)
_HUB_ALIASES = {"hf.co": "huggingface.co", "www.huggingface.co": "huggingface.co"}

# The Hub's rule for the two halves of a repo id: letters, digits, "-", "_", "."; no "-" or "." at the ends, 96 at most.
_REPO_PART = re.compile(r"(?![-.])[A-Za-z0-9._-]{1,96}(?<![-.])")
_SPECIAL_REVISION = re.compile(r"refs/(?:pr/[0-9]+|convert/[A-Za-z0-9_.-]+)")
# git-check-ref-format(1), rules 3 to 10.
_BAD_REVISION = re.compile(r"\.\.|[\x00-\x20\x7f~^:?*\[\\]|@\{|//|^[/-]|[/.]$|\.lock(?:/|$)|(?:^|/)\.|^@$")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_HOST = re.compile(
    r"(?=.{1,253}$)(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
_PERCENT = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_HUB_ROUTES = frozenset({"tree", "blob", "resolve"})
# First components of Hub pages that are not an organisation.
_HUB_PAGES = frozenset(
    {
        "api",
        "blog",
        "buckets",
        "chat",
        "collections",
        "docs",
        "enterprise",
        "join",
        "kernels",
        "learn",
        "login",
        "models",
    }
    | {"new", "notifications", "organizations", "papers", "posts", "pricing", "search", "settings", "support", "tasks"}
)


class _Malformed(ValueError):
    """What is wrong, and optionally what to write instead."""

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(cause)
        self.remedy = remedy


def parse_uri(text: str, *, bare_hub: bool = False, hub_endpoints: Sequence[str] = HUB_ENDPOINTS) -> SourceUri:
    """The source that a URI names.

    Args: bare_hub also takes ``ORG/NAME[@REV][/PATH]`` without ``hf://``; URLs of repos below one of hub_endpoints become
    Hub sources. Raises: UsageError, naming the URI with its credentials removed.
    """
    try:
        return _parse(text.strip(" "), bare_hub, hub_endpoints)
    except _Malformed as error:
        remedy = error.remedy or "see shoal get --help for the forms of a URI"
        raise UsageError(f"source {_shown(text)!r}", cause=str(error), remedy=remedy) from None


def parse_list_file(
    lines: Iterable[str], *, name: str = "list", bare_hub: bool = True, hub_endpoints: Sequence[str] = HUB_ENDPOINTS
) -> list[SourceUri]:
    """The sources of a list: one a line, ``#`` comments, blank lines; a source that comes again counts once.

    Raises: UsageError for the first bad line, naming list and line number.
    """
    found: dict[str, SourceUri] = {}
    for number, line in enumerate(lines, start=1):
        # A "#" inside a URL is a fragment; a comment starts the line or follows a blank.
        text = re.split(r"(?:^|(?<=[ \t]))#", line.removeprefix("\ufeff").rstrip("\r\n"), maxsplit=1)[0].strip(" \t")
        if not text:
            continue
        try:
            source = parse_uri(text, bare_hub=bare_hub, hub_endpoints=hub_endpoints)
        except UsageError as error:
            raise UsageError(f"{name} line {number}, {error.thing}", cause=error.cause, remedy=error.remedy) from None
        found.setdefault(source.canonical(), source)
    return list(found.values())


def _shown(text: str) -> str:
    """The text for an error message: short, and without what stands before an "@" where only credentials can."""
    text = re.sub(r"^(?!.{0,32}://)[^/]*@", f"{REDACTED}@", redact(text))
    return text if len(text) <= 200 else f"{text[:200]}…"


def _parse(text: str, bare_hub: bool, hub_endpoints: Sequence[str]) -> SourceUri:
    if not text:
        raise _Malformed("it is empty")
    if len(text) > URI_CHARACTERS_MAX:
        raise _Malformed(f"it is longer than {URI_CHARACTERS_MAX} characters")
    if (bad := unsafe_character(text)) is not None:
        raise _Malformed(f"it holds the character U+{ord(bad):04X}, which does not show or is not text")
    scheme = _SCHEME.match(text)
    if scheme is None:
        if bare_hub and text[0] not in "./~":
            return _parse_hub(text)
        raise _Malformed("it has no scheme", "write hf://ORG/NAME for a repo, file:///PATH for a local file")
    name, rest = scheme[1].lower(), text[scheme.end() :]
    if name == "hf":
        return _parse_hub(rest)
    if name == "s3":
        return _parse_s3(rest)
    if name == "file":
        return _parse_file(rest)
    if name in DEFAULT_PORTS:
        source = _parse_http(name, rest)
        return _hub_page(source, hub_endpoints) or source
    raise _Malformed(f"the scheme {scheme[1]} is not known", "use hf://, s3://, https://, http:// or file://")


def _parse_hub(rest: str) -> HubUri:
    kind = RepoKind.MODEL
    first, slash, after = rest.partition("/")
    if slash and first in ("datasets", "spaces", "models"):
        kind, rest = RepoKind(first[:-1]), after
    elif first in ("kernels", "buckets"):
        raise _Malformed(f"Hub {first} are not supported", "name a model, dataset or space")
    elif first in ("dataset", "space", "model"):
        raise _Malformed(f"the prefix {first}/ is not known", f"write {first}s/")
    rest = rest.removesuffix("/")
    organisation, _, tail = rest.partition("/")
    if "@" in organisation:
        raise _Malformed("a user name or password does not belong into a URI", "write hf://ORG/NAME[@REVISION]")
    cut = re.search(r"[@/]", tail)
    name, mark, tail = (tail[: cut.start()], tail[cut.start()], tail[cut.end() :]) if cut else (tail, "", "")
    if mark == "@":
        special = _SPECIAL_REVISION.match(tail)
        if special and tail[special.end() :][:1] in ("", "/"):
            revision, path = special[0], tail[special.end() + 1 :]
            mark = "" if special.end() == len(tail) else "/"
        else:
            revision, mark, path = tail.partition("/")
        return _hub(kind, f"{organisation}/{name}", _decoded(revision), path, has_path=bool(mark))
    return _hub(kind, f"{organisation}/{name}", None, tail, has_path=bool(mark))


def _hub(kind: RepoKind, repo_id: str, revision: str | None, path: str, *, has_path: bool) -> HubUri:
    for part in repo_id.split("/"):
        if ":" in part and _REPO_PART.fullmatch(part.partition(":")[0]):
            name, _, label = part.partition(":")
            cause = f"{part!r} is not a name on the Hub"
            raise _Malformed(cause, f"write {name} and --quant {label} if {label or 'it'} is a quantization")
        if not _REPO_PART.fullmatch(part):
            cause = f"{part!r} is not a name on the Hub" if part else "the repo is not named as ORG/NAME"
            raise _Malformed(cause, "write hf://ORG/NAME, with letters, digits, '-', '_' and '.'")
    if "--" in repo_id or ".." in repo_id or repo_id.endswith(".git"):
        raise _Malformed("the name of a repo cannot hold '--' or '..' or end in '.git'")
    if revision is not None and (reason := _reason_against_revision(revision)) is not None:
        raise _Malformed(reason, "name a branch, a tag or a commit")
    if has_path:
        _check_components(path)
    return HubUri(kind=kind, repo_id=repo_id, revision=revision, path=path)


def check_revision(revision: str) -> str:
    """The revision (branch, tag, commit, ``refs/…``) if git could have it as a name. Raises: UsageError."""
    reason = _reason_against_revision(revision)
    if reason is not None:
        raise UsageError(f"revision {revision!r}", cause=reason, remedy="name a branch, a tag or a commit")
    return revision


def _reason_against_revision(revision: str) -> str | None:
    if not revision:
        return "the revision is empty"
    if len(revision) > 250 or _BAD_REVISION.search(revision) or unsafe_character(revision):
        return "no branch, tag or commit can have the name of its revision"
    return None


def _parse_s3(rest: str) -> S3Uri:
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise _Malformed("credentials do not belong into a URI", "put them into a profile")
    if not _BUCKET.fullmatch(bucket):
        raise _Malformed(f"{bucket!r} is not the name of a bucket", "write s3://BUCKET/KEY or s3://BUCKET/PREFIX/")
    if key:
        _check_components(key.removesuffix("/"))
    return S3Uri(bucket=bucket, key=key)


def _parse_file(rest: str) -> FileUri:
    host, slash, path = rest.partition("/")
    if host.lower() not in ("", "localhost") or not slash:
        raise _Malformed("a file URI has no host", "write file:///ABSOLUTE/PATH")
    path = _decoded(path).removesuffix("/")
    if path:
        _check_components(path)
    return FileUri(path=f"/{path}")


def _parse_http(scheme: str, rest: str) -> HttpUri:
    rest = rest.partition("#")[0]
    cut = re.search(r"[/?]", rest)
    authority, tail = (rest[: cut.start()], rest[cut.start() :]) if cut else (rest, "")
    if "@" in authority:
        raise _Malformed("a user name or password does not belong into a URI", "remove the part before '@'")
    if "\\" in rest:
        raise _Malformed("it holds a backslash", "write '/'")
    host, port = _host_and_port(scheme, authority)
    path, mark, query = tail.partition("?")
    if mark and not query:
        mark = ""
    path = _without_dots(_PERCENT.sub(_normal_escape, path))
    # The query stays as it is written, but for what cannot be sent: it may be signed.
    query = quote(_PERCENT.sub(lambda match: match[0] if match[1] else "%25", query), safe="/?:@!$&'()*+,;=[]|%~")
    return HttpUri(
        scheme=scheme, host=host, port=port, path=quote(path, safe="/:@!$&'()*+,;=%~"), query=query
    )  # fmt: skip


def _host_and_port(scheme: str, authority: str) -> tuple[str, int]:
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::([0-9]*))?", authority)
    if bracketed:
        import ipaddress  # few URLs have an IPv6 address

        try:
            host = ipaddress.IPv6Address(bracketed[1]).compressed
        except ValueError:
            raise _Malformed(f"[{bracketed[1]}] is not an IPv6 address") from None
        port_text = bracketed[2]
    else:
        host, _, port_text = authority.partition(":")
        host = host.lower()
        if not host.isascii():
            try:
                host = host.encode("idna").decode().lower()
            except UnicodeError:
                raise _Malformed(f"{host!r} is not a host name") from None
        host = host.removesuffix(".")
        if not _HOST.fullmatch(host):
            raise _Malformed(f"{host!r} is not a host name" if host else "it names no host")
    if not port_text:
        return host, DEFAULT_PORTS[scheme]
    if not re.fullmatch(r"[0-9]{1,5}", port_text) or not 1 <= int(port_text) <= 65535:
        raise _Malformed(f"{port_text!r} is not a port")
    return host, int(port_text)


def _hub_page(source: HttpUri, endpoints: Sequence[str]) -> HubUri | None:
    """The Hub source behind the URL of a repo, folder or file; None for anything else."""
    for endpoint in endpoints:
        scheme, _, rest = endpoint.partition("://")
        hub = _parse_http(scheme.lower(), rest)
        host = _HUB_ALIASES.get(source.host, source.host)
        is_default = (hub.port, source.port) in ((443, 80), (80, 443))  # http://huggingface.co leads to https
        prefix = hub.path.removesuffix("/") + "/"
        if (
            host == _HUB_ALIASES.get(hub.host, hub.host)
            and (source.port == hub.port or is_default)
            and source.path.startswith(prefix)
        ):
            return _hub_path(source.path[len(prefix) :].removesuffix("/"))
    return None


def _hub_path(path: str) -> HubUri | None:
    parts = path.split("/")
    kind = RepoKind.MODEL
    if parts[0] in ("datasets", "spaces"):
        kind = RepoKind(parts.pop(0)[:-1])
    if len(parts) < 2 or parts[0] in _HUB_PAGES or (len(parts) > 2 and parts[2] not in _HUB_ROUTES):
        return None
    repo_id, rest = f"{parts[0]}/{parts[1]}", "/".join(parts[3:])
    if not rest:
        return _hub(kind, repo_id, None, "", has_path=False)
    special = _SPECIAL_REVISION.match(rest)
    revision = special[0] if special else rest.partition("/")[0]
    folder = rest[len(revision) :].removeprefix("/")
    # "%2F" inside a component would make it two: no file of a repo can have such a name.
    if "%2f" in folder.lower():
        raise _Malformed("a part of the path holds an encoded slash")
    return _hub(kind, repo_id, _decoded(revision), _decoded(folder), has_path=bool(folder))


def _check_components(path: str) -> None:
    for component in path.split("/"):
        if component in ("", ".", ".."):
            cause = f"a part of the path is {component!r}" if component else "a part of the path is empty"
            raise _Malformed(cause, "write every part of the path by its name")


def _decoded(text: str) -> str:
    """Percent-decoded text, checked again for what must not be in a URI."""
    if any(match[1] is None for match in _PERCENT.finditer(text)):
        raise _Malformed("a '%' is not followed by two hexadecimal digits", "write %25 for a '%'")
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        raise _Malformed("its percent-encoding is not UTF-8") from None
    if (bad := unsafe_character(decoded)) is not None:
        raise _Malformed(f"it holds the encoded character U+{ord(bad):04X}")
    return decoded


def _normal_escape(match: re.Match[str]) -> str:
    """RFC 3986, section 6.2.2: unreserved characters are written plain, hexadecimal digits in upper case."""
    if match[1] is None:
        return "%25"
    byte = int(match[1], 16)
    return chr(byte) if byte in _UNRESERVED else f"%{match[1].upper()}"


def _without_dots(path: str) -> str:
    """RFC 3986, section 5.2.4: "." and ".." are resolved, never above the root."""
    kept: list[str] = []
    parts = path.split("/")[1:]
    for position, part in enumerate(parts):
        if part == "..":
            del kept[-1:]
        elif part != ".":
            kept.append(part)
            continue
        if position == len(parts) - 1:
            kept.append("")
    return "/" + "/".join(kept)
