"""Credential profiles of S3-compatible stores: who asks, and where.

======================= =====================================================================================
profile                 keys and endpoint
======================= =====================================================================================
``""``                  the usual AWS chain: environment, ``~/.aws``, container and instance roles
NAME, in shoal.toml     ``[s3.NAME]``; without keys there, the usual chain with what else is set there
NAME, only in ~/.aws    that profile of the AWS configuration
======================= =====================================================================================

Everything here blocks: call it from a thread. Keys are read anew for every batch of signatures, so a file that was rotated
counts at once. boto3 is an optional package and slow to import: nothing of it is touched before a store is.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, cast

from .errors import MissingExtra, Refused, Unauthenticated, UsageError
from .logs import get_logger
from .s3_errors import store_error
from .s3_signing import VALID_S

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

    from .settings import Settings
    from .settings_table import S3Settings

log = get_logger("s3")

_REGION: Final = "us-east-1"  # what stores that know no regions expect to see in a signature
_PROBE_KEY: Final = "x"
_VALID_S_MIN: Final = 60

_Keys = tuple[str, str, str | None]  # access key, secret key, session token


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A bucket, as it is asked for. base_url has no slash at its end; endpoint names the store to people."""

    base_url: str
    endpoint: str
    region: str
    client: Any


class S3Profiles:
    """The stores of this process by profile, each made when it is first asked for."""

    def __init__(self, settings: Settings, *, proxies: Mapping[str, str], user_agent: str) -> None:
        """proxies: by scheme; empty: botocore's own view of the environment."""
        self._settings = settings
        self._proxies = proxies
        self._user_agent = user_agent
        self._stores: dict[str, S3Store] = {}
        self._lock = threading.Lock()

    def store(self, profile: str) -> S3Store:
        """The store that a profile names. Raises MissingExtra; UsageError for a profile that nobody knows."""
        with self._lock:
            found = self._stores.get(profile)
            if found is None:
                found = self._stores[profile] = self._open(profile)
            return found

    def prepare(self) -> None:
        """Read, in advance, what botocore has to say of stores: else the first job from one waits for that.

        Only for profiles of the configuration that need nobody's answer, and asks none. What is wrong with one is told when it is used.
        """
        for profile, own in self._settings.s3.items():
            if own.anonymous or own.access_key_id.is_set:
                try:
                    self.store(profile).prepare()
                except Exception as error:
                    log.debug("s3.not_prepared", profile=profile, error=type(error).__name__)

    def _open(self, profile: str) -> S3Store:
        boto3 = _boto3()
        own = self._settings.s3.get(profile.lower()) if profile else None
        aws_profile = "" if own is not None else profile
        if aws_profile:
            in_aws: list[str] = boto3.Session().available_profiles
            if profile not in in_aws:
                known = [*self._settings.s3, *in_aws]
                raise UsageError(
                    f"profile {profile!r}",
                    cause=f"neither shoal.toml has [s3.{profile}] nor the AWS configuration such a profile",
                    remedy=f"known are {', '.join(known)}" if known else "no profile is known at all: write one",
                )
        config: dict[str, Any] = {
            "connect_timeout": self._settings.fetch.connect_timeout,
            "read_timeout": self._settings.fetch.read_timeout,
            "retries": {"mode": "standard", "max_attempts": 5},
            "user_agent_extra": self._user_agent,
        }
        if self._proxies:
            config["proxies"] = dict(self._proxies)
        return S3Store(boto3, profile=profile, own=own, aws_profile=aws_profile, config=config)


