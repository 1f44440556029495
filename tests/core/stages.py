"""A project in use, ports that die at a chosen moment, and a clock that says that nobody has used a space for long."""

import threading
from collections.abc import Callable
from typing import Any

from tests.memory_stack import MemoryStack
from worker_space.bus import Sent
from worker_space.messages import NewSession
from worker_space.projects import NewProject
from worker_space.records import Item, Update
from worker_space.tenancy import Key, TenantContext, UserContext

TENANT = TenantContext("alice", "shop")


async def new_project(stack: MemoryStack, tenant: TenantContext = TENANT) -> None:
    """A project with the starter agents."""
    new = NewProject(id=tenant.project_id, name="Shop")
    await stack.parts.services.projects.create(UserContext(tenant.user_id), new)


async def send(
    stack: MemoryStack,
    text: str = "hello",
    *,
    tenant: TenantContext = TENANT,
    session: str | None = None,
    agent: str = "coder",
) -> Sent:
    """A message, in a session of its own unless one is named."""
    parts = stack.parts.services.collaborators
    session = session or (await parts.sessions.create(tenant, NewSession())).id
    return await parts.bus.send_task(tenant, session_id=session, content=text, target_agent=agent)


async def space_of(stack: MemoryStack, tenant: TenantContext = TENANT) -> Item:
    """The space's record."""
    return await stack.records.get(tenant, Key.space()) or {}


async def state_of(stack: MemoryStack, task_id: str, tenant: TenantContext = TENANT) -> str:
    """A task's state."""
    return str((await stack.records.get(tenant, Key.task(task_id)) or {"state": "gone"})["state"])


async def long_unused(stack: MemoryStack, tenant: TenantContext = TENANT) -> None:
    """Make the space look as if its last message was long ago, and due."""
    ages_ago = {"last_accept": 1, "active_since": 1, "updated_at": 1, "due_at": 1}
    await stack.records.write(tenant, Update(key=Key.space(), set=ages_ago))


async def due_now(stack: MemoryStack, tenant: TenantContext = TENANT) -> None:
    """Let the time come at which the sweeper looks at the space."""
    await stack.records.write(tenant, Update(key=Key.space(), set={"due_at": 1}))


class Died(BaseException):
    """The process is gone in this very moment: nothing of it can catch this."""


class Fate:
    """Counts what several ports are asked to do, and kills whoever asks for the one too much.

    Args:
        after: How many calls are done before.
        too_late: Whether the fatal call still takes effect.
    """

    def __init__(self, after: int, *, too_late: bool = False) -> None:
        self._left = after
        self._too_late = too_late
        self._lock = threading.Lock()
        self.struck = False

    def over(self, port: object, *methods: str) -> Any:
        """The port, whose `methods` count."""
        return _Doomed(port, self, methods)

    async def call(self, real: Callable[..., Any], arguments: Any, named: Any) -> Any:
        with self._lock:
            self._left -= 1
            strikes = self._left == -1
            self.struck = self.struck or strikes
        if strikes and not self._too_late:
            raise Died
        result = await real(*arguments, **named)
        if strikes:
            raise Died
        return result


class _Doomed:
    def __init__(self, port: object, fate: Fate, methods: tuple[str, ...]) -> None:
        self._port, self._fate, self._methods = port, fate, methods

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        if name not in self._methods:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            return self._fate.call(real, arguments, named)

        return call
