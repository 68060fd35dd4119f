"""Hashes of passwords, as ``shoal web password`` prints them: ``scrypt$LOG2N$R$P$SALT$KEY``, salt and key in base64."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections.abc import Callable

from .errors import UsageError

LOG2_N, R, P = 15, 8, 3
"""OWASP's password storage cheat sheet for scrypt: N=2^15, r=8, p=3 (32 MiB of memory)."""
SALT_BYTES = 16
KEY_BYTES = 32
LOG2_N_MAX, R_MAX, P_MAX = 18, 16, 16
"""More would let a hash from a configuration take gigabytes."""
PASSWORD_CHARS_MIN, PASSWORD_CHARS_MAX = 8, 1024


def hash_password(password: str, *, random_bytes: Callable[[int], bytes] = secrets.token_bytes) -> str:
    """The hash of a password. Takes about 0.3 s. Raises UsageError for one that is too short to be any good."""
    if not PASSWORD_CHARS_MIN <= len(password) <= PASSWORD_CHARS_MAX:
        raise UsageError("password", cause=f"it must have {PASSWORD_CHARS_MIN} to {PASSWORD_CHARS_MAX} characters")
    salt = random_bytes(SALT_BYTES)
    key = _derive(password, salt, LOG2_N, R, P)
    return "$".join(["scrypt", str(LOG2_N), str(R), str(P), _text(salt), _text(key)])


class PasswordHash:
    """A hash to check passwords against."""

    def __init__(self, text: str) -> None:
        """Raises UsageError, which does not repeat the text."""
        parts = text.strip().split("$")
        try:
            scheme, log2_n, r, p = parts[0], int(parts[1]), int(parts[2]), int(parts[3])
            salt, key = (base64.b64decode(part, validate=True) for part in parts[4:6])
        except (ValueError, IndexError, binascii.Error):
            scheme, log2_n, r, p, salt, key = "", 0, 0, 0, b"", b""
        fits = 1 <= log2_n <= LOG2_N_MAX and 1 <= r <= R_MAX and 1 <= p <= P_MAX and salt and 16 <= len(key) <= 64
        if scheme != "scrypt" or len(parts) != 6 or not fits:
            raise UsageError(
                "web.password_hash", cause="it is not a hash of a password", remedy="shoal web password prints one"
            )
        self._cost = (log2_n, r, p)
        self._salt, self._key = salt, key

    def matches(self, password: str) -> bool:
        """Whether it is the password. Takes as long for a wrong one; releases the interpreter's lock."""
        return hmac.compare_digest(_derive(password, self._salt, *self._cost, size=len(self._key)), self._key)


def _derive(password: str, salt: bytes, log2_n: int, r: int, p: int, *, size: int = KEY_BYTES) -> bytes:
    text = password.encode(errors="surrogatepass")
    memory = 128 * r * (2**log2_n + p + 2) + (1 << 20)  # what OpenSSL counts, and a little
    return hashlib.scrypt(text, salt=salt, n=2**log2_n, r=r, p=p, maxmem=memory, dklen=size)


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()
