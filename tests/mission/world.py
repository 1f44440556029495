"""What the mission's tests share: projects, messages, and a port that counts its calls."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.memory_stack import MemoryStack
from worker_space import UserWorkerSpace, WorkerSpaceManager
from worker_space.composition import Parts
from worker_space.execution import Reply
from worker_space.messages import MessageRequest, NewSession
from worker_space.projects import NewProject
from worker_space.tenancy import TenantContext, UserContext

ALICE = TenantContext("alice", "shop")
BLOG = TenantContext("alice", "blog")
BOB = TenantContext("bob", "shop")


async def make_stack(**changes: Any) -> MemoryStack:
    """Memory adapters with two projects of alice's and one of bob's."""
    stack = MemoryStack(**changes)
    for tenant in (ALICE, BLOG, BOB):
        new = NewProject(id=tenant.project_id, name=tenant.project_id)
        await stack.parts.services.projects.create(UserContext(tenant.user_id), new)
    return stack


def space_of(stack: MemoryStack, tenant: TenantContext, parts: Parts | None = None) -> UserWorkerSpace:
    """The worker space of a pair, as one invocation is handed it."""
    collaborators = (parts or stack.parts).services.collaborators
    return WorkerSpaceManager(collaborators).get_or_create(tenant.user_id, tenant.project_id)


async def session_in(space: UserWorkerSpace) -> str:
    """A new chat session."""
    return (await space.sessions.create(space.tenant, NewSession())).id


async def answered(stack: MemoryStack, space: UserWorkerSpace, content: str, agent: str | None = "coder") -> Reply:
    """Send a message in a new session and let the agents work until it is answered."""
    session, request = await session_in(space), MessageRequest(content=content, target_agent=agent)
    async with working(stack, space.tenant):
        return await space.handle_message(session, request, wait_seconds=5)


@asynccontextmanager
async def working(stack: MemoryStack, tenant: TenantContext) -> AsyncIterator[None]:
    """Agents work on the project's queue meanwhile, whatever its generation."""
    stop = asyncio.Event()

    async def pump() -> None:
        while not stop.is_set():
            for generation in await stack.queues.generations(tenant):
                await stack.work(tenant, generation=generation)
            await asyncio.sleep(0.002)

    task = asyncio.create_task(pump())
    try:
        yield
    finally:
        stop.set()
        await task


class Counted:
    """A port whose calls are counted by name."""

    def __init__(self, port: Any, name: str, counts: Counter[str]) -> None:
        self._port, self._name, self._counts = port, name, counts

    def __getattr__(self, method: str) -> Any:
        found = getattr(self._port, method)

        def call(*arguments: Any, **named: Any) -> Any:
            self._counts[f"{self._name}.{method}"] += 1
            return found(*arguments, **named)

        return call


def counted(stack: MemoryStack, *names: str) -> tuple[Parts, Counter[str]]:
    """The system with these of the stack's ports counted."""
    counts: Counter[str] = Counter()
    return stack.compose(**{name: Counted(getattr(stack, name), name, counts) for name in names}), counts


def stored(stack: MemoryStack, tenant: TenantContext) -> str:
    """Everything that the stores hold of a tenant, as text; the cache is no store."""
    records: Any = stack.records
    files: Any = stack.files
    contents: Any = stack.content
    memory: Any = stack.memory
    name = f"user{tenant.user_id}_project{tenant.project_id}"
    return repr(
        (
            {place: items for place, items in records._partitions.items() if name in place},
            sorted(str(item) for item in files._objects.items() if item[0][0] == tenant),
            sorted(str(item) for item in contents._texts.items() if item[0][0] == tenant),
            sorted(str(item) for item in memory._collections.items() if f"{name}_" in str(item[0])),
        )
    )
