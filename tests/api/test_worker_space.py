"""`…/worker-space` and `/my/erasures/` over HTTP."""

import asyncio
from typing import Any

import pytest

from tests.api.service import Service, kind
from tests.memory_stack import MemoryStack, calls, settings
from worker_space.errors import Unavailable
from worker_space.models import ModelRequest
from worker_space.ports import Files, Queues
from worker_space.records import Update
from worker_space.tenancy import Key, TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
ASYNC = {"Prefer": "respond-async"}


@pytest.fixture
async def shop(service: Service) -> str:
    return await service.project()


async def _ask(service: Service, shop: str, content: str = "hello") -> str:
    async with service.worker():
        answer = await service.call("POST", f"{shop}/chat/", json={"content": content, "target_agent": "coder"})
    assert answer.status_code in {200, 201}, answer.text
    return str(answer.json()["session_id"])


async def _queue(service: Service, shop: str) -> str:
    """A message that nobody answers."""
    body = {"content": "hello", "target_agent": "coder"}
    answer = await service.call("POST", f"{shop}/chat/", json=body, headers=ASYNC)
    assert answer.status_code == 202
    return str(answer.json()["task"]["id"])


# -- health and metrics


async def test_a_space_tells_how_it_is_and_what_came_of_its_work(service: Service, shop: str) -> None:
    await _ask(service, shop)
    await _queue(service, shop)
    view = (await service.call("GET", f"{shop}/worker-space")).json()
    health, metrics = view["health"], view["metrics"]
    assert health["status"] == "ok"
    assert health["is_healthy"] is metrics["is_healthy"] is True
    assert health["components"].keys() == {"table", "queue", "redis", "qdrant", "files"}
    agents = (await service.call("GET", f"{shop}/agents/")).json()["items"]
    assert metrics["user_id"] == "alice"
    assert metrics["project_id"] == "shop"
    assert metrics["state"] == "active"
    assert metrics["active_agents"] == len(agents)
    assert metrics["cache_size"] > len(agents)
    assert metrics["total_tasks_processed"] == 1
    assert metrics["tasks_by_state"] == {"completed": 1, "failed": 0, "canceled": 0, "open": 1}
    assert metrics["queue_depth"] == 1
    assert metrics["in_flight"] == {}
    assert metrics["p50_ms"] >= 1
    assert metrics["p95_ms"] >= metrics["p50_ms"]


async def test_a_space_that_nobody_has_used_sleeps_and_is_healthy(service: Service, shop: str) -> None:
    view = (await service.call("GET", f"{shop}/worker-space/")).json()
    assert view["health"]["is_healthy"] is True
    metrics = view["metrics"]
    assert (metrics["state"], metrics["queue_depth"], metrics["uptime_seconds"]) == ("dormant", 0, 0)
    assert metrics["total_tasks_processed"] == 0
    assert metrics["p50_ms"] is None


async def test_a_running_task_is_seen_with_its_agent(service: Service, shop: str) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    service.stack.model.before = hold
    await _queue(service, shop)
    working = asyncio.create_task(service.stack.work(TENANT))
    await asked.wait()
    metrics = (await service.call("GET", f"{shop}/worker-space")).json()["metrics"]
    coder = (await service.call("GET", f"{shop}/agents/coder")).json()
    assert metrics["in_flight"] == {coder["id"]: 1}
    go_on.set()
    await working
    assert (await service.call("GET", f"{shop}/worker-space")).json()["metrics"]["in_flight"] == {}


async def test_uptime_counts_from_the_waking(service: Service, shop: str) -> None:
    await _queue(service, shop)
    item = await service.stack.records.get(TENANT, Key.space()) or {}
    earlier = {"active_since": item["active_since"] - 90_000}
    await service.stack.records.write(TENANT, Update(key=Key.space(), set=earlier))
    metrics = (await service.call("GET", f"{shop}/worker-space")).json()["metrics"]
    assert 90 <= metrics["uptime_seconds"] < 100


class Down:
    """A port of which some methods fail, or never answer."""

    def __init__(self, below: Any, *methods: str, hangs: bool = False) -> None:
        self._below, self._methods, self._hangs = below, methods, hangs

    def __getattr__(self, name: str) -> Any:
        return self._fail if name in self._methods else getattr(self._below, name)

    async def _fail(self, *_: Any, **__: Any) -> None:
        if self._hangs:
            await asyncio.sleep(60)
        raise Unavailable("it", "down")


