"""The Qdrant stand-in: ``python -m worker_space_local.qdrant --port P --data DIR --api-key K``.

Qdrant's REST interface over qdrant-client's local mode. One process holds the folder; one thread runs every operation.
Payload indexes are remembered, not used. Searches are exact and walk the whole collection.
"""

import argparse
import asyncio
import functools
import hmac
import json
import os
import re
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter, ValidationError
from qdrant_client import QdrantClient
from qdrant_client.http import models

from worker_space_local.server import Receive, Scope, Send, answer_json, headers_of, read_body, run

Handler: TypeAlias = Callable[[re.Match[str], bytes], Any]
_INDEXES = "payload_indexes.json"
_DONE = {"operation_id": 0, "status": "completed"}


class Refusal(Exception):
    """An error answer: HTTP status and text."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Making one takes longer than all that it does for one request."""
    return TypeAdapter(kind)


def _read(kind: Any, content: bytes) -> Any:
    return _adapter(kind).validate_json(content)


class Collections:
    """The operations over one folder.

    Args:
        folder: where collections are kept; it must belong to this process alone.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Its warnings (large collection, index without effect) are advice for people who embed it.
        warnings.simplefilter("ignore", UserWarning)
        self._client = QdrantClient(path=str(folder), force_disable_check_same_thread=True)
        self._path = folder / _INDEXES
        self._indexes: dict[str, dict[str, Any]] = json.loads(self._path.read_text()) if self._path.exists() else {}
        name = r"/collections/(?P<name>[^/]+)"
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = [
            (method, re.compile(pattern), handler)
            for method, pattern, handler in (
                ("GET", r"/collections", lambda match, content: self._client.get_collections()),
                ("GET", name + "/exists", lambda match, content: {"exists": self._exists(match["name"])}),
                ("GET", name, self._describe),
                ("PUT", name, self._create),
                ("DELETE", name, self._delete_collection),
                ("PUT", name + "/index", self._create_index),
                ("DELETE", name + r"/index/(?P<field>.+)", self._delete_index),
                ("PUT", name + r"/vectors/(?P<vector>[^/]+)", self._create_vector),
                ("PUT", name + "/points", self._upsert),
                ("POST", name + "/points", self._retrieve),
                ("POST", name + "/points/query", self._query),
                ("POST", name + "/points/query/batch", self._query_batch),
                ("POST", name + "/points/delete", self._delete_points),
                ("POST", name + "/points/count", self._count),
                ("POST", name + "/points/scroll", self._scroll),
                ("POST", name + "/points/payload", self._set_payload),
            )
        ]

    def call(self, method: str, path: str, content: bytes) -> Any:
        """Run one request and return its result.

        Raises:
            Refusal: the error answer to give.
        """
        for wanted, pattern, handler in self._routes:
            match = pattern.fullmatch(path)
            if match is None or wanted != method:
                continue
            groups = match.groupdict()
            creating = handler == self._create
            if "name" in groups and not creating and not path.endswith("/exists") and not self._exists(groups["name"]):
                if method == "DELETE" and path.count("/") == 2:
                    return False
                raise Refusal(404, f"Not found: Collection `{groups['name']}` doesn't exist!")
            try:
                return handler(match, content)
            except ValidationError as exc:
                raise Refusal(400, f"Format error in JSON body: {exc.errors()[0]['msg']}") from exc
            except (ValueError, KeyError, TypeError, AssertionError) as exc:
                raise Refusal(400, f"Wrong input: {exc}") from exc
        raise Refusal(404, f"The local stack has no Qdrant operation {method} {path!r}")

    def close(self) -> None:
        """Release the folder."""
        self._client.close()

    def _exists(self, name: str) -> bool:
        return self._client.collection_exists(name)

    def _describe(self, match: re.Match[str], content: bytes) -> Any:
        found = self._client.get_collection(match["name"]).model_dump(mode="json", exclude_none=True)
        found["payload_schema"] = self._indexes.get(match["name"], {})
        return found

    def _create(self, match: re.Match[str], content: bytes) -> Any:
        name = match["name"]
        if self._exists(name):
            raise Refusal(409, f"Wrong input: Collection `{name}` already exists!")
        if len(name) > 255:
            raise Refusal(400, "Wrong input: collection name is too long")
        given = _read(models.CreateCollection, content)
        return self._client.create_collection(
            name, vectors_config=given.vectors or {}, sparse_vectors_config=given.sparse_vectors
        )

    def _delete_collection(self, match: re.Match[str], content: bytes) -> Any:
        self._indexes.pop(match["name"], None)
        self._save_indexes()
        # Deleting forgets to close the collection's file.
        local: Any = self._client._client
        local.collections[match["name"]].close()
        return self._client.delete_collection(match["name"])

    def _create_index(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.CreateFieldIndex, content)
        schema = given.field_schema
        plain = isinstance(schema, models.PayloadSchemaType) or schema is None
        kind = (schema.value if schema else "keyword") if plain else str(schema.type.value)
        entry: dict[str, Any] = {"data_type": kind, "points": 0}
        if not plain:
            entry["params"] = schema.model_dump(mode="json", exclude_none=True)
        self._indexes.setdefault(match["name"], {})[given.field_name] = entry
        self._save_indexes()
        return _DONE

    def _delete_index(self, match: re.Match[str], content: bytes) -> Any:
        self._indexes.get(match["name"], {}).pop(match["field"], None)
        self._save_indexes()
        return _DONE

    def _create_vector(self, match: re.Match[str], content: bytes) -> Any:
        self._client.create_vector_name(match["name"], match["vector"], _read(models.VectorNameConfig, content))
        return _DONE

    def _save_indexes(self) -> None:
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(self._indexes))
        part.replace(self._path)

    def _upsert(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.PointInsertOperations, content)
        return self._client.upsert(match["name"], given.points if isinstance(given, models.PointsList) else given.batch)

    def _retrieve(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.PointRequest, content)
        payload = True if given.with_payload is None else given.with_payload
        return self._client.retrieve(
            match["name"], given.ids, with_payload=payload, with_vectors=given.with_vector or False
        )

    def _query(self, match: re.Match[str], content: bytes) -> Any:
        return self._queried(match["name"], _read(models.QueryRequest, content))

    def _query_batch(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.QueryRequestBatch, content)
        return [self._queried(match["name"], search) for search in given.searches]

    def _queried(self, name: str, given: Any) -> Any:
        return self._client.query_points(
            name,
            query=given.query,
            prefetch=given.prefetch,
            using=given.using,
            query_filter=given.filter,
            search_params=given.params,
            limit=given.limit or 10,
            offset=given.offset,
            with_payload=given.with_payload if given.with_payload is not None else False,
            with_vectors=given.with_vector or False,
            score_threshold=given.score_threshold,
        )

    def _delete_points(self, match: re.Match[str], content: bytes) -> Any:
        return self._client.delete(match["name"], _read(models.PointsSelector, content))

    def _count(self, match: re.Match[str], content: bytes) -> Any:
        return self._client.count(match["name"], count_filter=_read(models.CountRequest, content).filter)

    def _scroll(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.ScrollRequest, content)
        points, offset = self._client.scroll(
            match["name"],
            scroll_filter=given.filter,
            limit=given.limit or 10,
            offset=given.offset,
            order_by=given.order_by,
            with_payload=True if given.with_payload is None else given.with_payload,
            with_vectors=given.with_vector or False,
        )
        return {"points": [_plain(point) for point in points], "next_page_offset": offset}

    def _set_payload(self, match: re.Match[str], content: bytes) -> Any:
        given = _read(models.SetPayload, content)
        return self._client.set_payload(
            match["name"], given.payload, points=given.points or given.filter, key=given.key
        )


def _plain(result: Any) -> Any:
    if isinstance(result, list):
        return [_plain(member) for member in result]
    return result.model_dump(mode="json", exclude_none=True) if hasattr(result, "model_dump") else result


class Frontend:
    """The REST interface over one folder of collections.

    Args:
        collections: the operations.
        api_key: what the header ``api-key`` must hold.
    """

    def __init__(self, collections: Collections, api_key: str) -> None:
        self._collections = collections
        self._api_key = api_key.encode()
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="qdrant")

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI)."""
        path, started = scope["path"], time.monotonic()
        if path == "/":
            # A server has its client's version, so that clients find it compatible.
            await answer_json(
                send, 200, {"title": "qdrant - vector search engine", "version": version("qdrant-client")}
            )
            return
        if path in ("/healthz", "/readyz", "/livez"):
            await answer_json(send, 200, "all shards are ready")
            return
        content = await read_body(receive)
        if not hmac.compare_digest(headers_of(scope).get("api-key", "").encode(), self._api_key):
            await answer_json(
                send, 401, {"status": {"error": "Must provide an API key or an Authorization bearer token"}}
            )
            return
        loop = asyncio.get_running_loop()
        try:
            result = await loop.run_in_executor(self._thread, self._run, scope["method"], path, content)
            status, body = 200, {"result": result, "status": "ok", "time": time.monotonic() - started}
        except Refusal as exc:
            status, body = exc.status, {"status": {"error": exc.message}, "time": time.monotonic() - started}
        await answer_json(send, status, body)

    def _run(self, method: str, path: str, content: bytes) -> Any:
        return _plain(self._collections.call(method, path, content))


def main(arguments: list[str] | None = None) -> None:
    """Run the stand-in until SIGTERM."""
    parser = argparse.ArgumentParser(description="Qdrant stand-in of the local stack")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the collections")
    parser.add_argument("--api-key", default=os.environ.get("QDRANT_API_KEY"), help="default: the environment's")
    given = parser.parse_args(arguments)
    if not given.api_key:
        parser.error("give --api-key or QDRANT_API_KEY")
    collections = Collections(given.data)
    run(Frontend(collections, given.api_key).app, given.port, stopped=collections.close)


if __name__ == "__main__":
    main()
