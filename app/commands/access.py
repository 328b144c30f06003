"""Who may call, and how much? The operator's commands for keys and plans."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from app.auth.keys import ID_CHARS, PREFIX
from app.auth.principal import DEFAULT_INSTANCE
from app.commands.settings import find_redis, read_settings
from app.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from app.auth.instances import Instance, Quota
    from app.auth.keys import ApiKey
    from app.auth.store import KeyStore


@click.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command()
@click.option(
    "--owner", required=True, help="Whose key it is; keys of one owner see the same jobs."
)
@click.option("--name", default="", help="What it is for.")
@click.option("--instance", default=DEFAULT_INSTANCE, show_default=True, help="Made if missing.")
@click.option(
    "--plan", help="Plan that the instance has from now on.  [default: as it is, or open]"
)
def create(owner: str, name: str, instance: str, plan: str | None) -> None:
    """Make an API key. It is printed this once."""

    async def issue() -> tuple[str, Instance]:
        async with _keys() as store:
            key = await store.issue(owner=owner, name=name, instance=instance, plan=plan)
            found = await store.instances(owner)
            return key, next(each for each in found if each.name == instance)

    key, made_for = asyncio.run(issue())
    click.echo(key)
    click.echo(f"instance {made_for.name}, plan {made_for.plan}: {made_for.crn}", err=True)


@keys.command("list")
@click.option("--owner", help="Only theirs.")
def list_keys(owner: str | None) -> None:
    """Show API keys, oldest first, without their texts."""

    async def read() -> tuple[ApiKey, ...]:
        async with _keys() as store:
            return await store.list()

    found = [key for key in asyncio.run(read()) if owner in (None, key.owner)]
    if not found:
        click.echo(
            f"there is no key yet: python -m app keys create --owner {owner or 'NAME'}", err=True
        )
    for key in found:
        state = f"revoked {key.revoked:%Y-%m-%d %H:%M}" if key.revoked else "valid"
        click.echo(f"{key.id}  {key.created:%Y-%m-%d %H:%M}  {state:24}  {key.owner}  {key.name}")


@keys.command()
@click.argument("which", metavar="[ID]...", nargs=-1)
@click.option("--owner", help="All keys of this owner.")
def revoke(which: tuple[str, ...], owner: str | None) -> None:
    """Refuse API keys and their tokens from now on.

    ID is what `keys list` shows, or the text of the key. Jobs go on: `jobs cancel --owner`.
    """
    if bool(which) is (owner is not None):
        raise click.UsageError("name keys by their ids, or --owner")

    async def refuse() -> list[str]:
        async with _keys() as store:
            ids = [_key_id(each) for each in which]
            if owner is not None:
                theirs = [key for key in await store.list() if key.owner == owner]
                ids = [key.id for key in theirs if key.revoked is None]
            for key_id in ids:
                await store.revoke(key_id)
            return ids

    refused = asyncio.run(refuse())
    if not refused:
        raise NotFound(f"{owner} has no key that is valid; `keys list` shows those there are")
    for key_id in refused:
        click.echo(
            f"key {key_id} is refused from now on, by every gateway within 2 seconds", err=True
        )


def _key_id(given: str) -> str:
    """The id of a key that is named by it, or by its text: who finds a leaked one has that."""
    return given.removeprefix(PREFIX)[:ID_CHARS] if given.startswith(PREFIX) else given


@click.group()
def plans() -> None:
    """Say how much instances may use, by plan."""


@plans.command("set")
@click.argument("plan")
@click.option("--queued", type=click.IntRange(min=0), help="Jobs that wait.  [default: any]")
@click.option("--running", type=click.IntRange(min=1), help="Jobs that run.  [default: any]")
@click.option("--seconds", type=click.IntRange(min=0), help="Run time in 28 days.  [default: any]")
@click.option(
    "--kept-bytes",
    type=click.IntRange(min=0),
    help="What jobs take until they are deleted.  [default: any]",
)
def set_plan(
    plan: str,
    queued: int | None,
    running: int | None,
    seconds: int | None,
    kept_bytes: int | None,
) -> None:
    """Give a plan a quota instead of the one it has; without options: none."""
    from app.auth.instances import Quota

    quota = Quota(queued=queued, running=running, seconds=seconds, kept_bytes=kept_bytes)

    async def store_it() -> None:
        async with _keys() as store:
            await store.set_plan(plan, quota)

    asyncio.run(store_it())
    click.echo(_plan_line(plan, quota), err=True)


@plans.command("list")
def list_plans() -> None:
    """Show the plans that have a quota."""

    async def read() -> dict[str, Quota]:
        async with _keys() as store:
            return await store.plans()

    found = asyncio.run(read())
    if not found:
        click.echo("no plan has a quota: python -m app plans set PLAN --queued 100", err=True)
    for plan, quota in found.items():
        click.echo(_plan_line(plan, quota))


@plans.command("assign")
@click.argument("plan")
@click.argument("owner")
@click.argument("instance", default=DEFAULT_INSTANCE)
def assign_plan(plan: str, owner: str, instance: str) -> None:
    """Give an OWNER's INSTANCE (default: `default`) another plan."""

    async def store_it() -> tuple[Instance, Quota | None]:
        async with _keys() as store:
            made = await store.assign(owner=owner, instance=instance, plan=plan)
            return made, (await store.plans()).get(plan)

    made, quota = asyncio.run(store_it())
    click.echo(f"{owner}, instance {made.name}: plan {_plan_line(plan, quota)}", err=True)


def _plan_line(plan: str, quota: Quota | None) -> str:
    given = {} if quota is None else asdict(quota)
    limits = [f"{name} {most}" for name, most in given.items() if most is not None]
    return f"{plan}: {', '.join(limits) or 'no quota'}"


@contextlib.asynccontextmanager
async def _keys() -> AsyncIterator[KeyStore]:
    """The keys in the configured Redis, or else in that of the local stack, if it runs."""
    from app.bootstrap import open_keys

    settings = read_settings()
    async with open_keys(settings, find_redis(settings)) as store:
        yield store


#: What ``python -m app`` understands by this module.
COMMANDS = (keys, plans)
