"""Who calls, with which right? Credentials to principals, keys to tokens, owners to instances."""

from __future__ import annotations

import secrets
import time
from functools import partial
from typing import TYPE_CHECKING, Protocol

import structlog

from app.auth.instances import Instance, owner_and_name
from app.auth.principal import LOCAL, Principal
from app.auth.recent import Recent
from app.auth.tokens import Token, key_id_of, sign_token
from app.errors import InstanceNotFound, InvalidToken, NotAuthorized, NotFound

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from app.auth.keys import ApiKey
    from app.auth.logins import FailedLogins
    from app.auth.store import KeyStore

#: How long what Redis said is believed: a revoked key works this long at most, seconds.
BELIEVED_S = 2.0
MOST_BELIEVED = 10_000
#: Longest credential that is looked at. Ours have 200 characters; within 512 no JSON is nested
#: deeply enough to exhaust Python's stack.
CREDENTIAL_CHARS = 512

HOW = "send `Authorization: Bearer TOKEN` or `Authorization: apikey KEY`"


class Identity(Protocol):
    """Who callers are; the routes' only door to keys, tokens and instances."""

    async def principal(
        self, *, authorization: str | None, instance: str | None, address: str = ""
    ) -> Principal:
        """The caller of a request.

        Args:
            authorization: the header of that name.
            instance: CRN or name of the instance, the header ``Service-CRN``.
            address: where the request comes from.

        Raises:
            NotAuthorized: there is no credential, or it is not valid.
            LoginsRefused: too many that were not valid came from that address.
            InstanceNotFound: the caller has no such instance.
        """

    async def token(self, key: str, *, address: str = "") -> Token:
        """A token of the key.

        Raises:
            InvalidKey: the key is mistyped, unknown or revoked.
            LoginsRefused: too many that were so came from that address.
        """

    async def instances(self, principal: Principal) -> tuple[Instance, ...]:
        """All instances of the caller's owner."""

    async def instance(self, principal: Principal) -> Instance:
        """The instance that the caller uses."""


class OpenIdentity:
    """Everybody is the same caller, whatever credential and instance they name."""

    def __init__(self, *, token_s: float) -> None:
        """Make it; nothing is ever refused."""
        self._token_s = token_s
        # Clients read tokens, nobody verifies them.
        self._secret = secrets.token_urlsafe()

    async def principal(
        self, *, authorization: str | None, instance: str | None, address: str = ""
    ) -> Principal:
        """The one caller there is."""
        del authorization, instance, address
        return LOCAL

    async def token(self, key: str, *, address: str = "") -> Token:
        """A token, for any key."""
        del key, address
        return sign_token(key_id=LOCAL.owner, secret=self._secret, life_s=self._token_s)

    async def instances(self, principal: Principal) -> tuple[Instance, ...]:
        """The one instance there is."""
        return (await self.instance(principal),)

    async def instance(self, principal: Principal) -> Instance:
        """The one instance there is."""
        return Instance(owner=principal.owner, name=principal.instance)


