"""What keys, tokens and CRNs are like, and what is none."""

from __future__ import annotations

import json
import string
from base64 import urlsafe_b64decode

import jwt
import pytest

from app.auth.instances import Instance, owner_and_name, require_name, require_plan
from app.auth.keys import digest_of, id_of, new_key
from app.auth.recent import Recent
from app.auth.tokens import LEEWAY_S, key_id_of, sign_token
from app.errors import InvalidKey, InvalidRequest, InvalidToken

SECRET = "a secret of at least thirty-two bytes"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- keys -----------------------------------------------------------------------------------------


def test_a_new_key_has_the_prefix_and_an_id_and_is_never_the_same() -> None:
    keys = {new_key() for _ in range(1000)}

    assert len(keys) == len({id_of(key) for key in keys}) == 1000
    assert {len(key) for key in keys} == {47}
    assert all(key == f"qf_{id_of(key)}{key[11:]}" for key in keys)
    assert set("".join(key[3:] for key in keys)) == set(string.ascii_letters + string.digits)


def test_every_single_mistyped_character_is_noticed() -> None:
    key = new_key()

    for place in range(len(key)):
        for other in "0aZ_":
            wrong = key[:place] + other + key[place + 1 :]
            if wrong != key:
                with pytest.raises(InvalidKey):
                    id_of(wrong)


def test_two_neighbours_that_are_swapped_are_noticed() -> None:
    key = new_key()

    for place in range(len(key) - 1):
        wrong = key[:place] + key[place + 1] + key[place] + key[place + 2 :]
        if wrong != key:
            with pytest.raises(InvalidKey):
                id_of(wrong)


@pytest.mark.parametrize(
    "text", ["", "qf_", "QF_", "ö", "qf_" + "0" * 44, "qf_" + "0" * 100_000, "\x00"]
)
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InvalidKey):
        id_of(text)


@pytest.mark.parametrize("wrong", ["{}0", " {}", "{}\n", "{}", "x{}"])
def test_a_key_with_something_added_or_missing_is_refused(wrong: str) -> None:
    key = new_key()

    with pytest.raises(InvalidKey):
        id_of(wrong.format(key if wrong != "{}" else key[:-1]))


def test_the_checksum_is_crc32_in_base_62() -> None:
    # crc32(b"qf_0…1…") = 1688993618 = 1·62⁵ + 52·62⁴ + 18·62³ + 52·62² + 24·62 + 34. Computed
    # otherwise, keys that people have would be refused.
    assert id_of("qf_" + "0" * 8 + "1" * 30 + "1qIqOY") == "0" * 8


def test_the_digest_depends_on_key_and_secret() -> None:
    key = new_key()

    digests = {digest_of(key, SECRET), digest_of(new_key(), SECRET), digest_of(key, SECRET[1:])}

    assert len(digests) == 3
    assert digest_of(key, SECRET) in digests
    assert key not in digest_of(key, SECRET)


# --- tokens ---------------------------------------------------------------------------------------


def test_a_token_is_a_jwt_with_what_clients_read() -> None:
    token = sign_token(key_id="k1", secret=SECRET, life_s=3600.0)

    head, payload, _ = (urlsafe_b64decode(part + "==") for part in token.text.split("."))
    claims = json.loads(payload)
    assert json.loads(head) == {"alg": "HS256", "typ": "JWT"}
    assert (claims["iss"], claims["sub"]) == ("qfleet", "k1")
    assert isinstance(claims["iat"], int)
    assert claims["exp"] - claims["iat"] == token.life_s == 3600
    assert claims["exp"] == token.expires
    assert key_id_of(token.text, SECRET) == "k1"


def claims_of(**changes: object) -> dict[str, object]:
    now = sign_token(key_id="k", secret=SECRET, life_s=0).expires
    claims = {"iss": "qfleet", "sub": "k1", "iat": now, "exp": now + 600} | changes
    return {name: value for name, value in claims.items() if value is not None}


def test_a_token_of_just_these_claims_is_ours() -> None:
    assert key_id_of(jwt.encode(claims_of(), SECRET), SECRET) == "k1"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "somebody"},
        {"iss": None},
        {"sub": None},
        {"sub": 7},
        {"exp": None},
        {"exp": "soon"},
        {"iat": None},
        {"iat": 2**40},
        {"exp": 1},
    ],
    ids=str,
)
def test_a_token_with_other_claims_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidToken):
        key_id_of(jwt.encode(claims_of(**changes), SECRET), SECRET)


def test_a_token_ends_when_it_says() -> None:
    now = sign_token(key_id="k", secret=SECRET, life_s=0).expires

    with pytest.raises(InvalidToken, match="expired"):
        key_id_of(jwt.encode(claims_of(exp=now - LEEWAY_S - 1), SECRET), SECRET)


