"""Many workers in real threads, some of which die at any write, some of which are overtaken while they still work.

Whatever happens: every accepted message ends in exactly one outcome, answers come in the order of their messages, no
agent runs more than its cap, and paid model calls stay bounded.
"""

import asyncio
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.bus import Sent
from worker_space.errors import ClaimLost, Conflict, Unavailable
from worker_space.events import EventLog
from worker_space.messages import NewSession
from worker_space.metrics import task_metrics
from worker_space.models import ModelReply, ModelRequest
from worker_space.ports import Owner, Records
from worker_space.projects import NewProject
from worker_space.records import Item, Page, Update, Write
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext, UserContext

TENANT = TenantContext("alice", "shop")
CAP = 2


class Died(Exception):
    """The worker process is gone in this very moment."""


class Holding(threading.local):
    """The claim that a worker's thread took last.

    Attributes:
        task: The task's key.
        attempt: The attempt that the claim began.
    """

    task = Key.task("none")
    attempt = 0


class MortalRecords:
    """Some calls kill the worker: before the table has seen them, or after."""

    def __init__(self, records: MemoryRecords, dice: random.Random, chance: float) -> None:
        self._records, self._dice, self._chance = records, dice, chance

    async def get(self, owner: Owner, key: Key) -> Item | None:
        return await self._records.get(owner, key)

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        return await self._records.get_many(owner, keys)

    async def query(
        self, owner: Owner, prefix: Key, *, limit: int | None = None, after: str | None = None, descending: bool = False
    ) -> Page:
        return await self._records.query(owner, prefix, limit=limit, after=after, descending=descending)

    async def write(self, owner: Owner, *writes: Write) -> None:
        if self._dice.random() < self._chance:
            raise Died
        await self._records.write(owner, *writes)
        if self._dice.random() < self._chance:
            raise Died


class ClaimedRecords(MortalRecords):
    """Notes in `holding` what the worker that writes claims."""

    def __init__(self, records: MemoryRecords, dice: random.Random, chance: float, holding: Holding) -> None:
        super().__init__(records, dice, chance)
        self._holding = holding

    async def write(self, owner: Owner, *writes: Write) -> None:
        await super().write(owner, *writes)
        for write in writes:
            if isinstance(write, Update) and write.set.get("state") == "working" and "attempt" in write.set:
                self._holding.task, self._holding.attempt = write.key, write.set["attempt"]


class CountingModel:
    """Writes a file, then answers; counts who asks at once, by agent.

    Attributes:
        most: Most tasks of an agent that were asked for at once by workers whose claims still held.
        overtaken: How often a worker was found asking whose claim no longer held.
    """

    def __init__(self, records: Records) -> None:
        self._lock = threading.Lock()
        self._records = records
        self._asking: dict[str, list[tuple[Key, int]]] = defaultdict(list)
        self.holding = Holding()
        self.most: Counter[str] = Counter()
        self.overtaken = 0
        self.requests: Counter[str] = Counter()

    def check(self, model: str) -> None:
        pass

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        name = next(turn.content for turn in reversed(request.turns) if turn.kind == "user")
        agent, claim = request.system_prompt.partition("\n")[0], (self.holding.task, self.holding.attempt)
        with self._lock:
            self.requests[name] += 1
            self._asking[agent].append(claim)
            asking = list(self._asking[agent])
            tasks = await self._records.get_many(TENANT, [task for task, _ in asking])
            hold = {
                key.sort
                for (key, attempt), task in zip(asking, tasks, strict=True)
                if task is not None and (task["state"], task["attempt"]) == ("working", attempt)
            }
            self.most[agent] = max(self.most[agent], len(hold))
            self.overtaken += len(asking) - len(hold)
        try:
            await asyncio.sleep(random.uniform(0.0, 0.004))
        finally:
            with self._lock:
                self._asking[agent].remove(claim)
        if request.turns[-1].kind == "user":
            return calls(("write_file", {"path": f"{name}.txt", "content": name}))
        return says(f"done {name}")


