"""Orchestrated mode as it runs without any network: the offline model decides, works and composes."""

import pytest

from tests.core.planning import TENANT, Planned
from tests.memory_stack import MemoryStack
from worker_space.adapters.model import PydanticAIModels
from worker_space.messages import Message

pytestmark = pytest.mark.anyio

_CART = """def total(items):
    result = 0
    for item in items:
        result += item["price"] * item["count"]
    return result
"""


@pytest.fixture
async def space() -> Planned:
    stack = MemoryStack(real_model=PydanticAIModels(region="eu-central-1"))
    await stack.files.write(TENANT, "cart.py", _CART.encode())
    return await Planned.make(stack)


async def answer(space: Planned, content: str) -> Message:
    await space.send(content)
    await space.stack.work(TENANT)
    return (await space.messages())[-1]


@pytest.mark.parametrize(
    ("request_", "agent"),
    [
        ("Review cart.py", "analyst"),
        ("Please analyse cart.py", "analyst"),
        ("Write a README", "writer"),
        ("Write the documentation", "writer"),
        ("Fix the bug in cart.py", "coder"),
        ("Make a plan for the next release", "planner"),
    ],
)
async def test_a_request_reaches_the_agent_it_is_for(space: Planned, request_: str, agent: str) -> None:
    got = await answer(space, request_)
    assert (got.status, got.agent_id) == ("ok", (await space.agent(agent)).id)
    assert got.content


@pytest.mark.parametrize(
    ("request_", "chained"),
    [("Review cart.py and write a README", False), ("Review cart.py, then write a README", True)],
)
async def test_a_request_of_two_parts_becomes_a_plan_of_two_tasks_and_one_answer(
    space: Planned, request_: str, chained: bool
) -> None:
    got = await answer(space, request_)
    assert (got.status, got.agent_id) == ("ok", "orchestrator")
    plan = await space.the_plan()
    assert plan.state == "completed"
    review, readme = plan.tasks
    assert review.agent_id == (await space.agent("analyst")).id
    assert readme.agent_id == (await space.agent("writer")).id
    assert readme.depends_on == ((review.key,) if chained else ())
    assert {task.state.value for task in plan.tasks} == {"completed"}
    assert "analyst" in got.content
    assert "writer" in got.content
    assert "cart.py" in got.content
    assert [message.role for message in await space.messages()] == ["user", "assistant"]


async def test_a_task_that_builds_on_another_can_store_its_output(space: Planned) -> None:
    await answer(space, "Review cart.py and save it to review.md")
    review, _ = (await space.the_plan()).tasks
    stored = await space.stack.files.read(TENANT, "review.md")
    assert stored is not None
    assert review.task_id is not None
    told = (await space.task(review.task_id))["content"]
    assert stored.data.decode() == f"{told}\n"
    assert "`total`" in told
