"""A task's journalled steps as its owner sees them: what was called on which path, never whole contents."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict

from worker_space.ledger import Ledger
from worker_space.records import Item
from worker_space.tenancy import TenantContext
from worker_space.texts import Texts

__all__ = [
    "StepSummary",
    "ToolCallSummary",
    "ToolResultSummary",
    "effects_of",
    "result_path",
    "short_arguments",
    "summaries",
]

_SHOWN: Final = 200
_DEPTH: Final = 8
# DynamoDB keeps 38 digits.
_LEAST, _MOST = 1e-100, 10**37


class ToolCallSummary(BaseModel):
    """A call the model asked for; long argument values are cut."""

    model_config = ConfigDict(frozen=True)

    name: str
    arguments: Mapping[str, Any] | str | None = None


class ToolResultSummary(BaseModel):
    """What a call came to: the file it concerned, and whether the tool refused it."""

    model_config = ConfigDict(frozen=True)

    name: str
    path: str | None = None
    is_error: bool


class StepSummary(BaseModel):
    """One step.

    Attributes:
        kind: `model` (an answer of the model), `intent` (what stands before an effect) or `results` (what tools gave).
        at: Epoch milliseconds.
        ms: How long it took, in milliseconds; `None` for an intent.
    """

    model_config = ConfigDict(frozen=True)

    number: int
    kind: str
    at: int
    tool_calls: Sequence[ToolCallSummary] = ()
    results: Sequence[ToolResultSummary] = ()
    ms: int | None = None


async def summaries(ledger: Ledger, texts: Texts, tenant: TenantContext, task_id: str) -> Sequence[StepSummary]:
    """The steps of a task in order.

    Raises:
        Unavailable: The table or the content store does not answer.
    """
    items = await ledger.steps(tenant, task_id)
    bodies = await asyncio.gather(*(texts.read(tenant, item) for item in items))
    return [_summary(item, json.loads(body)) for item, body in zip(items, bodies, strict=True)]


async def effects_of(ledger: Ledger, texts: Texts, tenant: TenantContext, task_id: str) -> Sequence[str]:
    """What a task has changed so far, by its journal, in words for the user.

    An effect that was begun and whose outcome nobody has saved may have happened: it is named as such.
    """
    steps = [step for step in await ledger.steps(tenant, task_id) if step["kind"] != "model"]
    bodies = [json.loads(await texts.read(tenant, step)) for step in steps if step["kind"] == "results"]
    effects = [body["effect"] for body in bodies if "effect" in body]
    if steps and steps[-1]["kind"] == "intent":
        body = json.loads(await texts.read(tenant, steps[-1]))
        effects.append(f"{body.get('effect', body['name'])} (begun; it may have happened)")
    return effects


def _summary(item: Item, body: Mapping[str, Any]) -> StepSummary:
    tool_calls: list[ToolCallSummary] = []
    results: list[ToolResultSummary] = []
    if item["kind"] == "model":
        tool_calls = [
            ToolCallSummary(name=call["name"], arguments=short_arguments(call["arguments"]))
            for call in body["reply"]["tool_calls"]
        ]
    elif item["kind"] == "intent":
        tool_calls = [ToolCallSummary(name=body["name"])]
    else:
        results = [
            ToolResultSummary(name=result["name"], path=result_path(result["content"]), is_error=result["is_error"])
            for result in body["results"]
        ]
    return StepSummary(
        number=item["number"],
        kind=item["kind"],
        at=item["at"],
        tool_calls=tool_calls,
        results=results,
        ms=body.get("ms"),
    )


def result_path(content: str) -> str | None:
    """The path a tool's result names; results are JSON objects of our own making."""
    try:
        result = json.loads(content)
    except ValueError:
        return None
    path = result.get("path") if isinstance(result, dict) else None
    return path[:1_024] if isinstance(path, str) else None


def short_arguments(arguments: Mapping[str, Any] | str) -> Mapping[str, Any] | str:
    """A call's arguments with long values cut: who follows a run sees what is done to which path.

    They are a model's, so they may hold anything that JSON can say; what the table cannot keep is shown as text.
    """
    if isinstance(arguments, str):
        return _text(arguments)
    return {_text(name) or "(no name)": _cut(value) for name, value in list(arguments.items())[:32]}


def _cut(value: Any) -> Any:
    if isinstance(value, str):
        return _text(value)
    text = json.dumps(value, ensure_ascii=False)
    return value if len(text) <= _SHOWN and _can_be_kept(value, _DEPTH) else _text(text)


def _text(value: str) -> str:
    # Half a surrogate pair has no UTF-8.
    return value[:_SHOWN].encode(errors="replace").decode()


def _can_be_kept(value: Any, depth: int) -> bool:
    if isinstance(value, (list, dict)):
        parts = [*value, *value.values()] if isinstance(value, dict) else value
        # An attribute has a name.
        named = not isinstance(value, dict) or "" not in value
        return depth > 0 and named and all(_can_be_kept(part, depth - 1) for part in parts)
    if isinstance(value, str):
        return value == value.encode(errors="replace").decode()
    # The table keeps 38 digits, and no number beyond 10^±125; "not a number" is no number between these either.
    return not isinstance(value, (int, float)) or value == 0 or _LEAST <= abs(value) <= _MOST
