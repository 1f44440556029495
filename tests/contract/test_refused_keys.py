"""A key that a vendor does not accept any more is told, so that it can be read anew; other refusals are not."""

import contextlib

import pytest

from tests.servers import http, server
from worker_space.adapters.model import PydanticAIModels
from worker_space.adapters.qdrant import QdrantContext
from worker_space.errors import WorkerSpaceError
from worker_space.models import ModelRequest, UserTurn
from worker_space.tenancy import Names, TenantContext

pytestmark = pytest.mark.anyio

ALICE = TenantContext("alice", "p1")
STATUSES = [(401, True), (403, True), (400, False), (404, False), (500, False)]


@pytest.mark.parametrize(("status", "told"), STATUSES)
async def test_memory(status: int, told: bool) -> None:
    calls: list[int] = []
    with server(lambda _: http(status, b'{"status": {"error": "no"}}')) as (url, _):
        memory = QdrantContext(url, "old", Names("ws"), refused=lambda: calls.append(1))
        # To a ping, "not found" is an answer like any other.
        with contextlib.suppress(WorkerSpaceError):
            await memory.ping()
        await memory.close()
    assert bool(calls) is told


@pytest.mark.parametrize(("status", "told"), STATUSES)
async def test_models(status: int, told: bool) -> None:
    calls: list[int] = []
    with server(lambda _: http(status, b'{"error": {"message": "no"}}')) as (url, _):
        models = PydanticAIModels(
            region="us-east-1",
            openai_base_url=url,
            openai_api_key="old",
            backoff_seconds=0.01,
            refused=lambda: calls.append(1),
        )
        request = ModelRequest(model="openai:small", system_prompt="Be brief.", turns=(UserTurn(content="hi"),))
        with pytest.raises(WorkerSpaceError):
            await models.request(ALICE, request)
        await models.close()
    assert bool(calls) is told
