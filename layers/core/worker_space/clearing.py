"""Clearing a deleted project's partition of the table."""

from worker_space.ports import Records
from worker_space.records import Check, Delete
from worker_space.tenancy import Key, TenantContext

__all__ = ["clear_items", "count_items"]

_DELETED_AT_ONCE = 25
_COUNTED_AT_ONCE = 500


async def clear_items(records: Records, tenant: TenantContext, prefix: Key, *, while_holds: Check) -> int:
    """Delete every item below `prefix` but the space's own record, which guards the epoch.

    Args:
        while_holds: Stands beside every deletion: what lies there after the project was made anew is the new one's.

    Returns:
        How many items were deleted.

    Raises:
        ConditionFailed: `while_holds` does not hold (any more).
    """
    after: str | None = None
    deleted = 0
    while True:
        page = await records.query(tenant, prefix, limit=_DELETED_AT_ONCE, after=after)
        doomed = [Key(item["sk"], prefix.scope) for item in page.items if item["sk"] != Key.space().sort]
        if doomed:
            await records.write(tenant, while_holds, *(Delete(key=key) for key in doomed))
            deleted += len(doomed)
        if page.after is None:
            return deleted
        after = page.after


async def count_items(records: Records, tenant: TenantContext) -> int:
    """How many items the tenant's partition holds, without the space's own record."""
    after: str | None = None
    count = 0
    while True:
        page = await records.query(tenant, Key.everything(), limit=_COUNTED_AT_ONCE, after=after)
        count += len([item for item in page.items if item["sk"] != Key.space().sort])
        if page.after is None:
            return count
        after = page.after
