"""What botocore's errors mean. Their texts are never passed on: they may quote a signature, a key or an endpoint's answer."""

from __future__ import annotations

from typing import Any, Final

from .errors import (
    AccessDenied,
    ConnectFailed,
    HttpStatus,
    NotFound,
    ProtocolViolation,
    RateLimited,
    ShoalError,
    TimedOut,
    TlsFailed,
    TransferError,
    Unauthenticated,
    UsageError,
)

# Codes of S3's error answers: docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
NO_BUCKET: Final = frozenset({"NoSuchBucket"})
GONE: Final = frozenset({"NoSuchKey", "NoSuchVersion"})
WRONG_KEY: Final = frozenset({"InvalidAccessKeyId", "SignatureDoesNotMatch", "AuthorizationHeaderMalformed"})
NO_KEY: Final = frozenset(
    {"MissingSecurityHeader", "MissingAuthenticationToken", "MissingFields", "UnsupportedAlgorithm"}
)
EXPIRED: Final = frozenset(
    {"ExpiredToken", "ExpiredTokenException", "InvalidToken", "TokenRefreshRequired", "RequestExpired"}
)
CLOCK: Final = frozenset({"RequestTimeTooSkewed"})
ARCHIVED: Final = frozenset({"InvalidObjectState"})
THROTTLED: Final = frozenset(
    {"SlowDown", "ServiceUnavailable", "Throttling", "ThrottlingException", "TooManyRequests", "RequestLimitExceeded"}
    | {"BandwidthLimitExceeded", "ReduceYourRequestRate"}
)
SLOW_CLIENT: Final = frozenset({"RequestTimeout"})
REFUSED: Final = WRONG_KEY | EXPIRED | CLOCK
"""What a fresh signature may put right."""

_CODE_CHARS_MAX: Final = 60


def keys_named(profile: str) -> str:
    """The credentials as people know them."""
    return f"profile {profile!r}" if profile else "the AWS credentials"


def store_error(error: BaseException, *, thing: str, profile: str, endpoint: str = "") -> ShoalError:
    """The error that an exception of botocore stands for; what is not botocore's is raised again.

    thing is the URI; endpoint the store's URL without anything secret.
    """
    from botocore import exceptions as boto

    at = endpoint or "the store"
    if isinstance(error, ShoalError):
        return error
    if isinstance(error, boto.ClientError):
        return answer_error(error.response, thing=thing, profile=profile)
    if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError):
        remedy = "name a profile with --profile, set AWS_ACCESS_KEY_ID and its kin, or anonymous = true in a profile"
        return Unauthenticated(thing, cause=f"{keys_named(profile)}: no keys were found", remedy=remedy)
    if isinstance(error, boto.CredentialRetrievalError | boto.TokenRetrievalError | boto.SSOError):
        remedy = "log in again, as with aws sso login"
        return Unauthenticated(thing, cause=f"{keys_named(profile)}: the keys could not be fetched", remedy=remedy)
    if isinstance(error, boto.ProfileNotFound | boto.ConfigParseError | boto.ConfigNotFound):
        return UsageError(keys_named(profile), cause="the AWS configuration does not have it or cannot be read")
    if isinstance(error, boto.SSLError):
        remedy = "set ca_bundle of the profile to the authority's file"
        return TlsFailed(thing, cause=f"the TLS handshake with {at} failed", remedy=remedy)
    if isinstance(error, boto.ConnectTimeoutError | boto.ReadTimeoutError):
        return TimedOut(thing, cause=f"{at} did not answer in time")
    if isinstance(error, boto.ProxyConnectionError):
        return ConnectFailed(thing, cause=f"the proxy on the way to {at} does not answer")
    if isinstance(error, boto.EndpointConnectionError | boto.ConnectionError | boto.HTTPClientError):
        return ConnectFailed(thing, cause=f"no connection to {at}", remedy="check the profile's endpoint")
    if isinstance(error, boto.ParamValidationError | boto.InvalidRegionError | boto.NoRegionError):
        return UsageError(thing, cause="the store's library does not take its bucket, key or region")
    if isinstance(error, boto.BotoCoreError):
        return TransferError(thing, cause=f"the store's library gave up: {type(error).__name__}")
    raise error


def answer_error(response: Any, *, thing: str, profile: str) -> ShoalError:
    """The error for an error answer of a store, as botocore parsed it. Only its code and status are used."""
    code = str(response.get("Error", {}).get("Code", ""))
    if not code.isascii() or not code.isalnum() or len(code) > _CODE_CHARS_MAX:
        code = ""
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    keys = keys_named(profile)
    if code in NO_BUCKET:
        return NotFound(thing, cause="there is no such bucket", remedy=f"check its name, and the endpoint of {keys}")
    if code in GONE or status in (404, 410):
        return NotFound(thing, cause="there is no such object", remedy="check the key")
    if code in EXPIRED:
        return Unauthenticated(thing, cause=f"the session of {keys} has expired", remedy="renew it")
    if code in CLOCK:
        return Unauthenticated(thing, cause="the store's clock and ours differ too much", remedy="set the clock")
    if code in NO_KEY:
        return Unauthenticated(thing, cause=f"the store wants keys, and {keys} brings none", remedy="give it some")
    if code in WRONG_KEY or status == 401:
        known = f" ({code})" if code in WRONG_KEY else ""
        remedy = "check access_key_id, secret_access_key, region and endpoint"
        return Unauthenticated(thing, cause=f"the store does not accept the keys of {keys}{known}", remedy=remedy)
    if code in THROTTLED or status in (429, 503):
        return RateLimited(thing, retry_after_s=0.0, cause="the store asks to slow down")
    if status == 403:
        return AccessDenied(thing, cause=f"the store refuses {keys}", remedy="ask for the right to list and to read it")
    if status in (301, 307, 308):
        remedy = "set region and endpoint of the profile to those of the bucket"
        return UsageError(thing, cause="the bucket lies in another region", remedy=remedy)
    if not status or status < 400:
        return ProtocolViolation(thing, cause="the store's answer makes no sense", remedy="check the endpoint")
    said = f" ({code})" if code and code != str(status) else ""
    return HttpStatus(thing, status=status, cause=f"the store answered {status}{said}")
