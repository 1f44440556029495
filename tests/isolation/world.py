"""Two people who know each other's ids, over stores that note whose data is asked for."""

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute

from tests.api.service import Service
from tests.memory_stack import MemoryStack, calls
from worker_space.tenancy import TenantContext, UserContext

SECRET = "MARKER-of-alice"


class Watched:
    """A store that notes the owner of every call."""

    def __init__(self, store: Any, owners: set[str]) -> None:
        self._store = store
        self._owners = owners

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not callable(found) or name.startswith("_"):
            return found

        def watched(*args: Any, **kwargs: Any) -> Any:
            if args and isinstance(args[0], (TenantContext, UserContext)):
                owner = args[0]
                project = owner.project_id if isinstance(owner, TenantContext) else "*"
                self._owners.add(f"{owner.user_id}/{project}")
            return found(*args, **kwargs)

        return watched


@dataclass
class World:
    """What alice has, and a service that bob may try to reach it through.

    Attributes:
        ids: Of her things in the project `shop`.
        ids_of: Of those in each of her projects.
    """

    service: Service
    owners: set[str]
    ids: dict[str, str] = field(default_factory=dict)
    ids_of: dict[str, dict[str, str]] = field(default_factory=dict)

    def stored(self, user: str) -> str:
        """Everything the stores hold of a user, as text."""
        stack = self.service.stack
        records: Any = stack.records
        places = {place: items for place, items in records._partitions.items() if f"user{user}" in place}
        files: Any = stack.files
        contents: Any = stack.content
        memory: Any = stack.memory
        return repr(
            (
                places,
                sorted(str(item) for item in files._objects.items() if item[0][0].user_id == user),
                sorted(str(item) for item in contents._texts.items() if item[0][0].user_id == user),
                sorted(str(item) for item in memory._collections.items() if f"user{user}" in item[0]),
            )
        )


_STORES = ("records", "cache", "memory", "files", "content", "queues")
_made: list[tuple[dict[str, dict[str, Any]], dict[str, str], dict[str, dict[str, str]]]] = []


async def make_world() -> World:
    """Alice has two projects full of marked data; bob has one of the same name as one of hers.

    They are filled by requests once; each test has what these left, in stores of its own.
    """
    if not _made:
        first = _empty_world()
        await fill_world(first)
        _made.append((_state(first), first.ids, first.ids_of))
    world = _empty_world()
    state, world.ids, world.ids_of = deepcopy(_made[0])
    for name, held in state.items():
        vars(getattr(world.service.stack, name)).update(held)
    return world


def _empty_world() -> World:
    owners: set[str] = set()
    stack = MemoryStack()
    stack.parts = stack.compose(**{name: Watched(getattr(stack, name), owners) for name in _STORES})
    return World(service=Service(stack), owners=owners)


def _state(world: World) -> dict[str, dict[str, Any]]:
    """All that the stores hold, which is in their dictionaries and lists."""
    stack = world.service.stack
    return {
        name: {at: held for at, held in vars(getattr(stack, name)).items() if isinstance(held, (dict, list))}
        for name in _STORES
    }


async def fill_world(world: World) -> None:
    """Make what alice and bob have."""
    for user, project in (("alice", "private"), ("alice", "shop"), ("alice", "empty"), ("bob", "shop")):
        await world.service.project(project, user=user)
    for project in ("private", "shop"):
        await _fill(world, f"/my/projects/{project}", project)
        world.ids_of[project] = dict(world.ids)


async def _fill(world: World, address: str, project: str) -> None:
    call = world.service.call
    await call("PATCH", f"{address}/", json={"name": f"{SECRET} {project}"})
    agent = await call("POST", f"{address}/agents/", json={"name": "mine", "system_prompt": SECRET})
    chat = await call("POST", f"{address}/chat/sessions/", json={"title": SECRET, "target_agent": "mine"})
    async with world.service.worker("alice", project):
        answer = await call("POST", f"{address}/chat/{chat.json()['id']}/message/", json={"content": SECRET})
    assert answer.status_code == 200, answer.text
    await call("PUT", f"{address}/files/secret.txt", content=SECRET.encode())
    waiting = await _waiting_approval(world, address, project)
    note = {"text": f"{SECRET} likes tea", "agent_id": "mine"}
    assert (await call("POST", f"{address}/tools/remember", json=note)).status_code == 200
    world.ids |= {
        "agent_id": agent.json()["id"],
        "session_id": chat.json()["id"],
        "task_id": answer.json()["id"],
        "entry_id": answer.json()["id"],
        "approval_id": waiting,
        "plan_id": await _proposed_plan(world, address, project),
        "key": "the_part",
        "path": "secret.txt",
        "tool_name": "read_file",
    }


async def _proposed_plan(world: World, address: str, project: str) -> str:
    """A plan of alice's own."""
    part = {"key": "the_part", "agent": "mine", "instructions": SECRET}
    async with world.service.worker("alice", project):
        made = await world.service.call("POST", f"{address}/plans/", json={"goal": SECRET, "tasks": [part]})
    assert (made.status_code, made.json()["state"]) == (201, "proposed"), made.text
    return str(made.json()["id"])


async def _waiting_approval(world: World, address: str, project: str) -> str:
    """A run of alice's that waits for her word about one of her files."""
    call, stack = world.service.call, world.service.stack
    await call("PUT", f"{address}/files/{SECRET}.txt", content=b"x")
    stack.model.script = [calls(("delete_file", {"path": f"{SECRET}.txt"}))]
    async with world.service.worker("alice", project):
        sent = await call("POST", f"{address}/chat/", json={"content": SECRET, "target_agent": "coder"})
    assert (sent.status_code, sent.json()["task"]["state"]) == (202, "input-required"), sent.text
    return str(sent.json()["task"]["approval_id"])


def routes(app: FastAPI) -> Iterator[tuple[str, str, str | None]]:
    """Every route that the application serves, hidden ones too: method, path, operation id."""
    pending: list[Any] = list(app.routes)
    while pending:
        route = pending.pop(0)
        if (included := getattr(route, "original_router", None)) is not None:
            pending += included.routes
        elif isinstance(route, APIRoute):
            yield from ((method, route.path, route.operation_id) for method in sorted(route.methods or ()))
        else:
            yield from ((method, route.path, None) for method in sorted(getattr(route, "methods", None) or {"*"}))
