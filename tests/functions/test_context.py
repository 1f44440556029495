"""Agent memory as an environment makes it from its variables."""

import json
from collections.abc import Iterator

import pytest

from tests.memories import AGENT, LAYOUTS, U1, Layout, WordsOfMeaning, entry
from tests.servers import Request, http, server
from worker_space import bootstrap
from worker_space.errors import InvalidRequest
from worker_space.settings import Settings


def embeddings(request: Request) -> bytes:
    words = WordsOfMeaning()
    data = [{"index": at, "embedding": words.vector(text)} for at, text in enumerate(request.body["input"])]
    return http(200, json.dumps({"data": data}).encode())


@pytest.fixture
def fresh() -> Iterator[None]:
    bootstrap.forget_environment()
    yield
    bootstrap.forget_environment()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.usefixtures("fresh")
def test_memory_is_found_by_meaning_in_the_layout_that_the_variables_name(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    with server(embeddings) as (url, requests):
        more = {
            "WORKER_SPACE_EMBEDDING_MODEL": "openai:words",
            "WORKER_SPACE_EMBEDDING_DIMENSIONS": "32",
            "WORKER_SPACE_CONTEXT_LAYOUT": layout,
            "OPENAI_BASE_URL": f"{url}/v1",
        }
        for name, value in {**variables, **more}.items():
            monkeypatch.setenv(name, value)
        environment = bootstrap.environment()
        memory = environment.ports.memory
        environment.run(memory.ensure(U1, AGENT))
        environment.run(memory.add(U1, AGENT, entry("task_1", "an automobile stops")))
        environment.run(memory.add(U1, AGENT, entry("task_2", "the boat leaves")))
        found = environment.run(memory.search(U1, AGENT, "vehicle", limit=1))
        assert [match.entry.id for match in found] == ["task_1"]
        # A collection of its own counts beside its entries; in the shared one the agent's mark does.
        assert environment.run(memory.remains(U1)) == 3
        environment.run(memory.drop_all(U1))
        assert environment.run(memory.remains(U1)) == 0
    assert {request.path for request in requests} == {"/v1/embeddings"}
    assert len(requests) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("WORKER_SPACE_EMBEDDING_MODEL", "offline:rules"),
        ("WORKER_SPACE_EMBEDDING_MODEL", "text-embedding-3-small"),
        ("WORKER_SPACE_EMBEDDING_DIMENSIONS", "0"),
        ("WORKER_SPACE_EMBEDDING_DIMENSIONS", "many"),
        ("WORKER_SPACE_CONTEXT_LAYOUT", "both"),
    ],
)
def test_a_wrong_setting_is_named(variables: dict[str, str], name: str, value: str) -> None:
    with pytest.raises(InvalidRequest, match=name):
        Settings.from_environment({**variables, name: value})
