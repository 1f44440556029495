"""Every workspace tool by name, and how a call comes in: checked, validated, carried out."""

import functools
import json
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from pydantic import ValidationError

from worker_space.errors import InvalidRequest, ToolError
from worker_space.models import ToolSpec
from worker_space.policy import ToolPolicy
from worker_space.tools.memory import REMEMBER, SEARCH_CONTEXT
from worker_space.tools.moving import DELETE_FILE, MOVE_FILE
from worker_space.tools.reading import LIST_DIRECTORY, READ_FILE
from worker_space.tools.searching import FIND_FILES, SEARCH_FILES
from worker_space.tools.tool import Arguments, EffectTool, JsonObject, ReadingTool, Risk, ToolContext
from worker_space.tools.writing import EDIT_FILE, WRITE_FILE

__all__ = ["TOOLS", "Tool", "call", "check_asking", "check_names", "parse_arguments", "tool_named", "tool_specs"]

Tool = ReadingTool[Any] | EffectTool[Any]

_ALL: Final[tuple[Tool, ...]] = (
    READ_FILE,
    WRITE_FILE,
    EDIT_FILE,
    LIST_DIRECTORY,
    FIND_FILES,
    SEARCH_FILES,
    DELETE_FILE,
    MOVE_FILE,
    SEARCH_CONTEXT,
    REMEMBER,
)

TOOLS: Final[Mapping[str, Tool]] = MappingProxyType({tool.name: tool for tool in _ALL})

# Two 1 MiB texts, escaped.
_MAX_ARGUMENT_CHARACTERS: Final = 16 << 20
_MAX_PROBLEMS: Final = 5


def check_names(names: Iterable[str]) -> None:
    """Refuse names that no tool has.

    Raises:
        InvalidRequest: Lists the unknown names and the known ones.
    """
    unknown = [name for name in names if name not in TOOLS]
    if unknown:
        shown = ", ".join(repr(name[:80]) for name in unknown[:10])
        raise InvalidRequest(f"unknown tools: {shown}; there are {', '.join(TOOLS)}")


def check_asking(policy: ToolPolicy) -> None:
    """Refuse a policy that names what is neither a tool nor a risk level: it would protect nothing.

    Raises:
        InvalidRequest: Lists the unknown names and the known ones.
    """
    levels = [risk.value for risk in Risk]
    if unknown := policy.unknown({*TOOLS, *levels}):
        shown = ", ".join(repr(name[:80]) for name in unknown[:10])
        raise InvalidRequest(
            f"policy.ask names what is no tool and no risk level: {shown}; there are the levels {', '.join(levels)} "
            f"and the tools {', '.join(TOOLS)}"
        )


def tool_specs(names: Iterable[str]) -> tuple[ToolSpec, ...]:
    """What the model is told of these tools, in their order.

    Raises:
        InvalidRequest: A name is unknown.
    """
    names = tuple(names)
    check_names(names)
    return tuple(_spec(name) for name in names)


@functools.cache
def _spec(name: str) -> ToolSpec:
    # A schema takes a millisecond to make, and never changes.
    return TOOLS[name].spec


def tool_named(name: str, allowed: Iterable[str] | None = None) -> Tool:
    """The tool that a model calls by this name.

    Args:
        name: As the model spells it.
        allowed: The names the calling agent's configuration lists; `None` allows all.

    Raises:
        ToolError: There is no such tool, or the agent may not call it; both look the same.
    """
    known = tuple(TOOLS if allowed is None else allowed)
    if name not in TOOLS or name not in known:
        choice = f"you have {', '.join(known)}" if known else "you have no tools"
        raise ToolError(f"there is no tool {name[:80]!r}: {choice}")
    return TOOLS[name]


def parse_arguments(tool: Tool, raw: Mapping[str, Any] | str) -> Arguments:
    """The arguments of a call, validated; paths in them are normalised.

    Args:
        tool: Whose arguments they are.
        raw: The arguments object, or its JSON text as a model sends it; empty text counts as no arguments.

    Raises:
        ToolError: They do not fit; the message says what to fix, and repeats no large values.
    """
    try:
        arguments = tool.arguments.model_validate(_object(tool, raw))
    except ValidationError as error:
        problems = [
            f"{'.'.join(str(part)[:80] for part in problem['loc']) or 'arguments'}: "
            f"{problem['msg'].removeprefix('Value error, ')}"
            for problem in error.errors(include_url=False, include_context=False, include_input=False)
        ]
        more = f" (and {len(problems) - _MAX_PROBLEMS} more)" if len(problems) > _MAX_PROBLEMS else ""
        raise ToolError(f"wrong arguments for {tool.name}: {'; '.join(problems[:_MAX_PROBLEMS])}{more}") from error
    assert isinstance(arguments, Arguments)
    return arguments


def _object(tool: Tool, raw: Mapping[str, Any] | str) -> dict[str, Any]:
    if not isinstance(raw, str):
        return dict(raw)
    if len(raw) > _MAX_ARGUMENT_CHARACTERS:
        raise ToolError(f"the arguments for {tool.name} are too large: {len(raw)} characters")
    try:
        value = json.loads(raw) if raw.strip() else {}
    except (ValueError, RecursionError) as error:
        raise ToolError(f"the arguments for {tool.name} are no valid JSON: {str(error)[:200]}") from error
    if not isinstance(value, dict):
        raise ToolError(f"the arguments for {tool.name} must be a JSON object, not {type(value).__name__}")
    return value


async def call(context: ToolContext, name: str, raw: Mapping[str, Any] | str, *, effect: str) -> JsonObject:
    """Carry a whole call out in one go, for callers that keep no journal.

    Args:
        context: Whom the call is made for.
        name: The tool's.
        raw: The arguments, as for `parse_arguments`.
        effect: Names this call for ever; no other call may have it.

    Raises:
        ToolError: The tool is unknown, refuses its arguments, or cannot do what they ask.
    """
    tool = tool_named(name)
    arguments = parse_arguments(tool, raw)
    if isinstance(tool, ReadingTool):
        return await tool.run(context, arguments)
    intent = await tool.plan(context, arguments)
    return await tool.perform(context, arguments, intent, effect=effect, recovering=False)
