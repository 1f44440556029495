"""Answering what runs have asked: confirm, reject, or let the time run out.

```
 confirm   read: pending ─────────────── approval pending → confirmed ✓  task input-required → submitted ✓ ── send
 reject         read: pending ──────────────── approval pending ✗ ── read: confirmed ── Conflict
```

The approval, the task, the decision on its record and the next dispatch change in one transaction: two answers at once
leave one, and an answer that is given twice, or whose answerer died, has its effect once.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from worker_space.bus import AgentBus
from worker_space.clock import now_ms
from worker_space.consent import Approval, ApprovalState, content_keys, digest, short
from worker_space.errors import Conflict, InvalidRequest, NotFound, Unavailable
from worker_space.events import EventType, NewEvent
from worker_space.idempotency import Repeat, remember
from worker_space.ports import Records
from worker_space.projects import SpaceState, no_project
from worker_space.records import Check, Equals, Item, Update
from worker_space.tasks import TaskState, Ticket
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts
from worker_space.tools.catalogue import parse_arguments, tool_named

__all__ = ["Approvals"]

_TRIES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """An answer that is to be given.

    Attributes:
        edited: What the user puts in the place of the arguments, validated.
        repeat: The request that gives it, to be known when it comes again.
    """

    state: ApprovalState
    reason: str | None = None
    edited: Mapping[str, Any] | None = None
    repeat: Repeat | None = None


class Approvals:
    """Lists a project's approvals and resolves them."""

    def __init__(self, records: Records, bus: AgentBus, texts: Texts) -> None:
        self._records = records
        self._bus = bus
        self._texts = texts

    # -- read ------------------------------------------------------------------------------------
    async def page(
        self, tenant: TenantContext, *, limit: int, after: str | None, state: ApprovalState | None = None
    ) -> tuple[Sequence[Approval], str | None]:
        """Approvals, the newest first, with long arguments cut. With `state`, a page may hold fewer than `limit`."""
        page = await self._records.query(tenant, Key.approvals(), limit=limit, after=after, descending=True)
        wanted = [item for item in page.items if state in (None, item["state"])]
        return [_approval(item, _inline(item), _inline(item.get("edited"))) for item in wanted], page.after

    async def get(self, tenant: TenantContext, approval_id: str) -> Approval:
        """One approval with all of its arguments.

        Raises:
            NotFound: The project has no such approval.
        """
        return await self._whole(tenant, await self._item(tenant, approval_id))

    async def _item(self, tenant: TenantContext, approval_id: str) -> Item:
        space, item = await self._records.get_many(tenant, [Key.space(), Key.approval(approval_id)])
        if space is None or space["state"] == SpaceState.DELETED.value:
            raise no_project(tenant.project_id)
        if item is None:
            raise NotFound(f"this project has no approval {approval_id[:80]!r}")
        return item

    async def _whole(self, tenant: TenantContext, item: Item) -> Approval:
        edited = item.get("edited")
        return _approval(
            item,
            _shown(await self._texts.read(tenant, item)),
            None if edited is None else _shown(await self._texts.read(tenant, edited)),
            whole=True,
        )

    # -- resolve ---------------------------------------------------------------------------------
    async def confirm(
        self,
        tenant: TenantContext,
        approval_id: str,
        *,
        arguments: Mapping[str, Any] | None = None,
        repeat: Repeat | None = None,
    ) -> Approval:
        """Let the run go on with the call or plan; confirming it again changes nothing.

        Args:
            arguments: All arguments of the call, in the place of those that were asked about. The tool stays.
            repeat: Kept with the approval's task, so that `find_repeat` finds that.

        Raises:
            NotFound: The project has no such approval.
            ToolError: The arguments do not fit the tool.
            InvalidRequest: A plan's approval takes no arguments.
            Conflict: It was decided otherwise, has expired, or its task has ended.
        """
        item = await self._item(tenant, approval_id)
        edited = None if arguments is None else _edited(item, arguments)
        return await self._resolve(tenant, item, _Verdict(state=ApprovalState.CONFIRMED, edited=edited, repeat=repeat))

    async def reject(self, tenant: TenantContext, approval_id: str, *, reason: str | None = None) -> Approval:
        """Let the run go on without the call; rejecting it again changes nothing.

        Args:
            reason: Told to the model.

        Raises:
            NotFound: The project has no such approval.
            Conflict: It was decided otherwise, has expired, or its task has ended.
        """
        item = await self._item(tenant, approval_id)
        return await self._resolve(tenant, item, _Verdict(state=ApprovalState.REJECTED, reason=reason or None))

    async def expire(self, tenant: TenantContext, task: Item) -> bool:
        """Let a waiting task go on without its answer, if the time for it is over; False when there was nothing to do.

        Args:
            task: As read, in state input-required.

        Raises:
            NotFound: The project is gone.
            Unavailable: The table or the queue does not answer.
        """
        approval_id = task.get("approval_id")
        if task["state"] != TaskState.INPUT_REQUIRED.value or approval_id is None:
            return False
        item = await self._records.get(tenant, Key.approval(approval_id))
        if item is None or item["state"] != ApprovalState.PENDING.value or item["expires_at"] > now_ms():
            return False
        return await self._decide(tenant, item, task, _Verdict(state=ApprovalState.EXPIRED))

    async def _resolve(self, tenant: TenantContext, item: Item, verdict: _Verdict) -> Approval:
        for _ in range(_TRIES):
            if item["state"] != ApprovalState.PENDING.value:
                return await self._whole(tenant, _same(item, verdict))
            space, task = await self._records.get_many(tenant, [Key.space(), Key.task(item["task_id"])])
            if space is None or task is None or space["epoch"] != item["epoch"] or not _waits_for(task, item):
                item = await self._item(tenant, item["id"])
                if item["state"] == ApprovalState.PENDING.value:
                    raise Conflict("the task that asked for it has ended")
                continue
            if item["expires_at"] <= now_ms():
                await self.expire(tenant, task)
            else:
                await self._decide(tenant, item, task, verdict)
            item = await self._item(tenant, item["id"])
        raise Unavailable("the table", "the approval's task changed at every try")

    async def _decide(self, tenant: TenantContext, item: Item, task: Item, verdict: _Verdict) -> bool:
        """The one transaction of an answer; False when somebody else's came first."""
        now = now_ms()
        said: dict[str, Any] = {} if verdict.reason is None else {"reason": verdict.reason}
        edited: Mapping[str, Any] = {}
        if verdict.edited is not None:
            # The digest is in the key: of two answers at once, the late one must not replace the other's text.
            place = f"{item['task_id']}/{item['id']}.{digest(verdict.edited)[:16]}"
            edited = await self._texts.keep(tenant, place, json.dumps(verdict.edited))
            said |= {"edited": edited, "edited_digest": digest(verdict.edited)}
        resolved = Update(
            key=Key.approval(item["id"]),
            set={**said, "state": verdict.state.value, "resolved_at": now},
            when=Equals("state", ApprovalState.PENDING.value),
        )
        same_epoch = Check(key=Key.space(), when=Equals("epoch", item["epoch"]))
        kept = [] if verdict.repeat is None else [remember(verdict.repeat, item["task_id"])]
        ticket = Ticket.model_validate(task["ticket"])
        answered = Update(key=Key.runtime(ticket.agent), exclude={"waiting": frozenset({ticket.task})})
        decision = {
            "approval_id": item["id"],
            "effect": item["effect"],
            "tool": item.get("tool"),
            "digest": item["arguments_digest"],
            "verdict": verdict.state.value,
            "reason": verdict.reason,
            "edited": verdict.edited is not None,
            **edited,
        }
        try:
            return await self._bus.send_again(
                tenant,
                task,
                resolved,
                answered,
                same_epoch,
                *kept,
                changes={
                    "decision": {name: value for name, value in decision.items() if value is not None},
                    # Having asked is no failure: the attempts so far do not count any more.
                    "ticket": ticket.model_copy(update={"base": task["attempt"]}).model_dump(),
                },
                events=[_told(item, verdict)],
            )
        except Unavailable:
            # It may have been decided all the same, and only the sending failed: then the sweeper sends.
            now_stored = await self._records.get(tenant, Key.approval(item["id"]))
            if now_stored is None or now_stored["state"] == ApprovalState.PENDING.value:
                raise
            return True