@pytest.mark.parametrize(
    ("seed", "chance", "overtaken"),
    [(1, 0.0, False), (2, 0.03, False), (3, 0.08, False), (4, 0.03, True), (5, 0.0, True)],
)
def test_every_message_has_one_outcome_in_order_and_under_the_cap(seed: int, chance: float, overtaken: bool) -> None:
    records = MemoryRecords()
    model = CountingModel(records)
    stack = MemoryStack(
        settings=settings(visibility_seconds=2, redispatch_seconds=1, worker_timeout_seconds=10, max_attempts=9),
        real_model=model,
        records=records,
    )
    asyncio.run(_project(stack))
    # Accepted for four slots an agent, of which two are then taken away: more is delivered than may run.
    sent = asyncio.run(_send(stack, sessions=6, messages=3))
    asyncio.run(_lower_the_cap(stack))
    stop = threading.Event()
    dice = random.Random(seed)

    def worker(index: int) -> None:
        asyncio.run(_worker(stack, stop, random.Random(seed * 100 + index), chance, model.holding))

    with ThreadPoolExecutor(5) as pool:
        running = [pool.submit(worker, index) for index in range(5)]
        try:
            # More comes while all is running: what finds its agent full waits on the agent's own record.
            sent |= asyncio.run(_send(stack, sessions=6, messages=3))
            asyncio.run(_until_all_have_ended(stack, sent, dice, jump=chance > 0 or overtaken, overtaken=overtaken))
        finally:
            stop.set()
        for each in running:
            each.result()
    asyncio.run(_check(stack, sent, model))
    # Only a jump of the clock takes a living worker's claim away: its call may then run on beside its successor's.
    assert model.overtaken == 0 or chance > 0 or overtaken


async def _project(stack: MemoryStack) -> None:
    services = stack.parts.services
    await services.projects.create(UserContext("alice"), NewProject(id="shop", name="Shop"))
    for name in ("one", "two"):
        config = AgentConfig(name=name, system_prompt=name, tools=("write_file",), max_concurrency=2 * CAP)
        await services.collaborators.registry.create(TENANT, config)


async def _lower_the_cap(stack: MemoryStack) -> None:
    for name in ("one", "two"):
        await stack.parts.services.collaborators.registry.update(TENANT, name, AgentChanges(max_concurrency=CAP))


async def _send(stack: MemoryStack, *, sessions: int, messages: int) -> dict[str, list[Sent]]:
    services = stack.parts.services
    sent: dict[str, list[Sent]] = {}
    for number in range(sessions):
        session = await services.collaborators.sessions.create(TENANT, NewSession())
        sent[session.id] = list(
            await asyncio.gather(
                *(
                    services.collaborators.bus.send_task(
                        TENANT,
                        session_id=session.id,
                        content=f"{session.id[-6:]}m{at}",
                        target_agent=("one", "two")[(number + at) % 2],
                    )
                    for at in range(messages)
                )
            )
        )
    return sent


async def _worker(
    stack: MemoryStack, stop: threading.Event, dice: random.Random, chance: float, holding: Holding
) -> None:
    assert isinstance(stack.records, MemoryRecords)
    parts = stack.compose(records=ClaimedRecords(stack.records, dice, chance, holding))
    while not stop.is_set():
        message = stack.queues.receive(TENANT, 1)
        if message is None:
            await asyncio.sleep(0.002)
            continue
        try:
            delivery = Delivery.model_validate_json(message.body)
            await parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
            stack.queues.delete(message.lease)
        except (Died, ClaimLost, Unavailable):
            continue