@pytest.mark.parametrize("algorithm", ["none", "HS512"])
def test_a_token_that_is_signed_otherwise_is_refused(algorithm: str) -> None:
    secret = None if algorithm == "none" else SECRET * 2
    forged = jwt.encode(claims_of(), secret, algorithm=algorithm)

    with pytest.raises(InvalidToken):
        key_id_of(forged, SECRET * 2)


def test_a_token_that_somebody_else_signed_is_refused() -> None:
    with pytest.raises(InvalidToken):
        key_id_of(jwt.encode(claims_of(), SECRET[::-1]), SECRET)


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "ö.ö.ö", "." * 500, "e30.e30.", "bnVsbA.e30.x"]
)
def test_what_is_no_token_is_refused(text: str) -> None:
    with pytest.raises(InvalidToken):
        key_id_of(text, SECRET)


# --- instances ------------------------------------------------------------------------------------


def test_a_crn_is_read_back() -> None:
    crn = Instance(owner="ana-1", name="lab.2").crn

    assert crn == "crn:v1:qfleet:public:quantum-computing:local:a/ana-1:lab.2::"
    assert owner_and_name(crn) == ("ana-1", "lab.2")


def test_a_crn_has_as_many_colons_as_clients_count() -> None:
    assert Instance(owner="o").crn.count(":") >= 7
    assert Instance(owner="o").crn.split(":")[5] == "local", "clients make a host name of it"


@pytest.mark.parametrize(
    "text",
    [
        "default",
        "crn:v1:bluemix:public:quantum-computing:us-east:a/x:y::",
        "crn:v1:qfleet:public:quantum-computing:local:a/O:i::",
        "crn:v1:qfleet:public:quantum-computing:local:a/o:i:::",
        "crn:v1:qfleet:public:quantum-computing:local:a/o:i",
        "crn:v1:qfleet:public:quantum-computing:local:a/o:i::\n",
        "crn:v1:qfleet:public:quantum-computing:local:a/a/o:i::",
    ],
)
def test_what_is_no_crn_of_ours_names_nobody(text: str) -> None:
    assert owner_and_name(text) is None


@pytest.mark.parametrize("name", ["", "A", "a b", "a:b", ".a", "a" * 65, "a\n", "é"])
def test_what_cannot_name_an_owner_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequest, match="owner"):
        require_name("owner", name)


@pytest.mark.parametrize("plan", ["", "A", "a.b", "-a", "a" * 65, "open\n"])
def test_what_is_no_plan_is_refused(plan: str) -> None:
    with pytest.raises(InvalidRequest, match="plan"):
        require_plan(plan)


# --- recent answers -------------------------------------------------------------------------------


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.anyio
async def test_an_answer_is_believed_for_its_time_and_no_longer() -> None:
    clock = Clock()
    recent: Recent[float] = Recent(life_s=2, most=10, clock=clock)

    async def look_up(_name: str) -> float:
        return clock.now

    answers = []
    for clock.now in (0.0, 1.0, 1.9, 2.0, 3.9, 4.1):
        answers.append(await recent.get("a", look_up))
    assert answers == [0.0, 0.0, 0.0, 2.0, 2.0, 4.1]


@pytest.mark.anyio
async def test_a_failure_is_not_remembered() -> None:
    recent: Recent[str] = Recent(life_s=2, most=10, clock=Clock())

    async def fail(_name: str) -> str:
        raise InvalidKey("unknown")

    async def succeed(name: str) -> str:
        return name

    with pytest.raises(InvalidKey):
        await recent.get("a", fail)
    assert await recent.get("a", succeed) == "a"


@pytest.mark.anyio
async def test_an_answer_that_was_looked_up_again_is_new() -> None:
    clock = Clock()
    recent: Recent[str] = Recent(life_s=2, most=3, clock=clock)
    asked: list[str] = []

    async def look_up(name: str) -> str:
        asked.append(name)
        return name

    for clock.now, name in ((0, "a"), (1, "b"), (2.5, "a"), (2.6, "c"), (2.7, "d"), (2.8, "a")):
        await recent.get(name, look_up)
    assert asked == ["a", "b", "a", "c", "d"]


@pytest.mark.anyio
async def test_the_oldest_answer_is_forgotten_when_there_are_too_many() -> None:
    recent: Recent[str] = Recent(life_s=2, most=2, clock=Clock())
    asked: list[str] = []

    async def look_up(name: str) -> str:
        asked.append(name)
        return name

    for name in ("a", "b", "a", "c", "b", "a"):
        await recent.get(name, look_up)
    assert asked == ["a", "b", "c", "a"]
