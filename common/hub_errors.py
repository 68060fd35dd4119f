"""What the Hub's error answers mean, as Shoal's errors. For the coordinator's Hub source and the agent's engine alike.

Use: build a `HubSubject` per repo or file, and when a configured endpoint answered with a status of 400 or more::

    raise hub_error(subject, response.status, response.headers, retry_after_s=wait_s)

This is for answers of the *endpoint* only. A status from the host that a resolve redirects to (a CDN with signed URLs)
says nothing of the repo: 403 there means that the signature expired, and the file is to be resolved again.

============================== =================== ===================================================================
answer                         error               remedy names
============================== =================== ===================================================================
429, or 503 with a wait        `RateLimited`       a token, where none was sent (``retry_after_s`` is the wait)
``X-Error-Code: GatedRepo``    `AccessDenied`      the page where access is asked for
access disabled, or 451        `AccessDenied`      the page of the repo
``RepoNotFound``; 401 and 404  `NotFound`          the spelling; a token, as the repo may be private
without a code
token not accepted (401)       `Unauthenticated`   where the token comes from
``RevisionNotFound``           `NotFound`          the page that lists the branches and tags
``EntryNotFound``              `NotFound`          the page that lists the files
403                            `AccessDenied`      the token's rights
any other                      `HttpStatus`        a retry may help where `is_transient`
============================== =================== ===================================================================

The codes are those that the Hub sends and its own client reads (huggingface_hub 2.4.0, ``utils/_http.py``). A missing
repo answers 401 to the anonymous and 404 to others, so that nobody can probe for private repos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from .errors import AccessDenied, HttpStatus, NotFound, RateLimited, ShoalError, Unauthenticated
from .secrets import redact

_TOKEN_SOURCES: Final = "HF_TOKEN, hub.token or `hf auth login`"
_MESSAGE_CHARS_MAX: Final = 200
_DISABLED: Final = "access to this resource is disabled"
_BAD_CREDENTIALS: Final = "invalid credentials"


class HeaderFields(Protocol):
    """Header fields of an answer; `Headers` of common/http fits."""

    def get(self, name: str, default: str = "", /) -> str:
        """The value of a field whatever its case, or ``default``."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class HubSubject:
    """What was asked of the Hub, for the words of an error."""

    endpoint: str  # the endpoint that answered, without a slash at its end
    repo_kind: str  # "model", "dataset", "space"
    repo_id: str  # ORG/NAME
    revision: str = ""
    path: str = ""  # a file of the repo
    authenticated: bool = False  # whether a token was sent

    def __str__(self) -> str:
        repo = f"{self.repo_kind} {self.repo_id}"
        if self.revision:
            repo += f"@{self.revision}"
        return f"file {self.path!r} of {repo}" if self.path else repo

    @property
    def page(self) -> str:
        """The repo's page for people."""
        return self.endpoint + repo_path(self.repo_kind, self.repo_id)


def repo_path(repo_kind: str, repo_id: str) -> str:
    """Where a repo is below an endpoint: ``/ORG/NAME``, ``/datasets/ORG/NAME`` or ``/spaces/ORG/NAME``."""
    return f"/{repo_id}" if repo_kind == "model" else f"/{repo_kind}s/{repo_id}"


def is_transient(status: int) -> bool:
    """Whether the same request may succeed soon: the server's own fault (5xx), a timeout (408) or too early (425)."""
    return status >= 500 or status in (408, 425)


def hub_error(
    subject: HubSubject, status: int, headers: HeaderFields, *, retry_after_s: float | None = None
) -> ShoalError:
    """The error that an endpoint's answer with a status of 400 or more stands for; to be raised by the caller.

    Args: retry_after_s is the wait in seconds that the answer's headers ask for (``Retry-After``, ``RateLimit``), None
    without one.
    """
    if status == 429 or (status == 503 and retry_after_s is not None):
        remedy = "" if subject.authenticated else f"a token raises the limit ({_TOKEN_SOURCES})"
        return RateLimited(f"Hub at {subject.endpoint}", retry_after_s=retry_after_s or 0.0, remedy=remedy)
    if is_transient(status):
        return HttpStatus(str(subject), status=status, cause=f"{subject.endpoint} answered {status}")
    message = _shown(headers.get("X-Error-Message"))
    error = _by_code(subject, headers.get("X-Error-Code"), message)
    return error or _by_status(subject, status, message)


def _by_code(subject: HubSubject, code: str, message: str) -> ShoalError | None:
    repo = f"{subject.repo_kind} {subject.repo_id}"
    if code == "GatedRepo":
        cause = "it is gated: its owner decides who may read it"
        return AccessDenied(repo, cause=cause, remedy=_gated_remedy(subject))
    if _DISABLED in message.lower():
        return AccessDenied(repo, cause="the Hub has disabled access to it", remedy=f"see {subject.page}")
    if code == "RepoNotFound":
        return _repo_not_found(subject)
    if code == "RevisionNotFound":
        remedy = f"name a branch, a tag or a commit that is listed at {subject.page}/tree/main; `main` is the default"
        return NotFound(str(subject), cause="the repo has no such revision", remedy=remedy)
    if code == "EntryNotFound":
        remedy = f"see the files at {subject.page}/tree/{subject.revision or 'main'}"
        return NotFound(str(subject), cause="the revision has no such file or folder", remedy=remedy)
    return None


def _by_status(subject: HubSubject, status: int, message: str) -> ShoalError:
    said = f": {message}" if message else ""
    if status == 401 and (subject.authenticated or _BAD_CREDENTIALS in message.lower()):
        cause = f"it does not accept the token{said}"
        return Unauthenticated(f"Hub at {subject.endpoint}", cause=cause, remedy=f"renew the token ({_TOKEN_SOURCES})")
    if status in (401, 404, 410):
        return _repo_not_found(subject)
    if status == 403:
        remedy = f"give a token ({_TOKEN_SOURCES})"
        if subject.authenticated:
            remedy = "check that the token may read this repo"
        return AccessDenied(str(subject), cause=f"{subject.endpoint} refuses access{said}", remedy=remedy)
    if status == 451:
        cause = f"it may not be given out for legal reasons{said}"
        return AccessDenied(str(subject), cause=cause, remedy=f"see {subject.page}")
    return HttpStatus(str(subject), status=status, cause=f"{subject.endpoint} answered {status}{said}")


def _repo_not_found(subject: HubSubject) -> NotFound:
    if subject.authenticated:
        cause = f"{subject.endpoint} has no such {subject.repo_kind}, or the token may not see it"
        remedy = "check the spelling, whether it is a model, dataset or space, and the token's rights"
    else:
        cause = f"{subject.endpoint} has no such {subject.repo_kind}, or it is private"
        remedy = "check the spelling and whether it is a model, dataset or space; "
        remedy += f"for a private one give a token ({_TOKEN_SOURCES})"
    return NotFound(str(subject), cause=cause, remedy=remedy)


def _gated_remedy(subject: HubSubject) -> str:
    ask = f"ask for access at {subject.page}"
    if subject.authenticated:
        return f"{ask} with the account of your token"
    return f"{ask}, then give a token ({_TOKEN_SOURCES})"


def _shown(message: str) -> str:
    """The Hub's own words in a form that may be shown: printable, short, without what looks like a credential."""
    message = "".join(char if char.isprintable() else " " for char in message[: 4 * _MESSAGE_CHARS_MAX])
    message = redact(message).strip()
    return message if len(message) <= _MESSAGE_CHARS_MAX else f"{message[: _MESSAGE_CHARS_MAX - 3]}..."
