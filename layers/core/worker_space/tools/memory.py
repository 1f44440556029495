"""Tools for the agent's own memory: `search_context` and `remember`. They touch no file of the user's."""

from typing import Final

from pydantic import Field

from worker_space.errors import ToolError
from worker_space.tools.tool import AgentMemory, Arguments, EffectTool, JsonObject, ReadingTool, ToolContext

__all__ = ["REMEMBER", "SEARCH_CONTEXT", "Remember", "SearchContext"]


def _memory(context: ToolContext) -> AgentMemory:
    if context.memory is None:
        raise ToolError("this call is made for no agent, and only agents have a memory: name the agent (agent_id)")
    return context.memory


class SearchContext(Arguments):
    """What to look for in the agent's memory."""

    query: str = Field(min_length=1, max_length=2_000, description="What to look for, in words")
    limit: int = Field(default=5, ge=1, le=20, description="Most memories to return (default 5)")


async def _search_context(context: ToolContext, arguments: SearchContext) -> JsonObject:
    matches = await _memory(context).search(arguments.query, arguments.limit)
    return {
        "matches": [
            {
                "text": match.entry.text,
                "kind": match.entry.kind,
                "created_at": match.entry.created_at,
                "score": round(match.score, 4),
            }
            for match in matches
        ]
    }


SEARCH_CONTEXT: Final = ReadingTool(
    name="search_context",
    description="Search what you remember of earlier conversations and notes in this project, best match first.",
    arguments=SearchContext,
    run=_search_context,
)


class Remember(Arguments):
    """A note to keep."""

    text: str = Field(min_length=1, max_length=8_000, description="What to remember, in full sentences")


async def _plan_remember(context: ToolContext, arguments: Remember) -> JsonObject:
    _memory(context)
    return {}


async def _remember(
    context: ToolContext, arguments: Remember, intent: JsonObject, *, effect: str, recovering: bool
) -> JsonObject:
    # Stored under the effect's name, so a second time replaces the note by itself.
    await _memory(context).remember(arguments.text, effect)
    return {"remembered": True}


REMEMBER: Final = EffectTool(
    name="remember",
    description="Keep a note in your memory, to be found by search_context in later conversations.",
    arguments=Remember,
    plan=_plan_remember,
    perform=_remember,
)
