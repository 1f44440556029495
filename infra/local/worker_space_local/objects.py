"""S3 and every other AWS service: moto's WSGI application behind one thread.

One thread runs every request to its end, so a conditional write and its check cannot be interleaved with another.
Conditions that moto does not check itself are checked here first, in the same thread.
"""

import asyncio
import io
import os
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar
from urllib.parse import parse_qs, parse_qsl, unquote

from worker_space_local.presigned import Refusal, Signed, refusal
from worker_space_local.server import HOST, Headers, Scope

ACCOUNT = "123456789012"
_PARTITION = "aws"
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """The newest version of one object, with what its readers see."""

    key: str
    content: bytes
    etag: str
    version: str
    modified: str
    metadata: dict[str, str]


class ObjectServices:
    """moto's server application, called from an event loop.

    Args:
        region: of the buckets it makes.
        secrets: secret access keys by access key id; by default the one of this process's environment.
    """

    def __init__(self, region: str, secrets: Mapping[str, str] | None = None) -> None:
        self.region = region
        environment = {os.environ.get("AWS_ACCESS_KEY_ID", ""): os.environ.get("AWS_SECRET_ACCESS_KEY", "")}
        self._secrets = environment if secrets is None else secrets
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="moto")
        self._application: Any = None

    async def call(self, scope: Scope, headers: dict[str, str], content: bytes) -> tuple[int, Headers, bytes]:
        """Answer one HTTP request with (status, headers, body)."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, scope, headers, content)

    def within(self, function: Callable[..., _T], *arguments: Any) -> _T:
        """Run a function in moto's thread, where nothing else touches its state, and wait for it."""
        return self._thread.submit(function, *arguments).result()

    def create_bucket(self, name: str) -> None:
        """Create a versioned bucket."""
        self.within(self._create_bucket, name)

    def objects(self, bucket: str) -> list[StoredObject]:
        """Return the newest version of every object that is not deleted."""
        return self.within(self._objects, bucket)

    def restore(self, bucket: str, stored: list[StoredObject]) -> None:
        """Put objects back as they were, under the same version and date."""
        self.within(self._restore, bucket, stored)

    # In moto's thread

    def _store(self) -> Any:
        from moto.s3.models import s3_backends

        return s3_backends[ACCOUNT][_PARTITION]

    def _create_bucket(self, name: str) -> None:
        store = self._store()
        if name not in store.buckets:
            store.create_bucket(name, self.region)
            store.put_bucket_versioning(name, "Enabled")

    def _objects(self, bucket: str) -> list[StoredObject]:
        from moto.s3.models import FakeKey

        keys = self._store().get_bucket(bucket).keys
        newest = [keys[name] for name in list(keys)]
        return [
            StoredObject(
                key=key.name,
                content=key.value,
                etag=key.etag.strip('"'),
                version=key.version_id,
                modified=key.last_modified.isoformat(),
                metadata=dict(key.metadata),
            )
            for key in newest
            if isinstance(key, FakeKey)
        ]

    def _restore(self, bucket: str, stored: list[StoredObject]) -> None:
        store = self._store()
        for item in stored:
            key = store.put_object(bucket, item.key, item.content, etag=item.etag)
            key.set_metadata(dict(item.metadata), replace=True)
            key._version_id = item.version
            key.last_modified = datetime.fromisoformat(item.modified)

    def _answer(self, scope: Scope, headers: dict[str, str], content: bytes) -> tuple[int, Headers, bytes]:
        forbidden = self._forbidden(scope, headers, content)
        if forbidden is not None:
            return _error(forbidden.status, forbidden.code, forbidden.message)
        refused = self._refused(scope, headers)
        if refused is not None:
            return refused
        if self._application is None:
            from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app

            self._application = DomainDispatcherApplication(create_backend_app)
        started: dict[str, Any] = {}

        def start_response(status: str, response_headers: list[tuple[str, str]], *_: Any) -> None:
            started["status"], started["headers"] = int(status.split(" ", 1)[0]), response_headers

        chunks = self._application(_environ(scope, headers, content), start_response)
        try:
            body = b"".join(chunks)
        finally:
            if hasattr(chunks, "close"):
                chunks.close()
        found = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in started["headers"]]
        return started["status"], found, body

    def _forbidden(self, scope: Scope, headers: Mapping[str, str], content: bytes) -> Refusal | None:
        """Why a request for something in a bucket may not be made."""
        path = scope["raw_path"].decode("latin-1")
        if unquote(path).lstrip("/").partition("/")[0] not in self._store().buckets:
            return None
        query = scope["query_string"].decode("latin-1")
        request = Signed(method=scope["method"], path=path, query=query, headers=headers, content=content)
        return refusal(request, {**self._secrets, **_assumed(query)})

    def _refused(self, scope: Scope, headers: dict[str, str]) -> tuple[int, Headers, bytes] | None:
        """Check the conditions of an S3 write; when they hold, take them out, as moto knows only some of them."""
        target = {"if-match", "if-none-match"} & headers.keys()
        source = {name for name in headers if name.startswith("x-amz-copy-source-if-")}
        path = unquote(scope["raw_path"].decode("latin-1")).lstrip("/")
        if scope["method"] not in ("PUT", "POST", "DELETE") or not (target or source) or "/" not in path:
            return None
        bucket, key = path.split("/", 1)
        store = self._store()
        if bucket not in store.buckets:
            return None
        if target:
            existing = store.get_object(bucket, key)
            wanted = headers.pop("if-match", None)
            if wanted is not None and existing is None:
                return _error(404, "NoSuchKey", "The specified key does not exist.", f"<Key>{_text(key)}</Key>")
            if wanted is not None and wanted != "*" and wanted.strip('"') != existing.etag.strip('"'):
                return _failed("If-Match")
            unwanted = headers.pop("if-none-match", None)
            if unwanted is not None and unwanted != "*":
                return _error(501, "NotImplemented", "A write takes If-None-Match only with the value *")
            if unwanted is not None and existing is not None:
                return _failed("If-None-Match")
        if wanted_source := headers.get("x-amz-copy-source-if-match"):
            where, _, query = headers["x-amz-copy-source"].partition("?")
            source_bucket, source_key = unquote(where).lstrip("/").split("/", 1)
            version = parse_qs(query).get("versionId", [None])[0]
            origin = store.get_object(source_bucket, source_key, version_id=version)
            if origin is not None and wanted_source.strip('"') != origin.etag.strip('"'):
                return _failed("x-amz-copy-source-If-Match")
        return None


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")


