"""Chat sessions: mailboxes in which the messages of a conversation are answered in their order."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.errors import ConditionFailed, Conflict, NotFound
from worker_space.idempotency import Repeat, remember
from worker_space.ids import new_id
from worker_space.messages import ChatSession, Message, NewSession
from worker_space.ports import Content, Records
from worker_space.projects import no_project
from worker_space.records import All, Any_, Check, Delete, Exists, Item, Missing, Page, Put, SizeBelow, Update, Write
from worker_space.registry import IS_LIVE
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["ChatSessions"]

_CLOSE_SECONDS: Final = 10.0


def session_of(item: Item) -> ChatSession:
    """The session kept in a table item."""
    return ChatSession(
        id=item["id"],
        title=item["title"],
        target_agent=item.get("target_agent"),
        message_count=item["next_number"] // 2,
        open_tasks=("active" in item) + len(item.get("waiting", ())),
        created_at=item["created_at"],
        updated_at=item["updated_at"],
    )


class ChatSessions:
    """Makes, lists and deletes a project's sessions, and reads their messages."""

    def __init__(self, records: Records, texts: Texts, content: Content, bus: AgentBus) -> None:
        self._records = records
        self._texts = texts
        self._content = content
        self._bus = bus

    async def create(self, tenant: TenantContext, new: NewSession, *, repeat: Repeat | None = None) -> ChatSession:
        """Open a session.

        Raises:
            NotFound: There is no such project.
        """
        session_id, now = new_id("session"), now_ms()
        item = {
            "id": session_id,
            "title": new.title,
            "target_agent": new.target_agent,
            "next_number": 0,
            "created_at": now,
            "updated_at": now,
        }
        labelled: dict[str, Write] = {
            "space": Check(key=Key.space(), when=IS_LIVE),
            "session": Put(key=Key.session(session_id), item=item, when=Missing("sk")),
        }
        if repeat is not None:
            labelled["repeat"] = remember(repeat, session_id)
        try:
            await self._records.write(tenant, *labelled.values())
        except ConditionFailed as error:
            found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and (known := found["repeat"]) is not None:
                return await self.get(tenant, repeat.same(known))
            raise no_project(tenant.project_id) from error
        return session_of({name: value for name, value in item.items() if value is not None})

    async def get(self, tenant: TenantContext, session_id: str) -> ChatSession:
        return session_of(await self._item(tenant, session_id))

    async def _item(self, tenant: TenantContext, session_id: str) -> Item:
        item = await self._records.get(tenant, Key.session(session_id))
        if item is None:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}")
        return item

    async def page(
        self, tenant: TenantContext, *, limit: int, after: str | None
    ) -> tuple[Sequence[ChatSession], str | None]:
        """Sessions, the newest first."""
        page = await self._records.query(tenant, Key.sessions(), limit=limit, after=after, descending=True)
        return [session_of(item) for item in page.items], page.after

    async def messages(
        self, tenant: TenantContext, session_id: str, *, limit: int, after: str | None
    ) -> tuple[Sequence[Message], str | None]:
        """Messages, the oldest first.

        Raises:
            NotFound: There is no such session.
        """
        page: Page
        item, page = await asyncio.gather(
            self._records.get(tenant, Key.session(session_id)),
            self._records.query(tenant, Key.messages(session_id), limit=limit, after=after),
        )
        if item is None:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}")
        texts = await asyncio.gather(*(self._texts.read(tenant, stored) for stored in page.items))
        return [message_of(stored, text) for stored, text in zip(page.items, texts, strict=True)], page.after

    async def delete(self, tenant: TenantContext, session_id: str) -> None:
        """Cancel what is open in the session, then take it and its messages away.

        Raises:
            NotFound: There is no such session.
            Conflict: A task did not stop in time; the session takes no new messages: delete it again.
        """
        until = time.monotonic() + _CLOSE_SECONDS
        try:
            await self._records.write(
                tenant, Update(key=Key.session(session_id), set={"closing": now_ms()}, when=Exists("sk"))
            )
        except ConditionFailed as error:
            raise NotFound(f"this project has no chat session {session_id[:80]!r}") from error
        while "active" in (item := await self._item(tenant, session_id)) or item.get("waiting"):
            for ticket in reversed(item.get("waiting", [])):
                await self._cancel(tenant, ticket["task"])
            if "active" in item:
                await self._cancel(tenant, item["active"])
            if time.monotonic() > until:
                raise Conflict("a task of this session has not stopped yet: delete the session again")
            await asyncio.sleep(0.05)
        # The session itself goes last: whoever is interrupted here can be followed by another deletion. Nothing is
        # added meanwhile, because a closing session accepts no message.
        await self._clear(tenant, session_id)
        while events := (await self._records.query(tenant, Key.events(session_id), limit=100)).items:
            await self._records.write(tenant, *(Delete(key=Key(item["sk"])) for item in events))
        nobody_left = All(Missing("active"), Any_(Missing("waiting"), SizeBelow("waiting", 1)))
        try:
            await self._records.write(tenant, Delete(key=Key.session(session_id), when=nobody_left))
        except ConditionFailed as error:
            raise Conflict("a task of this session has not stopped yet: delete the session again") from error

    async def _cancel(self, tenant: TenantContext, task_id: str) -> None:
        try:
            await self._bus.cancel_task(tenant, task_id)
        except (Conflict, NotFound):
            return

    async def _clear(self, tenant: TenantContext, session_id: str) -> None:
        while page := (await self._records.query(tenant, Key.messages(session_id), limit=100)).items:
            for task_id in dict.fromkeys(item["task_id"] for item in page):
                await self._clear_task(tenant, task_id)
            keys = [item["content_key"] for item in page if "content_key" in item]
            if keys:
                await self._content.delete(tenant, keys)
            await self._records.write(tenant, *(Delete(key=Key.message(session_id, item["number"])) for item in page))

    async def _clear_task(self, tenant: TenantContext, task_id: str) -> None:
        """A task and its steps, which hold what was said and read in the session."""
        while steps := (await self._records.query(tenant, Key.steps(task_id), limit=50)).items:
            keys = [item["content_key"] for item in steps if "content_key" in item]
            if keys:
                await self._content.delete(tenant, keys)
            await self._records.write(tenant, *(Delete(key=Key.step(task_id, item["number"])) for item in steps))
        await self._records.write(tenant, Delete(key=Key.task(task_id)))


def message_of(item: Item, content: str) -> Message:
    """The message kept in a table item, with its text."""
    return Message(
        number=item["number"],
        role=item["role"],
        content=content,
        agent_id=item["agent_id"],
        task_id=item["task_id"],
        status=item.get("status", "ok"),
        created_at=item["created_at"],
    )
