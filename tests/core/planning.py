"""A project whose messages name no agent, and what scripted models decide about them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.memory_stack import MemoryStack, ScriptedModel, calls
from worker_space.agents import Agent
from worker_space.bus import Sent
from worker_space.events import Event, EventLog
from worker_space.idempotency import Repeat
from worker_space.messages import Message, NewSession
from worker_space.models import ModelReply
from worker_space.plan_requests import PlanReply
from worker_space.planning import PlanBook
from worker_space.plans import NewPlan, Plan
from worker_space.projects import NewProject
from worker_space.records import Item
from worker_space.tenancy import Key, TenantContext, UserContext

TENANT = TenantContext("alice", "shop")


def part(key: str, agent: str, *depends_on: str, instructions: str = "") -> dict[str, Any]:
    """One task of a plan as a model writes it."""
    return {
        "key": key,
        "agent": agent,
        "instructions": instructions or f"do {key}",
        "depends_on": list(depends_on),
    }


A, B = part("a", "coder"), part("b", "writer", "a")
"""Two tasks of a plan, of which the second waits for the first."""


def make_plan(*tasks: Mapping[str, Any]) -> ModelReply:
    """A model's decision for a plan."""
    return calls(("make_plan", {"tasks": list(tasks)}))


def assign(agent: str, reason: str = "because") -> ModelReply:
    """A model's decision for one agent."""
    return calls(("assign", {"agent": agent, "reason": reason}))


@dataclass
class Planned:
    """A project over a stack, and one session in it."""

    stack: MemoryStack
    session_id: str

    @classmethod
    async def make(cls, stack: MemoryStack) -> "Planned":
        services = stack.parts.services
        await services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
        session = await services.collaborators.sessions.create(TENANT, NewSession())
        return cls(stack, session.id)

    @property
    def model(self) -> ScriptedModel:
        return self.stack.model

    async def send(self, content: str, *, target: str | None = None, **facts: Any) -> Sent:
        return await self.stack.parts.services.collaborators.bus.send_task(
            TENANT, session_id=self.session_id, content=content, target_agent=target, facts=facts or None
        )

    async def agent(self, name: str) -> Agent:
        return await self.stack.parts.services.collaborators.registry.get(TENANT, name)

    async def task(self, task_id: str) -> Item:
        item = await self.stack.records.get(TENANT, Key.task(task_id))
        assert item is not None
        return item

    async def plan(self, plan_id: str) -> Plan:
        return await PlanBook(self.stack.records).get(TENANT, plan_id)

    async def the_plan(self) -> Plan:
        """The only plan of the project."""
        plans, _ = await PlanBook(self.stack.records).page(TENANT, limit=10, after=None)
        (plan,) = plans
        return plan

    async def messages(self) -> Sequence[Message]:
        sessions = self.stack.parts.services.collaborators.sessions
        return (await sessions.messages(TENANT, self.session_id, limit=100, after=None))[0]

    async def events(self) -> Sequence[Event]:
        return await EventLog(self.stack.records).page(TENANT, self.session_id, after=0, limit=1000)

    async def open_tasks(self) -> int:
        item = await self.stack.records.get(TENANT, Key.space())
        return int((item or {})["open_tasks"])


def never(_: str) -> Repeat | None:
    return None


async def ask(space: Planned, new: NewPlan) -> PlanReply:
    """Ask for a plan, and let the orchestrator make it."""
    requests = space.stack.parts.services.plan_requests
    sent = await requests.create(TENANT, new, wait_seconds=0, repeat=never)
    await space.stack.work(TENANT, most=1)
    task = await space.task(sent.task.id)
    stored = await space.stack.parts.services.plans.stored(TENANT, sent.plan_id)
    assert task["plan_id"] == sent.plan_id
    return PlanReply(plan_id=sent.plan_id, task=sent.task, plan=None if stored is None else stored.plan)


async def running(space: Planned, *tasks: dict[str, Any]) -> Plan:
    """A plan of which nothing has run yet."""
    space.model.script = [make_plan(*tasks)]
    await space.send("the goal")
    await space.stack.work(TENANT, most=1)
    return await space.the_plan()


async def large(space: Planned) -> Plan:
    return await running(space, *(part(f"t{n}", "coder") for n in range(9)))


def states(plan: Plan) -> dict[str, str]:
    return {task.key: task.state.value for task in plan.tasks}