@pytest.mark.parametrize(
    ("port", "methods", "component", "status"),
    [
        ("cache", ("load", "ping"), "redis", "degraded"),
        ("memory", ("ping",), "qdrant", "degraded"),
        ("files", ("list",), "files", "unavailable"),
        ("queues", ("depth", "exists"), "queue", "unavailable"),
    ],
)
async def test_each_component_is_really_asked(
    service: Service, shop: str, port: str, methods: tuple[str, ...], component: str, status: str
) -> None:
    await _queue(service, shop)
    below: Files | Queues = getattr(service.stack, port)
    service.services = service.stack.compose(**{port: Down(below, *methods)}).services
    answer = await service.call("GET", f"{shop}/worker-space")
    assert answer.status_code == 200
    health = answer.json()["health"]
    assert health["status"] == status
    assert health["is_healthy"] is (status == "degraded")
    assert [name for name, each in health["components"].items() if not each["ok"]] == [component]


async def test_a_queue_that_is_gone_is_noticed(service: Service, shop: str) -> None:
    await _queue(service, shop)
    await service.stack.queues.release(TENANT, 1)
    health = (await service.call("GET", f"{shop}/worker-space")).json()["health"]
    assert health["components"]["queue"]["ok"] is False
    assert health["is_healthy"] is False


async def test_components_that_hang_are_waited_for_two_seconds_and_together(service: Service, shop: str) -> None:
    stack = service.stack
    hanging = {
        "memory": Down(stack.memory, "ping", hangs=True),
        "files": Down(stack.files, "list", hangs=True),
        "queues": Down(stack.queues, "ping", hangs=True),
    }
    service.services = stack.compose(**hanging).services
    began = asyncio.get_running_loop().time()
    health = (await service.call("GET", f"{shop}/worker-space")).json()["health"]
    assert asyncio.get_running_loop().time() - began < 3
    assert health["status"] == "unavailable"
    assert 1900 <= health["components"]["files"]["ms"] < 3000


async def test_without_the_table_nobody_can_say_whose_project_it_is(service: Service, shop: str) -> None:
    service.services = service.stack.compose(records=Down(service.stack.records, "query")).services
    assert (await service.call("GET", f"{shop}/worker-space")).status_code == 503


# -- cleanup and reset


async def test_a_cleanup_says_what_it_did_and_the_next_message_works(service: Service, shop: str) -> None:
    session = await _ask(service, shop)
    task = await _queue(service, shop)
    answer = await service.call("POST", f"{shop}/worker-space/cleanup")
    assert answer.status_code == 200
    report = answer.json()
    assert (report["canceled_tasks"], report["still_running"], report["state"]) == (1, [], "dormant")
    assert report["deregistered_agents"] > 0
    assert (await service.call("GET", f"{shop}/tasks/{task}")).json()["state"] == "canceled"
    metrics = (await service.call("GET", f"{shop}/worker-space")).json()["metrics"]
    assert (metrics["state"], metrics["active_agents"], metrics["total_tasks_processed"]) == ("dormant", 0, 2)
    body = {"content": "again", "target_agent": "coder"}
    sent = await service.call("POST", f"{shop}/chat/{session}/message/", json=body, headers=ASYNC)
    assert sent.status_code == 202
    await service.stack.work(TENANT, generation=2)
    messages = (await service.call("GET", f"{shop}/chat/{session}/messages/")).json()["items"]
    assert [message["content"] for message in messages][-1] == "You said: again"


async def test_a_reset_ends_what_hangs(service: Service, shop: str) -> None:
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    service.stack.model.before = hold
    service.stack.model.script = [calls(("list_directory", {}))]
    task = await _queue(service, shop)
    working = asyncio.create_task(service.stack.work(TENANT))
    await asked.wait()
    answer = await service.call("POST", f"{shop}/worker-space/reset")
    assert answer.json() == {"canceled_tasks": 1, "complete": True, "cache_cleared": True, "state": "dormant"}
    assert (await service.call("GET", f"{shop}/tasks/{task}")).json()["state"] == "canceled"
    assert (await service.call("POST", f"{shop}/worker-space/reset")).json()["canceled_tasks"] == 0
    go_on.set()
    with pytest.raises(Exception, match=r"owns|delivered|gone"):
        await working