async def _until_all_have_ended(
    stack: MemoryStack, sent: dict[str, list[Sent]], dice: random.Random, *, jump: bool, overtaken: bool
) -> None:
    """Let time pass: by jumps, so that the messages of the dead come back, and (`overtaken`) of the living, too."""
    until = time.monotonic() + 40
    tasks: list[Item | None] = []
    everyone = [each.task_id for session in sent.values() for each in session]
    while time.monotonic() < until:
        await asyncio.sleep(0.05)
        tasks = [await stack.records.get(TENANT, Key.task(task_id)) for task_id in everyone]
        if all(task is not None and task["state"] in {"completed", "failed", "canceled"} for task in tasks):
            return
        if jump and (overtaken or dice.random() < 0.5):
            stack.clock[0] += dice.uniform(1.0, 12.0)
        await stack.parts.sweeper.sweep(seconds=1)
    raise AssertionError(f"tasks were left open: {[(t or {}).get('state') for t in tasks]}")


async def _check(stack: MemoryStack, sent: dict[str, list[Sent]], model: CountingModel) -> None:
    sessions = stack.parts.services.collaborators.sessions
    for session_id, tasks in sent.items():
        messages, _ = await sessions.messages(TENANT, session_id, limit=100, after=None)
        assert [m.number for m in messages] == list(range(2 * len(tasks)))
        answers = [m for m in messages if m.role == "assistant"]
        assert [m.task_id for m in answers] == [m.task_id for m in messages if m.role == "user"]
        for question, answer in zip(messages[::2], answers, strict=True):
            assert answer.status == "failed" or answer.content == f"done {question.content}"
        ended = [(await stack.records.get(TENANT, Key.task(m.task_id)) or {})["ended_at"] for m in answers]
        assert ended == sorted(ended)
        assert (await sessions.get(TENANT, session_id)).open_tasks == 0
        events = await EventLog(stack.records).page(TENANT, session_id, after=0, limit=10_000)
        assert [event.seq for event in events] == list(range(1, len(events) + 1))
        ends = Counter(event.task_id for event in events if event.type.value in {"task_completed", "task_failed"})
        assert ends == {task.task_id: 1 for task in tasks}
    space = await stack.records.get(TENANT, Key.space()) or {}
    assert space["open_tasks"] == 0
    runtimes = (await stack.records.query(TENANT, Key.runtimes())).items
    assert task_metrics(runtimes).tasks_processed == sum(len(tasks) for tasks in sent.values())
    for agent in ("one", "two"):
        assert 1 <= model.most[agent] <= CAP
        found = await stack.parts.services.collaborators.registry.get(TENANT, agent)
        assert await stack.parts.services.collaborators.bus.status(TENANT, found.id) == {"running": 0, "parked": 0}
    assert max(model.requests.values()) <= 2 * stack.settings.max_attempts
    files = (await stack.files.list(TENANT, recursive=True)).files
    assert {file.path.removesuffix(".txt") for file in files} >= {
        name for name in model.requests if model.requests[name] > 1
    }


@pytest.mark.anyio
async def test_racing_senders_of_one_session_get_one_place_each() -> None:
    stack = MemoryStack()
    await _project(stack)
    sent = await _send(stack, sessions=1, messages=40)
    (numbers,) = ([each.number for each in session] for session in sent.values())
    assert sorted(numbers) == list(range(0, 80, 2))
    assert await stack.queues.depth(TENANT, 1) == 1


@pytest.mark.anyio
async def test_cancel_and_finish_at_once_leave_one_outcome() -> None:
    for _ in range(30):
        stack = MemoryStack()
        await _project(stack)
        sent = await _send(stack, sessions=1, messages=2)
        (first, second) = next(iter(sent.values()))

        async def cancel(stack: MemoryStack = stack, sent: Sent = first) -> None:
            await asyncio.sleep(0)
            try:
                await stack.parts.services.collaborators.bus.cancel_task(TENANT, sent.task_id)
            except Conflict:
                return

        await asyncio.gather(stack.work(TENANT), cancel())
        await stack.work(TENANT)
        states = [(await stack.records.get(TENANT, Key.task(each.task_id)) or {})["state"] for each in (first, second)]
        assert states[0] in {"completed", "canceled"}
        assert states[1] == "completed"
