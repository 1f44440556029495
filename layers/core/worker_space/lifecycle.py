"""Projects and what stands behind them: made with a starter pack, taken away without a trace in the backend.

The User Workspace (the user's own files) is not touched by anything here.
"""

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from worker_space.agents import AgentConfig
from worker_space.allowances import Allowances
from worker_space.clearing import clear_items
from worker_space.clock import now_ms
from worker_space.consent import at_policy
from worker_space.errors import ConditionFailed, Conflict, Unavailable
from worker_space.idempotency import Repeat, remember
from worker_space.limits import ProjectRoom, files_counted_anew, lowered
from worker_space.policy import ToolPolicy
from worker_space.ports import Content, ContextStore, Queues, Records
from worker_space.projects import NewProject, Project, ProjectChanges, SpaceState, no_project, space_shard
from worker_space.records import All, Check, Condition, Delete, Equals, Exists, Item, Missing, Put, Update, Write
from worker_space.registry import IS_LIVE, AgentRegistry, new_agent_writes
from worker_space.tally import AGENTS, SESSIONS
from worker_space.tenancy import Key, TenantContext, UserContext
from worker_space.tools.catalogue import check_asking

__all__ = ["Projects"]

_TRIES: Final = 5
_log = logging.getLogger(__name__)


def project_of(item: Item) -> Project:
    """The project kept in a table item."""
    return Project(
        id=item["project_id"],
        name=item["name"],
        policy=ToolPolicy.model_validate(item.get("policy", {})),
        limits=item.get("limits", {}),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
    )


def _changed(
    space: Item, changes: ProjectChanges, allowances: Allowances
) -> tuple[dict[str, Any], Sequence[Condition]]:
    """The attributes that change, and what they were made from."""
    changed: dict[str, Any] = {"updated_at": now_ms()}
    if changes.name is not None:
        changed["name"] = changes.name
    as_read: Sequence[Condition] = ()
    if changes.limits is not None:
        changed["limits"], as_read = lowered(allowances, space, changes.limits)
    if changes.policy is None:
        return changed, as_read
    old = ToolPolicy.model_validate(space.get("policy", {}))
    policy = changes.policy.apply(old)
    if changes.policy.ask is not None:
        check_asking(policy)
    if policy == old:
        return changed, as_read
    version = space.get("policy_version", 0)
    changed |= {"policy": policy.model_dump(mode="json", exclude_none=True), "policy_version": version + 1}
    same_epoch = Equals("epoch", space["epoch"])
    return changed, (*as_read, same_epoch, at_policy(version))


def _being_erased(tenant: TenantContext, space: Item) -> Conflict:
    until = datetime.fromtimestamp(space["erase_again_at"] / 1000, UTC).isoformat(timespec="seconds")
    return Conflict(
        f"a project {tenant.project_id!r} is being erased, which is certified a little after {until}:"
        " choose another id, or wait until then"
    )


