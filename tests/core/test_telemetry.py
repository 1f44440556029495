"""What the core counts and measures of the life of a task, and by which words."""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.core import approvals
from tests.core.planning import Planned, make_plan, part
from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.errors import ModelError, Unavailable
from worker_space.messages import NewSession
from worker_space.model_calls import watched_call
from worker_space.models import ModelReply, ModelRequest, Usage
from worker_space.projects import NewProject
from worker_space.tasks import Delivery, Ticket
from worker_space.telemetry import Fact, Measure, listening, logged_with
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
MARK = "zebra"
PRICE = {"input": 1_000_000, "output": 2_000_000}


class Recorder:
    """Listens, and keeps it."""

    def __init__(self) -> None:
        self.sums: Counter[tuple[str, ...]] = Counter()
        self.spans: list[tuple[str, dict[str, Fact]]] = []

    def count(self, measure: Measure, amount: int, **by: str) -> None:
        self.sums[(measure.value, *by.values())] += amount

    @contextmanager
    def span(self, name: str, facts: Mapping[str, Fact]) -> Iterator["Facts"]:
        told = Facts(facts)
        self.spans.append((name, told.all))
        try:
            yield told
        except Exception as error:
            told.all["error.type"] = type(error).__name__
            raise

    def __getitem__(self, name: str) -> int:
        return self.sums[(name,)]


class Facts:
    def __init__(self, facts: Mapping[str, Fact]) -> None:
        self.all = dict(facts)

    def note(self, facts: Mapping[str, Fact]) -> None:
        self.all |= facts


@pytest.fixture
def heard() -> Iterator[Recorder]:
    recorder = Recorder()
    with listening(recorder):
        yield recorder


async def make_stack(**changes: Any) -> MemoryStack:
    stack = MemoryStack(settings=settings(redispatch_seconds=1, **changes))
    await stack.parts.services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    return stack


async def send(stack: MemoryStack, content: str = f"What of {MARK}?", *, session_id: str | None = None) -> Any:
    parts = stack.parts.services.collaborators
    if session_id is None:
        session_id = (await parts.sessions.create(TENANT, NewSession())).id
    return await parts.bus.send_task(TENANT, session_id=session_id, content=content, target_agent="coder")


def answers(reply: ModelReply, tokens_in: int, tokens_out: int) -> ModelReply:
    return reply.model_copy(update={"usage": Usage(input_tokens=tokens_in, output_tokens=tokens_out)})


async def test_a_task_that_completes_is_counted_with_its_times_its_tokens_and_their_cost(heard: Recorder) -> None:
    stack = await make_stack(default_model="openai:gpt", prices={"openai:gpt": PRICE})
    await stack.files.write(TENANT, f"{MARK}.txt", MARK.encode())
    stack.model.script = [
        answers(calls(("read_file", {"path": f"{MARK}.txt"}), ("read_file", {"path": "missing.txt"})), 100, 10),
        answers(says(MARK), 200, 20),
    ]
    await send(stack)
    assert heard["accepted"] == 1
    await stack.work(TENANT)
    assert heard["completed"] == 1
    assert (heard["tool_calls"], heard["tool_errors"]) == (2, 1)
    assert heard.sums[("model_calls", "openai")] == 2
    assert (heard.sums[("tokens_in", "openai")], heard.sums[("tokens_out", "openai")]) == (300, 30)
    assert heard.sums[("cost_micros", "openai")] == 360
    assert {("duration_ms", "completed"), ("queue_age_ms",), ("model_ms", "openai")} <= set(heard.sums)
    assert heard["retried"] == heard["failed"] == heard["canceled"] == 0


async def test_spans_of_agents_models_and_tools_have_opentelemetrys_names_and_no_contents(heard: Recorder) -> None:
    stack = await make_stack()
    await stack.files.write(TENANT, f"{MARK}.txt", MARK.encode())
    stack.model.script = [
        answers(calls(("read_file", {"path": f"{MARK}.txt"}), ("read_file", {"path": f"no-{MARK}"})), 100, 10),
        calls(("write_file", {"path": f"new-{MARK}.txt", "content": MARK}), (MARK, {})),
        says(MARK),
    ]
    sent = await send(stack)
    await stack.work(TENANT)
    names = [name for name, _ in heard.spans]
    assert Counter(names) == {
        "invoke_agent": 1,
        "chat rules": 3,
        "execute_tool read_file": 2,
        "execute_tool write_file": 1,
    }
    agent, chat = heard.spans[0][1], heard.spans[1][1]
    assert agent["gen_ai.operation.name"] == "invoke_agent"
    assert agent["gen_ai.conversation.id"] == sent.session_id
    assert chat == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "offline",
        "gen_ai.request.model": "rules",
        "gen_ai.usage.input_tokens": 100,
        "gen_ai.usage.output_tokens": 10,
    }
    tools = [facts for name, facts in heard.spans if name == "execute_tool read_file"]
    assert tools[0] == {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "read_file",
        "gen_ai.tool.type": "function",
    }
    assert tools[1]["error.type"] == "ToolError"
    assert MARK not in str(heard.spans)
    assert MARK not in str(heard.sums)


