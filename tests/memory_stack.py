"""The whole system over memory adapters, with a scripted model: for tests of the core and of the HTTP surface."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from worker_space.adapters.memory_cache import MemoryCache
from worker_space.adapters.memory_context import MemoryContext
from worker_space.adapters.memory_files import MemoryContent, MemoryFiles
from worker_space.adapters.memory_queues import MemoryInventory, MemoryQueues
from worker_space.adapters.memory_records import MemoryRecords
from worker_space.adapters.patterns import Re2Patterns
from worker_space.clock import now_ms
from worker_space.composition import Parts, Ports, compose
from worker_space.errors import InvalidRequest
from worker_space.models import ModelReply, ModelRequest, ToolCall
from worker_space.ports import Model, Owner, Records
from worker_space.records import Item, Page
from worker_space.settings import Settings
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, Names, TenantContext

NAMES = Names("test")
QUEUE_MODE = ["project"]
"""How stacks get their queues that are not told otherwise; some tests run in both modes (`tests/core/conftest.py`)."""


def settings(**changes: object) -> Settings:
    """Settings for a stack without servers."""
    return Settings.model_validate(
        {
            "table": "t",
            "bucket": "b",
            "prefix": "test",
            "redis_url": "http://127.0.0.1:9",
            "redis_token": "x",
            "qdrant_url": "http://127.0.0.1:9",
            "jwt_issuer": "https://issuer.test",
            "jwt_jwks_url": "http://127.0.0.1:9/jwks",
            "queue_mode": QUEUE_MODE[0],
            **changes,
        }
    )


def says(text: str) -> ModelReply:
    """A model's answer in words."""
    return ModelReply(content=text, provider="{}")


def calls(*tools: tuple[str, dict[str, object]]) -> ModelReply:
    """A model's answer that asks for tools."""
    wanted = tuple(ToolCall(id=f"c{at}", name=name, arguments=given) for at, (name, given) in enumerate(tools))
    return ModelReply(content="", tool_calls=wanted, provider="{}")


class SlowRecords(MemoryRecords):
    """Answers reads a moment late, so that what was read by one thread is old when others have written."""

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        found = await super().get_many(owner, keys)
        await asyncio.sleep(random.uniform(0.001, 0.006))
        return found

    async def query(self, owner: Owner, prefix: Key, **page: Any) -> Page:
        found = await super().query(owner, prefix, **page)
        await asyncio.sleep(random.uniform(0.001, 0.006))
        return found


class ScriptedModel:
    """Answers from a script, and keeps what it was asked; without a script it repeats the question."""

    def __init__(self) -> None:
        self.script: list[ModelReply | Exception] = []
        self.requests: list[ModelRequest] = []
        self.tenants: list[TenantContext] = []
        self.before: Callable[[ModelRequest], Awaitable[None]] | None = None

    def check(self, model: str) -> None:
        if model.partition(":")[0] not in {"offline", "openai"}:
            raise InvalidRequest(f"no provider serves {model!r}")

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        self.requests.append(request)
        self.tenants.append(tenant)
        if self.before is not None:
            await self.before(request)
        if not self.script:
            return says(f"You said: {request.turns[-1].content}")
        reply = self.script.pop(0)
        if isinstance(reply, Exception):
            raise reply
        if on_text is not None and reply.content:
            on_text(reply.content)
        return reply


@dataclass
class MemoryStack:
    """Memory adapters and everything composed over them."""

    model: ScriptedModel = field(default_factory=ScriptedModel)
    clock: list[float] = field(default_factory=lambda: [0.0])
    settings: Settings = field(default_factory=settings)
    records: Records = field(default_factory=MemoryRecords)
    real_model: Model | None = None

    def __post_init__(self) -> None:
        def now() -> float:
            return time.monotonic() + self.clock[0]

        self.queues = MemoryQueues(
            NAMES,
            visibility_seconds=self.settings.worker_timeout_seconds,
            clock=now,
            pool=self.settings.pool,
            epoch_ms=lambda: now_ms() + int(self.clock[0] * 1000),
        )
        self.cache = MemoryCache(NAMES)
        self.memory = MemoryContext(NAMES)
        self.files = MemoryFiles()
        self.content = MemoryContent()
        assert isinstance(self.records, MemoryRecords)
        self.ports = Ports(
            records=self.records,
            due=self.records,
            spaces=self.records,
            cache=self.cache,
            queues=self.queues,
            inventory=MemoryInventory(self.queues),
            memory=self.memory,
            files=self.files,
            content=self.content,
            model=self.real_model or self.model,
            patterns=Re2Patterns(),
            dependencies={},
        )
        self.parts: Parts = self.compose()

    def compose(self, **instead: Any) -> Parts:
        """The system over these adapters, or with others in the place of some."""
        return compose(replace(self.ports, **instead), self.settings)

    async def work(self, tenant: TenantContext, *, generation: int = 1, most: int = 1000) -> Sequence[Delivery]:
        """Run what waits in the tenant's queue, as an event source mapping would; returns what was delivered."""
        done: list[Delivery] = []
        while len(done) < most and (message := self.queues.receive(tenant, generation)) is not None:
            delivery = Delivery.model_validate_json(message.body)
            done.append(delivery)
            await self.parts.worker.handle(delivery, message.lease, deadline=time.monotonic() + 60)
            self.queues.delete(message.lease)
        return done
