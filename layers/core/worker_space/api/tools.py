"""`…/tools/`: the workspace tools, for the caller's own hands, under the same checks as when an agent calls them."""

import functools
import secrets
from collections.abc import Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Body, Path
from pydantic import BaseModel, ConfigDict

from worker_space.api.deps import EXISTING, ServicesOf, Space
from worker_space.api.pages import Listing
from worker_space.api.problems import documented
from worker_space.context import MemoryOfAgent
from worker_space.errors import NotFound, ToolError
from worker_space.tools.catalogue import TOOLS, call
from worker_space.tools.tool import ToolContext

__all__ = ["router"]

router = APIRouter(tags=["tools"], prefix="/my/projects/{project_id}/tools")
_OF_AN_AGENT: Final = frozenset({"search_context", "remember"})


class ToolView(BaseModel):
    """A tool; `parameters` is the JSON schema of its arguments."""

    model_config = ConfigDict(frozen=True)

    name: str
    description: str
    risk: str
    parameters: Mapping[str, Any]


class ToolOutcome(BaseModel):
    """What a tool returned."""

    model_config = ConfigDict(frozen=True)

    tool: str
    result: Mapping[str, Any]


_LISTED: Final = {
    "name": "read_file",
    "description": "Read a text file of the project, whole or a range of lines.",
    "risk": "reading",
    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]},
}
_OUTCOME: Final = {
    "tool": "read_file",
    "result": {"path": "main.py", "content": "print('hello')\n", "start_line": 1, "end_line": 1, "total_lines": 1},
}


@functools.cache
def _views() -> tuple[ToolView, ...]:
    # The schemas take milliseconds to make and never change.
    return tuple(
        ToolView(name=tool.name, description=tool.description, risk=tool.risk.value, parameters=tool.spec.parameters)
        for tool in TOOLS.values()
    )


@router.get(
    "/",
    operation_id="list_tools",
    summary="List the workspace tools",
    dependencies=[EXISTING],
    responses={
        200: {
            "description": "All tools.",
            "content": {"application/json": {"example": {"items": [_LISTED], "next": None}}},
        },
        **documented(),
    },
)
async def list_tools(space: Space) -> Listing[ToolView]:
    """Their names are what an agent's `tools` lists."""
    return Listing(items=_views())


@router.post(
    "/{tool_name}",
    operation_id="call_tool",
    summary="Run a workspace tool",
    dependencies=[EXISTING],
    responses={
        200: {"description": "What the tool returned.", "content": {"application/json": {"example": _OUTCOME}}},
        **documented(400, 413, 429),
    },
)
async def call_tool(
    tool_name: Annotated[str, Path(description="The tool's name.", examples=["read_file"])],
    space: Space,
    services: ServicesOf,
    arguments: Annotated[
        dict[str, Any] | None,
        Body(
            description="The tool's arguments; `search_context` and `remember` take `agent_id` besides.",
            examples=[{"path": "main.py"}],
        ),
    ] = None,
) -> ToolOutcome:
    """422 with type `tool-refused` when the tool refuses the arguments or cannot do what they ask."""
    if tool_name not in TOOLS:
        raise NotFound(f"there is no tool {tool_name[:80]!r}: there are {', '.join(TOOLS)}")
    given = dict(arguments or {})
    memory: MemoryOfAgent | None = None
    if tool_name in _OF_AN_AGENT and "agent_id" in given:
        target = given.pop("agent_id")
        if not isinstance(target, str):
            raise ToolError("agent_id must be the id or name of one of the project's agents")
        agent = await services.collaborators.registry.get(space.tenant, target)
        memory = MemoryOfAgent(services.context.store_of(space.tenant, agent.id, generation=agent.context_generation))
    context = ToolContext(tenant=space.tenant, files=services.files, patterns=services.patterns, memory=memory)
    # No other call, of an agent or by hand, may bear this name: it marks what this one writes.
    result = await call(context, tool_name, given, effect=f"call_{secrets.token_hex(16)}#0")
    return ToolOutcome(tool=tool_name, result=result)
