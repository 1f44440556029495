"""The agents of a project: kept in the table, rehydrated through the cache.

The cache is never trusted for a decision. It hands out copies stamped with a version, and the transactions that act
on one (accept, first claim) carry that version as a condition; who finds it old loads again from the table.
"""

import json
import logging
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from worker_space.agents import Agent, AgentChanges, AgentConfig
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, NotFound, Unavailable
from worker_space.idempotency import Repeat, remember
from worker_space.ids import is_id, new_id
from worker_space.ports import Cache, Records
from worker_space.projects import Space, SpaceState, no_project
from worker_space.records import All, Check, Delete, Equals, Exists, Item, Missing, OneOf, Put, Update, Write
from worker_space.tenancy import Key, TenantContext

__all__ = ["CACHE_TTL_SECONDS", "IS_LIVE", "AgentRegistry", "Home", "agent_of", "new_agent_writes"]

CACHE_TTL_SECONDS: Final = 300
_SPACE_FIELD: Final = "space"
# Which agents belong to the fill: a late one may have left the field of an agent that was deleted since.
_INDEX_FIELD: Final = "agents"
_log = logging.getLogger(__name__)

IS_LIVE: Final = All(
    Exists("sk"),
    OneOf("state", tuple(state.value for state in SpaceState if state is not SpaceState.DELETED)),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """A worker space as rehydrated: its record and its agents, possibly some minutes old."""

    space: Space
    agents: Mapping[str, Agent]
    cached: bool

    def find(self, target: str) -> Agent | None:
        """The agent with this id or, without regard to case, this name."""
        if is_id("agent", target):
            return self.agents.get(target)
        wanted = unicodedata.normalize("NFC", target.strip()).casefold()
        return next((agent for agent in self.agents.values() if agent.config.name.casefold() == wanted), None)


def agent_of(item: Item) -> Agent:
    """The agent kept in a table item."""
    return Agent(
        id=item["id"],
        version=item["version"],
        config=AgentConfig.model_validate(item["config"]),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
    )


class AgentRegistry:
    """Makes, changes and finds a project's agents.

    Args:
        check_config: Raises `InvalidRequest` for a configuration this deployment cannot run (unknown tool or model).
        default_model: For agents whose configuration names none.
    """

    def __init__(
        self,
        records: Records,
        cache: Cache,
        *,
        check_config: Callable[[AgentConfig], None],
        default_model: str = "offline:rules",
    ) -> None:
        self._default_model = default_model
        self._records = records
        self._cache = cache
        self._check_config = check_config

    # -- rehydrate -------------------------------------------------------------------------------
    async def home(self, tenant: TenantContext, *, fresh: bool = False) -> Home:
        """The space and its agents: from the cache in one round trip, else from the table in one query.

        Raises:
            NotFound: The user has no such project.
        """
        cache_answers = True
        if not fresh:
            try:
                fields = await self._cache.load(tenant)
                if (home := self._from_cache(fields)) is not None:
                    return home
            except Unavailable:
                cache_answers = False
        items = (await self._records.query(tenant, Key.home())).items
        _check_live(tenant, items)
        home = Home(
            space=Space.model_validate(items[0]),
            agents={item["id"]: agent_of(item) for item in items[1:]},
            cached=False,
        )
        if cache_answers:
            await self._fill(tenant, home)
        return home

    @staticmethod
    def _from_cache(fields: Mapping[str, str]) -> Home | None:
        if _SPACE_FIELD not in fields or _INDEX_FIELD not in fields:
            return None
        try:
            space = Space.model_validate_json(fields[_SPACE_FIELD])
            agents = {name: Agent.model_validate_json(fields[name]) for name in fields[_INDEX_FIELD].split()}
        except (KeyError, ValidationError):
            # Written by another release; the table knows better and the fill replaces it.
            return None
        return Home(space=space, agents=agents, cached=True)

    async def _fill(self, tenant: TenantContext, home: Home) -> None:
        fields = {agent.id: agent.model_dump_json() for agent in home.agents.values()}
        try:
            await self._cache.store(
                tenant,
                {_SPACE_FIELD: home.space.model_dump_json(), _INDEX_FIELD: " ".join(fields), **fields},
                ttl_seconds=CACHE_TTL_SECONDS,
            )
        except Unavailable as error:
            _log.info("the cache was not filled: %s", error)

    async def forget(self, tenant: TenantContext) -> None:
        """Drop the project's cache. A cache that cannot be reached is left to its time to live."""
        try:
            await self._cache.clear(tenant)
        except Unavailable as error:
            _log.info("the cache was not cleared: %s", error)

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
            raise NotFound(f"this project has no agent {target[:80]!r}")
        return agent_of(item)

    async def version(self, tenant: TenantContext, agent_id: str, version: int) -> Agent:
        """An agent as it was at a version.

        Raises:
            NotFound: There is no such version.
        """
        item = await self._records.get(tenant, Key.agent_version(agent_id, version))
        if item is None:
            raise NotFound(f"there is no version {version} of this agent")
        return agent_of(item)

    async def page(self, tenant: TenantContext, *, limit: int, after: str | None) -> tuple[Sequence[Agent], str | None]:
        """Agents in the order of their ages, from the table, in one query.

        Raises:
            NotFound: The user has no such project.
        """
        if after is None:
            # The space's own record stands before the agents: the same query tells whether the project is there.
            page = await self._records.query(tenant, Key.home(), limit=limit + 1)
            _check_live(tenant, page.items)
            return [agent_of(item) for item in page.items[1:]], page.after
        page = await self._records.query(tenant, Key.agents(), limit=limit, after=after)
        if not page.items:
            space = await self._records.get(tenant, Key.space())
            _check_live(tenant, [] if space is None else [space])
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
            Conflict: The name is taken.
            NotFound: There is no such project.
        """
        agent = self.draft(config)
        labelled = {"space": Check(key=Key.space(), when=IS_LIVE), **new_agent_writes(agent)}
        if repeat is not None:
            labelled["repeat"] = remember(repeat, agent.id)
        try:
            await self._records.write(tenant, *labelled.values())
        except ConditionFailed as error:
            found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and found["repeat"] is not None:
                return await self.get(tenant, repeat.same(found["repeat"]))
            if found["space"] is not None:
                raise no_project(tenant.project_id) from error
            raise Conflict(f"the project has an agent named {config.name!r} already: choose another name") from error
        await self.forget(tenant)
        return agent

    async def update(self, tenant: TenantContext, target: str, changes: AgentChanges) -> Agent:
        """Change an agent; running tasks keep the version they began with.

        Raises:
            InvalidRequest: The new configuration names an unknown tool or model.
            Conflict: The new name is taken, or others keep changing the agent at the same time.
            NotFound: The project has no such agent.
        """
        for _ in range(5):
            old = await self.get(tenant, target)
            config = changes.apply(old.config)
            self._check_config(config)
            agent = Agent(
                id=old.id, version=old.version + 1, config=config, created_at=old.created_at, updated_at=now_ms()
            )
            labelled: dict[str, Write] = {
                "agent": Put(key=Key.agent(old.id), item=_stored(agent), when=Equals("version", old.version)),
                "version": Put(key=Key.agent_version(old.id, agent.version), item=_stored(agent)),
                "runtime": Update(key=Key.runtime(old.id), set={"max": config.max_concurrency}),
            }
            old_name, new_name = Key.agent_name(old.config.name), Key.agent_name(config.name)
            if new_name != old_name:
                labelled["name"] = Put(key=new_name, item={"agent_id": old.id}, when=Missing("sk"))
                labelled["old name"] = Delete(key=old_name, when=Equals("agent_id", old.id))
            try:
                await self._records.write(tenant, *labelled.values())
            except ConditionFailed as error:
                if dict(zip(labelled, error.items, strict=True)).get("name") is not None:
                    raise Conflict(f"the project has an agent named {config.name!r} already") from error
                continue
            await self.forget(tenant)
            return agent
        raise Conflict("others keep changing this agent: read it and try again")

    async def delete(self, tenant: TenantContext, target: str) -> Agent:
        """Take an agent away; its waiting tasks fail and say so.

        Raises:
            NotFound: The project has no such agent.
        """
        for _ in range(5):
            old = await self.get(tenant, target)
            try:
                await self._records.write(
                    tenant,
                    Delete(key=Key.agent(old.id), when=Equals("version", old.version)),
                    Delete(key=Key.agent_name(old.config.name), when=Equals("agent_id", old.id)),
                )
            except ConditionFailed:
                continue
            await self.forget(tenant)
            return old
        raise Conflict("others keep changing this agent: read it and try again")


def _check_live(tenant: TenantContext, home: Sequence[Item]) -> None:
    """Whether the items of a space begin with its record, and it is not that of a deleted project."""
    if not home or home[0]["sk"] != Key.space().sort or home[0]["state"] == SpaceState.DELETED.value:
        raise no_project(tenant.project_id)


def _stored(agent: Agent) -> dict[str, Any]:
    return {
        "id": agent.id,
        "version": agent.version,
        "config": json.loads(agent.config.model_dump_json(exclude_none=True)),
        "created_at": agent.created_at,
        "updated_at": agent.updated_at,
    }


def new_agent_writes(agent: Agent) -> dict[str, Write]:
    """The writes that make an agent; `name` is the one whose condition keeps names unique."""
    return {
        f"name {agent.config.name}": Put(
            key=Key.agent_name(agent.config.name), item={"agent_id": agent.id}, when=Missing("sk")
        ),
        f"agent {agent.id}": Put(key=Key.agent(agent.id), item=_stored(agent), when=Missing("sk")),
        f"version {agent.id}": Put(key=Key.agent_version(agent.id, agent.version), item=_stored(agent)),
        f"runtime {agent.id}": Put(key=Key.runtime(agent.id), item={"max": agent.config.max_concurrency}),
    }