class KeyedIdentity:
    """Callers prove who they are with an API key, or with a token that a key was changed into."""

    def __init__(
        self,
        *,
        store: KeyStore,
        token_s: float,
        logins: FailedLogins | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make it; connects with the first call.

        Args:
            store: keys and instances.
            token_s: how long a token is good for, seconds.
            logins: counts wrong credentials; None: nobody does.
            clock: gives seconds that only grow.
        """
        self._store = store
        self._token_s = token_s
        self._logins = logins
        self._keys: Recent[ApiKey] = Recent(life_s=BELIEVED_S, most=MOST_BELIEVED, clock=clock)
        self._instances: Recent[tuple[Instance, ...]] = Recent(
            life_s=BELIEVED_S, most=MOST_BELIEVED, clock=clock
        )
        #: credentials that were valid when they were looked up last, the latest last.
        self._proven: dict[str, None] = {}

    async def principal(
        self, *, authorization: str | None, instance: str | None, address: str = ""
    ) -> Principal:
        """The caller of a request; see ``Identity``."""
        if not authorization:
            message = f"this service asks for a key; {HOW}"
            raise NotAuthorized(message)
        look_up = partial(self._counted, address, self._key_of)
        key = await self._keys.get(authorization, look_up)
        owner = key.owner
        # Who did what stands in the log, for whoever looks after the service.
        structlog.contextvars.bind_contextvars(owner=owner, key_id=key.id)
        if not instance:
            return Principal(owner=owner, key=key.id)
        of, name = owner_and_name(instance) or (owner, instance)
        if of != owner:
            raise _no_instance(instance)
        found = await self._instance(owner, name)
        return Principal(owner=owner, instance=found.name, key=key.id)

    async def token(self, key: str, *, address: str = "") -> Token:
        """A token of the key; see ``Identity``."""
        found = await self._counted(address, self._store.find, key)
        secret = await self._store.secret()
        token = sign_token(key_id=found.id, secret=secret, life_s=self._token_s)
        self._note(token.text, is_valid=True)
        return token

    async def instances(self, principal: Principal) -> tuple[Instance, ...]:
        """All instances of the caller's owner, by name."""
        return await self._instances.get(principal.owner, self._store.instances)

    async def instance(self, principal: Principal) -> Instance:
        """The instance that the caller uses."""
        return await self._instance(principal.owner, principal.instance)

    async def _instance(self, owner: str, name: str) -> Instance:
        for instance in await self._instances.get(owner, self._store.instances):
            if instance.name == name:
                return instance
        raise _no_instance(name)

    async def _counted(
        self, address: str, look_up: Callable[[str], Awaitable[ApiKey]], credential: str
    ) -> ApiKey:
        """What a credential stands for; one that stands for nothing counts against its address.

        A class comes from one address: whoever has been let in is not kept out by who guesses, or
        goes on with a revoked key, beside them.
        """
        if self._logins is None:
            return await look_up(credential)
        word = credential.rpartition(" ")[2]
        if word not in self._proven:
            self._logins.check(address)
        try:
            found = await look_up(credential)
        except NotAuthorized:
            self._note(word, is_valid=False)
            await self._logins.count(address)
            raise
        self._note(word, is_valid=True)
        return found

    def _note(self, credential: str, *, is_valid: bool) -> None:
        """Remember whether a credential is valid."""
        self._proven.pop(credential, None)
        if is_valid:
            while len(self._proven) >= MOST_BELIEVED:
                del self._proven[next(iter(self._proven))]
            self._proven[credential] = None

    async def _key_of(self, authorization: str) -> ApiKey:
        """The key that an Authorization header names or stands for."""
        scheme, _, credential = authorization.strip().partition(" ")
        credential = credential.strip()
        if scheme.lower() not in {"bearer", "apikey"} or not credential:
            message = f"this kind of Authorization is not understood; {HOW}"
            raise NotAuthorized(message)
        if len(credential) > CREDENTIAL_CHARS:
            message = f"this credential is too long to be one of ours; {HOW}"
            raise NotAuthorized(message)
        # A token has two full stops, a key has none.
        if "." in credential:
            return await self._key_behind(credential)
        return await self._store.find(credential)

    async def _key_behind(self, token: str) -> ApiKey:
        """The key that a token stands for, if it is still valid."""
        key_id = key_id_of(token, await self._store.secret())
        try:
            found = await self._store.read(key_id)
        except NotFound as exc:
            message = "the key of this token is gone"
            raise InvalidToken(message) from exc
        if found.revoked is not None:
            message = "the key of this token has been revoked"
            raise InvalidToken(message)
        return found


def _no_instance(named: str) -> InstanceNotFound:
    return InstanceNotFound(f"you have no instance {named[:128]!r}")
