"""A project with files in memory, and an agent in it that answers by the offline model and the real tools."""

import json
from collections.abc import Sequence

from worker_space.adapters.memory_files import MemoryFiles
from worker_space.adapters.model import PydanticAIModels
from worker_space.adapters.patterns import Re2Patterns
from worker_space.errors import ToolError
from worker_space.models import ModelReply, ModelRequest, ToolCall, ToolResult, Turn, UserTurn
from worker_space.ports import ContextEntry, ContextMatch
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import TOOLS, call, tool_specs
from worker_space.tools.tool import ToolContext

TENANT = TenantContext("u1", "p1")
GREET = '''"""Greets people."""

import os
import sys

LIMIT = 3


class Greeter(Base):
    """Says hello."""

    def greet(self, name: str = "you") -> str:
        """One greeting."""
        return f"hello {name}"  # TODO: other languages


async def main(argv=[]) -> None:
    print(Greeter().greet(sys.argv[1]))


if __name__ == "__main__":
    main()
'''


class Notes:
    """An agent's memory that finds every note."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}

    async def search(self, query: str, limit: int) -> Sequence[ContextMatch]:
        entries = [ContextEntry(id=key, text=text, kind="note", created_at=1) for key, text in self.texts.items()]
        return [ContextMatch(entry=entry, score=1.0) for entry in entries][:limit]

    async def remember(self, text: str, entry_id: str) -> None:
        self.texts[entry_id] = text


class Project:
    """A project with files, and one agent in it that answers by the offline model."""

    def __init__(self, files: MemoryFiles) -> None:
        self.files = files
        self.notes = Notes()
        self.context = ToolContext(
            tenant=TENANT, files=files, patterns=Re2Patterns(), memory=self.notes, agent_id="agent_1"
        )
        self.models = PydanticAIModels(region="eu-central-1")
        self.calls: list[ToolCall] = []
        self.ids = 0

    async def put(self, **files: str) -> None:
        for path, text in files.items():
            await self.write(path, text)

    async def write(self, path: str, text: str | bytes) -> None:
        await self.files.write(TENANT, path, text if isinstance(text, bytes) else text.encode())

    async def text(self, path: str) -> str | None:
        body = await self.files.read(TENANT, path)
        return None if body is None else body.data.decode()

    async def request(
        self, turns: Sequence[Turn], tools: Sequence[str] = tuple(TOOLS), system: str = "You are the coder."
    ) -> ModelReply:
        return await self.models.request(
            TENANT,
            ModelRequest(model="offline:rules", system_prompt=system, turns=tuple(turns), tools=tool_specs(tools)),
        )

    async def ask(
        self,
        message: str,
        *,
        tools: Sequence[str] = tuple(TOOLS),
        system: str = "You are the coder.",
        history: Sequence[Turn] = (),
    ) -> str:
        """The agent's answer; `calls` then holds what it called."""
        self.calls = []
        turns: list[Turn] = [*history, UserTurn(content=message)]
        for _ in range(12):
            reply = await self.request(turns, tools, system)
            turns.append(reply.as_turn())
            if not reply.tool_calls:
                return reply.content
            for made in reply.tool_calls:
                self.calls.append(made)
                self.ids += 1
                assert isinstance(made.arguments, dict)
                try:
                    content = json.dumps(await call(self.context, made.name, made.arguments, effect=f"t#{self.ids}"))
                    turns.append(ToolResult(call_id=made.id, name=made.name, content=content))
                except ToolError as error:
                    content = json.dumps({"error": str(error)})
                    turns.append(ToolResult(call_id=made.id, name=made.name, content=content, is_error=True))
        raise AssertionError("the offline model did not come to an end")

    @property
    def called(self) -> list[str]:
        return [made.name for made in self.calls]
