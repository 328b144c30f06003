"""Who callers are, open and with keys; keys lie on a real Valkey."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jwt
import pytest

from app.auth.identity import BELIEVED_S, KeyedIdentity, OpenIdentity
from app.auth.instances import Instance
from app.auth.keys import id_of, new_key
from app.auth.principal import LOCAL, Principal
from app.auth.store import ADMIN, KeyStore
from app.errors import (
    InstanceNotFound,
    InvalidKey,
    InvalidToken,
    NotAuthorized,
    ServiceError,
    Unavailable,
)
from app.jobs.connection import connect_gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from app.auth.identity import Identity

pytestmark = pytest.mark.anyio

BOOTSTRAP = "set-by-the-operator"


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def keys(redis_url: str) -> AsyncIterator[KeyStore]:
    client = connect_gateway(redis_url)
    yield KeyStore(client=client, secret=None, bootstrap_key=BOOTSTRAP)
    await client.aclose()


@pytest.fixture
def keyed(keys: KeyStore, clock: Clock) -> KeyedIdentity:
    return KeyedIdentity(store=keys, token_s=600, clock=clock)


async def caller(
    identity: Identity, authorization: str | None, instance: str | None = None
) -> Principal:
    return await identity.principal(authorization=authorization, instance=instance)


# --- both -----------------------------------------------------------------------------------------


@pytest.fixture(params=["open", "keyed"])
def identity(request: pytest.FixtureRequest, keyed: KeyedIdentity) -> Identity:
    return OpenIdentity(token_s=600) if request.param == "open" else keyed


async def test_a_key_becomes_a_token_which_is_its_bearer(identity: Identity) -> None:
    token = await identity.token(BOOTSTRAP)

    by_token = await caller(identity, f"Bearer {token.text}")
    assert by_token == await caller(identity, f"apikey {BOOTSTRAP}")
    claims = jwt.decode(token.text, options={"verify_signature": False})
    assert claims["exp"] - claims["iat"] == token.life_s == 600


async def test_a_caller_uses_one_of_their_instances(identity: Identity) -> None:
    principal = await caller(identity, f"apikey {BOOTSTRAP}")

    used = await identity.instance(principal)

    assert (used.owner, used.name, used.plan) == (principal.owner, "default", "open")
    assert used in await identity.instances(principal)
    assert await caller(identity, f"apikey {BOOTSTRAP}", used.crn) == principal


# --- open -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "", "Bearer x.y.z", "apikey anything", "Basic e"])
@pytest.mark.parametrize("instance", [None, "lab", "crn:v1:bluemix:public:x:us-east:a/b:c::"])
async def test_where_nobody_is_asked_everybody_is_the_same(
    authorization: str | None, instance: str | None
) -> None:
    assert await caller(OpenIdentity(token_s=600), authorization, instance) == LOCAL


async def test_where_nobody_is_asked_every_key_has_a_token() -> None:
    assert (await OpenIdentity(token_s=600).token("whatever")).text.count(".") == 2


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["apikey {}", "Bearer {}", "bearer  {}", "APIKEY {} "])
async def test_a_key_is_understood_in_each_form(
    keyed: KeyedIdentity, keys: KeyStore, form: str
) -> None:
    key = await keys.issue(owner="ana")

    assert await caller(keyed, form.format(key)) == Principal(owner="ana")
    assert await caller(keyed, form.format(BOOTSTRAP)) == Principal(owner=ADMIN)


@pytest.mark.parametrize(
    ("authorization", "refusal"),
    [
        (None, NotAuthorized),
        ("", NotAuthorized),
        ("Bearer", NotAuthorized),
        ("Bearer ", NotAuthorized),
        ("Basic YWxhZGRpbjpvcGVu", NotAuthorized),
        (BOOTSTRAP, NotAuthorized),
        (f"Bearer {'x' * 513}", NotAuthorized),
        (f"apikey {BOOTSTRAP[:-1]}", InvalidKey),
        (f"apikey {BOOTSTRAP}x", InvalidKey),
        pytest.param(f"apikey {new_key()}", InvalidKey, id="a key that nobody has"),
        pytest.param(f"Bearer {new_key()}", InvalidKey, id="and as a bearer"),
        ("Bearer a.b.c", InvalidToken),
        # A header of 380 nested lists, which would exhaust the stack if it were longer.
        (f"Bearer {'W1tb' * 126}.e30.x", InvalidToken),
    ],
)
async def test_without_a_valid_credential_nobody_is_known(
    keyed: KeyedIdentity, keys: KeyStore, authorization: str | None, refusal: type[ServiceError]
) -> None:
    await keys.issue(owner="ana")

    with pytest.raises(NotAuthorized) as refused:
        await caller(keyed, authorization)

    assert type(refused.value) is refusal


async def test_there_is_no_token_for_an_unknown_key(keyed: KeyedIdentity) -> None:
    for key in ("", new_key(), f"{BOOTSTRAP} "):
        with pytest.raises(InvalidKey):
            await keyed.token(key)


async def test_a_token_of_another_service_is_refused(keyed: KeyedIdentity) -> None:
    foreign = await OpenIdentity(token_s=600).token(BOOTSTRAP)

    with pytest.raises(InvalidToken, match="none of ours"):
        await caller(keyed, f"Bearer {foreign.text}")


async def test_a_token_of_the_operators_former_key_is_refused(
    keyed: KeyedIdentity, redis_url: str, clock: Clock
) -> None:
    token = await keyed.token(BOOTSTRAP)
    client = connect_gateway(redis_url)
    later = KeyedIdentity(
        store=KeyStore(client=client, secret=None, bootstrap_key="another-of-the-operator"),
        token_s=600,
        clock=clock,
    )

    with pytest.raises(InvalidToken, match="gone"):
        await caller(later, f"Bearer {token.text}")
    await client.aclose()


# --- revocation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["apikey {key}", "Bearer {token}"])
async def test_a_revoked_key_and_its_tokens_are_refused_after_two_seconds_at_most(
    keyed: KeyedIdentity, keys: KeyStore, clock: Clock, form: str
) -> None:
    key = await keys.issue(owner="ana")
    authorization = form.format(key=key, token=(await keyed.token(key)).text)
    assert await caller(keyed, authorization) == Principal(owner="ana")

    await keys.revoke(id_of(key))

    clock.now = BELIEVED_S
    for _ in range(2):
        with pytest.raises(NotAuthorized, match="revoked"):
            await caller(keyed, authorization)
    assert BELIEVED_S <= 2


async def test_there_is_no_token_for_a_revoked_key(keyed: KeyedIdentity, keys: KeyStore) -> None:
    key = await keys.issue(owner="ana")
    await keyed.token(key)

    await keys.revoke(id_of(key))

    with pytest.raises(InvalidKey):
        await keyed.token(key)


async def test_a_known_caller_costs_redis_nothing_for_a_moment(
    keyed: KeyedIdentity, keys: KeyStore, clock: Clock, raw: redis.Redis
) -> None:
    key = await keys.issue(owner="ana", instance="lab")
    authorization = f"Bearer {(await keyed.token(key)).text}"
    await caller(keyed, authorization, "lab")
    before = raw.info("stats")["total_commands_processed"]

    for _ in range(100):
        assert (await caller(keyed, authorization, "lab")).instance == "lab"

    assert raw.info("stats")["total_commands_processed"] == before + 1, "the question itself"


async def test_without_redis_nobody_is_refused_for_good() -> None:
    client = connect_gateway("redis://127.0.0.1:1/0")
    identity = KeyedIdentity(
        store=KeyStore(client=client, secret=None, bootstrap_key=None), token_s=600
    )

    for authorization in (f"apikey {new_key()}", "Bearer a.b.c"):
        with pytest.raises(Unavailable):
            await caller(identity, authorization)
    await client.aclose()


# --- instances ------------------------------------------------------------------------------------


async def test_an_instance_is_named_by_name_or_crn(keyed: KeyedIdentity, keys: KeyStore) -> None:
    key = f"apikey {await keys.issue(owner='ana', instance='lab', plan='internal')}"
    lab = Instance(owner="ana", name="lab", plan="internal")

    callers = [await caller(keyed, key, named) for named in ("lab", lab.crn)]

    assert callers == [Principal(owner="ana", instance="lab")] * 2
    assert await keyed.instance(callers[0]) == lab
    assert await caller(keyed, key, "default") == await caller(keyed, key) == Principal(owner="ana")


@pytest.mark.parametrize(
    "named",
    [
        "lab",
        "Default",
        Instance(owner="bob").crn,
        Instance(owner="bob", name="lab").crn,
        Instance(owner="ana", name="lab").crn,
        "crn:v1:bluemix:public:quantum-computing:us-east:a/ana:default::",
    ],
)
async def test_an_instance_that_is_not_ones_own_is_not_there(
    keyed: KeyedIdentity, keys: KeyStore, named: str
) -> None:
    await keys.issue(owner="bob", instance="lab")
    key = await keys.issue(owner="ana")

    with pytest.raises(InstanceNotFound):
        await caller(keyed, f"apikey {key}", named)


async def test_who_is_not_known_is_not_told_which_instances_there_are(
    keyed: KeyedIdentity, keys: KeyStore
) -> None:
    await keys.issue(owner="bob", instance="lab")

    for named in (Instance(owner="bob", name="lab").crn, "nothing"):
        with pytest.raises(InvalidKey):
            await caller(keyed, f"apikey {new_key()}", named)
