"""What was said in a session up to the message that a task is to answer."""

from collections.abc import Sequence
from typing import Final

from worker_space.errors import RunError
from worker_space.models import AssistantTurn, Turn, UserTurn
from worker_space.ports import Records
from worker_space.records import Item
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["conversation"]

_HISTORY_MESSAGES: Final = 20
_HISTORY_CHARACTERS: Final = 60_000


async def conversation(records: Records, texts: Texts, delivery: Delivery) -> tuple[str, list[Turn]]:
    """The message to answer, and what was said before it: one query.

    Raises:
        RunError: The message was deleted.
        Unavailable: It cannot be read now.
    """
    tenant = delivery.tenant
    behind = Key.message(delivery.session, delivery.number + 1).sort
    page = await records.query(
        tenant, Key.messages(delivery.session), limit=_HISTORY_MESSAGES + 1, after=behind, descending=True
    )
    if not page.items or page.items[0]["number"] != delivery.number:
        raise RunError("The message was deleted before it could be answered.")
    question = await texts.read(tenant, page.items[0])
    return question, await _history(texts, tenant, page.items[1:])


async def _history(texts: Texts, tenant: TenantContext, newest_first: Sequence[Item]) -> list[Turn]:
    """Whole turns, the newest that fit; turns without an answer are left out."""
    unanswered = {item["task_id"] for item in newest_first if item.get("status", "ok") != "ok"}
    answered = {item["task_id"] for item in newest_first if item["role"] == "assistant"} - unanswered
    turns: list[Turn] = []
    room = _HISTORY_CHARACTERS
    for item in newest_first:
        if item["task_id"] not in answered:
            continue
        text = await texts.read(tenant, item)
        room -= len(text)
        if room < 0:
            break
        turns.append(UserTurn(content=text) if item["role"] == "user" else AssistantTurn(content=text))
    turns.reverse()
    # A model takes a conversation from a user's turn on.
    return turns[1:] if turns and isinstance(turns[0], AssistantTurn) else turns
