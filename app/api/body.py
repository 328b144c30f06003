"""What does a JSON body say? Strict: one meaning or none, and never a crash of the parser."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, NoReturn

from app.api.errors import SHOWN_NAME_CHARS
from app.errors import InvalidRequest, MalformedJson, UnsupportedMediaType

if TYPE_CHECKING:
    from starlette.requests import Request

#: Larger bodies are parsed in a thread: the event loop has others to serve.
THREAD_BYTES = 1024 * 1024
#: Longest integer; none that means something here is longer.
INTEGER_CHARS = 32
IDEMPOTENCY_KEY_CHARS = 256


#: Where the API's description keeps its schemas.
SCHEMAS = "#/components/schemas/"


def body_of(schema: str) -> dict[str, Any]:
    """What a route's description says of a body that it decodes itself."""
    content = {"application/json": {"schema": {"$ref": f"{SCHEMAS}{schema}"}}}
    return {"requestBody": {"required": True, "content": content}}


async def read_json(request: Request) -> object:
    """The body's value.

    Raises:
        UnsupportedMediaType: it is not declared as JSON.
        MalformedJson: it is not JSON.
    """
    require_json(request)
    body = await request.body()
    if len(body) > THREAD_BYTES:
        return await asyncio.to_thread(parse, body)
    return parse(body)


def require_json(request: Request) -> None:
    """Refuse a body that is not declared as JSON.

    Raises:
        UnsupportedMediaType: it is not.
    """
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != "application/json":
        sent = repr(media_type[:SHOWN_NAME_CHARS]) if media_type else "no Content-Type"
        message = f"the request came with {sent}; send JSON with `Content-Type: application/json`"
        raise UnsupportedMediaType(message)


def idempotency_key_of(given: str | None) -> str | None:
    """The Idempotency-Key that came.

    Raises:
        InvalidRequest: it is no key.
    """
    if given is None:
        return None
    if not (given.isascii() and given.isprintable() and 0 < len(given) <= IDEMPOTENCY_KEY_CHARS):
        message = f"an Idempotency-Key is 1 to {IDEMPOTENCY_KEY_CHARS} printable ASCII characters"
        raise InvalidRequest(message, sent=len(given), allowed=IDEMPOTENCY_KEY_CHARS)
    return given


def parse(body: bytes) -> object:
    """The value of strict JSON: UTF-8, no name twice, no NaN, nothing nested without end.

    Raises:
        MalformedJson: it is not that; the message says where.
    """
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        message = f"invalid json: byte {exc.start + 1} is not UTF-8"
        raise MalformedJson(message, byte=exc.start + 1) from exc
    if text.startswith("\ufeff"):
        message = "invalid json: a byte order mark at line 1 column 1; save the text without one"
        raise MalformedJson(message, line=1, column=1)
    try:
        return json.loads(
            text,
            object_pairs_hook=_members,
            parse_int=_integer,
            parse_constant=_constant,
        )
    except json.JSONDecodeError as exc:
        message = f"invalid json: {exc.msg}, line {exc.lineno} column {exc.colno}"
        raise MalformedJson(message, line=exc.lineno, column=exc.colno) from exc
    except RecursionError as exc:
        message = "invalid json: values are nested too deeply"
        raise MalformedJson(message) from exc


def _members(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members: dict[str, object] = {}
    for name, value in pairs:
        if name in members:
            message = f"invalid json: the name {name[:SHOWN_NAME_CHARS]!r} is given twice"
            raise MalformedJson(message)
        members[name] = value
    return members


def _integer(digits: str) -> int:
    if len(digits) > INTEGER_CHARS:
        message = (
            f"invalid json: an integer has {len(digits)} digits,"
            f" at most {INTEGER_CHARS} are read: {digits[:INTEGER_CHARS]}…"
        )
        raise MalformedJson(message)
    return int(digits)


def _constant(name: str) -> NoReturn:
    message = f"invalid json: {name} is no JSON value"
    raise MalformedJson(message)
