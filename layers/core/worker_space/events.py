"""Events: what has happened in a session, in one gap-free order.

An event's number is its sort key, and it is stored only where none with that number is: whoever guesses a number that
is taken looks for the newest and guesses again. A guess is never beyond the newest plus one, so no number is left out:

```
 accept      … 7 message_created, 8 task_submitted
 worker           guesses 9 ✓ task_started ─────────── guesses 10 ✗ (taken) ── newest is 11 ── 12 ✓ step
 accept(m2)                    guesses 10, 11 ✓ message_created, task_submitted
```

An event is written in the very transaction of what it tells of, so neither is ever there without the other.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from worker_space.clock import now_ms
from worker_space.ports import Records
from worker_space.records import Item, Missing, Put
from worker_space.tenancy import Key, TenantContext

__all__ = ["Event", "EventCursor", "EventLog", "EventType", "NewEvent", "shown"]

_SHOWN_BYTES: Final = 16 * 1024
_LABEL: Final = "event "


class EventType(StrEnum):
    """What can happen in a session."""

    MESSAGE_CREATED = "message_created"
    TASK_SUBMITTED = "task_submitted"
    TASK_STARTED = "task_started"
    ATTEMPT_RESTARTED = "attempt_restarted"
    STEP = "step"
    APPROVAL_REQUIRED = "approval_required"
    APPROVAL_RESOLVED = "approval_resolved"
    APPROVAL_EXPIRED = "approval_expired"
    PLAN_CREATED = "plan_created"
    AGENT_SWITCHED = "agent_switched"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_CANCELED = "task_canceled"
    ERROR = "error"


class Event(BaseModel):
    """One event of a session.

    Attributes:
        seq: Its number: 1 for the first of a session, one more for each that follows.
        at: Epoch milliseconds.
        data: What is told; texts over 16 KiB are cut, and `truncated` says so.
    """

    model_config = ConfigDict(frozen=True)

    seq: int
    type: EventType
    at: int
    task_id: str | None = None
    agent_id: str | None = None
    data: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEvent:
    """An event without its number."""

    type: EventType
    task_id: str | None = None
    agent_id: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


def shown(text: str) -> Mapping[str, Any]:
    """A text as an event carries it: whole, or its beginning with `truncated`."""
    data = text.encode(errors="replace")
    if len(data) <= _SHOWN_BYTES:
        return {"content": data.decode()}
    return {"content": data[:_SHOWN_BYTES].decode(errors="ignore"), "truncated": True}


class EventCursor:
    """Where one writer believes the end of a session's events to be.

    Args:
        last: The newest event's number as far as known; never beyond the truth.

    Attributes:
        owed: Events that come before the next ones of this writer, in their transaction.
    """

    def __init__(self, session_id: str, last: int = 0) -> None:
        self.session_id = session_id
        self.last = last
        self.owed: list[NewEvent] = []

    def writes(self, events: Sequence[NewEvent]) -> dict[str, Put]:
        """The writes that append `events`, by a label each; all of them belong into one transaction."""
        now = now_ms()
        return {
            f"{_LABEL}{place}": Put(
                key=Key.event(self.session_id, self.last + 1 + place), item=_stored(event, now), when=Missing("sk")
            )
            for place, event in enumerate(events)
        }

    def written(self, events: Sequence[NewEvent]) -> None:
        """They are stored, with what was owed among them: the next ones follow."""
        self.last += len(events)
        self.owed.clear()

    @staticmethod
    def collided(failed: Mapping[str, Item | None]) -> bool:
        """Whether a number was taken, by the items of a failed transaction under their labels."""
        return any(item is not None for label, item in failed.items() if label.startswith(_LABEL))

    async def look(self, records: Records, tenant: TenantContext) -> None:
        """Learn the newest event's number: one query."""
        page = await records.query(tenant, Key.events(self.session_id), limit=1, descending=True)
        self.last = _seq(page.items[0]) if page.items else 0


class EventLog:
    """Reads a session's events."""

    def __init__(self, records: Records) -> None:
        self._records = records

    async def page(self, tenant: TenantContext, session_id: str, *, after: int, limit: int) -> Sequence[Event]:
        """At most `limit` events behind number `after`, in their order; empty where there are none (yet)."""
        page = await self._records.query(
            tenant, Key.events(session_id), limit=limit, after=Key.event(session_id, after).sort
        )
        return [_event(item) for item in page.items]


def _seq(item: Item) -> int:
    return int(str(item["sk"]).rpartition("#")[2])


def _stored(event: NewEvent, now: int) -> dict[str, Any]:
    return {
        "type": event.type.value,
        "at": now,
        "data": dict(event.data),
        **({} if event.task_id is None else {"task_id": event.task_id}),
        **({} if event.agent_id is None else {"agent_id": event.agent_id}),
    }


def _event(item: Item) -> Event:
    return Event(
        seq=_seq(item),
        type=EventType(item["type"]),
        at=item["at"],
        task_id=item.get("task_id"),
        agent_id=item.get("agent_id"),
        data=item["data"],
    )
