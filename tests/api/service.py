"""The HTTP surface over memory adapters, spoken to through httpx."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from tests.api.signing import FakeIssuer, token
from tests.memory_stack import MemoryStack
from worker_space.api.app import create_app
from worker_space.api.services import Services
from worker_space.tenancy import TenantContext

PROBLEM = "urn:worker-space:problem:"

# Signing takes milliseconds, and one token is good for all tests.
_signed = cache(token)
_asked: ContextVar["Service"] = ContextVar("asked")


@cache
def application() -> FastAPI:
    """The application, made once because its routes take a tenth of a second; each request brings its services."""
    return create_app(lambda: _asked.get().services, keys=FakeIssuer().keys())


class Service:
    """A running service: `call` speaks for a user, `worker` lets agents answer meanwhile.

    Args:
        issuer: A token issuer of this service's own, to be changed by the test.
    """

    def __init__(self, stack: MemoryStack | None = None, *, issuer: FakeIssuer | None = None) -> None:
        self.stack = stack or MemoryStack()
        self.services: Services = self.stack.parts.services
        routes = application() if issuer is None else create_app(lambda: self.services, keys=issuer.keys())

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            before = _asked.set(self)
            try:
                await routes(scope, receive, send)
            finally:
                _asked.reset(before)

        self.app = app
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service.test")

    def replace(self, **changes: Any) -> None:
        """Other services from the next request on."""
        self.services = dataclasses.replace(self.services, **changes)

    async def call(
        self,
        method: str,
        path: str,
        *,
        user: str | None = "alice",
        json: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> httpx.Response:
        """One request; `user=None` sends no token. Every answer's general promises are checked here."""
        given = {} if user is None else {"Authorization": f"Bearer {_signed(user)}"}
        answer = await self.client.request(
            method,
            path,
            json=json,
            content=content,
            params=params,
            headers={**given, **(headers or {})},
        )
        assert answer.headers["x-request-id"]
        assert answer.headers["x-content-type-options"] == "nosniff"
        if answer.status_code >= 400 and method != "HEAD":
            body = answer.json()
            assert answer.headers["content-type"] == "application/problem+json"
            assert {"type", "title", "status", "detail", "instance"} <= body.keys()
            assert body["type"].startswith(PROBLEM)
            assert body["status"] == answer.status_code
        return answer

    async def project(self, project_id: str = "shop", *, user: str = "alice") -> str:
        """Make a project; returns its address."""
        answer = await self.call("POST", "/my/projects/", user=user, json={"id": project_id, "name": project_id})
        assert answer.status_code == 201, answer.text
        return f"/my/projects/{project_id}"

    @asynccontextmanager
    async def worker(self, user: str = "alice", project_id: str = "shop") -> AsyncIterator[None]:
        """Agents work on the project's queue meanwhile."""
        tenant = TenantContext(user, project_id)

        stop = asyncio.Event()

        async def pump() -> None:
            while not stop.is_set():
                await self.stack.work(tenant)
                await asyncio.sleep(0.005)

        task = asyncio.create_task(pump())
        try:
            yield
        finally:
            # What the worker has begun it ends: a cancelled task would be delivered again.
            stop.set()
            await task


def kind(answer: httpx.Response) -> str:
    """The problem's type, without the prefix they share."""
    return str(answer.json()["type"]).removeprefix(PROBLEM)
