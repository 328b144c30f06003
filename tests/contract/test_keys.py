"""What the key store promises, on a real Valkey."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from app.auth.instances import Instance
from app.auth.keys import id_of, new_key
from app.auth.store import ADMIN, KeyStore
from app.errors import InvalidKey, InvalidRequest, NotFound, Unavailable
from app.jobs.connection import connect_gateway
from app.lua.keys import SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis

pytestmark = pytest.mark.anyio

BOOTSTRAP = "set-by-the-operator"


@pytest.fixture
async def make_store(redis_url: str) -> AsyncIterator[Callable[..., KeyStore]]:
    """Stores on the same database, as gateways and commands have them."""
    clients = []

    def make(*, secret: str | None = None, bootstrap_key: str | None = None) -> KeyStore:
        clients.append(connect_gateway(redis_url))
        return KeyStore(client=clients[-1], secret=secret, bootstrap_key=bootstrap_key)

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def keys(make_store: Callable[..., KeyStore]) -> KeyStore:
    return make_store()


def everything(raw: redis.Redis) -> dict[str, bytes | None]:
    """The whole database, to show that a refusal changed nothing."""
    return {name: raw.dump(name) for name in raw.scan_iter()}


# --- issue ----------------------------------------------------------------------------------------


async def test_a_key_that_was_issued_is_found(
    keys: KeyStore, make_store: Callable[..., KeyStore]
) -> None:
    key = await keys.issue(owner="ana", name="laptop")

    found = await make_store().find(key)
    assert found == await keys.read(id_of(key))
    assert (found.id, found.owner, found.name) == (id_of(key), "ana", "laptop")
    assert found.created is not None
    assert abs(datetime.now(tz=UTC) - found.created) < timedelta(minutes=1)
    assert found.revoked is None


async def test_the_text_of_a_key_is_nowhere(keys: KeyStore, raw: redis.Redis) -> None:
    key = await keys.issue(owner="ana")

    kept = [raw.get("secret"), raw.hgetall(f"apikey:{id_of(key)}"), raw.zrange("apikeys", 0, -1)]
    assert key[11:41] not in str(kept)
    assert len(everything(raw)) == 4, "nor is there anything else to look into"


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"owner": "Ana"}, "owner"),
        ({"owner": "a:b"}, "owner"),
        ({"instance": ""}, "instance"),
        ({"plan": "Large"}, "plan"),
        ({"plan": ""}, "plan"),
        ({"name": "x" * 129}, "name"),
        ({"name": "two\nlines"}, "name"),
    ],
)
async def test_a_key_with_a_wrong_name_is_refused(
    keys: KeyStore, raw: redis.Redis, given: dict[str, str], named: str
) -> None:
    with pytest.raises(InvalidRequest, match=named):
        await keys.issue(**({"owner": "ana"} | given))

    assert everything(raw) == {}


async def test_keys_are_listed_oldest_first_with_the_revoked_ones(keys: KeyStore) -> None:
    issued = [id_of(await keys.issue(owner=owner)) for owner in ("ana", "bob", "ana")]
    await keys.revoke(issued[1])

    listed = await keys.list()

    created = [key.created for key in listed]
    assert sorted(key.id for key in listed) == sorted(issued)
    assert created == sorted(created)
    assert [key.id for key in listed if key.revoked] == [issued[1]]


async def test_without_a_key_the_list_is_empty(keys: KeyStore) -> None:
    assert await keys.list() == ()


# --- find -----------------------------------------------------------------------------------------


async def test_an_unknown_key_is_refused(keys: KeyStore, raw: redis.Redis) -> None:
    await keys.issue(owner="ana")
    before = everything(raw)

    with pytest.raises(InvalidKey, match="unknown or has been revoked"):
        await keys.find(new_key())

    assert everything(raw) == before


async def test_a_key_with_the_id_of_another_is_refused(keys: KeyStore, raw: redis.Redis) -> None:
    key = new_key()
    raw.hset(
        f"apikey:{id_of(key)}",
        mapping=raw.hgetall(f"apikey:{id_of(await keys.issue(owner='ana'))}"),
    )

    with pytest.raises(InvalidKey):
        await keys.find(key)


async def test_a_mistyped_key_is_refused_without_asking_redis() -> None:
    client = connect_gateway("redis://127.0.0.1:1/0")
    keys = KeyStore(client=client, secret=None, bootstrap_key=None)

    with pytest.raises(InvalidKey, match="character"):
        await keys.find(new_key()[:-1])
    with pytest.raises(Unavailable):
        await keys.find(new_key())
    await client.aclose()


async def test_a_key_is_nothing_under_another_secret(make_store: Callable[..., KeyStore]) -> None:
    first, second = "the first secret of at least 32 bytes", "the second secret, of 32 bytes too"
    key = await make_store(secret=first).issue(owner="ana")

    with pytest.raises(InvalidKey):
        await make_store(secret=second).find(key)
    assert (await make_store(secret=first).find(key)).owner == "ana"


# --- revoke ---------------------------------------------------------------------------------------


async def test_a_revoked_key_is_refused_and_its_record_stays(keys: KeyStore) -> None:
    key, other = await keys.issue(owner="ana"), await keys.issue(owner="ana")

    await keys.revoke(id_of(key))

    with pytest.raises(InvalidKey):
        await keys.find(key)
    assert (await keys.read(id_of(key))).revoked is not None
    assert (await keys.find(other)).owner == "ana"


async def test_revoking_twice_changes_nothing(keys: KeyStore, raw: redis.Redis) -> None:
    key_id = id_of(await keys.issue(owner="ana"))
    await keys.revoke(key_id)
    raw.hset(f"apikey:{key_id}", "revoked", 1)
    before = everything(raw)

    await keys.revoke(key_id)

    assert everything(raw) == before


async def test_a_key_that_is_not_there_cannot_be_revoked(keys: KeyStore, raw: redis.Redis) -> None:
    await keys.issue(owner="ana")
    before = everything(raw)

    with pytest.raises(NotFound, match="no API key has the id 'nobody'"):
        await keys.revoke("nobody")
    with pytest.raises(NotFound):
        await keys.read("nobody")

    assert everything(raw) == before


async def test_a_full_redis_takes_no_key_but_revokes_and_finds_those_it_has(
    keys: KeyStore, raw: redis.Redis
) -> None:
    key, other = await keys.issue(owner="ana"), await keys.issue(owner="ana")
    raw.config_set("maxmemory", 1)
    try:
        with pytest.raises(Unavailable):
            await keys.issue(owner="bob")
        await keys.revoke(id_of(key))
        assert (await keys.find(other)).owner == "ana"
        with pytest.raises(InvalidKey):
            await keys.find(key)
    finally:
        raw.config_set("maxmemory", 0)
    assert {listed.owner for listed in await keys.list()} == {"ana"}


# --- the first key --------------------------------------------------------------------------------


async def test_the_first_key_is_made_once(keys: KeyStore) -> None:
    key = await keys.issue_first(owner=ADMIN)

    assert key is not None
    assert (await keys.find(key)).owner == ADMIN
    assert await keys.issue_first(owner=ADMIN) is None
    assert len(await keys.list()) == 1


async def test_of_many_that_start_together_one_makes_the_first_key(
    make_store: Callable[..., KeyStore],
) -> None:
    stores = [make_store() for _ in range(8)]

    made = await asyncio.gather(*(store.issue_first(owner=ADMIN) for store in stores))

    (key,) = [text for text in made if text is not None]
    assert (await stores[0].find(key)).owner == ADMIN


async def test_there_is_no_first_key_after_another_even_if_that_was_revoked(
    keys: KeyStore, raw: redis.Redis
) -> None:
    await keys.revoke(id_of(await keys.issue(owner="ana")))
    before = everything(raw)

    assert await keys.issue_first(owner=ADMIN) is None

    assert everything(raw) == before


async def test_an_issue_that_is_repeated_because_its_answer_was_lost_is_one(
    keys: KeyStore, raw: redis.Redis
) -> None:
    arguments = ["id", "ana", "", "digest", "default", "", "open", 1]

    answers = [await keys._issue(args=arguments) for _ in range(2)]

    assert answers == [1, 1]
    assert raw.zcard("apikeys") == 1


# --- the key in the settings ----------------------------------------------------------------------


async def test_the_key_in_the_settings_is_the_admins_and_not_stored(
    make_store: Callable[..., KeyStore], raw: redis.Redis
) -> None:
    keys = make_store(bootstrap_key=BOOTSTRAP)

    found = await keys.find(BOOTSTRAP)

    assert found.owner == ADMIN
    assert await keys.read(found.id) == found
    assert set(everything(raw)) == {"secret"}


async def test_a_key_that_is_no_longer_in_the_settings_is_nothing(
    make_store: Callable[..., KeyStore],
) -> None:
    found = await make_store(bootstrap_key=BOOTSTRAP).find(BOOTSTRAP)
    later = make_store(bootstrap_key="another-of-the-operator")

    with pytest.raises(InvalidKey):
        await later.find(BOOTSTRAP)
    with pytest.raises(NotFound):
        await later.read(found.id)


# --- instances ------------------------------------------------------------------------------------


async def test_every_owner_has_a_default_instance(keys: KeyStore) -> None:
    assert await keys.instances("ana") == (Instance(owner="ana", name="default", plan="open"),)


async def test_an_instance_is_made_with_the_key(keys: KeyStore) -> None:
    await keys.issue(owner="ana", instance="lab", plan="internal")

    assert await keys.instances("ana") == (
        Instance(owner="ana", name="default", plan="open"),
        Instance(owner="ana", name="lab", plan="internal"),
    )
    assert len(await keys.instances("bob")) == 1


async def test_an_instance_keeps_its_plan_until_another_is_named(keys: KeyStore) -> None:
    plans = []
    for plan in ("internal", None, "open"):
        await keys.issue(owner="ana", plan=plan)
        plans += [instance.plan for instance in await keys.instances("ana")]

    assert plans == ["internal", "internal", "open"]


# --- the secret, the schema -----------------------------------------------------------------------


async def test_the_secret_is_made_once(make_store: Callable[..., KeyStore]) -> None:
    stores = [make_store() for _ in range(8)]

    secrets = set(await asyncio.gather(*(store.secret() for store in stores)))

    assert len(secrets) == 1
    assert len(secrets.pop()) >= 32


async def test_a_secret_in_the_settings_is_not_stored(
    make_store: Callable[..., KeyStore], raw: redis.Redis
) -> None:
    assert await make_store(secret="from the settings").secret() == "from the settings"
    assert everything(raw) == {}


async def test_a_redis_that_was_emptied_takes_new_keys(keys: KeyStore, raw: redis.Redis) -> None:
    await keys.issue(owner="ana")
    raw.flushall()

    key = await keys.issue(owner="bob")

    assert (await keys.find(key)).owner == "bob"


async def test_every_key_that_is_written_is_in_the_schema(keys: KeyStore, raw: redis.Redis) -> None:
    await keys.revoke(id_of(await keys.issue(owner="ana", instance="lab")))

    patterns = {re.sub(r"\\{\w+\\}", r"[^:]+", re.escape(key.pattern)): key.type for key in SCHEMA}
    for name in raw.scan_iter():
        kinds = {
            kind
            for pattern, kind in patterns.items()
            if pattern != r"[^:]+" and re.fullmatch(pattern, name)
        }
        assert kinds == {raw.type(name)}, name
