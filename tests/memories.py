"""What tests of agent memory share: owners, entries, and an embedder that knows a few words."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from worker_space.errors import Unavailable
from worker_space.lexical import sparse_vector
from worker_space.ports import ContextEntry, ContextStore
from worker_space.tenancy import TenantContext

U1 = TenantContext("u1", "p")
U10 = TenantContext("u10", "p")
AGENT = "agent_1"


def entry(id_: str, text: str = "the invoice is open", **changes: object) -> ContextEntry:
    made = ContextEntry(
        id=id_, text=text, kind="interaction", created_at=1_700_000_000_000, task_id=id_, session_id="s"
    )
    return replace(made, **changes)  # type: ignore[arg-type]


async def found(
    store: ContextStore, tenant: TenantContext, query: str, agent_id: str = AGENT, **more: int
) -> list[str]:
    matches = await store.search(tenant, agent_id, query, limit=10, **more)
    assert [match.score for match in matches] == sorted((match.score for match in matches), reverse=True)
    return [match.entry.id for match in matches]


_MEANING = {"automobile": "car", "vehicle": "car", "boat": "ship"}


class WordsOfMeaning:
    """An embedder for tests: a bag of words in which some words mean the same; while it is `down` it gives nothing."""

    def __init__(self, space: str = "test:32", dimensions: int = 32) -> None:
        self.space = space
        self.dimensions = dimensions
        self.down = False
        self.asked: list[tuple[TenantContext, list[str]]] = []

    async def embed(self, tenant: TenantContext, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        self.asked.append((tenant, list(texts)))
        if self.down:
            raise Unavailable("embedding", "down")
        return [self.vector(text) for text in texts]

    def vector(self, text: str) -> list[float]:
        vector = [0.001] * self.dimensions
        for word in text.split():
            (index, *_), _ = sparse_vector(_MEANING.get(word, word)) if sparse_vector(word)[0] else ([0], [])
            vector[index % self.dimensions] += 1.0
        length = math.hypot(*vector)
        return [number / length for number in vector]


Layout = Literal["collection", "shared"]
LAYOUTS: tuple[Layout, ...] = ("collection", "shared")
