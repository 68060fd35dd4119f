"""Secrets: a type that does not show itself, references that are resolved where they are used, redaction of text.

A credential is kept as a ``SecretRef`` (a value, an environment variable or a file) until it is sent, so that a file
that was rotated is read again and an unreadable file harms only the command that needs it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .errors import UsageError

REDACTED = "***"
SECRET_FILE_BYTES_MAX = 64 * 1024  # larger than any token or key; keeps a wrong path (a model file) out of memory


class Secret:
    """A credential that hides from ``repr``, ``str``, format and pickle; only ``reveal()`` gives it away."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The credential itself: for the header or the file that it goes into, nothing else."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({REDACTED})"

    def __str__(self) -> str:
        return REDACTED

    def __bool__(self) -> bool:
        return bool(self._text)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        import hmac  # costs milliseconds, and few commands compare secrets

        return hmac.compare_digest(
            self._text.encode(errors="surrogatepass"), other._text.encode(errors="surrogatepass")
        )

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret cannot be pickled or copied into another process")

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: object) -> Secret:
        return self


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SecretRef:
    """Where a credential comes from: a value, an environment variable or a file.

    ``name`` is the setting that it stands for (``hub.token``). With ``env``, ``value`` is what that variable held when
    the settings were loaded, None if it was not set. ``optional`` says that a missing file means "none": true for
    the Hub client's stored login, false for a file that somebody named.
    """

    name: str
    value: Secret | None = None
    env: str = ""
    file: Path | None = None
    optional: bool = False

    @property
    def is_set(self) -> bool:
        """Was any source named, or is there a file where one may be? (It may still turn out to be unreadable.)"""
        if self.file is not None:
            return not self.optional or self.file.exists()
        return self.value is not None or bool(self.env)

    def resolve(self) -> Secret | None:
        """The credential, or None where nothing was named. A file is read anew at every call.

        Raises: UsageError when the named variable or file is missing, empty or not one line of text.
        """
        if self.value is not None:
            return self._checked(self.value.reveal(), self._where)
        if self.env:
            raise UsageError(self._where, cause="it is not set", remedy=f"export {self.env} or change {self.name}_env")
        if self.file is not None:
            return self._from_file(self.file)
        return None

    @property
    def _where(self) -> str:
        return f"{self.name} from environment variable {self.env}" if self.env else self.name

    def _from_file(self, path: Path) -> Secret | None:
        where = f"{self.name} from file {path}"
        remedy = f"check {self.name}_file"
        try:
            with path.open("rb") as file:
                data = file.read(SECRET_FILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            if self.optional:
                return None
            raise UsageError(where, cause="there is no such file", remedy=remedy) from None
        except OSError as error:
            raise UsageError(where, cause=f"it cannot be read: {error.strerror}", remedy=remedy) from None
        if len(data) > SECRET_FILE_BYTES_MAX:
            raise UsageError(where, cause="it is too large for a credential", remedy=remedy)
        text = data.decode(errors="replace").strip()
        if not text and self.optional:
            return None
        return self._checked(text, where)

    def _checked(self, text: str, where: str) -> Secret:
        text = text.strip()
        # A line break or a byte outside ASCII would let the credential write other HTTP headers.
        if not text or not text.isascii() or not text.isprintable():
            cause = "it is empty" if not text else "it is not one line of plain ASCII text"
            raise UsageError(where, cause=cause, remedy="store the bare credential, nothing else")
        return Secret(text)


def credential_path(name: str, *, base: Path, environ: Mapping[str, str]) -> Path:
    """The path of a ``…_file`` setting: a bare name is looked up among systemd's credentials first.

    systemd puts the files of ``LoadCredential=`` into the folder ``$CREDENTIALS_DIRECTORY`` (systemd.exec(5)).
    """
    folder = environ.get("CREDENTIALS_DIRECTORY", "")
    if folder and "/" not in name:
        credential = Path(folder, name)
        if credential.is_file():
            return credential
    return base / name


# Names of parameters, fields and headers that carry a credential: OAuth, AWS, and the usual names of keys.
_NAMES = (
    r"(?:(?:[a-z0-9]{1,16}[_-]){0,3}(?:token|signature|credential|password|secret)|passwd|api[_-]?key|apikey"
    r"|(?:client|secret|private)[_-](?:access[_-])?(?:secret|key)|secret_key|awsaccesskeyid|googleaccessid|capability)"
)
# Names that mean a credential in the query of a URL only: CloudFront (Policy, Key-Pair-Id), Azure (sig), OAuth (code).
_QUERY_NAMES = r"(?:policy|key-pair-id|sig|code|key|auth)"

_SCHEMES = r"(?:bearer|basic|digest|negotiate)"


@functools.cache  # compiling takes milliseconds that a start-up must not pay for
def _patterns() -> tuple[tuple[re.Pattern[str], str], ...]:
    """What to find, and what to put there."""
    return (
        # Hub tokens. Ordinary words such as hf_transfer hold neither a digit nor a capital letter.
        (re.compile(r"(?<![A-Za-z0-9])hf_(?=[A-Za-z0-9_]{0,63}[A-Z0-9])[A-Za-z0-9_]{6,}"), f"hf_{REDACTED}"),
        (re.compile(r"(?<![A-Za-z0-9])(hf|api_org)_[A-Za-z]{24,}"), rf"\1_{REDACTED}"),
        # Credentials of the fleet (coordinator/tokens.py): the id stays, it is what `shoal token list` shows.
        (re.compile(r"\bshoal_(agent|admin)_([0-9a-f]{1,16})_[0-9a-f]{16,}"), rf"shoal_\1_\2_{REDACTED}"),
        # RFC 9110 credentials: the scheme stays, the rest goes. Then whole header values, to the end of line or string.
        (re.compile(rf"\b({_SCHEMES})(\s{{1,4}}|%20)[^\s\"',;&<>]{{4,}}", re.IGNORECASE), rf"\1\2{REDACTED}"),
        (
            re.compile(
                r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[a-z0-9-]{0,40}(?:token|api-key))"
                rf"([\"']?+\s{{0,4}}+[:=,]\s{{0,4}}+(?:b(?=[\"']))?+[\"']?+)(?!{_SCHEMES}\b)[^\r\n\"']+",
                re.IGNORECASE,
            ),
            rf"\1\2{REDACTED}",
        ),
        (re.compile(rf"(?<![a-z0-9])({_NAMES})=[^&\s\"'<>#,;)}}\]]+", re.IGNORECASE), rf"\1={REDACTED}"),
        (re.compile(rf"([?&])({_QUERY_NAMES})=[^&\s\"'<>#]+", re.IGNORECASE), rf"\1\2={REDACTED}"),
        # The same names as quoted keys with quoted values: JSON, or the repr of a mapping.
        (
            re.compile(rf"(?P<key>([\"']){_NAMES}\2\s{{0,4}}:\s{{0,4}}b?)([\"'])[^\"']+\3", re.IGNORECASE),
            rf"\g<key>\3{REDACTED}\3",
        ),
        # User info. It ends at the last @ before the path (RFC 3986, 3.2.1, and what browsers make of more than one).
        (re.compile(r"(?<=://)[^/\s?#\"'<>]*@"), f"{REDACTED}@"),
    )


# No pattern can match a text without one of these: most texts are let through at the cost of a few substring searches.
_HINTS = (
    "=",
    "://",
    "'",
    '"',
    "hf_",
    "api_org_",
    "bearer",
    "basic",
    "digest",
    "negotiate",
    "authorization",
    "cookie",
    "x-",
)
_SECRET_KEY = rf"(?:{_NAMES}|(?:proxy-)?authorization|(?:set-)?cookie)"


def names_secret(key: str) -> bool:
    """Is this the name of a field whose value is a credential (``token``, ``Authorization``, ``secret_access_key``)?"""
    return re.fullmatch(_SECRET_KEY, key, re.IGNORECASE) is not None


def redact(text: str) -> str:
    """The text with everything that looks like a credential replaced by ``***``.

    Knows Hub tokens, authorization headers, the credentials of signed URLs and user info in URLs. It is the second line
    of defence: the first is that credentials are of type ``Secret``.
    """
    lowered = text.lower()
    if not any(hint in lowered for hint in _HINTS):
        return text
    for pattern, replacement in _patterns():
        text = pattern.sub(replacement, text)
    return text
