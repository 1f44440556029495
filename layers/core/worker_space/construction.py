"""A project under construction: nobody sees it until it is whole, and one that was given up is cleared.

```
 begin    nothing, or a tombstone ── deleted, importing = token, due in 5 minutes
 write    … items …  each transaction checks: still deleted, same epoch, importing = token
 finish   importing = token ✓ ── dormant, listed
 sweep         (only when due) epoch + 1, importing gone ── clears ── a late write finds another epoch ✗
```

To every other operation it looks like a deleted project, i.e. like none.
"""

import json
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from worker_space.allowances import Allowances
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, Unavailable
from worker_space.idempotency import Repeat, find_repeat, remember
from worker_space.lifecycle import Projects
from worker_space.limits import ProjectRoom
from worker_space.ports import Records
from worker_space.projects import SpaceState, space_shard
from worker_space.records import All, Check, Condition, Equals, Exists, Item, Missing, Put, Update, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["Construction", "Site"]

# Longer than any request lasts, so whoever clears what is overdue has no rival.
_DUE_MS: Final = 5 * 60_000
_WRITES: Final = 90
# DynamoDB takes 4 MB in one transaction.
_WRITE_BYTES: Final = 1_500_000
_TRIES: Final = 5
_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Site:
    """One project under construction.

    Attributes:
        space: Its record's attributes, as they will be.
        listed: Those that the list of projects shows.
    """

    tenant: TenantContext
    space: Mapping[str, Any]
    listed: Mapping[str, Any]
    token: str
    pending: list[Write] = field(default_factory=list)
    pending_bytes: int = 0

    @property
    def still_mine(self) -> Condition:
        """What holds as long as nobody else has cleared or taken the place."""
        return All(
            Equals("state", SpaceState.DELETED.value),
            Equals("epoch", self.space["epoch"]),
            Equals("importing", self.token),
        )


class Construction:
    """Builds projects out of items, and opens them when they are whole."""

    def __init__(self, *, records: Records, projects: Projects, allowances: Allowances) -> None:
        self._records = records
        self._projects = projects
        self._allowances = allowances

    async def begin(self, tenant: TenantContext, *, name: str, created_at: int, facts: Mapping[str, Any]) -> Site:
        """Take the project's place.

        Args:
            facts: Further attributes of the space's record and of the list's entry.

        Raises:
            Conflict: The user has a project with this id, or one with it is being imported or erased.
        """
        now = now_ms()
        for _ in range(_TRIES):
            old = await self._projects.make_room(tenant)
            if old is not None and old["state"] != SpaceState.DELETED.value:
                raise Conflict(f"you have a project {tenant.project_id!r} already: choose another id")
            listed = {"project_id": tenant.project_id, "name": name, "created_at": created_at, "updated_at": now}
            listed |= {name: value for name, value in facts.items() if name in {"policy", "limits"}}
            space = {
                **listed,
                **facts,
                "user_id": tenant.user_id,
                "state": SpaceState.DORMANT.value,
                "epoch": 1 if old is None else old["epoch"] + 1,
                "generation": 0 if old is None else old["generation"],
                "last_accept": 0,
            }
            site = Site(tenant=tenant, space=space, listed=listed, token=secrets.token_hex(8))
            hidden = {
                "state": SpaceState.DELETED.value,
                "importing": site.token,
                "due_shard": space_shard(tenant),
                "due_at": now + _DUE_MS,
            }
            nothing: Condition = Missing("sk")
            if old is not None:
                nothing = All(
                    Equals("state", SpaceState.DELETED.value), Equals("epoch", old["epoch"]), Exists("purged")
                )
            try:
                await self._records.write(
                    tenant,
                    Put(key=Key.space(), item={**space, **hidden}, when=nothing),
                    Check(key=Key.project(tenant), when=Missing("sk")),
                )
                return site
            except ConditionFailed:
                continue
        raise Conflict(f"others keep making a project {tenant.project_id!r}: choose another id")

    async def add(self, site: Site, key: Key, item: Item) -> None:
        """Store an item, together with others of about the same time.

        Raises:
            Conflict: The place was taken away meanwhile.
        """
        size = len(json.dumps(item, default=str))
        if len(site.pending) == _WRITES or site.pending_bytes + size > _WRITE_BYTES:
            await self.flush(site)
        site.pending.append(Put(key=key, item=item))
        site.pending_bytes += size

    async def flush(self, site: Site) -> None:
        """Store what was added and is not stored yet."""
        if site.pending:
            await self._write(site, [Check(key=Key.space(), when=site.still_mine), *site.pending])
            site.pending.clear()
            site.pending_bytes = 0

    async def _write(self, site: Site, writes: Sequence[Write]) -> None:
        try:
            await self._records.write(site.tenant, *writes)
        except ConditionFailed as error:
            raise Conflict("the project took too long to be made and was cleared: repeat the request") from error

    async def finish(self, site: Site, repeat: Repeat | None) -> str:
        """Open the project; from now on it is one like any other.

        Returns:
            Its id, or that of the project which the same request has made before.

        Raises:
            Conflict: The place was taken away meanwhile.
            LimitReached: The user has as many projects as they may have.
        """
        await self.flush(site)
        opened = {"state": SpaceState.DORMANT.value, "updated_at": now_ms()}
        labelled: dict[str, Write] = {
            "space": Update(
                key=Key.space(), set=opened, remove=["importing", "due_shard", "due_at"], when=site.still_mine
            ),
            "listing": Put(key=Key.project(site.tenant), item=site.listed, when=Missing("sk")),
        }
        if repeat is not None:
            labelled["repeat"] = remember(repeat, site.tenant.project_id)
        for _ in range(_TRIES):
            room = None
            if (most := self._allowances.user.projects) is not None:
                room = await ProjectRoom.look(self._records, site.tenant.user, most=most)
                labelled["room"] = room.one_more()
            try:
                await self._records.write(site.tenant, *labelled.values())
                return site.tenant.project_id
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and found["repeat"] is not None:
                await self.abandon(site)
                return repeat.same(found["repeat"])
            if room is None or found["space"] is not None or found["listing"] is not None:
                raise Conflict("the project took too long to be made and was cleared: repeat the request")
            room.check()
        raise Conflict("others keep making projects of yours: try again")

    async def made_before(self, tenant: TenantContext, repeat: Repeat) -> str | None:
        """The project that the same request has made before."""
        return await find_repeat(self._records, tenant.user, repeat)

    async def abandon(self, site: Site) -> None:
        """Clear what was built; what cannot be cleared now, the sweeper clears."""
        try:
            await self._projects.purge(site.tenant)
        except Unavailable as error:
            _log.warning("what is left of a failed import is left to the sweeper: %s", error)