class Projects:
    """Makes, lists, renames and deletes a user's projects.

    Args:
        starters: The agents that a new project begins with.
        make_id: Gives an id to a project whose client names none.
        allowances: What projects may have, and how many of them a user.
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
        allowances: Allowances,
    ) -> None:
        self._allowances = allowances
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
            Conflict: The user has a project with this id, or one with this id is being erased, or the Idempotency-Key
                was used with another body.
            LimitReached: The user has as many projects as they may have.
        """
        tenant = TenantContext(user.user_id, new.id or self._make_id())
        old = await self.make_room(tenant)
        labelled = self._new_project(tenant, new, old)
        if repeat is not None:
            labelled["repeat"] = remember(repeat, tenant.project_id)
        for _ in range(_TRIES):
            room = None
            if (most := self._allowances.user.projects) is not None:
                room = await ProjectRoom.look(self._records, user, most=most)
                labelled["room"] = room.one_more()
            try:
                await self._records.write(tenant, *labelled.values())
                return await self.get(tenant)
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and (known := found["repeat"]) is not None:
                return await self.get(TenantContext(user.user_id, repeat.same(known)))
            if room is None or any(item is not None for label, item in found.items() if label != "room"):
                raise Conflict(f"you have a project {tenant.project_id!r} already: choose another id")
            room.check()
        raise Conflict("others keep making projects of yours: try again")

    async def make_room(self, tenant: TenantContext) -> Item | None:
        """Clear what is left of a deleted project with this id; the record that is there now, a live project's too.

        Raises:
            Conflict: A project with this id is being erased or imported.
        """
        old = await self._records.get(tenant, Key.space())
        if old is None or old["state"] != SpaceState.DELETED.value:
            return old
        if "erasing" in old:
            raise _being_erased(tenant, old)
        if "importing" in old and old["due_at"] > now_ms():
            raise Conflict(f"a project {tenant.project_id!r} is being imported: choose another id, or wait")
        if old.get("purged"):
            return old
        await self._purge(tenant, old)
        return await self._records.get(tenant, Key.space())

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
            AGENTS.attribute: len(self._starters),
            SESSIONS.attribute: 0,
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
        """Rename a project, or change its tool policy, which counts from the next effect of a run on, or its limits.

        Raises:
            NotFound: The user has no such project.
            InvalidRequest: The policy names what is neither a tool nor a risk level, or a limit is above what the
                deployment allows.
            Conflict: Others keep changing the policy or the limits at the same time.
        """
        for _ in range(_TRIES):
            space = await self._records.get(tenant, Key.space())
            if space is None or space["state"] == SpaceState.DELETED.value:
                raise no_project(tenant.project_id)
            changed, as_read = _changed(space, changes, self._allowances)
            listed = {name: value for name, value in changed.items() if name != "policy_version"}
            limits = {} if changes.limits is None else changes.limits.sent
            labelled: dict[str, Write] = {
                "listing": Update(key=Key.project(tenant), set=listed, when=Equals("project_id", tenant.project_id)),
                "space": Update(key=Key.space(), set=changed, when=All(IS_LIVE, *as_read)),
                **await files_counted_anew(self._records, tenant, limits.keys()),
            }
            try:
                await self._records.write(tenant, *labelled.values())
            except ConditionFailed as error:
                if dict(zip(labelled, error.items, strict=True))["listing"] is not None:
                    raise no_project(tenant.project_id) from error
                continue
            await self._registry.changed(tenant)
            return await self.get(tenant)
        raise Conflict("others keep changing this project: read it and try again")

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
            "due_shard": space_shard(tenant),
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

    async def _generations(self, tenant: TenantContext, space: Item) -> Sequence[int]:
        """The project's queues, also those that no record names; never one of a project that was made anew."""
        newest = space["generation"]
        found = [each for each in await self._queues.generations(tenant) if each <= newest]
        return sorted({newest, *map(int, space.get("releasing", ())), *found} - {0})

    async def _purge(self, tenant: TenantContext, space: Item) -> None:
        if "importing" in space:
            # Whoever still builds it is to find another epoch, and leave nothing behind.
            given_up = All(Equals("epoch", space["epoch"]), Equals("importing", space["importing"]))
            taken = Update(key=Key.space(), add={"epoch": 1}, remove=["importing"], when=given_up)
            try:
                await self._records.write(tenant, taken)
            except ConditionFailed:
                _log.info("an import was finished, or given up by somebody else")
                return
            space = {**space, "epoch": space["epoch"] + 1}
        still_deleted = Check(
            key=Key.space(), when=All(Equals("state", SpaceState.DELETED.value), Equals("epoch", space["epoch"]))
        )
        try:
            # Tasks first: without its task a late worker can write nothing more to the table.
            await clear_items(self._records, tenant, Key.tasks(), while_holds=still_deleted)
            # A reader that was slow must not fill the cache with what the project had: it may be made anew at once.
            await self._registry.changed(tenant)
            for generation in await self._generations(tenant, space):
                await self._queues.release(tenant, generation)
            await clear_items(self._records, tenant, Key.agents(), while_holds=still_deleted)
            # Agents that were deleted before are known by their versions only.
            versions = (await self._records.query(tenant, Key.all_agent_versions())).items
            keys = [key async for key in self._content.all_keys(tenant)]
            for agent_id in {item["id"] for item in versions}:
                # Each time: an import makes the same agents again.
                await self._records.write(tenant, still_deleted)
                await self._memory.drop(tenant, agent_id)
            # Listed while the project was still deleted, so none of them is its successor's.
            await self._records.write(tenant, still_deleted)
            if keys:
                await self._content.delete(tenant, keys)
            await clear_items(self._records, tenant, Key.everything(), while_holds=still_deleted)
            # No name, nothing of the user's: only what keeps late workers out, and queues apart.
            tombstone = {name: space[name] for name in ("state", "epoch", "generation")} | {"purged": True}
            await self._records.write(tenant, Put(key=Key.space(), item=tombstone, when=still_deleted.when))
        except ConditionFailed:
            _log.info("a project was made anew while its forerunner was cleared")
