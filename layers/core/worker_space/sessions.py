"""Chat sessions: mailboxes in which the messages of a conversation are answered in their order."""

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from worker_space.agent_records import check_live
from worker_space.allowances import Allowances
from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.consent import content_keys
from worker_space.errors import ConditionFailed, Conflict, NotFound
from worker_space.forgetting import Forgetting
from worker_space.idempotency import Repeat, remember
from worker_space.ids import new_id
from worker_space.messages import ChatSession, Message, NewSession
from worker_space.planning import PlanBook
from worker_space.ports import Content, Records
from worker_space.records import All, Any_, Delete, Exists, Item, Missing, Page, Put, SizeBelow, Update, Write
from worker_space.registry import IS_LIVE
from worker_space.tally import SESSIONS
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["ChatSessions"]

_CLOSE_SECONDS: Final = 10.0
_TRIES: Final = 5


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

    def __init__(
        self,
        records: Records,
        texts: Texts,
        content: Content,
        bus: AgentBus,
        *,
        plans: PlanBook,
        allowances: Allowances,
        forgetting: Forgetting,
    ) -> None:
        self._forgetting = forgetting
        self._plans = plans
        self._allowances = allowances
        self._records = records
        self._texts = texts
        self._content = content
        self._bus = bus

    async def create(self, tenant: TenantContext, new: NewSession, *, repeat: Repeat | None = None) -> ChatSession:
        """Open a session.

        Raises:
            NotFound: There is no such project.
            LimitReached: The project has as many sessions as it may have.
            Conflict: Others keep opening and deleting sessions at the same time.
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
        for _ in range(_TRIES):
            space = await self._records.get(tenant, Key.space()) or {}
            most = self._allowances.of_record(space).sessions
            count = await SESSIONS.count(self._records, tenant, space)
            labelled: dict[str, Write] = {
                "space": SESSIONS.one_more(space, count, most=most, when=IS_LIVE),
                "session": Put(key=Key.session(session_id), item=item, when=Missing("sk")),
            }
            if repeat is not None:
                labelled["repeat"] = remember(repeat, session_id)
            try:
                await self._records.write(tenant, *labelled.values())
                return session_of({name: value for name, value in item.items() if value is not None})
            except ConditionFailed as error:
                found = dict(zip(labelled, error.items, strict=True))
            if repeat is not None and (known := found["repeat"]) is not None:
                return await self.get(tenant, repeat.same(known))
            stored = found["space"] or {}
            check_live(tenant, [stored] if stored else [])
            SESSIONS.check_room(stored, count, most=most)
        raise Conflict("others keep opening and deleting sessions of this project: try again")

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
        """Cancel what is open in the session, then take it, its messages and what agents remember of them away.

        Agents keep the notes that they were told to remember. While memory is down the session goes all the same, and
        the sweeper has them forget it.

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
        await self._clear(tenant, session_id, until)
        while events := (await self._records.query(tenant, Key.events(session_id), limit=100)).items:
            await self._records.write(tenant, *(Delete(key=Key(item["sk"])) for item in events))
        nobody_left = All(Exists("sk"), Missing("active"), Any_(Missing("waiting"), SizeBelow("waiting", 1)))
        space: Item | None = None
        for _ in range(_TRIES):
            count = 0 if space is None else await SESSIONS.count(self._records, tenant, space)
            gone = Delete(key=Key.session(session_id), when=nobody_left)
            try:
                await self._records.write(tenant, gone, SESSIONS.one_less(space, count))
                return await self._forgetting.forget(tenant, session_id)
            except ConditionFailed as error:
                if error.items[0] == {}:
                    return await self._forgetting.forget(tenant, session_id)
                if error.items[0] is not None:
                    break
                space = error.items[1]
        raise Conflict("a task of this session has not stopped yet: delete the session again")

    async def _cancel(self, tenant: TenantContext, task_id: str) -> None:
        try:
            await self._bus.cancel_task(tenant, task_id)
        except (Conflict, NotFound):
            return

    async def _clear(self, tenant: TenantContext, session_id: str, until: float) -> None:
        while page := (await self._records.query(tenant, Key.messages(session_id), limit=100)).items:
            await self._forgetting.note(tenant, session_id, {item["agent_id"] for item in page})
            for task_id in dict.fromkeys(item["task_id"] for item in page):
                await self._clear_plan(tenant, session_id, task_id, until)
                await self._clear_task(tenant, task_id)
            keys = [item["content_key"] for item in page if "content_key" in item]
            if keys:
                await self._content.delete(tenant, keys)
            await self._records.write(tenant, *(Delete(key=Key.message(session_id, item["number"])) for item in page))

    async def _clear_plan(self, tenant: TenantContext, session_id: str, task_id: str, until: float) -> None:
        """The plan that a message's task has to do with, and that plan's tasks.

        Raises:
            Conflict: One of them does not stop in time. Until it does, it holds a place with its agent.
        """
        task = await self._records.get(tenant, Key.task(task_id)) or {}
        stored = await self._plans.stored(tenant, task["plan_id"]) if "plan_id" in task else None
        if stored is None:
            return
        await self._forgetting.note(tenant, session_id, {task.agent_id for task in stored.plan.tasks})
        for child_id in stored.task_ids:
            while (child := await self._records.get(tenant, Key.task(child_id))) is not None:
                if TaskState(child["state"]).ended:
                    break
                await self._cancel(tenant, child_id)
                if time.monotonic() > until:
                    raise Conflict("a task of this session's plan has not stopped yet: delete the session again")
                await asyncio.sleep(0.05)
            await self._clear_task(tenant, child_id)
        await self._records.write(tenant, Delete(key=Key.plan(stored.plan.id)))

    async def _clear_task(self, tenant: TenantContext, task_id: str) -> None:
        """A task, its steps and its approvals, which hold what was said and read in the session."""
        while steps := (await self._records.query(tenant, Key.steps(task_id), limit=50)).items:
            keys = [item["content_key"] for item in steps if "content_key" in item]
            if keys:
                await self._content.delete(tenant, keys)
            await self._records.write(tenant, *(Delete(key=Key.step(task_id, item["number"])) for item in steps))
        task = await self._records.get(tenant, Key.task(task_id)) or {}
        for approval_id in task.get("approvals", ()):
            approval = await self._records.get(tenant, Key.approval(approval_id)) or {}
            if keys := content_keys(approval):
                await self._content.delete(tenant, keys)
            await self._records.write(tenant, Delete(key=Key.approval(approval_id)))
        # Of a plan's task its answer, of a request for a plan its tasks.
        if keys := [kept["content_key"] for kept in (task, task.get("plan_tasks", {})) if "content_key" in kept]:
            await self._content.delete(tenant, keys)
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
