"""Many requests to one project at once, each in a thread with an event loop and an environment of its own."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.memory_stack import MemoryStack
from tests.mission.world import ALICE, make_stack, session_in, space_of
from worker_space import UserWorkerSpace, WorkerSpaceManager
from worker_space.agents import AgentChanges, AgentConfig
from worker_space.errors import Conflict, Unavailable
from worker_space.messages import NewSession
from worker_space.models import ModelRequest
from worker_space.tenancy import Key

THREADS = 8


def together(stack: MemoryStack, work: Callable[[UserWorkerSpace, int], Any], *, threads: int = THREADS) -> list[Any]:
    """What `work` gives in each thread, all begun at the same moment; an exception is given as it is."""
    gate = threading.Barrier(threads)

    def one(number: int) -> Any:
        space = space_of(stack, ALICE, stack.compose())
        gate.wait()
        try:
            return asyncio.run(work(space, number))
        except Exception as error:
            return error

    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(one, range(threads)))


def test_get_or_create_gives_racing_callers_one_space() -> None:
    stack = asyncio.run(make_stack())
    manager = WorkerSpaceManager(stack.parts.services.collaborators)
    gate = threading.Barrier(THREADS)

    def one(_: int) -> list[int]:
        gate.wait()
        return [id(manager.get_or_create("alice", f"p{number}")) for number in range(50)]

    with ThreadPoolExecutor(THREADS) as pool:
        found = list(pool.map(one, range(THREADS)))
    assert all(each == found[0] for each in found)
    assert len(set(found[0])) == 50


def test_racing_initialisations_agree() -> None:
    stack = asyncio.run(make_stack())
    found = together(stack, lambda space, _: space.initialize())
    assert len({tuple(agent.id for agent in agents) for agents in found}) == 1


def test_racing_first_messages_make_one_queue_and_each_is_answered_once() -> None:
    stack = asyncio.run(make_stack())

    async def send(space: UserWorkerSpace, number: int) -> Any:
        return [await space.send_task(await session_in(space), f"m{number}.{each}", "coder") for each in range(5)]

    sent = [each for several in together(stack, send) for each in several]
    assert len({each.task_id for each in sent}) == 5 * THREADS
    assert list(asyncio.run(stack.queues.generations(ALICE))) == [1]
    now, most, lock = [0], [0], threading.Lock()

    async def count(_: ModelRequest) -> None:
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        await asyncio.sleep(0.002)
        with lock:
            now[0] -= 1

    stack.model.before = count

    def work(_: int) -> None:
        asyncio.run(stack.work(ALICE))

    for _ in range(50):
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        if len(stack.model.requests) >= len(sent):
            break
    said = Counter(request.turns[-1].content for request in stack.model.requests)
    assert said == Counter(f"m{number}.{each}" for number in range(THREADS) for each in range(5))
    assert 1 < most[0] <= 3
    space = asyncio.run(stack.records.get(ALICE, Key.space()))
    assert space is not None
    assert space["open_tasks"] == 0


def test_racing_messages_of_one_session_get_numbers_of_their_own_and_are_answered_in_order() -> None:
    stack = asyncio.run(make_stack())
    session = asyncio.run(space_of(stack, ALICE).sessions.create(ALICE, NewSession(target_agent="coder"))).id

    async def send(space: UserWorkerSpace, number: int) -> Any:
        return [await space.send_task(session, f"m{number}.{each}", None) for each in range(4)]

    sent = [each for several in together(stack, send) for each in several]
    assert sorted(each.number for each in sent) == list(range(0, 8 * THREADS, 2))
    asyncio.run(stack.work(ALICE))
    in_order = {each.task_id: each.number for each in sent}
    messages, _ = asyncio.run(space_of(stack, ALICE).sessions.messages(ALICE, session, limit=100, after=None))
    assert [message.number for message in messages] == list(range(8 * THREADS))
    asked = [message for message in messages if message.role == "user"]
    assert [in_order[message.task_id] for message in asked] == [message.number for message in asked]
    assert [request.turns[-1].content for request in stack.model.requests] == [message.content for message in asked]


def test_racing_creations_of_one_name_leave_one_agent() -> None:
    stack = asyncio.run(make_stack())
    names = ("Bob", "bob", "BOB", "bob ")
    found = together(
        stack, lambda space, number: space.create_agent(AgentConfig(name=names[number % 4], system_prompt="x"))
    )
    assert sum(isinstance(each, Conflict) for each in found) == THREADS - 1
    agents = asyncio.run(space_of(stack, ALICE).list_agents())
    assert [agent.config.name.casefold() for agent in agents].count("bob") == 1


def test_racing_updates_each_make_a_version_of_their_own() -> None:
    stack = asyncio.run(make_stack())
    found = together(
        stack, lambda space, number: space.update_agent("coder", AgentChanges(system_prompt=f"Prompt {number}."))
    )
    made = [each for each in found if not isinstance(each, Exception)]
    assert all(isinstance(each, Conflict) for each in found if isinstance(each, Exception))
    assert sorted(agent.version for agent in made) == list(range(2, 2 + len(made)))
    registry = stack.parts.services.collaborators.registry
    for agent in made:
        stored = asyncio.run(registry.version(ALICE, agent.id, agent.version))
        assert stored.config.system_prompt == agent.config.system_prompt
    assert asyncio.run(registry.get(ALICE, "coder")).version == 1 + len(made)


def test_racing_cleanups_and_messages_lose_no_message() -> None:
    for _ in range(5):
        stack = asyncio.run(make_stack())
        asyncio.run(stack.parts.dispatch.wake(ALICE))

        async def one(space: UserWorkerSpace, number: int) -> Any:
            if number % 4 == 0:
                return await space.cleanup(seconds=0)
            return await space.send_task(await session_in(space), f"m{number}", "coder")

        found = together(stack, one)
        # A queue that is taken away at this moment cannot be made again at once: such a message was not accepted.
        assert all(isinstance(each, Unavailable) for each in found if isinstance(each, Exception)), found
        sent = [each for number, each in enumerate(found) if number % 4 and not isinstance(each, Exception)]
        stack.clock[0] += 61
        asyncio.run(stack.parts.dispatch.wake(ALICE))
        for generation in asyncio.run(stack.queues.generations(ALICE)):
            asyncio.run(stack.work(ALICE, generation=generation))
        space = space_of(stack, ALICE)
        states = [asyncio.run(space.wait_for_result(each, seconds=0)).task.state.value for each in sent]
        # Canceled by a cleanup that came later, answered, or still to be sent by the sweeper: never lost.
        assert set(states) <= {"canceled", "completed", "submitted"}
        stored = asyncio.run(stack.records.get(ALICE, Key.space()))
        assert stored is not None
        assert stored["open_tasks"] == states.count("submitted")