class S3Store:
    """One profile's way to its store. Safe to call from several threads."""

    def __init__(
        self, boto3: Any, *, profile: str, own: S3Settings | None, aws_profile: str, config: dict[str, Any]
    ) -> None:
        self.profile = profile
        self._boto3 = boto3
        self._own = own
        self._aws_profile = aws_profile
        self._config = config
        self._lock = threading.RLock()
        self._keys: _Keys | None = None
        self._session: Any = None
        self._places: dict[str, Place] = {}

    @property
    def anonymous(self) -> bool:
        """Whether requests go out without a signature."""
        return self._own is not None and self._own.anonymous

    def check_bucket(self, bucket: str) -> None:
        """Raises Refused for a bucket that the profile is not meant for."""
        if self._own is not None and self._own.bucket not in ("", bucket):
            raise Refused(
                f"bucket {bucket}",
                cause=f"profile {self.profile!r} is for bucket {self._own.bucket} alone",
                remedy="name another profile, or change its bucket",
            )

    def prepare(self) -> None:
        """Read botocore's files. Raises what `place` does."""
        with self._lock:
            self._begin()
            self._client(_REGION)  # for what its session keeps

    def place(self, bucket: str, thing: str) -> Place:
        """The bucket's place; thing names what is asked for in errors. Asks AWS for the bucket's region, nobody else.

        Raises Unauthenticated, UsageError, and what else the store or the way to it says no with.
        """
        with self._lock:
            self.check_bucket(bucket)
            self._begin()
            found = self._places.get(bucket)
            if found is None:
                try:
                    found = self._places[bucket] = self._locate(bucket)
                except Exception as error:
                    raise store_error(error, thing=thing, profile=self.profile) from None
            return found

    def credentials(self, thing: str) -> tuple[ReadOnlyCredentials | None, int]:
        """The keys of this moment (None: anonymous) and for how many seconds a signature with them holds.

        Raises Unauthenticated, UsageError.
        """
        with self._lock:
            self._begin()
            if self.anonymous:
                return None, VALID_S
            try:
                found = self._session.get_credentials()
                frozen = found.get_frozen_credentials() if found is not None else None
            except Exception as error:
                raise store_error(error, thing=thing, profile=self.profile) from None
            if frozen is None or not frozen.access_key or not frozen.secret_key:
                from botocore.exceptions import NoCredentialsError

                raise store_error(NoCredentialsError(), thing=thing, profile=self.profile)
            # botocore renews such credentials by itself, at the latest ten minutes before their end.
            ends_at: object = getattr(found, "_expiry_time", None)
            if not isinstance(ends_at, datetime):
                return frozen, VALID_S
            left_s = int((ends_at - datetime.now(ends_at.tzinfo)).total_seconds())
            if left_s < _VALID_S_MIN:
                raise Unauthenticated(thing, cause="the session has expired", remedy="renew it")
            return frozen, min(VALID_S, left_s)

    def _begin(self) -> None:
        """Make the session, or make it anew after the profile's keys have changed."""
        keys = self._own_keys()
        if self._session is not None and keys == self._keys:
            return
        named: dict[str, Any] = {}
        if keys is not None:
            access, secret, token = keys
            named = {"aws_access_key_id": access, "aws_secret_access_key": secret, "aws_session_token": token}
        elif self._aws_profile:
            named = {"profile_name": self._aws_profile}
        try:
            self._session = self._boto3.Session(**named)
        except Exception as error:
            raise store_error(error, thing="S3", profile=self.profile) from None
        self._keys = keys
        self._places.clear()

    def _own_keys(self) -> _Keys | None:
        if self._own is None or self._own.anonymous or not self._own.access_key_id.is_set:
            return None
        access, secret = self._own.access_key_id.resolve(), self._own.secret_access_key.resolve()
        token = self._own.session_token.resolve()
        if access is None or secret is None:
            return None
        return access.reveal(), secret.reveal(), token.reveal() if token is not None else None

    def _client(self, region: str) -> Any:
        from botocore import UNSIGNED
        from botocore.config import Config

        own = self._own
        config = Config(**self._config, signature_version=UNSIGNED if self.anonymous else "s3v4")
        options: dict[str, Any] = {}
        if own is not None:
            path_style = bool(own.endpoint) if own.path_style is None else own.path_style
            if own.endpoint or own.path_style is not None:
                config = cast(Any, config).merge(Config(s3={"addressing_style": "path" if path_style else "virtual"}))
            if own.endpoint:
                options["endpoint_url"] = own.endpoint
            options["verify"] = str(own.ca_bundle) if own.ca_bundle and own.verify_tls else own.verify_tls
            if own.verify_tls and not own.ca_bundle:
                del options["verify"]  # AWS_CA_BUNDLE counts, then
        return self._session.client("s3", region_name=region or None, config=config, **options)

    def _locate(self, bucket: str) -> Place:
        region = (self._own.region if self._own is not None else "") or self._session.region_name or ""
        client = self._client(region or _REGION)
        endpoint: str = client.meta.endpoint_url
        if endpoint.rstrip("/").endswith((".amazonaws.com", ".amazonaws.com.cn")):
            actual = _region_of(client, bucket)
            if actual and actual != client.meta.region_name:
                client = self._client(actual)
                endpoint = client.meta.endpoint_url
        # Where a bucket's objects are is botocore's to say: it knows styles, dual stacks, access points.
        url: str = client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": _PROBE_KEY})
        base_url = url.partition("?")[0].removesuffix(f"/{_PROBE_KEY}")
        return Place(base_url=base_url, endpoint=endpoint, region=client.meta.region_name or _REGION, client=client)


def _region_of(client: Any, bucket: str) -> str:
    """The region that AWS names for a bucket, also when it refuses the question; "" where it names none."""
    from botocore.exceptions import ClientError

    try:
        answer: Any = client.head_bucket(Bucket=bucket)
    except ClientError as error:
        answer = error.response
    return str(answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("x-amz-bucket-region", ""))


def _boto3() -> Any:
    try:
        import boto3
    except ImportError:
        raise MissingExtra(
            "s3:// sources", cause="the package boto3 is not installed", remedy="pip install 'shoal[s3]'"
        ) from None
    return boto3
