"""A worker space as rehydrated, and the form in which the cache keeps it."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from worker_space.agents import Agent
from worker_space.ids import is_id
from worker_space.projects import Space

__all__ = ["Home", "changed_field"]

_SPACE_FIELD: Final = "space"
# Which agents belong to the fill: a late one may have left the field of an agent that was deleted since.
_INDEX_FIELD: Final = "agents"
# Likewise those that were initialised: a fill that comes later and holds others makes it void.
_READY_FIELD: Final = "ready"
_READ_FIELD: Final = "read_at"
_CHANGED_FIELD: Final = "changed_at"
# Two environments' clocks differ by less; so long after a change, each rehydrates from the table.
_SKEW_MS: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """The space's record and its agents, possibly some minutes old.

    Attributes:
        cached: Whether it comes from the cache.
        read_at: When its reading from the table began, epoch milliseconds.
        initialized: Whether these very agents were initialised since the cache was filled.
    """

    space: Space
    agents: Mapping[str, Agent]
    cached: bool
    read_at: int
    initialized: bool = False

    def find(self, target: str) -> Agent | None:
        """The agent with this id or, without regard to case, this name."""
        if is_id("agent", target):
            return self.agents.get(target)
        wanted = unicodedata.normalize("NFC", target.strip()).casefold()
        return next((agent for agent in self.agents.values() if agent.config.name.casefold() == wanted), None)

    @classmethod
    def of_cache(cls, fields: Mapping[str, str]) -> "Home | None":
        """What the cache's fields hold; `None` when they are incomplete, outdated or of another release."""
        if _SPACE_FIELD not in fields or _INDEX_FIELD not in fields:
            return None
        try:
            read_at = int(fields[_READ_FIELD])
            if read_at <= int(fields.get(_CHANGED_FIELD, -_SKEW_MS)) + _SKEW_MS:
                return None
            space = Space.model_validate_json(fields[_SPACE_FIELD])
            agents = {name: Agent.model_validate_json(fields[name]) for name in fields[_INDEX_FIELD].split()}
        except (KeyError, ValueError):
            return None
        initialized = fields.get(_READY_FIELD) == fields[_INDEX_FIELD]
        return cls(space=space, agents=agents, cached=True, read_at=read_at, initialized=initialized)

    @property
    def cache_fields(self) -> Mapping[str, str]:
        """What fills the cache."""
        agents = {agent.id: agent.model_dump_json() for agent in self.agents.values()}
        about = {_SPACE_FIELD: self.space.model_dump_json(), _READ_FIELD: str(self.read_at)}
        return {**about, _INDEX_FIELD: " ".join(agents), **agents}

    @property
    def ready_field(self) -> Mapping[str, str]:
        """What notes in the cache that these agents are initialised."""
        return {_READY_FIELD: " ".join(self.agents)}


def changed_field(at: int) -> Mapping[str, str]:
    """What notes in the cache that something changed: nothing counts any more that was read by then.

    Args:
        at: Epoch milliseconds.
    """
    return {_CHANGED_FIELD: str(at)}
