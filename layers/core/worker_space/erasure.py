"""Erasing a project for good: everything, files and their versions included, with a receipt that proves it.

The first write bumps the epoch and puts the receipt beside it. The table's own conditions then stop every late worker;
S3 and Qdrant know no conditions of ours. So all stores are cleared twice, and only the second pass certifies: it begins
when nobody can hold a right any more that was given before the first write.

```
 worker    claims ── tool plans ─ ─ ─ ─ ─ (stalls) ─ ─ ─ ─ ─ PUT object ✓ ── journal ✗ its task is gone
 erasure                  epoch + 1 ── first pass: 0 left                  ── second pass: 1 found, 0 left ── certified
                          └─ longest of invocation, credentials, address with transfer ─┘
```

Until then the project's id cannot be used again: the second pass could not tell a new project's files from late ones.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from worker_space.clock import now_ms
from worker_space.erasure_pass import Clearing, Stores
from worker_space.erasure_receipts import ErasureReceipt, ErasureState
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.ids import is_id, new_id
from worker_space.ports import Records
from worker_space.projects import SpaceState, no_project
from worker_space.records import All, Check, Condition, Delete, Equals, Item, Missing, Put, Update
from worker_space.tenancy import Key, TenantContext, UserContext

__all__ = ["ERASURE_SHARD", "Erasures"]

ERASURE_SHARD: Final = "erasure0"
"""Where the sweeper finds erasures: they are few."""
_RETRY_MS: Final = 60_000
_PASS_SECONDS: Final = 20.0
# Longer than any invocation that runs a pass: whoever holds the lease after this one meets no straggler. One that went
# on after another had certified would clear a new project's files.
_LEASE_MS: Final = 90_000
_TRIES: Final = 5
_log = logging.getLogger(__name__)


class Erasures:
    """Begins erasures, goes on with them, and keeps their receipts.

    Args:
        again_seconds: After how long nobody can hold a right to write any more that was given before the erasure.
    """

    def __init__(self, *, records: Records, stores: Stores, again_seconds: int) -> None:
        self._records = records
        self._stores = stores
        self._again_ms = again_seconds * 1000

    # -- receipts --------------------------------------------------------------------------------
    async def get(self, user: UserContext, erasure_id: str) -> ErasureReceipt:
        """One of the user's receipts.

        Raises:
            NotFound: The user has none with this id.
        """
        item = await self._records.get(user, Key.erasure(erasure_id)) if is_id("erasure", erasure_id) else None
        if item is None:
            raise NotFound(f"you have no erasure {erasure_id[:80]!r}")
        return ErasureReceipt.model_validate(item)

    async def page(
        self, user: UserContext, *, limit: int, after: str | None
    ) -> tuple[Sequence[ErasureReceipt], str | None]:
        """The user's receipts, the newest first."""
        page = await self._records.query(user, Key.erasures(), limit=limit, after=after, descending=True)
        return [ErasureReceipt.model_validate(item) for item in page.items], page.after

    # -- erase -----------------------------------------------------------------------------------
    async def begin(self, tenant: TenantContext, *, seconds: float) -> ErasureReceipt:
        """Delete a project with all it has, its files included, and clear what can be cleared within `seconds`.

        Raises:
            NotFound: The user has no such project.
        """
        for _ in range(_TRIES):
            space = await self._records.get(tenant, Key.space())
            if space is None or space["state"] == SpaceState.DELETED.value:
                raise no_project(tenant.project_id)
            receipt = self._receipt(tenant, space)
            tombstone = {
                "state": SpaceState.DELETED.value,
                "epoch": receipt["epoch"],
                "generation": space["generation"],
                "erasing": receipt["id"],
                "erase_again_at": receipt["again_at"],
            }
            as_read = [Equals(name, space[name]) for name in ("state", "epoch", "generation")]
            try:
                await self._records.write(
                    tenant,
                    Put(key=Key.space(), item=tombstone, when=All(*as_read)),
                    Put(key=Key.erasure(receipt["id"]), item=receipt, when=Missing("sk")),
                    Delete(key=Key.project(tenant)),
                )
            except ConditionFailed:
                continue
            await self._go_on(tenant, receipt, seconds=seconds)
            return await self.get(tenant.user, receipt["id"])
        raise Unavailable("the table", "the project changed at every try")

    def _receipt(self, tenant: TenantContext, space: Item) -> dict[str, Any]:
        now = now_ms()
        generations = {space["generation"], *map(int, space.get("releasing", ()))} - {0}
        return {
            "id": new_id("erasure"),
            "user_id": tenant.user_id,
            "project_id": tenant.project_id,
            "epoch": space["epoch"] + 1,
            "generations": sorted(generations),
            "state": ErasureState.CLEARING.value,
            "requested_at": now,
            "again_at": now + self._again_ms,
            "due_shard": ERASURE_SHARD,
            "due_at": now + _LEASE_MS,
        }

    async def see_to(self, tenant: TenantContext, due: Item) -> str:
        """Go on with an erasure that is due.

        Returns:
            `erased` when it is certified now, `left` when it must be gone on with, else `kept`.
        """
        leased = {"due_at": now_ms() + _LEASE_MS}
        key = Key.erasure(due["id"])
        try:
            await self._records.write(tenant, Update(key=key, set=leased, when=Equals("due_at", due["due_at"])))
        except ConditionFailed:
            return "kept"
        item = await self._records.get(tenant, key) or {}
        return await self._go_on(tenant, {**item, **leased}, seconds=_PASS_SECONDS)

    async def _go_on(self, tenant: TenantContext, item: Item, *, seconds: float) -> str:
        second = now_ms() >= item["again_at"]
        which = "second_pass" if second else "first_pass"
        still_erased = Check(key=Key.space(), when=self._being_erased(item))
        stores = self._stores.of(tenant, item["generations"], while_holds=still_erased)
        run = Clearing(stores, item.get(which))
        try:
            async with asyncio.timeout(seconds):
                await run.run()
        except TimeoutError:
            _log.info("erasure %s goes on later", item["id"])
        except ConditionFailed:
            return "kept"
        changes: dict[str, Any] = {which: run.result.model_dump(exclude_none=True)}
        if second and run.nothing_remains:
            return await self._certify(tenant, item, changes)
        if not second and run.done:
            changes |= {"state": ErasureState.WAITING.value, "due_at": item["again_at"]}
        else:
            in_time = run.done or run.unanswered
            changes["due_at"] = now_ms() + (min(_RETRY_MS, self._again_ms) if in_time else 1_000)
        try:
            await self._records.write(
                tenant, Update(key=Key.erasure(item["id"]), set=changes, when=Equals("due_at", item["due_at"]))
            )
        except ConditionFailed:
            return "kept"
        return "kept" if not second and run.done else "left"

    async def _certify(self, tenant: TenantContext, item: Item, changes: Mapping[str, Any]) -> str:
        certified = {**changes, "state": ErasureState.CERTIFIED.value, "certified_at": now_ms()}
        space = await self._records.get(tenant, Key.space()) or {}
        tombstone = {
            "state": SpaceState.DELETED.value,
            "epoch": item["epoch"],
            "generation": space.get("generation", 0),
            "purged": True,
        }
        try:
            await self._records.write(
                tenant,
                Update(
                    key=Key.erasure(item["id"]),
                    set=certified,
                    remove=["due_shard", "due_at", "user_id", "generations"],
                    when=Equals("due_at", item["due_at"]),
                ),
                Put(key=Key.space(), item=tombstone, when=self._being_erased(item)),
            )
        except ConditionFailed:
            return "kept"
        return "erased"

    @staticmethod
    def _being_erased(item: Item) -> Condition:
        return All(Equals("state", SpaceState.DELETED.value), Equals("erasing", item["id"]))
