"""A run's journal: the steps that are saved, and the conversation that they add up to again.

Three kinds of steps follow one another: a `model` step holds an answer before its tools run; an `intent` stands
before a tool's effect; a `results` step holds what tools returned. Whoever takes a task over reads them and goes on
behind the last: no answered model call is paid for again, and no effect is made twice.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from worker_space.clock import now_ms
from worker_space.events import EventType, NewEvent, shown
from worker_space.ledger import Claim, Ledger
from worker_space.models import AssistantTurn, ModelReply, ToolCall, ToolResult, Turn
from worker_space.records import Write
from worker_space.steps import result_path, short_arguments
from worker_space.texts import Texts
from worker_space.usage import Spending

__all__ = ["Journal"]


@dataclass(slots=True)
class Progress:
    """Where a run stands.

    Attributes:
        turns: What was said in this run, behind the user's message.
        pending: Calls of the last model answer that have no result yet.
        intent: The next call's planned effect, if it has been planned.
        effects: What was done to the user's files or the agent's memory, in words for the user.
    """

    turns: list[Turn] = field(default_factory=list)
    pending: list[ToolCall] = field(default_factory=list)
    intent: Mapping[str, Any] | None = None
    effects: list[str] = field(default_factory=list)
    model_calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


class Journal:
    """The journal of one claimed task.

    Args:
        number: Of the next step.
    """

    def __init__(self, ledger: Ledger, texts: Texts, claim: Claim) -> None:
        self._ledger = ledger
        self._texts = texts
        self._claim = claim
        self._number = 0
        self.progress = Progress()

    async def resume(self) -> None:
        """Read what earlier attempts have saved."""
        tenant = self._claim.delivery.tenant
        for item in await self._ledger.steps(tenant, self._claim.delivery.task):
            self._number = item["number"] + 1
            body = json.loads(await self._texts.read(tenant, item))
            if item["number"] >= self._claim.delivery.first_step:
                self._follow(item["kind"], body)
            elif item["kind"] == "model":
                # What came before a handover was another's: its tokens count, its conversation does not.
                self._count(ModelReply.model_validate(body["reply"]))

    @property
    def number(self) -> int:
        """Of the next step."""
        return self._number

    def effect(self) -> str:
        """The name of the next call's effect: the same at every attempt, and no other call's.

        Made from places, not from the call's id: what a provider takes for an id may repeat or not be ASCII.
        """
        turn = next(turn for turn in reversed(self.progress.turns) if isinstance(turn, AssistantTurn))
        place = len(turn.tool_calls) - len(self.progress.pending)
        return f"{self._claim.delivery.task}#{self.progress.model_calls}.{place}"

    async def model(self, reply: ModelReply, *, milliseconds: int, spending: Spending) -> None:
        """Save a model's answer; stands before the tools it asks for.

        Args:
            spending: What the call was made by; what it used is counted with it.
        """
        calls = [{"name": call.name, "arguments": short_arguments(call.arguments)} for call in reply.tool_calls]
        told = {"kind": "model", "tool_calls": calls}
        if reply.content:
            told["text"] = shown(reply.content)["content"]
        body = {"reply": reply.model_dump(mode="json"), "ms": milliseconds}
        await self._save("model", body, told=told, also=spending.owed())
        spending.counted()

    async def intent(
        self, call: ToolCall, intent: Mapping[str, Any], *, effect: str, also: Mapping[str, Write] | None = None
    ) -> None:
        """Save what a tool is about to do; stands before its effect.

        Args:
            effect: The same in words for the user.
            also: What else must hold, by labels: see `Ledger.journal`.
        """
        body = {"call_id": call.id, "name": call.name, "intent": intent, "effect": effect}
        await self._save("intent", body, also=also)

    async def results(self, results: Sequence[ToolResult], *, effect: str | None = None, milliseconds: int) -> None:
        """Save what tools returned; stands before the next model call."""
        body = {"results": [result.model_dump(mode="json") for result in results], "ms": milliseconds}
        shown_results = [
            {"name": each.name, "path": result_path(each.content), "is_error": each.is_error} for each in results
        ]
        told = {"kind": "tool", "results": shown_results}
        await self._save("results", body | ({} if effect is None else {"effect": effect}), told=told)

    async def _save(
        self,
        kind: str,
        body: Mapping[str, Any],
        *,
        told: Mapping[str, Any] | None = None,
        also: Mapping[str, Write] | None = None,
    ) -> None:
        # Escaped: half a surrogate pair, which a model may write as \\ud83d, has no UTF-8.
        tenant, text = self._claim.delivery.tenant, json.dumps(body)
        # The attempt is in the key: a worker that has lost the task must not overwrite its successor's text.
        key = f"{self._claim.delivery.task}/step/{self._number}.{self._claim.attempt}"
        kept = await self._texts.keep(tenant, key, text)
        step = {"number": self._number, "kind": kind, "at": now_ms(), "attempt": self._claim.attempt, **kept}
        ids = {"task_id": self._claim.delivery.task, "agent_id": self._claim.delivery.agent}
        events = [] if told is None else [NewEvent(type=EventType.STEP, data=told, **ids)]
        await self._ledger.journal(self._claim, self._number, step, events=events, also=also)
        self._follow(kind, json.loads(text))
        self._number += 1

    def _count(self, reply: ModelReply) -> None:
        self.progress.model_calls += 1
        self.progress.input_tokens += reply.usage.input_tokens
        self.progress.output_tokens += reply.usage.output_tokens

    def _follow(self, kind: str, body: Mapping[str, Any]) -> None:
        now = self.progress
        if kind == "model":
            reply = ModelReply.model_validate(body["reply"])
            now.turns.append(reply.as_turn())
            now.pending = list(reply.tool_calls)
            self._count(reply)
        elif kind == "intent":
            now.intent = body["intent"]
        else:
            results = [ToolResult.model_validate(result) for result in body["results"]]
            now.turns.extend(results)
            # Calls are answered in their order. Their ids tell nothing: a provider may use one twice.
            now.pending = now.pending[len(results) :]
            now.intent = None
            if "effect" in body:
                now.effects.append(body["effect"])