async def test_a_message_during_a_reset_is_answered_503(service: Service, shop: str) -> None:
    await service.stack.records.write(TENANT, Update(key=Key.space(), set={"resetting": True}))
    body = {"content": "hello", "target_agent": "coder"}
    answer = await service.call("POST", f"{shop}/chat/", json=body, headers=ASYNC)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/cleanup"), ("POST", "/reset")])
async def test_a_missing_project_has_no_worker_space(service: Service, method: str, path: str) -> None:
    answer = await service.call(method, f"/my/projects/nobodys/worker-space{path}")
    assert answer.status_code == 404
    assert kind(answer) == "not-found"


# -- erasure


@pytest.fixture
def brief() -> Service:
    return Service(MemoryStack(settings=settings(erase_again_seconds=1)))


async def _certified(service: Service, address: str) -> dict[str, Any]:
    for _ in range(100):
        await service.stack.parts.sweeper.sweep(seconds=2)
        receipt: dict[str, Any] = (await service.call("GET", address)).json()
        if receipt["certified_at"]:
            return receipt
        await asyncio.sleep(0.05)
    raise AssertionError(receipt)


async def test_an_erased_project_is_proved_to_be_gone(brief: Service) -> None:
    shop = await brief.project()
    await brief.call("PUT", f"{shop}/files/a.txt", content=b"x")
    await _ask(brief, shop)
    answer = await brief.call("DELETE", f"{shop}/", params={"erase": "true"})
    assert answer.status_code == 202
    receipt = answer.json()
    address = answer.headers["location"]
    assert address == f"/my/erasures/{receipt['id']}"
    assert receipt["first_pass"]["stores"]["files"] == {"found": 1, "deleted": 1, "remaining": 0}
    assert receipt["certified_at"] is None
    assert (await brief.call("GET", f"{shop}/")).status_code == 404
    assert (await brief.call("GET", f"{shop}/files/a.txt")).status_code == 404
    refused = await brief.call("POST", "/my/projects/", json={"id": "shop", "name": "Again"})
    assert refused.status_code == 409
    assert "being erased" in refused.json()["detail"]
    certified = await _certified(brief, address)
    assert certified["state"] == "certified"
    assert {count["remaining"] for count in certified["second_pass"]["stores"].values()} == {0}
    listed = (await brief.call("GET", "/my/erasures/")).json()
    assert listed == {"items": [certified], "next": None}
    assert (await brief.call("POST", "/my/projects/", json={"id": "shop", "name": "Again"})).status_code == 201
    assert (await brief.call("GET", f"{shop}/files/")).json()["items"] == []


async def test_a_plain_deletion_keeps_the_files_and_gives_no_receipt(service: Service, shop: str) -> None:
    await service.call("PUT", f"{shop}/files/a.txt", content=b"x")
    assert (await service.call("DELETE", f"{shop}/")).status_code == 204
    assert (await service.call("GET", "/my/erasures/")).json()["items"] == []
    await service.project()
    assert (await service.call("GET", f"{shop}/files/a.txt")).status_code == 200


async def test_what_is_neither_yes_nor_no_erases_nothing(service: Service, shop: str) -> None:
    answer = await service.call("DELETE", f"{shop}/", params={"erase": "maybe"})
    assert answer.status_code == 422
    assert (await service.call("GET", f"{shop}/")).status_code == 200


async def test_a_receipt_is_nobody_elses(service: Service, shop: str) -> None:
    receipt = (await service.call("DELETE", f"{shop}/", params={"erase": "true"})).json()
    mine = await service.call("GET", f"/my/erasures/{receipt['id']}")
    assert mine.status_code == 200
    other = await service.call("GET", f"/my/erasures/{receipt['id']}", user="bob")
    missing = await service.call("GET", f"/my/erasures/{receipt['id'][:-1]}0", user="bob")
    assert other.status_code == missing.status_code == 404
    assert (await service.call("GET", "/my/erasures/", user="bob")).json()["items"] == []
    for path in ("/my/erasures/", f"/my/erasures/{receipt['id']}"):
        assert (await service.call("GET", path, user=None)).status_code == 401


async def test_a_foreign_cursor_is_refused(service: Service, shop: str) -> None:
    projects = await service.call("GET", "/my/projects/", params={"limit": 1})
    assert projects.status_code == 200
    for cursor in ("UFJPSkVDVCNzaG9w", "x", "RVJBU1VSRSM"):
        assert (await service.call("GET", "/my/erasures/", params={"cursor": cursor})).status_code == 422