def _waits_for(task: Item, item: Item) -> bool:
    """Whether the task, as read, waits for this answer: same epoch, and the same version of its agent."""
    asked = TaskState.INPUT_REQUIRED.value, item["id"], item["epoch"]
    if (task["state"], task.get("approval_id"), task["epoch"]) != asked:
        return False
    return item["kind"] != "tool" or task.get("agent_version") == item.get("agent_version")


def _same(item: Item, verdict: _Verdict) -> Item:
    """The resolved approval, if this verdict is what was decided.

    Raises:
        Conflict: It is not; the message says what was decided.
    """
    if item["state"] == ApprovalState.EXPIRED.value:
        raise Conflict("the approval expired before it was answered, and the run went on without the call")
    if item["state"] == ApprovalState.CANCELED.value:
        raise Conflict("the task that asked for it was ended while it waited")
    if item["state"] != verdict.state.value:
        raise Conflict(f"the approval was decided already: it is {item['state']}")
    wanted = item["arguments_digest"] if verdict.edited is None else digest(verdict.edited)
    if verdict.state is ApprovalState.CONFIRMED and wanted != item.get("edited_digest", item["arguments_digest"]):
        raise Conflict("the approval was confirmed already, with other arguments")
    return item


def _edited(item: Item, arguments: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The arguments in the form in which they would be used, or `None` when they are those that were asked about."""
    if item["kind"] != "tool":
        raise InvalidRequest("a plan is confirmed or rejected as it is: send no arguments")
    edited = parse_arguments(tool_named(item["tool"]), arguments).model_dump(mode="json", exclude_unset=True)
    return None if digest(edited) == item["arguments_digest"] else edited


def _told(item: Item, verdict: _Verdict) -> NewEvent:
    expired = verdict.state is ApprovalState.EXPIRED
    return NewEvent(
        type=EventType.APPROVAL_EXPIRED if expired else EventType.APPROVAL_RESOLVED,
        task_id=item["task_id"],
        agent_id=item["agent_id"],
        data={"approval_id": item["id"], "verdict": verdict.state.value}
        | ({} if verdict.reason is None else {"reason": verdict.reason}),
    )


def _shown(text: str) -> Mapping[str, Any]:
    """Kept arguments as an answer can carry them: half a surrogate pair has no UTF-8."""
    whole = json.dumps(json.loads(text), ensure_ascii=False).encode(errors="replace")
    return dict(json.loads(whole))


def _inline(item: Item | None) -> Mapping[str, Any] | None:
    """Arguments as far as they lie in the item itself; large ones lie elsewhere and are shown one by one."""
    if item is None:
        return None
    return {} if "content_key" in item else _shown(item["content"])


def _approval(
    item: Item, arguments: Mapping[str, Any] | None, edited: Mapping[str, Any] | None, *, whole: bool = False
) -> Approval:
    cut = False
    if not whole:
        arguments, arguments_cut = short(arguments or {})
        cut = arguments_cut or bool(content_keys(item))
        if edited is not None:
            edited, edited_cut = short(edited)
            cut = cut or edited_cut
    return Approval(
        id=item["id"],
        kind=item["kind"],
        state=ApprovalState(item["state"]),
        task_id=item["task_id"],
        session_id=item["session_id"],
        agent_id=item["agent_id"],
        agent_version=item.get("agent_version"),
        tool=item.get("tool"),
        risk=item.get("risk"),
        arguments=arguments or {},
        edited_arguments=edited,
        truncated=cut,
        reason=item.get("reason"),
        created_at=item["created_at"],
        expires_at=item["expires_at"],
        resolved_at=item.get("resolved_at"),
    )
