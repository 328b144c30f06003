"""What is an API key? Its text, and the record that is kept instead of it."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import InvalidKey

if TYPE_CHECKING:
    from datetime import datetime

PREFIX = "qf_"
ID_CHARS = 8
#: 178 bits: nobody guesses one, so a fast digest is enough.
RANDOM_CHARS = 30
CHECKSUM_CHARS = 6

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY = re.compile(
    rf"{PREFIX}([0-9A-Za-z]{{{ID_CHARS}}})[0-9A-Za-z]{{{RANDOM_CHARS}}}([0-9A-Za-z]+)"
)


@dataclass(frozen=True, kw_only=True)
class ApiKey:
    """What is known of a key; its text is not."""

    #: the part of its text that may be shown.
    id: str
    #: whose jobs its bearers see.
    owner: str
    #: what it is for, in its owner's words.
    name: str = ""
    #: None: it is the operator's, from the settings.
    created: datetime | None = None
    #: since when it is refused; None: it is not.
    revoked: datetime | None = None


def new_key() -> str:
    """A key that never was: ``qf_``, its id, a random part, a checksum of all that."""
    body = PREFIX + "".join(secrets.choice(_BASE62) for _ in range(ID_CHARS + RANDOM_CHARS))
    return body + _checksum(body)


def id_of(key: str) -> str:
    """The id of a key, which may be unknown.

    Raises:
        InvalidKey: no key is like that, so somebody mistyped one.
    """
    found = _KEY.fullmatch(key)
    if found is None or not hmac.compare_digest(_checksum(key[: found.start(2)]), found[2]):
        message = "this is no API key of ours: a character is wrong, missing or too much"
        raise InvalidKey(message)
    return found[1]


def digest_of(key: str, secret: str) -> str:
    """What is kept of a key: HMAC-SHA256, hexadecimal."""
    return hmac.new(secret.encode(), key.encode(), hashlib.sha256).hexdigest()


def _checksum(body: str) -> str:
    """CRC-32 in base 62, most significant digit first, as GitHub's tokens have it."""
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        rest, digit = divmod(rest, len(_BASE62))
        digits = _BASE62[digit] + digits
    return digits
