"""The agents of a project, as the table keeps them; `rehydration` hands out copies."""

from collections.abc import Callable, Sequence
from typing import Final

from worker_space.agent_records import IS_LIVE, agent_of, as_known, check_live, new_agent_writes, stored_agent
from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.allowances import Allowances
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, NotFound
from worker_space.home import Home
from worker_space.idempotency import Repeat, remember
from worker_space.ids import is_id, new_id
from worker_space.ports import Cache, Records
from worker_space.records import Delete, Equals, Item, Missing, Put, Update, Write
from worker_space.rehydration import CACHE_TTL_SECONDS, Rehydration
from worker_space.tally import AGENTS
from worker_space.tenancy import Key, TenantContext

__all__ = ["CACHE_TTL_SECONDS", "IS_LIVE", "AgentRegistry", "Home", "agent_of", "new_agent_writes"]

_TRIES: Final = 5


class AgentRegistry(Rehydration):
    """Makes, changes and finds a project's agents.

    Args:
        check_config: Raises `InvalidRequest` for a configuration this deployment cannot run (unknown tool or model).
        allowances: How many agents a project may have.
        default_model: For agents whose configuration names none.
    """

    def __init__(
        self,
        records: Records,
        cache: Cache,
        *,
        check_config: Callable[[AgentConfig], None],
        allowances: Allowances,
        default_model: str = "offline:rules",
    ) -> None:
        super().__init__(records, cache)
        self._allowances = allowances
        self._default_model = default_model
        self._check_config = check_config

    # -- read ------------------------------------------------------------------------------------
    async def get(self, tenant: TenantContext, target: str) -> Agent:
        """The agent with this id or name, from the table.

        Raises:
            NotFound: The project has no such agent.
        """
        if is_id("agent", target):
            item = await self._records.get(tenant, Key.agent(target))
        else:
            guard = await self._records.get(tenant, Key.agent_name(target.strip()))
            item = None if guard is None else await self._records.get(tenant, Key.agent(guard["agent_id"]))
        if item is None:
            raise _no_agent(target)
        return agent_of(item)

    async def id_of(self, tenant: TenantContext, target: str) -> str:
        """The id of the agent with this id or name; an id is taken as it is.

        Raises:
            NotFound: The project has no agent of that name.
        """
        return target if is_id("agent", target) else (await self.get(tenant, target)).id

    async def version(self, tenant: TenantContext, agent_id: str, version: int) -> Agent:
        """An agent as it was at a version, also after its deletion: tasks refer to it.

        Raises:
            NotFound: There is no such version.
        """
        item = await self._records.get(tenant, Key.agent_version(agent_id, version))
        if item is None:
            raise NotFound(f"there is no version {version} of this agent")
        return agent_of(item)

    async def versions(
        self, tenant: TenantContext, agent_id: str, *, limit: int, after: str | None
    ) -> tuple[Sequence[Agent], str | None]:
        """The versions of an agent, the newest first, also after its deletion.

        Raises:
            NotFound: The project has, and had, no such agent.
        """
        page = await self._records.query(
            tenant, Key.agent_versions(agent_id), limit=limit, after=after, descending=True
        )
        if not page.items and after is None:
            raise _no_agent(agent_id)
        return [agent_of(item) for item in page.items], page.after

    async def page(self, tenant: TenantContext, *, limit: int, after: str | None) -> tuple[Sequence[Agent], str | None]:
        """Agents in the order of their ages, from the table, in one query.

        Raises:
            NotFound: The user has no such project.
        """
        if after is None:
            # The space's own record stands before the agents: the same query tells whether the project is there.
            page = await self._records.query(tenant, Key.home(), limit=limit + 1)
            check_live(tenant, page.items)
            return [agent_of(item) for item in page.items[1:]], page.after
        page = await self._records.query(tenant, Key.agents(), limit=limit, after=after)
        if not page.items:
            space = await self._records.get(tenant, Key.space())
            check_live(tenant, [] if space is None else [space])
        return [agent_of(item) for item in page.items], page.after

    # -- write -----------------------------------------------------------------------------------
    def draft(self, config: AgentConfig) -> Agent:
        """A first version, not stored yet.

        Raises:
            InvalidRequest: The configuration names an unknown tool or model.
        """
        if "model" not in config.model_fields_set:
            config = config.model_copy(update={"model": self._default_model})
        self._check_config(config)
        now = now_ms()
        return Agent(id=new_id("agent"), version=1, config=config, created_at=now, updated_at=now)

    async def create(self, tenant: TenantContext, config: AgentConfig, *, repeat: Repeat | None = None) -> Agent:
        """Make an agent.

        Raises:
            InvalidRequest: The configuration names an unknown tool or model.
            Conflict: The name is taken, or others keep making agents at the same time.
            LimitReached: The project has as many agents as it may have.
            NotFound: There is no such project.
        """
        agent = self.draft(config)
        for _ in range(_TRIES):
            space = await self._records.get(tenant, Key.space()) or {}
            most = self._allowances.of_record(space).agents
            count = await AGENTS.count(self._records, tenant, space)
            labelled: dict[str, Write] = {
                "space": AGENTS.one_more(space, count, most=most, when=IS_LIVE),
                **new_agent_writes(agent),
            }
            if repeat is not None:
                labelled["repeat"] = remember(repeat, agent.id)
            try:
                await self._records.write(tenant, *labelled.values())
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
                if repeat is not None and (known := found["repeat"]) is not None:
                    return await self.get(tenant, repeat.same(known))
                if (stored := found["space"]) is None:
                    raise Conflict(
                        f"the project has an agent named {config.name!r} already: choose another name"
                    ) from error
                check_live(tenant, [stored] if stored else [])
                AGENTS.check_room(stored, count, most=most)
                continue
            await self.changed(tenant)
            return agent
        raise Conflict("others keep making and deleting agents of this project: try again")

    async def update(self, tenant: TenantContext, target: str, changes: AgentChanges) -> Agent:
        """Change an agent, which makes a new version; running tasks keep the one they began with.

        Raises:
            InvalidRequest: The new configuration names an unknown tool or model.
            Conflict: The new name is taken, or others keep changing the agent at the same time.
            NotFound: The project has no such agent.
        """
        return await self._next_version(tenant, target, lambda old: changes.apply(old.config))

    async def restore(self, tenant: TenantContext, target: str, version: int, *, repeat: Repeat | None = None) -> Agent:
        """Make a new version that equals an earlier one.

        Raises:
            InvalidRequest: That version names a tool or model that is no longer served.
            Conflict: Its name is taken by another agent now, or others keep changing the agent at the same time.
            NotFound: The project has no such agent, or the agent no such version.
        """
        agent_id = (await self.get(tenant, target)).id
        earlier = await self.version(tenant, agent_id, version)
        return await self._next_version(tenant, agent_id, lambda _: earlier.config, repeat=repeat)

    async def _next_version(
        self,
        tenant: TenantContext,
        target: str,
        change: Callable[[Agent], AgentConfig],
        *,
        repeat: Repeat | None = None,
    ) -> Agent:
        for _ in range(_TRIES):
            old = await self.get(tenant, target)
            config = change(old)
            self._check_config(config)
            agent = old.model_copy(update={"version": old.version + 1, "config": config, "updated_at": now_ms()})
            stored = stored_agent(agent)
            labelled: dict[str, Write] = {
                # Not put anew: what others keep on the item is not this change's to replace.
                "agent": Update(
                    key=Key.agent(old.id),
                    set={name: stored[name] for name in ("version", "config", "updated_at")},
                    when=Equals("version", old.version),
                ),
                "version": Put(key=Key.agent_version(old.id, agent.version), item=stored),
                "runtime": Update(key=Key.runtime(old.id), set={"max": config.max_concurrency}),
            }
            old_name, new_name = Key.agent_name(old.config.name), Key.agent_name(config.name)
            if new_name != old_name:
                labelled["name"] = Put(key=new_name, item={"agent_id": old.id}, when=Missing("sk"))
                labelled["old name"] = Delete(key=old_name, when=Equals("agent_id", old.id))
            if repeat is not None:
                labelled["repeat"] = remember(repeat, f"{old.id}/{agent.version}")
            try:
                await self._records.write(tenant, *labelled.values())
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
                if repeat is not None and (known := found["repeat"]) is not None:
                    agent_id, _, version = repeat.same(known).rpartition("/")
                    return await self.version(tenant, agent_id, int(version))
                if found.get("name") is not None:
                    raise Conflict(f"the project has an agent named {config.name!r} already") from error
                continue
            await self.changed(tenant)
            return agent
        raise Conflict("others keep changing this agent: read it and try again")

    async def begin_context_generation(self, tenant: TenantContext, target: str) -> Agent:
        """Have nothing that the agent remembers, or begins to remember before this, be recalled from now on.

        Raises:
            NotFound: The project has no such agent.
            Conflict: Others keep changing the agent at the same time.
        """
        for _ in range(_TRIES):
            old = await self.get(tenant, target)
            agent = old.model_copy(update={"context_generation": old.context_generation + 1})
            later = Update(
                key=Key.agent(old.id), set={"context_generation": agent.context_generation}, when=as_known(old)
            )
            try:
                await self._records.write(tenant, later)
            except ConditionFailed:
                continue
            await self.changed(tenant)
            return agent
        raise Conflict("others keep changing this agent: read it and try again")

    async def delete(self, tenant: TenantContext, target: str) -> Agent:
        """Take an agent away; its waiting tasks fail and say so. Its versions stay as long as the project.

        Raises:
            NotFound: The project has no such agent.
        """
        space: Item | None = None
        for _ in range(_TRIES):
            old = await self.get(tenant, target)
            count = 0 if space is None else await AGENTS.count(self._records, tenant, space)
            try:
                await self._records.write(
                    tenant,
                    Delete(key=Key.agent(old.id), when=Equals("version", old.version)),
                    Delete(key=Key.agent_name(old.config.name), when=Equals("agent_id", old.id)),
                    AGENTS.one_less(space, count),
                )
            except ConditionFailed as error:
                space = error.items[2] if error.items[2] is not None else space
                continue
            await self.changed(tenant)
            return old
        raise Conflict("others keep changing this agent: read it and try again")


def _no_agent(target: str) -> NotFound:
    return NotFound(f"this project has no agent {target[:80]!r}")
