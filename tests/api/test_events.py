"""What happens in a session, followed over HTTP: nothing missed, nothing told twice, nobody else's."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn

from tests.api.event_source import EventSource, Told
from tests.api.service import Service, kind
from tests.api.signing import token
from tests.memory_stack import MemoryStack, calls, says, settings
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.errors import Unauthorized
from worker_space.events import EventCursor, EventType, NewEvent
from worker_space.ids import new_id
from worker_space.records import Delete, Page, Put, Update, Write
from worker_space.stream_tickets import StreamTickets
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio

ALICE = TenantContext("alice", "shop")
AT_ONCE = {"wait": "0"}


@pytest.fixture
async def service() -> Service:
    return Service(MemoryStack(settings=settings(answer_wait_seconds=5)))


@pytest.fixture
async def chat(service: Service) -> str:
    """The address of an empty session."""
    project = await service.project()
    made = await service.call("POST", f"{project}/chat/sessions/", json={"target_agent": "coder"})
    return f"{project}/chat/{made.json()['id']}"


def session_of(chat: str) -> str:
    return chat.rpartition("/")[2]


async def append(service: Service, chat: str, *datas: Mapping[str, object]) -> None:
    """Tell of errors, one event each, as a pipeline would."""
    cursor = EventCursor(session_of(chat))
    records = service.stack.records
    await cursor.look(records, ALICE)
    events = [NewEvent(type=EventType.ERROR, data=data) for data in datas]
    for start in range(0, len(events), 90):
        some = events[start : start + 90]
        await records.write(ALICE, *cursor.writes(some).values())
        cursor.written(some)


async def conversation(service: Service, chat: str) -> None:
    """A message whose answer takes a tool."""
    service.stack.model.script = [calls(("list_directory", {})), says("One\r\nfile:\u2028\n\ndata: x\n")]
    async with service.worker():
        answer = await service.call("POST", f"{chat}/message/", json={"content": "What is here?\n\nid: 99"})
    assert answer.status_code == 200, answer.text


async def body(service: Service, chat: str, after: int | str = 0, **params: str) -> bytes:
    answer = await service.call(
        "GET", f"{chat}/events", headers={"Last-Event-ID": str(after)}, params=params or AT_ONCE
    )
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert answer.headers["cache-control"] == "no-store"
    return answer.content


def transcript(*bodies: bytes) -> list[Told]:
    source = EventSource()
    for each in bodies:
        source.feed(each)
        source.closed()
    return source.told


# -- what is told


async def test_a_message_its_steps_and_its_answer_are_told_in_their_order(service: Service, chat: str) -> None:
    await conversation(service, chat)
    told = transcript(await body(service, chat))
    assert [each.id for each in told] == [str(number) for number in range(1, len(told) + 1)]
    types = [each.type for each in told]
    assert types[:3] == ["message_created", "task_submitted", "task_started"]
    assert types[-1] == "task_completed"
    assert "step" in types
    events = [json.loads(each.data) for each in told]
    assert [event["seq"] for event in events] == [int(each.id) for each in told]
    assert [event["type"] for event in events] == types
    said = [event["data"]["content"] for event in events if event["type"] == "message_created"]
    assert said == ["What is here?\n\nid: 99", "One\r\nfile:\u2028\n\ndata: x\n"]


async def test_a_stream_cut_anywhere_and_resumed_tells_the_same(service: Service, chat: str) -> None:
    await conversation(service, chat)
    whole = await body(service, chat)
    for cut in range(len(whole) + 1):
        source = EventSource()
        source.feed(whole[:cut])
        source.closed()
        source.feed(await body(service, chat, source.last_id or 0))
        assert source.told == transcript(whole), f"cut at byte {cut}"


async def test_an_event_is_told_as_soon_as_it_is_there(service: Service, chat: str) -> None:
    waiting = asyncio.create_task(body(service, chat, wait="5"))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    began = time.monotonic()
    await append(service, chat, {"message": "now"})
    assert [json.loads(each.data)["data"] for each in transcript(await waiting)] == [{"message": "now"}]
    assert time.monotonic() - began < 1


async def test_a_wait_in_which_nothing_happens_ends_in_a_comment(service: Service, chat: str) -> None:
    service.replace(settings=service.services.settings.model_copy(update={"answer_wait_seconds": 0.3}))
    began = time.monotonic()
    empty = await body(service, chat, wait="600")
    assert 0.3 <= time.monotonic() - began < 3
    source = EventSource()
    source.feed(empty)
    assert (source.told, source.retry_ms) == ([], 200)
    assert b": nothing has happened" in empty
    began = time.monotonic()
    assert transcript(await body(service, chat, 7, wait="0")) == []
    assert time.monotonic() - began < 0.3


async def test_the_number_of_the_last_event_may_stand_in_the_address_and_the_header_is_newer(
    service: Service, chat: str
) -> None:
    await append(service, chat, *({"n": number} for number in range(1, 6)))
    address = f"{chat}/events"
    params = {"wait": "0", "last_event_id": "3"}
    by_query = await service.call("GET", address, params=params)
    assert [each.id for each in transcript(by_query.content)] == ["4", "5"]
    by_header = await service.call("GET", address, params=params, headers={"Last-Event-ID": "4"})
    assert [each.id for each in transcript(by_header.content)] == ["5"]
    with_slash = await service.call("GET", f"{address}/", params=params)
    assert with_slash.content == by_query.content


@pytest.mark.parametrize("number", ["-1", "x", "1.5", "1" * 13, "٣", " 1x", "1,2"])
async def test_what_is_no_number_of_an_event_is_refused(service: Service, chat: str, number: str) -> None:
    answer = await service.call("GET", f"{chat}/events", params={"last_event_id": number, "wait": "0"})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    answer = await service.call("GET", f"{chat}/events", headers={"Last-Event-ID": "x"}, params={"wait": "0"})
    assert answer.status_code == 422


@pytest.mark.parametrize("wait", ["-1", "x", "nan", "1e9"])
async def test_a_wait_that_is_none_is_refused(service: Service, chat: str, wait: str) -> None:
    assert (await service.call("GET", f"{chat}/events", params={"wait": wait})).status_code == 422


async def test_a_long_history_comes_in_answers_of_bounded_size(service: Service, chat: str) -> None:
    await append(service, chat, *({"n": number} for number in range(250)), *({"text": "x" * 16_000},) * 90)
    after, bodies = 0, []
    while told := transcript(bytes_ := await body(service, chat, after)):
        assert len(told) <= 200
        assert len(bytes_) < 1_100_000
        bodies.append(bytes_)
        after = int(told[-1].id)
    assert len(bodies) == 3
    assert [each.id for each in transcript(*bodies)] == [str(number) for number in range(1, 341)]


async def test_a_missing_or_deleted_session_has_no_stream(service: Service, chat: str) -> None:
    project = chat.partition("/chat/")[0]
    missing = await service.call("GET", f"{project}/chat/{new_id('session')}/events")
    assert (missing.status_code, kind(missing)) == (404, "not-found")
    await append(service, chat, {"message": "x"})
    await service.call("DELETE", f"{project}/chat/sessions/{session_of(chat)}")
    for method, address in (("GET", f"{chat}/events"), ("POST", f"{chat}/events/ticket")):
        answer = await service.call(method, address)
        assert (answer.status_code, kind(answer)) == (404, "not-found")


# -- tickets


async def ticket_for(service: Service, chat: str, *, seconds: int = 7_200) -> str:
    """A ticket made with a token that is good for `seconds`."""
    headers = {"Authorization": f"Bearer {token(exp=int(time.time()) + seconds)}"}
    made = await service.call("POST", f"{chat}/events/ticket", user=None, headers=headers)
    assert made.status_code == 201, made.text
    assert made.json()["expires_in"] == 60
    assert made.json()["href"] == f"{chat}/events?ticket={made.json()['ticket']}"
    assert made.headers["cache-control"] == "no-store"
    return str(made.json()["ticket"])


async def opened(
    service: Service, chat: str, ticket: str, *, method: str = "GET", end: str = "events"
) -> httpx.Response:
    return await service.call(method, f"{chat}/{end}", user=None, params={"ticket": ticket, "wait": "0"})


async def times(service: Service, **changes: int) -> dict[str, int]:
    """The times of the only ticket there is, after changing some."""
    (item,) = (await service.stack.records.query(ALICE, Key("TICKET#"))).items
    if changes:
        await service.stack.records.write(ALICE, Update(key=Key(item["sk"]), set=changes))
    (item,) = (await service.stack.records.query(ALICE, Key("TICKET#"))).items
    return {name: item[name] for name in ("open_until", "last_until", "expires_at")}


async def test_a_ticket_opens_its_stream_without_a_token_as_often_as_the_stream_is_followed(
    service: Service, chat: str
) -> None:
    await append(service, chat, {"message": "x"})
    made = await service.call("POST", f"{chat}/events/ticket")
    for _ in range(3):
        answer = await service.call("GET", made.json()["href"] + "&wait=0", user=None)
        assert (answer.status_code, len(transcript(answer.content))) == (200, 1)


async def test_a_ticket_opens_nothing_else(service: Service, chat: str) -> None:
    ticket = await ticket_for(service, chat)
    project = chat.partition("/chat/")[0]
    other = (await service.call("POST", f"{project}/chat/sessions/", json={})).json()["id"]
    await service.project("other")
    refused = [
        await opened(service, f"{project}/chat/{other}", ticket),
        await opened(service, chat.replace("shop", "other"), ticket),
        await opened(service, chat, ticket, end="messages/"),
        await opened(service, chat, ticket, end="events/ticket", method="POST"),
        await opened(service, chat, ticket, method="DELETE"),
        await opened(service, project, ticket, end=""),
        await service.call("GET", "/my/projects/", user=None, params={"ticket": ticket}),
        await service.call("GET", f"{chat}/events?ticket={ticket}&ticket={ticket}", user=None),
    ]
    assert [answer.status_code for answer in refused] == [401] * len(refused)
    bobs = await service.project(user="bob")
    his = await service.call("GET", f"{bobs}/chat/{session_of(chat)}/events", user="bob", params={"ticket": ticket})
    assert his.status_code == 404, "with a token, a ticket says nothing"


async def test_wrong_old_and_foreign_tickets_look_the_same(service: Service, chat: str) -> None:
    ticket = await ticket_for(service, chat)
    user, _, secret = ticket.partition(".")
    wrong = [
        "",
        "x",
        ".",
        f".{secret}",
        f"{user}.",
        f"{user}.{secret}x",
        f"{user}.{secret[:-1]}",
        f"Ym9i.{secret}",
        f"!!.{secret}",
        f"{user}{secret}",
        f"AAAA.{secret}",
        "x" * 5_000,
        f"{user}.{'x' * 5_000}",
        "\u00e4.\u00e4",
    ]
    answers = [await opened(service, chat, each) for each in wrong[1:]]
    await times(service, open_until=int(time.time() * 1000) - 1)
    answers.append(await opened(service, chat, ticket))
    answers.append(await opened(service, chat.replace("shop", "nobodys"), ticket))
    assert {answer.status_code for answer in answers} == {401}
    details = {answer.json()["detail"] for answer in answers}
    assert len(details) == 1
    assert "ticket" not in answers[-1].json()["instance"]
    assert (await opened(service, chat, "")).status_code == 401


async def test_a_ticket_lives_while_its_stream_is_followed_and_no_longer_than_an_hour(
    service: Service, chat: str
) -> None:
    now = int(time.time() * 1000)
    ticket = await ticket_for(service, chat)
    fresh = await times(service)
    assert fresh["open_until"] == pytest.approx(now + 60_000, abs=2_000)
    assert fresh["last_until"] == pytest.approx(now + 3_600_000, abs=2_000)
    assert fresh["expires_at"] == fresh["last_until"] // 1000
    await opened(service, chat, ticket)
    assert await times(service) == fresh, "each opening of a fresh ticket would be a write"
    await times(service, open_until=now + 30_000)
    await asyncio.gather(*(opened(service, chat, ticket) for _ in range(8)))
    assert (await times(service))["open_until"] == pytest.approx(now + 60_000, abs=3_000)
    await times(service, open_until=now + 10_000, last_until=now + 35_000)
    await opened(service, chat, ticket)
    assert (await times(service))["open_until"] == now + 35_000


class Erasing(MemoryRecords):
    """Loses tickets just before they are changed, as an erasure at the same time does."""

    async def write(self, owner: TenantContext | UserContext, *writes: Write) -> None:
        for each in writes:
            if isinstance(each, Update) and each.key.sort.startswith("TICKET#"):
                await super().write(owner, Delete(key=each.key))
        await super().write(owner, *writes)


async def test_a_ticket_that_is_erased_meanwhile_does_not_come_back() -> None:
    records = Erasing()
    await records.write(ALICE, Put(key=Key.space(), item={"state": "active"}))
    tickets = StreamTickets(records)
    session = new_id("session")
    ticket = (await tickets.issue(ALICE, session, until=int(time.time()) + 7_200)).ticket
    key = Key.stream_ticket(ticket.partition(".")[2])
    item = await records.get(ALICE, key)
    assert item is not None
    old = {**item, "open_until": int(time.time() * 1000) + 10_000}
    await records.write(ALICE, Put(key=key, item={name: value for name, value in old.items() if name != "sk"}))
    await tickets.open(ALICE, session, ticket)
    assert await records.get(ALICE, key) is None
    with pytest.raises(Unauthorized):
        await tickets.open(ALICE, session, ticket)


async def test_a_ticket_ends_with_the_token_that_made_it(service: Service, chat: str) -> None:
    until = int(time.time()) + 30
    headers = {"Authorization": f"Bearer {token(exp=until)}"}
    made = await service.call("POST", f"{chat}/events/ticket", user=None, headers=headers)
    assert made.json()["expires_in"] in range(27, 31)
    assert (await times(service))["last_until"] == until * 1000


async def test_the_table_holds_nothing_that_opens_a_stream_and_the_log_no_ticket(
    service: Service, chat: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="worker_space")
    ticket = await ticket_for(service, chat)
    secret = ticket.partition(".")[2]
    await opened(service, chat, ticket)
    await opened(service, chat, f"{ticket}x")
    (item,) = (await service.stack.records.query(ALICE, Key("TICKET#"))).items
    assert secret not in repr(item)
    assert secret not in caplog.text


async def test_a_user_of_any_name_gets_a_working_ticket(service: Service) -> None:
    user = "auth0|Jürgen.Ω/…?&"
    project = await service.project(user=user)
    made = await service.call("POST", f"{project}/chat/sessions/", user=user, json={})
    chat = f"{project}/chat/{made.json()['id']}"
    ticket = await service.call("POST", f"{chat}/events/ticket", user=user)
    answer = await service.call("GET", ticket.json()["href"] + "&wait=0", user=None)
    assert answer.status_code == 200, answer.text


# -- over a socket


@asynccontextmanager
async def listening(service: Service) -> AsyncIterator[str]:
    """The application under uvicorn."""
    server = uvicorn.Server(
        uvicorn.Config(service.app, port=0, lifespan="off", log_config=None, timeout_graceful_shutdown=1)
    )
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


async def test_an_event_source_with_a_ticket_follows_a_conversation_over_a_socket(service: Service, chat: str) -> None:
    made = await service.call("POST", f"{chat}/events/ticket")
    source = EventSource()
    async with listening(service) as address, httpx.AsyncClient(base_url=address, timeout=30) as browser:
        seen: list[Sequence[str]] = []

        async def once(headers: dict[str, str]) -> bytes:
            answer = await browser.get(made.json()["href"], headers=headers)
            assert answer.status_code == 200
            seen.append([each.id for each in transcript(answer.content)])
            return answer.content

        following = asyncio.create_task(source.follow(once, until="task_completed"))
        await conversation(service, chat)
        await asyncio.wait_for(following, 20)
    assert len(seen) > 1, "all of it came in one answer: the stream was not followed"
    assert source.told == transcript(await body(service, chat))


class Counting(MemoryRecords):
    """Counts what is looked for."""

    queries = 0

    async def query(self, *args: Any, **kwargs: Any) -> Page:
        self.queries += 1
        return await super().query(*args, **kwargs)


async def test_for_whoever_hangs_up_nothing_is_looked_for_any_more() -> None:
    records = Counting()
    service = Service(MemoryStack(settings=settings(answer_wait_seconds=20), records=records))
    project = await service.project()
    made = await service.call("POST", f"{project}/chat/sessions/", json={})
    headers = {"Authorization": f"Bearer {token()}"}
    async with listening(service) as address:
        async with httpx.AsyncClient(base_url=address) as browser:
            with pytest.raises(httpx.ReadTimeout):
                await browser.get(f"{project}/chat/{made.json()['id']}/events", headers=headers, timeout=1.0)
        await asyncio.sleep(1)
        before = records.queries
        await asyncio.sleep(1.5)
        assert records.queries == before > 3
