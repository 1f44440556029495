"""How an answer comes about: a script asks for tool calls one after the other and ends with its text.

A model keeps nothing between two requests of a run, so a script is played again from its start each time: calls whose
results the conversation holds already are answered from there, the first one without a result is the next to make.
"""

import json
from collections import deque
from collections.abc import Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["MOST_CALLS", "Call", "Exchange", "Result", "Script", "play"]

MOST_CALLS: Final = 8
_LOST: Final = "the tool's answer is not a JSON object"


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call to make."""

    tool: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Result:
    """What a call brought: data, or an error. `lacking` names the tool that the agent does not have."""

    data: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None
    lacking: str | None = None

    @classmethod
    def parse(cls, content: str, *, failed: bool) -> "Result":
        """From a tool result's text."""
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            return cls(error=content.strip() or "the tool failed without a reason") if failed else cls(error=_LOST)
        if not isinstance(value, dict):
            return cls(error=str(value) if failed else _LOST)
        if failed or set(value) == {"error"}:
            return cls(error=str(value.get("error", content)))
        return cls(data=value)

    def items(self, name: str) -> list[Mapping[str, Any]]:
        """The objects listed under `name`."""
        value = self.data.get(name)
        return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []

    def text(self, name: str) -> str:
        """The text under `name`, or an empty one."""
        value = self.data.get(name)
        return value if isinstance(value, str) else ""

    def number(self, name: str, otherwise: int = 0) -> int:
        """The whole number under `name`."""
        value = self.data.get(name)
        return value if isinstance(value, int) and not isinstance(value, bool) else otherwise


Script = Generator[Call, Result, str]


@dataclass(frozen=True, slots=True)
class Exchange:
    """One call of this run that has a result."""

    call: Call
    result: Result


def play(script: Script, tools: Collection[str], done: Sequence[Exchange]) -> Call | str:
    """The next call of `script`, or its answer.

    Args:
        script: A fresh script.
        tools: Names of the tools the agent has; a call of another one fails inside the script.
        done: The calls of this run so far, oldest first.
    """
    results: dict[str, deque[Result]] = {}
    for exchange in done:
        results.setdefault(_key(exchange.call), deque()).append(exchange.result)
    try:
        call = next(script)
        while True:
            known = results.get(_key(call))
            if known:
                result = known.popleft()
            elif call.tool not in tools:
                result = Result(error=f"this agent lacks the tool `{call.tool}`", lacking=call.tool)
            elif len(done) >= MOST_CALLS:
                result = Result(error=f"the offline model makes at most {MOST_CALLS} tool calls for a message")
            else:
                return call
            call = script.send(result)
    except StopIteration as end:
        return str(end.value)


def _key(call: Call) -> str:
    return json.dumps([call.tool, call.arguments], sort_keys=True, default=str)
