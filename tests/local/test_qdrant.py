"""The Qdrant stand-in through the real client."""

import threading
import uuid
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
from qdrant_client import AsyncQdrantClient, QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from tests.local.conftest import serving
from worker_space_local.processes import free_ports
from worker_space_local.qdrant import Collections, Frontend

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection"),
]
IDS = [str(uuid.uuid5(uuid.NAMESPACE_URL, str(at))) for at in range(6)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    collections = Collections(tmp_path_factory.mktemp("qdrant"))
    with serving(Frontend(collections, "key").app, free_ports(1)[0]) as url:
        yield url
    collections.close()


@pytest.fixture
def client(url: str) -> Iterator[QdrantClient]:
    client = QdrantClient(url=url, api_key="key", check_compatibility=False)
    yield client
    for collection in client.get_collections().collections:
        client.delete_collection(collection.name)
    client.close()


def fill(client: QdrantClient, name: str = "c") -> None:
    client.create_collection(
        name,
        vectors_config={"dense": models.VectorParams(size=3, distance=models.Distance.COSINE)},
        sparse_vectors_config={"text": models.SparseVectorParams(modifier=models.Modifier.IDF)},
    )
    points = [
        models.PointStruct(
            id=IDS[at],
            vector={"dense": [1.0, at, 0.0], "text": models.SparseVector(indices=[at, 99], values=[1.0, 1.0])},
            payload={"agent": f"a{at % 2}", "at": at},
        )
        for at in range(6)
    ]
    client.upsert(name, points)


def only(agent: str) -> models.Filter:
    return models.Filter(must=[models.FieldCondition(key="agent", match=models.MatchValue(value=agent))])


def status(call: Any, *arguments: Any, **named: Any) -> int:
    with pytest.raises(UnexpectedResponse) as caught:
        call(*arguments, **named)
    assert caught.value.status_code is not None
    return caught.value.status_code


def test_collections_come_and_go(client: QdrantClient) -> None:
    assert client.collection_exists("c") is False
    fill(client)
    assert client.collection_exists("c") is True
    assert client.get_collection("c").points_count == 6
    assert [found.name for found in client.get_collections().collections] == ["c"]
    assert status(client.create_collection, "c", vectors_config={}) == 409
    assert client.delete_collection("c") is True
    assert client.delete_collection("c") is False


def test_missing_and_malformed_are_told_apart(client: QdrantClient, url: str) -> None:
    fill(client)
    assert status(client.get_collection, "none") == 404
    assert status(client.query_points, "none", query=[1.0, 0.0, 0.0]) == 404
    assert status(client.upsert, "c", [models.PointStruct(id=1, vector={"dense": [1.0]})]) == 400
    assert status(client.query_points, "c", query=[1.0, 0.0, 0.0], using="none") == 400
    assert status(client.create_collection, "x" * 256, vectors_config={}) == 400
    headers = {"api-key": "key"}
    assert httpx.post(f"{url}/collections/c/points/count", content=b'{"filter": 1}', headers=headers).status_code == 400
    assert httpx.post(f"{url}/nowhere", headers=headers).status_code == 404
    assert httpx.get(f"{url}/collections", headers={"api-key": "other"}).status_code == 401


def test_searches_fuse_dense_and_sparse_inside_a_filter(client: QdrantClient) -> None:
    fill(client)
    mine = only("a1")
    found = client.query_points(
        "c",
        prefetch=[
            models.Prefetch(query=[1.0, 3.0, 0.0], using="dense", filter=mine, limit=3),
            models.Prefetch(
                query=models.SparseVector(indices=[3, 99], values=[1.0, 1.0]), using="text", filter=mine, limit=3
            ),
        ],
        query=models.FusionQuery(fusion=models.Fusion.RRF),
        limit=2,
        with_payload=True,
    ).points
    assert found[0].id == IDS[3]
    assert all((point.payload or {})["agent"] == "a1" for point in found)
    bare = client.query_points("c", query=[1.0, 0.0, 0.0], using="dense", limit=1, with_payload=False)
    assert bare.points[0].payload is None
    batch = client.query_batch_points("c", [models.QueryRequest(query=[1.0, 0.0, 0.0], using="dense", limit=1)] * 2)
    assert [answer.points[0].id for answer in batch] == [IDS[0], IDS[0]]


def test_points_are_counted_read_changed_and_deleted(client: QdrantClient) -> None:
    fill(client)
    assert client.count("c", count_filter=only("a0")).count == 3
    first, offset = client.scroll("c", limit=4, with_vectors=True)
    rest, end = client.scroll("c", limit=4, offset=offset)
    assert {point.id for point in [*first, *rest]} == set(IDS)
    assert (end, set(first[0].vector or {})) == (None, {"dense", "text"})
    client.set_payload("c", {"seen": True}, points=[IDS[0]])
    assert client.retrieve("c", [IDS[0]])[0].payload == {"agent": "a0", "at": 0, "seen": True}
    client.delete("c", models.FilterSelector(filter=only("a0")))
    client.delete("c", [IDS[1]])
    assert client.count("c").count == 2
    batch: Any = models.Batch(ids=[IDS[1]], vectors={"dense": [[1.0, 0.0, 0.0]]}, payloads=[{"again": True}])
    client.upsert("c", batch)
    assert client.count("c").count == 3


def test_payload_indexes_are_remembered(client: QdrantClient) -> None:
    fill(client)
    client.create_payload_index("c", "at", models.PayloadSchemaType.INTEGER)
    client.create_payload_index(
        "c", "agent", models.KeywordIndexParams(type=models.KeywordIndexType.KEYWORD, is_tenant=True)
    )
    assert set(client.get_collection("c").payload_schema) == {"at", "agent"}
    client.delete_payload_index("c", "at")
    assert set(client.get_collection("c").payload_schema) == {"agent"}


def test_a_collection_gets_further_vectors_and_keeps_its_points(client: QdrantClient) -> None:
    fill(client)
    more = models.DenseVectorNameConfig(dense=models.DenseVectorConfig(size=2, distance=models.Distance.COSINE))
    for _ in range(2):
        client.create_vector_name("c", "more", more)
    client.upsert("c", [models.PointStruct(id=1, vector={"more": [1.0, 0.0]})])
    assert [point.id for point in client.query_points("c", query=[1.0, 0.0], using="more").points] == [1]
    assert client.count("c").count == 7
    assert status(client.create_vector_name, "none", "more", more) == 404


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    for wanted in (0, 6):
        collections = Collections(tmp_path)
        with serving(Frontend(collections, "key").app, free_ports(1)[0]) as url:
            client = QdrantClient(url=url, api_key="key", check_compatibility=False)
            if not wanted:
                fill(client)
                client.create_payload_index("c", "at", models.PayloadSchemaType.INTEGER)
            else:
                assert client.count("c").count == wanted
                assert set(client.get_collection("c").payload_schema) == {"at"}
            client.close()
        collections.close()


def test_health_and_version_need_no_key(url: str) -> None:
    assert httpx.get(f"{url}/readyz").status_code == 200
    assert httpx.get(url).json()["version"] == version("qdrant-client")


async def test_the_asynchronous_client_finds_the_version_compatible(url: str) -> None:
    client = AsyncQdrantClient(url=url, api_key="key")
    try:
        assert await client.collection_exists("none") is False
        assert (await client.info()).version == version("qdrant-client")
        # The client compares the versions in a thread, whose warning would be an error here.
        for thread in threading.enumerate():
            if "check_compatibility" in thread.name:
                thread.join()
    finally:
        await client.close()
