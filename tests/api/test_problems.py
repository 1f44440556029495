"""Errors as clients see them: one table, complete; nothing leaks, nothing is a stack trace."""

import asyncio
import logging
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI

from tests.api.service import PROBLEM, Service, kind
from tests.api.signing import FakeIssuer
from worker_space import errors
from worker_space.api import boundary
from worker_space.api.app import create_app
from worker_space.api.problems import KINDS, RangeOutside
from worker_space.errors import LimitReached, Unavailable, WorkerSpaceError

pytestmark = pytest.mark.anyio


def tree(root: type[WorkerSpaceError]) -> Iterator[type[WorkerSpaceError]]:
    yield root
    for branch in root.__subclasses__():
        # Private ones of other packages' tests are none of ours.
        if branch.__module__.startswith("worker_space."):
            yield from tree(branch)


def test_every_branch_of_the_error_tree_has_its_place_in_the_table() -> None:
    assert set(tree(WorkerSpaceError)) == set(KINDS)
    assert {getattr(errors, name) for name in errors.__all__} <= set(KINDS)


def test_a_type_always_comes_with_the_same_status_and_title() -> None:
    by_name: dict[str, set[tuple[int, str]]] = {}
    for found in KINDS.values():
        by_name.setdefault(found.name, set()).add((found.status, found.title))
    assert {name: kinds for name, kinds in by_name.items() if len(kinds) > 1} == {}


def test_what_problems_say_beyond_the_standard_is_declared() -> None:
    service = Service()
    document = create_app(lambda: service.services, keys=FakeIssuer().keys()).openapi()
    declared = document["components"]["schemas"]["Problem"]
    assert {"limit", "until", "task_id", "correlation_id", "errors"} <= set(declared["properties"])
    assert declared["required"] == ["type", "title", "status", "detail", "instance"]


def make(branch: type[WorkerSpaceError]) -> WorkerSpaceError:
    if issubclass(branch, LimitReached):
        return branch("slow down", retry_after=7)
    if issubclass(branch, Unavailable):
        return branch("the table", "secret-host:8000 refused")
    if issubclass(branch, RangeOutside):
        return branch(12)
    if issubclass(branch, errors.ConditionFailed):
        return branch([{"secret": "item"}])
    return branch("what was wrong")


def failing(error: Exception) -> FastAPI:
    """An application with one route, which fails."""
    service = Service()
    app = create_app(lambda: service.services, keys=FakeIssuer().keys())

    @app.get("/fail")
    async def fail() -> None:
        raise error

    return app


async def get(app: FastAPI, path: str = "/fail") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service.test") as client:
        return await client.get(path)


@pytest.mark.parametrize("branch", list(KINDS), ids=lambda branch: branch.__name__)
async def test_an_error_is_answered_as_the_table_says(branch: type[WorkerSpaceError]) -> None:
    answer = await get(failing(make(branch)))
    expected = KINDS[branch]
    assert (answer.status_code, answer.json()["type"]) == (expected.status, expected.type)
    assert answer.json()["instance"] == "/fail"
    assert "secret" not in answer.text


async def test_who_is_to_come_back_later_is_told_when() -> None:
    assert (await get(failing(LimitReached("x", retry_after=7)))).headers["retry-after"] == "7"
    assert int((await get(failing(Unavailable("redis", "x")))).headers["retry-after"]) >= 1


async def test_losing_a_race_is_no_error_of_ours() -> None:
    for branch in (errors.Lost, errors.ClaimLost, errors.ConditionFailed, errors.TaskCanceled):
        assert (await get(failing(make(branch)))).status_code == 409


async def test_an_unforeseen_error_tells_nothing_but_a_correlation_id(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="worker_space"):
        answer = await get(failing(RuntimeError("password=hunter2 in prompt")))
    body = answer.json()
    assert (answer.status_code, body["type"]) == (500, f"{PROBLEM}internal-error")
    assert body["correlation_id"] == answer.headers["x-request-id"]
    assert body["correlation_id"] in caplog.text
    assert "RuntimeError" in caplog.text
    assert "hunter2" not in answer.text + caplog.text
    assert "Traceback" not in answer.text


async def test_a_request_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service()
    app = create_app(lambda: service.services, keys=FakeIssuer().keys())

    @app.get("/fail")
    async def hang() -> None:
        await asyncio.sleep(60)

    assert boundary.REQUEST_SECONDS < 29
    # The time itself is the constant under test above; here only what happens when it is over.
    monkeypatch.setattr(boundary, "REQUEST_SECONDS", 0.05)
    answer = await get(app)
    assert (answer.status_code, kind(answer)) == (503, "unavailable")


