"""Addresses for uploads and downloads: what they are bound to, whom they are given, and what is refused before."""

import hashlib
import time
from typing import Any

import httpx
import pytest

from tests.api.service import Service, kind
from tests.memory_stack import MemoryStack, settings
from worker_space.adapters.memory_files import MemoryFiles
from worker_space.api.app import create_app
from worker_space.tenancy import TenantContext

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")
UPLOADS, DOWNLOADS = "file-uploads/", "file-downloads/"


async def ask(service: Service, project: str, what: str, body: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await service.call("POST", f"{project}/{what}", json=body, headers=named)


async def perform(service: Service, given: dict[str, Any], content: bytes = b"") -> tuple[int, bytes]:
    """What a client with nothing but the answer gets from the store."""
    files: MemoryFiles = service.stack.files
    return await files.perform(given["method"], given["url"], given["headers"], content)


async def test_a_file_too_large_for_an_answer_comes_and_goes_by_address(service: Service, project: str) -> None:
    data = bytes(range(256)) * 40_000
    body = {"path": "/data/./big.bin", "size": len(data), "content_type": "application/x-odd"}
    upload = await ask(service, project, UPLOADS, {**body, "sha256": hashlib.sha256(data).hexdigest().upper()})
    assert upload.status_code == 201
    given = upload.json()
    assert (given["path"], given["method"]) == ("data/big.bin", "PUT")
    assert given["headers"]["Content-Length"] == str(len(data))
    assert 590_000 < given["expires_at"] - time.time() * 1000 <= 600_000
    assert (await service.call("HEAD", f"{project}/files/data/big.bin")).status_code == 404
    assert (await perform(service, given, data))[0] == 200
    head = await service.call("HEAD", f"{project}/files/data/big.bin")
    assert (head.headers["content-length"], head.headers["content-type"]) == (str(len(data)), "application/x-odd")
    assert (await service.call("GET", f"{project}/files/data/big.bin")).status_code == 413
    download = await ask(service, project, DOWNLOADS, {"path": "data/big.bin"})
    assert download.status_code == 201
    got = download.json()
    assert (got["size"], got["version"]) == (len(data), hashlib.md5(data).hexdigest())
    assert f'"{got["version"]}"' == head.headers["etag"]
    assert await perform(service, got) == (200, data)


async def test_an_address_is_kept_by_no_cache(service: Service, project: str) -> None:
    answer = await ask(service, project, UPLOADS, {"path": "a", "size": 1})
    assert answer.headers["cache-control"] == "no-store"


async def test_an_upload_is_bound_to_size_type_and_content(service: Service, project: str) -> None:
    body = {"path": "a", "size": 5, "content_type": "text/plain", "sha256": hashlib.sha256(b"hello").hexdigest()}
    given = (await ask(service, project, UPLOADS, body)).json()
    assert (await perform(service, given, b"hello!"))[0] == 403
    assert (await perform(service, given, b"jello"))[0] == 400
    other = {**given, "headers": {**given["headers"], "Content-Type": "text/html"}}
    assert (await perform(service, other, b"hello"))[0] == 403
    assert (await service.call("HEAD", f"{project}/files/a")).status_code == 404


async def test_an_edit_is_never_lost_unseen(service: Service, project: str) -> None:
    missing = await ask(service, project, UPLOADS, {"path": "a", "size": 1}, If_Match="*")
    assert (missing.status_code, kind(missing)) == (412, "precondition-failed")
    new = (await ask(service, project, UPLOADS, {"path": "a", "size": 1}, If_None_Match="*")).json()
    first = (await service.call("PUT", f"{project}/files/a", content=b"1")).headers["etag"]
    assert (await perform(service, new, b"2"))[0] == 412
    there = await ask(service, project, UPLOADS, {"path": "a", "size": 1}, If_None_Match="*")
    assert (there.status_code, kind(there)) == (412, "precondition-failed")
    base = (await ask(service, project, UPLOADS, {"path": "a", "size": 1}, If_Match=first)).json()
    await service.call("PUT", f"{project}/files/a", content=b"3")
    assert (await perform(service, base, b"2"))[0] == 412
    late = await ask(service, project, UPLOADS, {"path": "a", "size": 1}, If_Match=first)
    assert (late.status_code, kind(late)) == (412, "precondition-failed")
    assert (await service.call("GET", f"{project}/files/a")).content == b"3"
    whatever = (await ask(service, project, UPLOADS, {"path": "a", "size": 1})).json()
    assert (await perform(service, whatever, b"4"))[0] == 200


PATHS = ["../bob/secret", "a/../../x", "a//b", "a/", "", "/", "~root", "a\0b", "a\\b", "CON", "%2e%2e/x", "x" * 300]


@pytest.mark.parametrize("path", PATHS)
async def test_no_address_is_given_for_a_path_that_is_no_portable_name(
    service: Service, project: str, path: str
) -> None:
    for what, more in ((UPLOADS, {"size": 1}), (DOWNLOADS, {})):
        answer = await ask(service, project, what, {"path": path, **more})
        assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert service.stack.files._grants == {}


@pytest.mark.parametrize(
    "wrong",
    [
        *({"size": size} for size in (-1, 1.5, "5", None, True)),
        *({"sha256": text} for text in ("x", "0" * 63, "g" * 64, 5)),
        *({"content_type": text} for text in ("nonsense", "a/b, c/d", "multipart/form-data; boundary=x", "a/b\nx: y")),
        {"path": 5},
        {"seconds": 60},
        {"headers": {}},
    ],
)
async def test_a_wrong_or_unknown_member_is_422(service: Service, project: str, wrong: dict[str, Any]) -> None:
    answer = await ask(service, project, UPLOADS, {"path": "a", "size": 5, **wrong})
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_body_that_is_none_is_refused(service: Service, project: str) -> None:
    for what in (UPLOADS, DOWNLOADS):
        assert (await ask(service, project, what, [])).status_code == 422
        assert (await service.call("POST", f"{project}/{what}", content=b"{")).status_code == 400
    assert (await ask(service, project, DOWNLOADS, {"path": "a", "size": 5})).status_code == 422


async def test_a_new_file_cannot_stand_where_a_folder_is_or_below_a_file(service: Service, project: str) -> None:
    await service.call("PUT", f"{project}/files/a/b", content=b"x")
    for path in ("a", "a/b/c"):
        answer = await ask(service, project, UPLOADS, {"path": path, "size": 1})
        assert (answer.status_code, kind(answer)) == (409, "conflict")


async def test_a_missing_file_has_no_address(service: Service, project: str) -> None:
    answer = await ask(service, project, DOWNLOADS, {"path": "a"})
    assert (answer.status_code, kind(answer)) == (404, "not-found")


async def test_a_file_of_the_users_may_be_called_like_the_addresses(service: Service, project: str) -> None:
    for path in ("file-uploads", "uploads/x", "file-downloads/x"):
        assert (await service.call("PUT", f"{project}/files/{path}", content=b"x")).status_code == 201
        assert (await service.call("GET", f"{project}/files/{path}")).content == b"x"
        assert (await ask(service, project, DOWNLOADS, {"path": path})).status_code == 201


async def test_the_deployment_says_how_large_and_how_long() -> None:
    service = Service(MemoryStack(settings=settings(max_upload_bytes=10, presigned_seconds=60)))
    project = await service.project()
    assert (await ask(service, project, UPLOADS, {"path": "a", "size": 11})).status_code == 413
    given = await ask(service, project, UPLOADS, {"path": "a", "size": 10})
    assert given.status_code == 201
    assert given.json()["expires_at"] <= time.time() * 1000 + 60_000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("presigned_seconds", 901),
        ("presigned_seconds", 59),
        ("max_upload_bytes", 0),
        ("max_upload_bytes", (5 << 30) + 1),
    ],
)
def test_no_deployment_gives_addresses_for_longer_or_larger_than_is_safe(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=name):
        settings(**{name: value})


async def test_an_address_reaches_the_callers_own_files_only(service: Service, project: str) -> None:
    await service.project(user="bob")
    await service.call("PUT", f"{project}/files/secret", content=b"alice's")
    foreign = await service.call("POST", f"{project}/{DOWNLOADS}", user="bob", json={"path": "secret"})
    assert foreign.status_code == 404
    given = (await service.call("POST", f"{project}/{UPLOADS}", user="bob", json={"path": "secret", "size": 1})).json()
    assert (await perform(service, given, b"x"))[0] == 200
    assert (await service.call("GET", f"{project}/files/secret")).content == b"alice's"
    assert (await service.call("GET", f"{project}/files/secret", user="bob")).content == b"x"


def test_the_document_shows_a_request_and_its_answer() -> None:
    document = create_app(lambda: pytest.fail("the document needs no services")).openapi()
    for what in (UPLOADS, DOWNLOADS):
        operation = document["paths"][f"/my/projects/{{project_id}}/{what}"]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert example["path"]
        assert operation["responses"]["201"]["content"]["application/json"]["example"]["url"].startswith("https://")