def _error(status: int, code: str, message: str, more: str = "") -> tuple[int, Headers, bytes]:
    body = (
        f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>'
    )
    content = body.encode()
    return status, [(b"content-type", b"application/xml"), (b"content-length", str(len(content)).encode())], content


def _failed(condition: str) -> tuple[int, Headers, bytes]:
    return _error(
        412,
        "PreconditionFailed",
        "At least one of the pre-conditions you specified did not hold",
        f"<Condition>{condition}</Condition>",
    )


def _environ(scope: Scope, headers: dict[str, str], content: bytes) -> dict[str, Any]:
    raw_path, query = scope["raw_path"].decode("latin-1"), scope["query_string"].decode("latin-1")
    host, port = scope.get("server") or (HOST, 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        # WSGI wants the decoded path's bytes as latin-1 text; moto takes S3 keys from RAW_URI.
        "PATH_INFO": unquote(raw_path, "latin-1"),
        "RAW_URI": raw_path + (f"?{query}" if query else ""),
        "QUERY_STRING": query,
        "SERVER_NAME": host,
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": HOST,
        "CONTENT_LENGTH": str(len(content)),
        "CONTENT_TYPE": headers.get("content-type", ""),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(content),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    for name, value in headers.items():
        if name not in ("content-length", "content-type"):
            environ["HTTP_" + name.upper().replace("-", "_")] = value
    return environ


def _assumed(query: str) -> dict[str, str]:
    """The secret of the temporary credentials that a request is signed with, if STS gave them out and they hold."""
    from moto.sts.models import sts_backends

    parameters = dict(parse_qsl(query))
    key = parameters.get("X-Amz-Credential", "").partition("/")[0]
    roles = (
        role for account in sts_backends.values() for backend in account.values() for role in backend.assumed_roles
    )
    found = next((role for role in roles if role.access_key_id == key), None)
    if found is None or found.session_token != parameters.get("X-Amz-Security-Token"):
        return {}
    return {key: found.secret_access_key} if found.expiration > datetime.now(found.expiration.tzinfo) else {}