async def test_a_time_out_inside_is_not_taken_for_the_requests_own() -> None:
    assert (await get(failing(TimeoutError("inner")))).status_code == 500


async def test_nothing_at_an_address_and_a_wrong_method_are_problems(service: Service) -> None:
    answer = await service.call("GET", "/nowhere")
    assert (answer.status_code, kind(answer)) == (404, "not-found")
    answer = await service.call("PUT", "/my/projects/")
    assert (answer.status_code, kind(answer)) == (405, "method-not-allowed")
    assert answer.headers["allow"]


async def test_a_body_that_is_no_json_is_400(service: Service) -> None:
    for content in (b"{", b"[1,", b"\xff\xfe", b"[" * 100_000, b"9" * 10_000):
        answer = await service.call(
            "POST", "/my/projects/", content=content, headers={"Content-Type": "application/json"}
        )
        assert (answer.status_code, kind(answer)) == (400, "malformed-body"), content[:10]


async def test_wrong_values_are_named_and_not_repeated(service: Service) -> None:
    answer = await service.call("POST", "/my/projects/", json={"id": "no id!" + "x" * 5000, "extra" * 100: 1})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    places = [entry["at"] for entry in answer.json()["errors"]]
    assert {"body.id", "body.name"} <= set(places)
    assert len(answer.text) < 3000
    assert "no id!" not in answer.text


async def test_only_ten_wrong_values_are_named(service: Service) -> None:
    answer = await service.call("POST", "/my/projects/", json={f"key{number}": 1 for number in range(500)})
    assert len(answer.json()["errors"]) == 10
    assert len(answer.text) < 3000


@pytest.mark.parametrize("body", [b"[]", b"7", b'"text"', b"null", b""])
async def test_a_body_that_is_no_object_is_422(service: Service, body: bytes) -> None:
    answer = await service.call("POST", "/my/projects/", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_body_needs_no_content_type_but_must_not_claim_another(service: Service) -> None:
    content = b'{"name": "x"}'
    assert (await service.call("POST", "/my/projects/", content=content)).status_code == 201
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = await service.call("POST", "/my/projects/", content=content, headers=form)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


async def test_a_body_over_ten_megabytes_is_413_however_it_is_sent(service: Service) -> None:
    large = b'{"name": "' + b"x" * 10_000_000 + b'"}'
    answer = await service.call("POST", "/my/projects/", content=large, headers={"Content-Type": "application/json"})
    assert (answer.status_code, kind(answer)) == (413, "too-large")

    async def chunks() -> object:
        for start in range(0, len(large), 1 << 20):
            yield large[start : start + (1 << 20)]

    headers = {**answer.request.headers, "Content-Type": "application/json"}
    del headers["content-length"]
    chunked = await service.client.post("/my/projects/", content=chunks(), headers=headers)  # type: ignore[arg-type]
    assert (chunked.status_code, kind(chunked)) == (413, "too-large")


async def test_a_dependency_that_is_down_is_503_and_its_address_stays_inside(service: Service) -> None:
    class Down:
        def __getattr__(self, name: str) -> object:
            async def refuse(*args: object, **kwargs: object) -> None:
                raise Unavailable("the table", "http://10.0.0.7:8000 ConnectTimeoutError")

            return refuse

    parts = service.stack.compose(records=Down())
    service.services = parts.services
    answer = await service.call("GET", "/my/projects/")
    assert (answer.status_code, kind(answer)) == (503, "unavailable")
    assert "10.0.0.7" not in answer.text


@pytest.mark.parametrize("path", ["/my/chat/", "/my/chat/sessions/7", "/my/agents/coder"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_addresses_of_before_there_were_projects_say_where_to_go(
    service: Service, method: str, path: str
) -> None:
    answer = await service.call(method, path, user=None)
    assert (answer.status_code, kind(answer)) == (410, "gone")
    assert answer.json()["location"] == "/my/projects/{project_id}" + path.removeprefix("/my")


async def test_a_trailing_slash_more_or_less_is_no_matter(service: Service, project: str) -> None:
    assert (await service.call("GET", "/my/projects")).status_code == 200
    assert (await service.call("GET", project)).status_code == 200
    assert (await service.call("GET", f"{project}/agents")).status_code == 200
    assert (await service.call("GET", f"{project}/agents/coder/")).status_code == 200
    assert (await service.call("POST", "/my/projects", json={"name": "x"})).status_code == 201
    assert (await service.call("GET", f"{project}//")).status_code == 404