async def test_an_attempt_after_one_that_failed_is_counted_as_retried(heard: Recorder) -> None:
    stack = await make_stack()
    stack.model.script = [Unavailable("model", "busy"), says("done")]
    await send(stack)
    with pytest.raises(Unavailable):
        await stack.work(TENANT)
    assert (heard["retried"], heard["completed"]) == (0, 0)
    assert heard.sums[("model_errors", "offline")] == 1
    stack.clock[0] += 3600
    await stack.work(TENANT)
    assert (heard["retried"], heard["completed"]) == (1, 1)
    # Waiting is measured once, up to the first attempt.
    assert heard.sums[("model_calls", "offline")] == 1


async def test_failures_and_cancels_are_counted_as_what_they_are(heard: Recorder) -> None:
    stack = await make_stack()
    stack.model.script = [ModelError("refused")]
    await send(stack)
    await stack.work(TENANT)
    assert heard["failed"] == 1
    sent = await send(stack)
    await stack.parts.services.collaborators.bus.cancel_task(TENANT, sent.task_id)
    assert (heard["canceled"], heard["failed"], heard["completed"]) == (1, 1, 0)
    assert {("duration_ms", "failed"), ("duration_ms", "canceled")} <= set(heard.sums)


async def test_a_question_to_the_user_is_counted_and_going_on_after_it_is_no_retry(heard: Recorder) -> None:
    stack = await approvals.project(MemoryStack())
    stack.model.script = [calls(("delete_file", {"path": "a.txt"})), says("done")]
    await approvals.send(stack)
    await stack.work(TENANT)
    assert (heard["approvals_asked"], heard["completed"]) == (1, 0)
    (asked,) = await approvals.pending(stack)
    await approvals.approvals(stack).confirm(TENANT, asked.id)
    await stack.work(TENANT)
    assert (heard["completed"], heard["retried"]) == (1, 0)


async def test_an_answer_that_cannot_be_used_is_counted_as_paid(heard: Recorder) -> None:
    stack = await make_stack(default_model="openai:gpt", prices={"openai:gpt": PRICE})
    stack.model.script = [ModelError("of no use", used=(50, 5))]
    await send(stack)
    await stack.work(TENANT)
    assert (heard.sums[("model_errors", "openai")], heard.sums[("model_calls", "openai")]) == (1, 0)
    assert (heard.sums[("tokens_in", "openai")], heard.sums[("cost_micros", "openai")]) == (50, 60)


async def test_a_models_name_that_a_user_makes_up_adds_no_dimension(heard: Recorder) -> None:
    async def ask(_: ModelRequest) -> ModelReply:
        return says("x")

    request = ModelRequest(model=f"{MARK}:gpt", system_prompt="", turns=())
    await watched_call(request, ask, cost=lambda used: 0)
    assert {by for _, *rest in heard.sums for by in rest} == {"other"}


# -- the trace


async def test_a_plans_tasks_carry_the_trace_of_the_message_that_it_came_from() -> None:
    project = await Planned.make(MemoryStack())
    project.model.script = [make_plan(part("one", "coder"), part("two", "writer", "one"))]
    with logged_with(correlation_id="request-7"):
        await project.send("build it")
    deliveries = await project.stack.work(TENANT)
    assert len(deliveries) > 2
    assert {delivery.trace for delivery in deliveries} == {"request-7"}


async def test_a_message_that_waits_its_turn_keeps_its_own_trace() -> None:
    stack = await make_stack()
    session = (await stack.parts.services.collaborators.sessions.create(TENANT, NewSession())).id
    for name in ("first", "second"):
        with logged_with(correlation_id=name):
            await send(stack, session_id=session)
    assert [delivery.trace for delivery in await stack.work(TENANT)] == ["first", "second"]


async def test_tickets_of_a_release_without_traces_are_read() -> None:
    old = {"task": "task_1", "session": "session_1", "agent": "agent_1", "number": 1, "slots": 1}
    with logged_with(correlation_id="of another request"):
        assert Ticket.model_validate(old).trace == ""
        body = {**old, "user_id": "u", "project_id": "p", "epoch": 1, "generation": 1, "slot": 0}
        assert Delivery.model_validate(body).trace == ""
    stack = await make_stack()
    sent = await send(stack)
    item = await stack.records.get(TENANT, Key.task(sent.task_id))
    assert item is not None
    assert item["ticket"]["trace"] == ""
