"""Errors: each class has a stable code, an exit code, a gRPC status and says whether a retry helps.

An error names the thing, the cause and the remedy::

    raise NotFound("repo acme/tiny", cause="the Hub answered 404", remedy="check the spelling")

The text that a person reads is ``thing: cause (remedy)``. Codes never change once released: scripts rely on them.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class ExitCode(enum.IntEnum):
    """Exit codes of the command line, documented in docs/exit-codes.md."""

    OK = 0  # all done
    FAILED = 1  # at least one object failed for good
    USAGE = 2  # usage or configuration
    NO_ACCESS = 3  # source not found or no access
    UNREACHABLE = 4  # coordinator not reachable
    NO_SPACE = 5  # not enough space or not writable
    VERIFICATION = 6  # verification failed
    POLICY = 7  # refused by policy
    INTERRUPTED = 130  # SIGINT


class ShoalError(Exception):
    """Base of every error that Shoal raises on purpose."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[ExitCode] = ExitCode.FAILED
    retryable: ClassVar[bool] = False  # would the same call, later, help?
    grpc_status: ClassVar[str] = "INTERNAL"  # name of a grpc.StatusCode member

    def __init__(self, thing: str, *, cause: str = "", remedy: str = "") -> None:
        """Args: thing (what it is about), cause (what went wrong), remedy (what to do). Plain sentences, no secrets."""
        self.thing = thing
        self.cause = cause or (type(self).__doc__ or "").strip().splitlines()[0].rstrip(".")
        self.remedy = remedy
        super().__init__(thing, self.cause, remedy)

    def __str__(self) -> str:
        text = f"{self.thing}: {self.cause}" if self.thing else self.cause
        return f"{text} ({self.remedy})" if self.remedy else text


class UsageError(ShoalError):
    """The command, option or configuration is not valid."""

    code, exit_code, grpc_status = "usage", ExitCode.USAGE, "INVALID_ARGUMENT"


class MissingExtra(UsageError):
    """A package that this feature needs is not installed."""

    code = "missing-extra"


class NotFound(ShoalError):
    """It does not exist there."""

    code, exit_code, grpc_status = "not-found", ExitCode.NO_ACCESS, "NOT_FOUND"


class AccessDenied(ShoalError):
    """The server refuses access with the credentials that were given."""

    code, exit_code, grpc_status = "access-denied", ExitCode.NO_ACCESS, "PERMISSION_DENIED"


class Unauthenticated(ShoalError):
    """A credential is missing, expired or wrong."""

    code, exit_code, grpc_status = "unauthenticated", ExitCode.NO_ACCESS, "UNAUTHENTICATED"


class Unreachable(ShoalError):
    """The coordinator does not answer."""

    code, exit_code, retryable, grpc_status = "unreachable", ExitCode.UNREACHABLE, True, "UNAVAILABLE"


class NoSpace(ShoalError):
    """There is not enough room on the destination."""

    code, exit_code, grpc_status = "no-space", ExitCode.NO_SPACE, "RESOURCE_EXHAUSTED"


class NotWritable(ShoalError):
    """The destination cannot be written."""

    code, exit_code, grpc_status = "not-writable", ExitCode.NO_SPACE, "FAILED_PRECONDITION"


class VerificationFailed(ShoalError):
    """The bytes are not those that the publisher named."""

    code, exit_code, retryable, grpc_status = "verification", ExitCode.VERIFICATION, True, "DATA_LOSS"


class Refused(ShoalError):
    """Refused by policy."""

    code, exit_code, grpc_status = "refused", ExitCode.POLICY, "PERMISSION_DENIED"


class OverQuota(Refused):
    """The user has asked for as much as the quota allows."""

    code, grpc_status = "over-quota", "RESOURCE_EXHAUSTED"


class UnsafeName(Refused):
    """A name from outside could leave the destination or cannot be written safely."""

    code = "unsafe-name"


class UnsafeArchive(Refused):
    """An archive that could do harm when it is unpacked; nothing of it was."""

    code = "unsafe-archive"


class DamagedArchive(ShoalError):
    """An archive that is cut, damaged, or not of the format that its name says; nothing of it was unpacked."""

    code, grpc_status = "damaged-archive", "DATA_LOSS"


class Conflict(ShoalError):
    """The request does not fit the present state."""

    code, grpc_status = "conflict", "FAILED_PRECONDITION"


class NotShared(ShoalError):
    """This agent does not see the destination that the other agents write to."""

    code, retryable, grpc_status = "not-shared", True, "FAILED_PRECONDITION"


class Busy(ShoalError):
    """Somebody else is at work on it."""

    code, retryable, grpc_status = "busy", True, "UNAVAILABLE"


class ToolFailed(ShoalError):
    """The code of a tool failed; the data are as they were before the step that failed."""

    code = "tool-failed"


class StateDamaged(ShoalError):
    """A state file is damaged."""

    code, grpc_status = "state-damaged", "DATA_LOSS"


class TransferError(ShoalError):
    """Bytes could not be fetched; a retry may help."""

    code, retryable, grpc_status = "transfer", True, "UNAVAILABLE"


class HttpStatus(TransferError):
    """The server answered with an error status."""

    code = "http-status"

    def __init__(self, thing: str, *, status: int, cause: str = "", remedy: str = "") -> None:
        super().__init__(thing, cause=cause or f"the server answered {status}", remedy=remedy)
        self.status = status


class ConnectFailed(TransferError):
    """No connection to the server."""

    code = "connect"


class TlsFailed(TransferError):
    """The TLS handshake failed."""

    code, retryable = "tls", False


class TimedOut(TransferError):
    """The server was silent for too long."""

    code = "timeout"


class ProtocolViolation(TransferError):
    """The other side's answer breaks the protocol."""

    code = "protocol"


class Truncated(TransferError):
    """The body ended before its announced length."""

    code = "truncated"


class Changed(TransferError):
    """The file changed on the server while it was fetched."""

    code = "changed"


class RedirectRefused(TransferError):
    """A redirect that must not be followed."""

    code, retryable = "redirect", False


class RateLimited(TransferError):
    """The server asks to wait."""

    code, grpc_status = "rate-limited", "RESOURCE_EXHAUSTED"

    def __init__(self, thing: str, *, retry_after_s: float, cause: str = "", remedy: str = "") -> None:
        super().__init__(thing, cause=cause or f"the server asks to wait {retry_after_s:.0f} s", remedy=remedy)
        self.retry_after_s = retry_after_s


class Interrupted(ShoalError):
    """Stopped by a signal."""

    code, exit_code, grpc_status = "interrupted", ExitCode.INTERRUPTED, "CANCELLED"


def all_error_classes() -> list[type[ShoalError]]:
    """Every error class, base first; the documentation and a test are made from it."""
    found: list[type[ShoalError]] = [ShoalError]
    for cls in found:
        found.extend(sub for sub in cls.__subclasses__() if sub not in found)
    return found


def error_class(code: str) -> type[ShoalError]:
    """The class with this code; ``ShoalError`` for a code from a newer version."""
    return next((cls for cls in all_error_classes() if cls.code == code), ShoalError)
