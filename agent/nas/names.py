"""What a file is called on the NAS.

With the structure preserved::

    hf://ORG/NAME            ORG/NAME/PATH
    hf://datasets/ORG/NAME   datasets/ORG/NAME/PATH
    s3://BUCKET/PREFIX/      BUCKET/PREFIX/PATH
    https://HOST/DIR/FILE    HOST/DIR/FILE       (HOST+PORT where there is one)
    file:///DIR              DIR/PATH

Flattened, the same components are joined by ``_``. That is not one-to-one (``a_b/c`` and ``a/b_c``), so of two files whose flat names
are the same the second one gets ``~`` and eight hex digits before its extension (`second_name`). Which is which is told by the
record beside the data. Revisions have no name of their own: a newer one takes the place of an older one.
"""

from __future__ import annotations

import hashlib
import re

from ...common.paths import COMPONENT_BYTES_MAX, safe_relative_path
from ...common.uri import FileUri, HttpUri, HubUri, S3Uri, parse_uri
from ...common.uri_records import DEFAULT_PORTS

_ODD = re.compile(r"[^A-Za-z0-9._+=@-]")
_EXTENSION_CHARACTERS_MAX = 16
_HASH_DIGITS = 8


def source_label(source: str) -> tuple[str, ...]:
    """The folders that stand for a source, in plain characters. source: a canonical URI. Raises UsageError."""
    uri = parse_uri(source)
    match uri:
        case HubUri():
            kind = () if uri.kind.value == "model" else (f"{uri.kind.value}s",)
            return (*kind, *uri.repo_id.split("/"))
        case S3Uri():
            folders = uri.key.split("/")[:-1]  # a key without a slash at its end names an object
            return tuple(map(_plain, [uri.bucket, *filter(None, folders)]))
        case HttpUri():
            port = "" if uri.port == DEFAULT_PORTS.get(uri.scheme) else f"+{uri.port}"
            folders = [*filter(None, uri.path.split("/")[:-1]), *([f"query-{_hash(uri.query)}"] if uri.query else [])]
            return tuple(map(_plain, [f"{uri.host}{port}", *folders]))
        case FileUri():
            return tuple(map(_plain, filter(None, uri.path.split("/")))) or ("file",)


def identity(source: str, path: str) -> str:
    """What tells whether two files are the same one in two versions: their source without its revision, and their path in it."""
    return "/".join(source_label(source)) + "\0" + path


def target_path(source: str, path: str, *, preserve: bool) -> str:
    """Where a file of a source lies below the NAS folder. Raises UnsafeName, UsageError."""
    safe_relative_path(path)
    parts = (*source_label(source), *path.split("/"))
    return safe_relative_path("/".join(parts) if preserve else _short("_".join(parts), source, path))


def second_name(flat: str, source: str, path: str) -> str:
    """A flat name for a file whose own one is taken by another file."""
    stem, extension = _split(flat)
    mark = f"~{_hash(identity(source, path))}"
    room = COMPONENT_BYTES_MAX - len((mark + extension).encode())
    return safe_relative_path(_cut(stem, room) + mark + extension)


def _short(flat: str, source: str, path: str) -> str:
    """A flat name that a file system takes: one that is too long is cut, and marked as a second name is."""
    return flat if len(flat.encode()) <= COMPONENT_BYTES_MAX else second_name(flat, source, path)


def _plain(component: str) -> str:
    """A component in characters that every file system takes; what had to be changed is marked, so that two do not become one."""
    plain = _ODD.sub("_", component).rstrip(".") or "_"
    if plain != component or len(plain) > 100:
        plain = f"{plain[:80]}~{_hash(component)}"
    return plain


def _split(name: str) -> tuple[str, str]:
    stem, dot, extension = name.rpartition(".")
    if not stem or len(extension) > _EXTENSION_CHARACTERS_MAX:
        return name, ""
    return stem, dot + extension


def _cut(text: str, bytes_max: int) -> str:
    return text.encode()[:bytes_max].decode(errors="ignore").rstrip(". ")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:_HASH_DIGITS]
