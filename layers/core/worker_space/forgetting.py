"""Forgetting: what agents remember of a chat session goes with it.

Memory knows no conditions of ours, so a worker that ended a task of the session may still put it into memory when the
session is gone, and memory may be down. What is to be forgotten is therefore noted before anything is taken away, and
done again: a minute later, when nearly every worker is done, and when none can be at it any more.

```
 worker      ends its task ─ ─ ─ ─ (stalls) ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ ─ adds to memory
 deletion                 notes agents ── clears ── forgets
 sweeper                  │                                   forgets                 forgets ── takes the note away
                          └─ a minute ────────────────────────┘                       │
                          └─ longest run of a worker ─────────────────────────────────┘
```
"""

import logging
from collections.abc import Set
from typing import Final

from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, NotFound, Unavailable
from worker_space.ports import ContextStore, Records
from worker_space.records import Check, Delete, Equals, Exists, Item, Update
from worker_space.tasks import ORCHESTRATOR, due_shard
from worker_space.tenancy import Key, TenantContext

__all__ = ["Forgetting"]

_SOON_MS: Final = 60_000
# For clocks, and for those tasks of a plan that end only while their session is cleared.
_MARGIN_SECONDS: Final = 60
_log = logging.getLogger(__name__)


class Forgetting:
    """Has agents forget sessions.

    Args:
        run_seconds: The longest that a worker may go on after it has ended a task.
    """

    def __init__(self, *, records: Records, memory: ContextStore, run_seconds: int) -> None:
        self._records = records
        self._memory = memory
        self._later_ms = (run_seconds + _MARGIN_SECONDS) * 1000

    async def note(self, tenant: TenantContext, session_id: str, agents: Set[str]) -> None:
        """Note that these agents are to forget a session that is being deleted; earlier notes are added to.

        Raises:
            NotFound: The session is gone, or is not being deleted.
        """
        remembering = frozenset(agents) - {ORCHESTRATOR}
        if not remembering:
            return
        noted = Update(
            key=Key.forgetting(session_id),
            set={
                "id": session_id,
                "user_id": tenant.user_id,
                "project_id": tenant.project_id,
                "due_shard": due_shard(session_id),
                "due_at": now_ms() + _SOON_MS,
                "until": now_ms() + self._later_ms,
            },
            include={"agents": remembering},
        )
        try:
            # A project that was deleted meanwhile gets nothing any more.
            await self._records.write(tenant, noted, Check(key=Key.session(session_id), when=Exists("closing")))
        except ConditionFailed as error:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}") from error

    async def forget(self, tenant: TenantContext, session_id: str) -> None:
        """Have all noted agents forget the session; while memory is down that is left to the sweeper."""
        item = await self._records.get(tenant, Key.forgetting(session_id))
        if item is None:
            return
        try:
            await self._forget(tenant, item)
        except Unavailable as error:
            _log.warning("what agents remember of a deleted session is left to the sweeper: %s", error)

    async def see_to(self, tenant: TenantContext, item: Item) -> str:
        """Forget once more, until no worker can still be at it; `settled` for the sweeper's counts.

        Raises:
            Unavailable: Memory does not answer: it stays due.
        """
        began = now_ms()
        await self._forget(tenant, item)
        key, as_read = Key.forgetting(item["id"]), Equals("due_at", item["due_at"])
        over = began >= item["until"]
        again = Update(key=key, set={"due_at": item["until"]}, when=as_read)
        try:
            await self._records.write(tenant, Delete(key=key, when=as_read) if over else again)
        except ConditionFailed:
            _log.info("a session is being deleted once more, or its project is gone")
        return "settled"

    async def _forget(self, tenant: TenantContext, item: Item) -> None:
        for agent_id in sorted(item["agents"]):
            await self._memory.forget_session(tenant, agent_id, item["id"])
