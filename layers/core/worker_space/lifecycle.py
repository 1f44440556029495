"""Projects and what stands behind them: made with a starter pack, taken away without a trace in the backend.

The User Workspace (the user's own files) is not touched by anything here.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from worker_space.agents import AgentConfig
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, Unavailable
from worker_space.idempotency import Repeat, remember
from worker_space.ports import Content, ContextStore, Queues, Records
from worker_space.projects import NewProject, Project, ProjectChanges, SpaceState, no_project
from worker_space.records import All, Check, Condition, Delete, Equals, Exists, Item, Missing, Put, Update, Write
from worker_space.registry import IS_LIVE, AgentRegistry, new_agent_writes
from worker_space.tasks import due_shard
from worker_space.tenancy import Key, TenantContext, UserContext

__all__ = ["Projects"]

_log = logging.getLogger(__name__)


def project_of(item: Item) -> Project:
    """The project kept in a table item."""
    return Project(
        id=item["project_id"], name=item["name"], created_at=item["created_at"], updated_at=item["updated_at"]
    )


class Projects:
    """Makes, lists, renames and deletes a user's projects.

    Args:
        starters: The agents that a new project begins with.
        make_id: Gives an id to a project whose client names none.
    """

    def __init__(
        self,
        *,
        records: Records,
        registry: AgentRegistry,
        queues: Queues,
        memory: ContextStore,
        content: Content,
        starters: Sequence[AgentConfig],
        make_id: Callable[[], str],
    ) -> None:
        self._records = records
        self._registry = registry
        self._queues = queues
        self._memory = memory
        self._content = content
        self._starters = starters
        self._make_id = make_id

    async def create(self, user: UserContext, new: NewProject, *, repeat: Repeat | None = None) -> Project:
        """Make a project with its starter agents, all in one transaction.

        Raises:
            Conflict: The user has a project with this id, or the Idempotency-Key was used with another body.
        """
        tenant = TenantContext(user.user_id, new.id or self._make_id())
        old = await self._records.get(tenant, Key.space())
        if old is not None and old["state"] == SpaceState.DELETED.value and not old.get("purged"):
            await self._purge(tenant, old)
        labelled = self._new_project(tenant, new, old)
        if repeat is not None:
            labelled["repeat"] = remember(repeat, tenant.project_id)
        try:
            await self._records.write(tenant, *labelled.values())
        except ConditionFailed as error:
            found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and (known := found["repeat"]) is not None:
                return await self.get(TenantContext(user.user_id, repeat.same(known)))
            raise Conflict(f"you have a project {tenant.project_id!r} already: choose another id") from error
        return await self.get(tenant)

    def _new_project(self, tenant: TenantContext, new: NewProject, old: Item | None) -> dict[str, Write]:
        now = now_ms()
        listed: dict[str, Any] = {
            "project_id": tenant.project_id,
            "name": new.name,
            "created_at": now,
            "updated_at": now,
        }
        space = {
            **listed,
            "user_id": tenant.user_id,
            "state": SpaceState.DORMANT.value,
            "epoch": 1 if old is None else old["epoch"] + 1,
            # Goes on counting: SQS refuses the last queue's name for a minute, and late deliveries know it.
            "generation": 0 if old is None else old["generation"],
            "last_accept": 0,
        }
        nothing_or_a_tombstone: Condition = Missing("sk")
        if old is not None:
            nothing_or_a_tombstone = All(
                Equals("state", SpaceState.DELETED.value), Equals("epoch", old["epoch"]), Exists("purged")
            )
        labelled: dict[str, Write] = {
            "listing": Put(key=Key.project(tenant), item=listed, when=Missing("sk")),
            "space": Put(key=Key.space(), item=space, when=nothing_or_a_tombstone),
        }
        for config in self._starters:
            labelled |= new_agent_writes(self._registry.draft(config))
        return labelled

    async def get(self, tenant: TenantContext) -> Project:
        """One project.

        Raises:
            NotFound: The user has no such project.
        """
        item = await self._records.get(tenant, Key.project(tenant))
        if item is None:
            raise no_project(tenant.project_id)
        return project_of(item)

    async def page(self, user: UserContext, *, limit: int, after: str | None) -> tuple[Sequence[Project], str | None]:
        """The user's projects in the order of their ids."""
        page = await self._records.query(user, Key.projects(), limit=limit, after=after)
        return [project_of(item) for item in page.items], page.after

    async def update(self, tenant: TenantContext, changes: ProjectChanges) -> Project:
        """Rename a project.

        Raises:
            NotFound: The user has no such project.
        """
        renamed = {"name": changes.name, "updated_at": now_ms()}
        try:
            await self._records.write(
                tenant,
                Update(key=Key.project(tenant), set=renamed, when=Equals("project_id", tenant.project_id)),
                Update(key=Key.space(), set=renamed, when=IS_LIVE),
            )
        except ConditionFailed as error:
            raise no_project(tenant.project_id) from error
        await self._registry.forget(tenant)
        return await self.get(tenant)

    async def delete(self, tenant: TenantContext) -> None:
        """Delete a project's backend resources: agents, sessions, tasks, memory, cache, queue. Files stay.

        The first write bumps the epoch and hides the project; no worker can write behind it any more. What cannot be
        cleared now is cleared by the sweeper.

        Raises:
            NotFound: The user has no such project.
        """
        now = now_ms()
        gone = {
            "state": SpaceState.DELETED.value,
            "updated_at": now,
            "due_shard": due_shard(Key.space().sort),
            "due_at": now + 60_000,
        }
        try:
            await self._records.write(
                tenant,
                Update(key=Key.space(), set=gone, add={"epoch": 1}, remove=["purged"], when=IS_LIVE),
                Delete(key=Key.project(tenant)),
            )
        except ConditionFailed as error:
            raise no_project(tenant.project_id) from error
        try:
            await self.purge(tenant)
        except Unavailable as error:
            _log.warning("what is left of a deleted project is left to the sweeper: %s", error)

    async def purge(self, tenant: TenantContext) -> None:
        """Clear what is left of a deleted project; may be repeated.

        Raises:
            Unavailable: A dependency does not answer; what is done is done.
        """
        space = await self._records.get(tenant, Key.space())
        if space is not None and space["state"] == SpaceState.DELETED.value:
            await self._purge(tenant, space)

    async def _purge(self, tenant: TenantContext, space: Item) -> None:
        still_deleted = Check(
            key=Key.space(), when=All(Equals("state", SpaceState.DELETED.value), Equals("epoch", space["epoch"]))
        )
        try:
            # Tasks first: without its task a late worker can write nothing more to the table.
            await self._clear(tenant, Key.tasks(), still_deleted)
            await self._registry.forget(tenant)
            if space["generation"]:
                await self._queues.release(tenant, space["generation"])
            await self._clear(tenant, Key.agents(), still_deleted)
            # Agents that were deleted before are known by their versions only.
            versions = (await self._records.query(tenant, Key.all_agent_versions())).items
            keys = [key async for key in self._content.all_keys(tenant)]
            # Listed while the project was still deleted, so none of them is its successor's.
            await self._records.write(tenant, still_deleted)
            for agent_id in {item["id"] for item in versions}:
                await self._memory.drop(tenant, agent_id)
            if keys:
                await self._content.delete(tenant, keys)
            await self._clear(tenant, Key.everything(), still_deleted)
            await self._records.write(
                tenant,
                Update(
                    key=Key.space(),
                    set={"purged": True},
                    remove=["due_shard", "due_at"],
                    when=still_deleted.when,
                ),
            )
        except ConditionFailed:
            _log.info("a project was made anew while its forerunner was cleared")

    async def _clear(self, tenant: TenantContext, prefix: Key, still_deleted: Check) -> None:
        """Delete every item below `prefix` but the space's own record, which guards the epoch.

        Raises:
            ConditionFailed: The project was made anew; what lies there now is the new one's.
        """
        after: str | None = None
        while True:
            page = await self._records.query(tenant, prefix, limit=25, after=after)
            doomed = [Key(item["sk"]) for item in page.items if item["sk"] != Key.space().sort]
            if doomed:
                await self._records.write(tenant, still_deleted, *(Delete(key=key) for key in doomed))
            if page.after is None:
                return
            after = page.after
