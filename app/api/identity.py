"""How does a Qiskit client sign in? IBM Cloud's IAM, search, catalog and resource controller.

As much of them as clients use: keys become tokens, owners' instances are found and described.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse

from app.api.dependencies import Caller, Shared, address_of
from app.api.errors import SHOWN_NAME_CHARS, problem_responses
from app.auth.instances import Instance
from app.errors import (
    BodyTooLarge,
    InstanceNotFound,
    InvalidKey,
    InvalidRequest,
    NotFound,
    UnsupportedMediaType,
)

router = APIRouter(tags=["identity"])

FORM = "application/x-www-form-urlencoded"
FORM_BYTES = 4096
FORM_FIELDS = 16
GRANT_TYPE = "urn:ibm:params:oauth:grant-type:apikey"

#: IBM's words for a key that is not known; its SDK shows them to people.
KEY_NOT_FOUND = {
    "errorCode": "BXNIM0415E",
    "errorMessage": "Provided API key could not be found.",
}

REFUSED = problem_responses(HTTPStatus.UNAUTHORIZED, HTTPStatus.NOT_FOUND)

REQUEST_BODY = {
    "required": True,
    "content": {
        FORM: {
            "schema": {
                "type": "object",
                "required": ["grant_type", "apikey"],
                "properties": {
                    "grant_type": {"type": "string", "const": GRANT_TYPE},
                    "apikey": {"type": "string"},
                },
            }
        }
    },
}


@router.post(
    "/identity/token",
    openapi_extra={"requestBody": REQUEST_BODY},
    responses=problem_responses(
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
        HTTPStatus.TOO_MANY_REQUESTS,
        HTTPStatus.SERVICE_UNAVAILABLE,
    ),
)
async def token(request: Request, services: Shared) -> JSONResponse:
    """A token for an API key."""
    form = await read_form(request)
    if form.get("grant_type") != GRANT_TYPE:
        message = f"grant_type must be {GRANT_TYPE}, the one that is offered"
        raise InvalidRequest(message)
    if not form.get("apikey"):
        message = "apikey is missing; send the API key"
        raise InvalidRequest(message)
    try:
        made = await services.identity.token(form["apikey"], address=address_of(request))
    except InvalidKey:
        return JSONResponse(KEY_NOT_FOUND, status_code=HTTPStatus.BAD_REQUEST)
    return JSONResponse(
        {
            "access_token": made.text,
            "refresh_token": "not_supported",
            "token_type": "Bearer",
            "expires_in": made.life_s,
            "expiration": made.expires,
            "scope": "ibm openid",
        }
    )


@router.post("/v3/resources/search", responses=REFUSED)
async def search(services: Shared, caller: Caller) -> dict[str, Any]:
    """All instances of the caller, whatever the query says. No cursor: there is no second page."""
    found = await services.identity.instances(caller)
    items = [
        {
            "crn": instance.crn,
            "name": instance.name,
            "service_plan_unique_id": instance.plan,
            "tags": [],
            # Clients pass over an instance that has no extensions.
            "doc": {"extensions": [{"plan": instance.plan}]},
        }
        for instance in found
    ]
    return {"items": items, "limit": len(items)}


@router.get("/catalog/{plan}", responses=REFUSED)
async def catalog(plan: str, services: Shared, caller: Caller) -> dict[str, Any]:
    """A plan of one of the caller's instances. Nothing here costs money."""
    plans = {instance.plan for instance in await services.identity.instances(caller)}
    if plan not in plans:
        message = f"none of your instances has a plan {plan[:SHOWN_NAME_CHARS]!r}"
        raise NotFound(message)
    return {
        "id": plan,
        "name": plan,
        "overview_ui": {"en": {"display_name": plan}},
        "metadata": {"pricing": {"type": "free"}},
    }


@router.get("/v2/resource_instances", responses=REFUSED)
async def resource_instances(
    services: Shared, caller: Caller, name: Annotated[str | None, Query(max_length=64)] = None
) -> dict[str, Any]:
    """The caller's instances, or the one of that name."""
    resources = [
        _resource(instance)
        for instance in await services.identity.instances(caller)
        if name in {None, instance.name}
    ]
    return {"rows_count": len(resources), "next_url": None, "resources": resources}


@router.get("/v2/resource_instances/{crn:path}", responses=REFUSED)
async def resource_instance(crn: str, services: Shared, caller: Caller) -> dict[str, Any]:
    """One of the caller's instances."""
    for instance in await services.identity.instances(caller):
        if instance.crn == crn:
            return _resource(instance)
    message = f"you have no instance {crn[:128]!r}"
    raise InstanceNotFound(message)


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, each there once.

    Raises:
        UnsupportedMediaType: the body is not declared as a form.
        BodyTooLarge: it has more bytes than a key and its company need.
        InvalidRequest: it is no form, or names a field twice.
    """
    media_type = request.headers.get("content-type", "")
    if media_type.partition(";")[0].strip().lower() != FORM:
        message = f"send a form: `Content-Type: {FORM}`"
        raise UnsupportedMediaType(message)
    body = await request.body()
    if len(body) > FORM_BYTES:
        message = f"the form has {len(body)} bytes, at most {FORM_BYTES} are allowed"
        raise BodyTooLarge(message, sent=len(body), allowed=FORM_BYTES)
    try:
        pairs = parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=FORM_FIELDS,
        )
    except ValueError as exc:
        message = "the body is no form: NAME=VALUE, joined with &, percent-encoded UTF-8"
        raise InvalidRequest(message) from exc
    form = dict(pairs)
    if len(form) < len(pairs):
        message = "a field of the form is there twice; send each once"
        raise InvalidRequest(message)
    return form


def _resource(instance: Instance) -> dict[str, Any]:
    return {
        "id": instance.crn,
        "crn": instance.crn,
        "guid": instance.name,
        "name": instance.name,
        "account_id": instance.owner,
        "region_id": "local",
        "resource_plan_id": instance.plan,
        "state": "active",
        "type": "service_instance",
    }
