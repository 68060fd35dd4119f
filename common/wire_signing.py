"""Signed URLs as ``shoal.v1`` messages and back."""

from __future__ import annotations

from shoal.v1 import fleet_service_pb2 as pb

from .s3_signing import SignedUrl
from .wire_values import amount, violation

SIGN_MAX = 1000
"""Objects of one question: an answer of so many URLs with session tokens takes about 3 MB."""


def encode_signed_url(signed: SignedUrl) -> pb.SignedUrl:
    """A record as a message."""
    return pb.SignedUrl(object_id=signed.object_id, url=signed.url, valid_s=signed.valid_s)


def decode_signed_url(message: pb.SignedUrl) -> SignedUrl:
    """A message as a record. Raises ProtocolViolation, without the URL in its text."""
    if not message.url.startswith(("https://", "http://")):
        raise violation("SignedUrl.url", "it is no http(s) URL")
    return SignedUrl(message.object_id, message.url, amount(message.valid_s, "SignedUrl.valid_s"))
