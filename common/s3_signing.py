"""URLs of objects in S3-compatible stores, and their signatures.

A job's manifest holds plain URLs. Whoever asks the store needs one that is signed (AWS Signature Version 4 in the query); the
coordinator alone has the keys and signs, so that an agent only ever holds URLs that end within the hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from botocore.credentials import ReadOnlyCredentials

VALID_S: Final = 3600
"""How long a signed URL is good for. Long enough for a piece on a slow line, short enough to be worth little to a thief."""

ANONYMOUS_VALID_S: Final = 24 * 3600.0
"""URLs of public buckets need no signature and never end; they are asked for again now and then all the same."""

_SAFE: Final = "/-_.~"  # what Signature Version 4 leaves as it is (AWS: "URI encode every byte except the unreserved")


@dataclass(frozen=True, slots=True, repr=False)
class SignedUrl:
    """A URL that the origin accepts from anybody for a while. It is a secret: it goes into the request line, nowhere else."""

    object_id: int
    url: str
    valid_s: float  # from when it was made

    def __repr__(self) -> str:
        return f"SignedUrl(object_id={self.object_id}, valid_s={self.valid_s:.0f})"


def object_url(base_url: str, key: str) -> str:
    """The plain URL of an object; base_url is the bucket's, without a slash at the end."""
    return f"{base_url}/{quote(key, safe=_SAFE)}"


def sign(
    objects: Sequence[tuple[int, str]], credentials: ReadOnlyCredentials, *, region: str, valid_s: int
) -> Iterator[SignedUrl]:
    """Signed GET URLs of objects, given as (object id, plain URL)."""
    from botocore.auth import S3SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    # A client's own generate_presigned_url resolves endpoint and parameters anew for each: more than twice as slow.
    signer = S3SigV4QueryAuth(credentials, "s3", region, expires=valid_s)
    for object_id, url in objects:
        request: Any = AWSRequest("GET", url)
        signer.add_auth(request)
        yield SignedUrl(object_id, request.url, float(valid_s))
