"""Who is told to wait: a key that asks too often, an address that wrong keys come from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from app.api.identity import GRANT_TYPE
from app.auth import identity
from app.auth.keys import id_of, new_key
from app.auth.logins import FailedLogins, network_of
from app.auth.store import KeyStore
from app.errors import InvalidKey, LoginsRefused
from app.jobs.connection import connect_gateway

from .gateway import API, gateway

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2

    from app.local.valkey import EmbeddedValkey

pytestmark = pytest.mark.anyio


@pytest.fixture
async def key(redis_url: str) -> AsyncIterator[str]:
    connection = connect_gateway(redis_url)
    store = KeyStore(client=connection, secret=None, bootstrap_key=None)
    yield await store.issue(owner="ana")
    await connection.aclose()


def by_key(key: str) -> dict[str, str]:
    return {"authorization": f"apikey {key}"}


async def exchange(client: httpx2.AsyncClient, key: str) -> httpx2.Response:
    return await client.post("/identity/token", data={"grant_type": GRANT_TYPE, "apikey": key})


# --- requests of a key ----------------------------------------------------------------------------


async def test_a_key_that_asks_too_often_is_told_to_wait(redis_url: str, key: str) -> None:
    async with gateway(redis_url, auth="on", http={"requests_per_minute": 3}) as client:
        answers = [await client.get("/tasks", headers=by_key(key)) for _ in range(4)]
        in_runtime = await client.get(f"{API}/jobs", headers=by_key(key))
        open_to_all = await client.get("/health/live")

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    problem = answers[3].json()
    assert (problem["code"], problem["allowed"]) == ("rate_exceeded", 3)
    assert 1 <= int(answers[3].headers["retry-after"]) == problem["retry_after_s"] <= 80
    assert (in_runtime.status_code, in_runtime.json()["error"]["code"]) == (429, 2302)
    assert "retry-after" in in_runtime.headers
    assert open_to_all.status_code == 200


async def test_a_key_and_its_tokens_are_counted_together_and_other_keys_apart(
    redis_url: str, key: str
) -> None:
    connection = connect_gateway(redis_url)
    other = await KeyStore(client=connection, secret=None, bootstrap_key=None).issue(owner="ana")
    await connection.aclose()
    async with gateway(redis_url, auth="on", http={"requests_per_minute": 2}) as client:
        token = (await exchange(client, key)).json()["access_token"]
        headers = [by_key(key), {"authorization": f"Bearer {token}"}, by_key(key), by_key(other)]
        answers = [(await client.get("/tasks", headers=sent)).status_code for sent in headers]

    assert answers == [200, 200, 429, 200]


async def test_where_nobody_is_asked_for_a_key_nobody_is_counted(redis_url: str) -> None:
    async with gateway(redis_url, http={"requests_per_minute": 1}) as client:
        assert [(await client.get("/tasks")).status_code for _ in range(3)] == [200] * 3


# --- wrong keys of an address ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "credential",
    [f"apikey {new_key()}", "apikey mistyped", "Bearer a.b.c", "Basic YTpi"],
    ids=["unknown key", "mistyped key", "token", "other scheme"],
)
async def test_an_address_of_wrong_credentials_is_told_to_wait(
    redis_url: str, credential: str
) -> None:
    wrong = {"authorization": credential}
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 3}) as client:
        answers = [await client.get("/tasks", headers=wrong) for _ in range(5)]
        in_runtime = await client.get(f"{API}/jobs", headers=wrong)

    assert [answer.status_code for answer in answers] == [401, 401, 401, 429, 429]
    problem = answers[4].json()
    assert (problem["code"], problem["allowed"]) == ("logins_refused", 3)
    assert 1 <= int(answers[4].headers["retry-after"]) == problem["retry_after_s"] <= 60
    assert (in_runtime.status_code, in_runtime.json()["error"]["code"]) == (429, 2303)


async def test_the_log_says_where_wrong_credentials_come_from_and_not_what_they_were(
    redis_url: str, events: list[dict[str, object]]
) -> None:
    wrong = new_key()
    limits: dict[str, Any] = {"auth": "on", "http": {"failed_logins_per_minute": 2}}
    async with gateway(redis_url, address="10.0.0.9", **limits) as client:
        for _ in range(4):
            await client.get("/tasks", headers=by_key(wrong))

    told = [(event["event"], event["address"]) for event in events if "address" in event]
    assert told == [("login_failed", "10.0.0.9")] * 2 + [("logins_refused", "10.0.0.9")]
    assert wrong not in str(events)


async def test_so_is_one_that_asks_for_tokens_with_wrong_keys(redis_url: str, key: str) -> None:
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 2}) as client:
        answers = [(await exchange(client, new_key())).status_code for _ in range(3)]
        with_a_key = await exchange(client, key)

    assert answers == [400, 400, 429]
    assert (with_a_key.status_code, with_a_key.json()["code"]) == (429, "logins_refused")


async def test_a_request_without_any_credential_is_no_failed_login(redis_url: str) -> None:
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 1}) as client:
        assert [(await client.get("/tasks")).status_code for _ in range(3)] == [401] * 3


async def test_who_was_let_in_a_moment_ago_stays_in(redis_url: str, key: str) -> None:
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 1}) as client:
        assert (await client.get("/tasks", headers=by_key(key))).status_code == 200
        for _ in range(3):
            await client.get("/tasks", headers=by_key(new_key()))

        assert (await client.get("/tasks", headers=by_key(key))).status_code == 200


async def test_who_was_let_in_before_stays_in_for_long_and_gets_tokens(
    redis_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "BELIEVED_S", 0.0)
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 1}) as client:
        assert (await client.get("/tasks", headers=by_key(key))).status_code == 200
        for _ in range(3):
            refused = await client.get("/tasks", headers=by_key(new_key()))
        assert refused.status_code == 429

        assert (await client.get("/tasks", headers=by_key(key))).status_code == 200
        token = (await exchange(client, key)).json()["access_token"]
        by_token = {"authorization": f"Bearer {token}"}
        assert (await client.get("/tasks", headers=by_token)).status_code == 200


async def test_a_key_that_was_revoked_is_a_wrong_one_like_others(
    redis_url: str, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "BELIEVED_S", 0.0)
    connection = connect_gateway(redis_url)
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 2}) as client:
        assert (await client.get("/tasks", headers=by_key(key))).status_code == 200
        await KeyStore(client=connection, secret=None, bootstrap_key=None).revoke(id_of(key))

        answers = [(await client.get("/tasks", headers=by_key(key))).status_code for _ in range(4)]

    await connection.aclose()
    assert answers == [401, 401, 429, 429]


async def test_a_key_that_is_not_valid_any_more_is_asked_about_like_others(redis_url: str) -> None:
    connection = connect_gateway(redis_url)
    store = KeyStore(client=connection, secret=None, bootstrap_key=None)
    now = [0.0]
    keyed = identity.KeyedIdentity(
        store=store,
        token_s=600,
        logins=FailedLogins(client=connection, per_minute=9),
        clock=lambda: now[0],
    )
    key = await store.issue(owner="ana")
    await keyed.principal(authorization=f"apikey {key}", instance=None)
    assert list(keyed._proven) == [key]
    await store.revoke(id_of(key))
    now[0] = identity.BELIEVED_S

    with pytest.raises(InvalidKey):
        await keyed.principal(authorization=f"apikey {key}", instance=None)

    await connection.aclose()
    assert list(keyed._proven) == []


async def test_no_more_credentials_are_remembered_than_is_bounded(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "MOST_BELIEVED", 2)
    connection = connect_gateway(redis_url)
    store = KeyStore(client=connection, secret=None, bootstrap_key=None)
    keyed = identity.KeyedIdentity(
        store=store, token_s=600, logins=FailedLogins(client=connection, per_minute=1)
    )
    keys = [await store.issue(owner="ana") for _ in range(4)]
    for each in keys:
        await keyed.principal(authorization=f"apikey {each}", instance=None)
    await connection.aclose()

    assert list(keyed._proven) == keys[2:]


async def test_all_gateways_count_together_and_each_address_apart(redis_url: str, key: str) -> None:
    limits: dict[str, Any] = {"auth": "on", "http": {"failed_logins_per_minute": 2}}
    wrong = by_key(new_key())
    async with (
        gateway(redis_url, **limits) as one,
        gateway(redis_url, **limits) as two,
        gateway(redis_url, address="10.0.0.9", **limits) as elsewhere,
    ):
        answers = [
            (await client.get("/tasks", headers=wrong)).status_code
            for client in (one, two, one, two)
        ]
        assert answers == [401, 401, 429, 429]

        assert (await elsewhere.get("/tasks", headers=wrong)).status_code == 401
        assert (await elsewhere.get("/tasks", headers=by_key(key))).status_code == 200


async def test_zero_counts_nobody(redis_url: str) -> None:
    wrong = by_key(new_key())
    async with gateway(redis_url, auth="on", http={"failed_logins_per_minute": 0}) as client:
        assert [(await client.get("/tasks", headers=wrong)).status_code for _ in range(9)] == [
            401
        ] * 9


async def test_who_waited_may_try_again(redis_url: str) -> None:
    now = [0.0]
    connection = connect_gateway(redis_url)
    logins = FailedLogins(client=connection, per_minute=1, clock=lambda: now[0])
    await logins.count("10.0.0.1")
    with pytest.raises(LoginsRefused):
        await logins.count("10.0.0.1")
    with pytest.raises(LoginsRefused, match="try again in 60 seconds"):
        logins.check("10.0.0.1")
    logins.check("10.0.0.2")

    now[0] = 59.5
    with pytest.raises(LoginsRefused, match="in 1 seconds"):
        logins.check("10.0.0.1")
    now[0] = 60.0
    logins.check("10.0.0.1")
    await connection.aclose()


async def test_a_failure_that_cannot_be_counted_is_a_refusal_all_the_same() -> None:
    connection = connect_gateway("redis://127.0.0.1:1/0")
    logins = FailedLogins(client=connection, per_minute=1)

    for _ in range(3):
        await logins.count("10.0.0.1")

    logins.check("10.0.0.1")
    await connection.aclose()


async def test_failures_leave_nothing_behind(redis_url: str, valkey_server: EmbeddedValkey) -> None:
    connection = connect_gateway(redis_url)
    await FailedLogins(client=connection, per_minute=5).count("2001:db8::1")

    with valkey_server.client() as raw:
        (name,) = raw.keys("*")
        assert name.startswith(b"failed_logins:")
        assert 0 < raw.ttl(name) <= 120
    await connection.aclose()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001-0db8-0001-0002-0000-0000-0000-0000"),
        ("2001:db8:1:2::9", "2001-0db8-0001-0002-0000-0000-0000-0000"),
        ("fe80::1%eth0", "fe80-0000-0000-0000-0000-0000-0000-0000"),
        ("", "unknown"),
        ("/run/qfleet.sock", "unknown"),
    ],
)
async def test_addresses_of_one_subscriber_are_one(address: str, network: str) -> None:
    assert network_of(address) == network
