"""A project whose coder has deleted a file, or would have: what tests of approvals begin with."""

from collections.abc import Sequence
from typing import Any

from tests.memory_stack import MemoryStack
from worker_space.approvals import Approvals
from worker_space.bus import Sent
from worker_space.consent import Approval, ApprovalState
from worker_space.events import Event, EventLog
from worker_space.messages import NewSession
from worker_space.projects import NewProject, ProjectChanges
from worker_space.tenancy import Key, TenantContext, UserContext

TENANT = TenantContext("alice", "shop")
DELETE_A: tuple[str, dict[str, object]] = ("delete_file", {"path": "a.txt"})


async def project(stack: MemoryStack, **policy: Any) -> MemoryStack:
    """Alice's shop with three files, and a policy if one is given."""
    projects = stack.parts.services.projects
    await projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    if policy:
        await projects.update(TENANT, ProjectChanges.model_validate({"policy": policy}))
    for path in ("a.txt", "b.txt", "c.txt"):
        await stack.files.write(TENANT, path, path.encode())
    return stack


async def policy(stack: MemoryStack, **changes: Any) -> None:
    await stack.parts.services.projects.update(TENANT, ProjectChanges.model_validate({"policy": changes}))


async def send(stack: MemoryStack, text: str = "clean up", *, session_id: str | None = None) -> Sent:
    parts = stack.parts.services.collaborators
    if session_id is None:
        session_id = (await parts.sessions.create(TENANT, NewSession())).id
    return await parts.bus.send_task(TENANT, session_id=session_id, content=text, target_agent="coder")


def approvals(stack: MemoryStack) -> Approvals:
    return stack.parts.services.approvals


async def pending(stack: MemoryStack) -> list[Approval]:
    found, _ = await approvals(stack).page(TENANT, limit=100, after=None, state=ApprovalState.PENDING)
    return list(found)


async def task(stack: MemoryStack, sent: Sent) -> dict[str, Any]:
    return dict(await stack.records.get(TENANT, Key.task(sent.task_id)) or {})


async def runtime(stack: MemoryStack) -> dict[str, Any]:
    agent = await stack.parts.services.collaborators.registry.get(TENANT, "coder")
    return dict(await stack.records.get(TENANT, Key.runtime(agent.id)) or {})


async def paths(stack: MemoryStack) -> set[str]:
    return {file.path for file in (await stack.files.list(TENANT, recursive=True)).files}


async def answer(stack: MemoryStack, sent: Sent) -> str | None:
    message = await stack.records.get(TENANT, Key.message(sent.session_id, sent.number + 1))
    return None if message is None else str(message["content"])


async def events(stack: MemoryStack, sent: Sent) -> Sequence[Event]:
    return await EventLog(stack.records).page(TENANT, sent.session_id, after=0, limit=1000)


def told(stack: MemoryStack) -> list[str]:
    """What the tools told the model in its newest request."""
    return [turn.content for turn in stack.model.requests[-1].turns if turn.kind == "tool"]
