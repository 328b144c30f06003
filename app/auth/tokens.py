"""What is a token? A JWT that stands for an API key for a while, as Qiskit clients want it."""

from __future__ import annotations

import time
from dataclasses import dataclass

import jwt

from app.errors import InvalidToken

ISSUER = "qfleet"
#: Clocks of two gateways may differ by this.
LEEWAY_S = 10

_ALGORITHM = "HS256"


@dataclass(frozen=True, kw_only=True)
class Token:
    """A token that was just made."""

    text: str
    #: seconds that it is good for.
    life_s: int
    #: when it ends, seconds since 1970.
    expires: int


def sign_token(*, key_id: str, secret: str, life_s: float) -> Token:
    """A token of the key."""
    issued, whole_s = int(time.time()), int(life_s)
    claims = {"iss": ISSUER, "sub": key_id, "iat": issued, "exp": issued + whole_s}
    text = jwt.encode(claims, secret, algorithm=_ALGORITHM)
    return Token(text=text, life_s=whole_s, expires=issued + whole_s)


def key_id_of(token: str, secret: str) -> str:
    """The id of the key that a token stands for.

    Raises:
        InvalidToken: it is not ours, or has expired.
    """
    try:
        claims = jwt.decode(
            token,
            secret,
            algorithms=[_ALGORITHM],
            issuer=ISSUER,
            leeway=LEEWAY_S,
            options={"require": ["exp", "iat", "iss", "sub"]},
        )
    except jwt.ExpiredSignatureError as exc:
        message = "the token has expired; get a new one from POST /identity/token"
        raise InvalidToken(message) from exc
    except jwt.InvalidTokenError as exc:
        message = "the token is none of ours; get one from POST /identity/token"
        raise InvalidToken(message) from exc
    return str(claims["sub"])
