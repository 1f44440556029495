"""What an agent's memory looks like in Qdrant: points with a payload and up to two named vectors."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from worker_space.lexical import sparse_vector
from worker_space.ports import ContextEntry, Embedder

if TYPE_CHECKING:
    from qdrant_client import models

__all__ = ["MARK", "TEXT", "Vector", "dense_name", "entry_of", "equals", "payload_of", "vectors_of"]

TEXT: Final = "text"
"""The sparse vector: the words of a text."""

MARK: Final = "agent"
"""The `kind` of a point that is no entry but says, in a shared collection, that its agent has a memory."""

Vector = Sequence[float]


def dense_name(embedder: Embedder) -> str:
    """The dense vector's name: another for each model and length, so that vectors of two models never meet."""
    return f"dense_{hashlib.blake2b(embedder.space.encode(), digest_size=6).hexdigest()}"


def vectors_of(text: str, dense: Mapping[str, Vector]) -> dict[str, Any]:
    """The named vectors of an entry's text; `dense` is empty for one that is found by its words alone."""
    from qdrant_client import models

    indices, values = sparse_vector(text)
    return {TEXT: models.SparseVector(indices=indices, values=values), **{n: list(v) for n, v in dense.items()}}


def payload_of(owner: Mapping[str, str], entry: ContextEntry) -> dict[str, Any]:
    """What is stored beside the vectors."""
    return {
        **owner,
        "id": entry.id,
        "text": entry.text,
        "kind": entry.kind,
        "created_at": entry.created_at,
        "task_id": entry.task_id,
        "session_id": entry.session_id,
        "success": entry.success,
        "generation": entry.generation,
    }


def entry_of(owner: Mapping[str, str], payload: Mapping[str, Any] | None) -> ContextEntry | None:
    """The entry of a payload; `None` for what is not this agent's, which no answer to a question of ours holds."""
    if payload is None or any(payload.get(name) != value for name, value in owner.items()):
        return None
    return ContextEntry(
        id=payload["id"],
        text=payload["text"],
        kind=payload["kind"],
        created_at=payload["created_at"],
        task_id=payload.get("task_id"),
        session_id=payload.get("session_id"),
        success=payload["success"],
        generation=payload["generation"],
    )


def equals(**fields: str | int | bool) -> "list[models.Condition]":
    """One condition for each payload field."""
    from qdrant_client import models

    return [models.FieldCondition(key=key, match=models.MatchValue(value=value)) for key, value in fields.items()]
