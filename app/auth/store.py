"""Which keys and instances are there? Kept in Redis; of a key only its digest."""

from __future__ import annotations

import hmac
import secrets
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from app.auth.instances import Instance, Quota, require_name, require_plan
from app.auth.keys import ApiKey, digest_of, id_of, new_key
from app.auth.principal import DEFAULT_INSTANCE, LOCAL
from app.errors import ConfigurationInvalid, InvalidKey, InvalidRequest, NotFound
from app.jobs.connection import translated
from app.lua.keys import DEFAULT_PLAN
from app.lua.scripts import source

if TYPE_CHECKING:
    from collections.abc import Mapping

    import redis.asyncio

#: Owner of the key in the settings, and of the one that is made at the first start.
ADMIN = "admin"
#: Longest text that says what a key is for.
NAME_CHARS = 128
_SECRET_BYTES = 32


class KeyStore:
    """Keys and instances, on one Redis or Valkey.

    Every method raises ``Unavailable`` when Redis does not answer.
    """

    def __init__(
        self, *, client: redis.asyncio.Redis, secret: str | None, bootstrap_key: str | None
    ) -> None:
        """Make the store; connects with the first call.

        Args:
            client: the connection.
            secret: pepper of the digests; None: one is made, once, and kept in Redis.
            bootstrap_key: a key of the operator's, valid as long as the settings name it.
        """
        # redis-py types an answer as all that any command may give, in either colour.
        self._client: Any = client
        self._given_secret = secret
        self._bootstrap_key = bootstrap_key
        self._issue = client.register_script(source("issue"))
        self._revoke = client.register_script(source("revoke"))

    async def issue(
        self,
        *,
        owner: str,
        name: str = "",
        instance: str = DEFAULT_INSTANCE,
        plan: str | None = None,
    ) -> str:
        """Make a key, and its owner's instance if it is not there; gives the key's text.

        Args:
            owner: whose key it is.
            name: what it is for, in the owner's words.
            instance: which instance there shall be.
            plan: the plan that the instance has from now on; None: the one it has, or ``open``.

        Raises:
            InvalidRequest: a name or the plan is not allowed; nothing was stored.
            ConfigurationInvalid: keys were made with a secret that was not given; likewise.
        """
        key = new_key()
        await self._require_their_secret()
        await self._store(key, owner=owner, name=name, instance=instance, plan=plan, first=False)
        return key

    async def issue_first(self, *, owner: str) -> str | None:
        """Make a key if there has never been one; None when there has."""
        key = new_key()
        made = await self._store(
            key, owner=owner, name="first key", instance=DEFAULT_INSTANCE, plan=None, first=True
        )
        return key if made else None

    async def find(self, key: str) -> ApiKey:
        """What is known of a key.

        Raises:
            InvalidKey: it is mistyped, unknown or revoked.
        """
        given = self._bootstrap_key
        if given is not None and hmac.compare_digest(key.encode(), given.encode()):
            return _bootstrap(given, await self.secret())
        key_id = id_of(key)
        secret = await self.secret()
        with translated():
            record = await self._client.hgetall(f"apikey:{key_id}")
        digest = record.get(b"digest", b"").decode()
        if not hmac.compare_digest(digest, digest_of(key, secret)) or b"revoked" in record:
            message = "this API key is unknown or has been revoked"
            raise InvalidKey(message)
        return _decode(key_id, record)

    async def read(self, key_id: str) -> ApiKey:
        """The key of that id, which may be revoked.

        Raises:
            NotFound: there is none.
        """
        if self._bootstrap_key is not None:
            given = _bootstrap(self._bootstrap_key, await self.secret())
            if given.id == key_id:
                return given
        with translated():
            record = await self._client.hgetall(f"apikey:{key_id}")
        if not record:
            raise _not_found(key_id)
        return _decode(key_id, record)

    async def list(self) -> tuple[ApiKey, ...]:
        """All keys, oldest first, the revoked ones too."""
        with translated():
            ids = [name.decode() for name in await self._client.zrange("apikeys", 0, -1)]
            pipe = self._client.pipeline(transaction=False)
            for key_id in ids:
                pipe.hgetall(f"apikey:{key_id}")
            records = await pipe.execute()
        return tuple(
            _decode(key_id, record) for key_id, record in zip(ids, records, strict=True) if record
        )

    async def revoke(self, key_id: str) -> None:
        """Refuse the key and its tokens from now on; a second time changes nothing.

        Raises:
            NotFound: there is no such key.
        """
        with translated():
            outcome = await self._revoke(args=[key_id])
        if outcome == b"missing":
            raise _not_found(key_id)

    async def instances(self, owner: str) -> tuple[Instance, ...]:
        """The owner's instances by name; ``default`` is always one of them."""
        with translated():
            stored = await self._client.hgetall(f"instances:{owner}")
        plans = {DEFAULT_INSTANCE: DEFAULT_PLAN} | {
            name.decode(): plan.decode() for name, plan in stored.items()
        }
        return tuple(
            Instance(owner=owner, name=name, plan=plan) for name, plan in sorted(plans.items())
        )

    async def assign(self, *, owner: str, instance: str, plan: str) -> Instance:
        """Give an instance that is there another plan; it holds for the next job.

        Raises:
            InvalidRequest: the plan's name is not allowed; nothing was stored.
            NotFound: nobody has a key of that owner, or the owner no such instance; likewise.
        """
        require_plan(plan)
        if owner not in {ADMIN, LOCAL.owner} and owner not in {
            key.owner for key in await self.list()
        }:
            message = f"no API key has the owner {owner[:64]!r}; `keys list` shows those there are"
            raise NotFound(message)
        names = [each.name for each in await self.instances(owner)]
        if instance not in names:
            message = f"{owner} has no instance {instance[:64]!r}, but {', '.join(names)}"
            raise NotFound(message)
        with translated():
            await self._client.hset(f"instances:{owner}", instance, plan)
        return Instance(owner=owner, name=instance, plan=plan)

    async def set_plan(self, plan: str, quota: Quota) -> None:
        """Give a plan this quota instead of the one it has; it holds for the next job.

        Raises:
            InvalidRequest: the plan's name or a number is not allowed; nothing was stored.
        """
        require_plan(plan)
        given = {name: most for name, most in asdict(quota).items() if most is not None}
        if any(most < (name == "running") for name, most in given.items()):
            message = "a quota is a number from 0, that of running jobs from 1"
            raise InvalidRequest(message)
        # Never deleted: while there has been no plan, the scripts look for no parked jobs.
        fields = {f"{plan}|{name}": given.get(name, "") for name in asdict(quota)}
        with translated():
            await self._client.hset("plans", mapping=fields)

    async def plans(self) -> dict[str, Quota]:
        """The plans that have a quota, by name."""
        with translated():
            stored = await self._client.hgetall("plans")
        plans: dict[str, dict[str, int]] = {}
        for field, most in sorted(stored.items()):
            plan, _, name = field.decode().partition("|")
            if most:
                plans.setdefault(plan, {})[name] = int(most)
        return {plan: Quota(**given) for plan, given in plans.items()}

    async def secret(self) -> str:
        """What digests and tokens are made with.

        Looked up each time: a gateway that remembered it would refuse every key that is made
        after Redis has been emptied.
        """
        if self._given_secret is not None:
            return self._given_secret
        with translated():
            # Reading comes first because a full Redis refuses SET, whatever NX would say.
            kept: bytes | None = await self._client.get("secret")
            if kept is None:
                fresh = secrets.token_urlsafe(_SECRET_BYTES)
                kept = await self._client.set("secret", fresh, nx=True, get=True)
                return fresh if kept is None else kept.decode()
        return kept.decode()

    async def _require_their_secret(self) -> None:
        """Refuse to make a secret where there are keys: no gateway would know the next one.

        Raises:
            ConfigurationInvalid: those were made with a ``QFLEET_SECRET`` that was not given.
        """
        with translated():
            kept, keys = await self._client.exists("secret"), await self._client.exists("apikeys")
        if self._given_secret is None and keys and not kept:
            message = (
                "the keys that there are were made with a QFLEET_SECRET: set it here as it is set"
                " for the gateway, or it would not know this key"
            )
            raise ConfigurationInvalid(message)

    async def _store(
        self, key: str, *, owner: str, name: str, instance: str, plan: str | None, first: bool
    ) -> bool:
        require_name("owner", owner)
        require_name("instance", instance)
        if plan is not None:
            require_plan(plan)
        if len(name) > NAME_CHARS or not name.isprintable():
            message = f"a key's name is at most {NAME_CHARS} printable characters"
            raise InvalidRequest(message)
        digest = digest_of(key, await self.secret())
        arguments = [id_of(key), owner, name, digest, instance, plan or "", DEFAULT_PLAN]
        with translated():
            made: int = await self._issue(args=[*arguments, int(first)])
        return bool(made)


def _bootstrap(key: str, secret: str) -> ApiKey:
    """Its id follows its text: tokens of the key that was in the settings before are not valid."""
    return ApiKey(id=f"bootstrap-{digest_of(key, secret)[:16]}", owner=ADMIN)


def _decode(key_id: str, record: Mapping[bytes, bytes]) -> ApiKey:
    return ApiKey(
        id=key_id,
        owner=record[b"owner"].decode(),
        name=record[b"name"].decode(),
        created=_time(record[b"created"]),
        revoked=_time(record.get(b"revoked")),
    )


def _time(ms: bytes | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(int(ms) / 1000, tz=UTC)


def _not_found(key_id: str) -> NotFound:
    return NotFound(f"no API key has the id {key_id[:64]!r}; `keys list` shows those there are")
