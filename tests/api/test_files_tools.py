"""Files and tools over HTTP: versions, ranges, path rules, and the same checks by hand as from an agent."""

from email.utils import parsedate_to_datetime

import pytest

from tests.api.service import Service, kind
from tests.api.signing import token
from worker_space.api.files import MAX_ANSWER_BYTES, MAX_UPLOAD_BYTES
from worker_space.tenancy import TenantContext
from worker_space.tools.catalogue import TOOLS

pytestmark = pytest.mark.anyio
TENANT = TenantContext("alice", "shop")


@pytest.fixture
def files(project: str) -> str:
    return f"{project}/files"


async def test_a_file_is_stored_read_replaced_and_deleted(service: Service, files: str) -> None:
    kind_of = {"Content-Type": "text/x-python; charset=utf-8"}
    made = await service.call("PUT", f"{files}/src/main.py", content=b"print(1)\n", headers=kind_of)
    assert made.status_code == 201
    entry = made.json()
    assert (entry["path"], entry["kind"], entry["size"]) == ("src/main.py", "file", 9)
    assert made.headers["etag"] == f'"{entry["version"]}"'
    read = await service.call("GET", f"{files}/src/main.py")
    assert (read.status_code, read.content, read.headers["etag"]) == (200, b"print(1)\n", made.headers["etag"])
    assert read.headers["content-type"] == "text/x-python; charset=utf-8"
    head = await service.call("HEAD", f"{files}/src/main.py")
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "9", b"")
    assert head.headers["etag"] == made.headers["etag"]
    replaced = await service.call("PUT", f"{files}/src/main.py", content=b"")
    assert (replaced.status_code, replaced.json()["size"]) == (200, 0)
    assert (await service.call("GET", f"{files}/src/main.py")).content == b""
    assert (await service.call("DELETE", f"{files}/src/main.py")).status_code == 204
    for method in ("GET", "HEAD", "DELETE"):
        assert (await service.call(method, f"{files}/src/main.py")).status_code == 404


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Content-Range", "bytes 2-3/10"),
        ("Content-Encoding", "gzip"),
        ("If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"),
    ],
)
async def test_a_change_that_would_not_be_done_as_asked_for_is_refused(
    service: Service, files: str, name: str, value: str
) -> None:
    made = await service.call("PUT", f"{files}/a", content=b"0123456789", headers={"Content-Encoding": "identity"})
    for method, content in (("PUT", b"XX"), ("DELETE", None)):
        answer = await service.call(method, f"{files}/a", content=content, headers={name: value})
        assert (answer.status_code, kind(answer)) == (422, "invalid-request")
    assert (await service.call("GET", f"{files}/a")).content == b"0123456789"
    both = {"If-Match": made.headers["etag"], "If-Unmodified-Since": "Sat, 01 Jan 2000 00:00:00 GMT"}
    assert (await service.call("PUT", f"{files}/a", content=b"XX", headers=both)).status_code == 200


async def test_a_users_file_never_runs_in_the_apis_origin(service: Service, files: str) -> None:
    page = b"<script>alert(1)</script>"
    name = 'evil "\u00e9; x.html'.replace('"', "'")
    await service.call("PUT", f"{files}/{name}", content=page, headers={"Content-Type": "text/html"})
    answer = await service.call("GET", f"{files}/{name}")
    assert answer.headers["content-disposition"].startswith("attachment; filename*=UTF-8''evil%20%27%C3%A9%3B%20x.html")
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "sandbox" in answer.headers["content-security-policy"]
    assert "no-store" not in answer.headers["cache-control"]


@pytest.mark.parametrize("given", [b"nonsense", "text/html\u00e9".encode(), b"a/b; " + b"x" * 300, b"a/b, c/d"])
async def test_a_content_type_that_is_none_is_422(service: Service, files: str, given: bytes) -> None:
    headers = [(b"Authorization", f"Bearer {token()}".encode()), (b"Content-Type", given)]
    answer = await service.client.put(f"{files}/a", content=b"x", headers=headers)
    assert (answer.status_code, kind(answer)) == (422, "invalid-request")


async def test_a_form_is_no_file_and_what_curl_says_is_no_type(service: Service, files: str) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert (await service.call("PUT", f"{files}/a", content=b"--x--", headers=form)).status_code == 422
    curl = {"Content-Type": "application/x-www-form-urlencoded"}
    assert (await service.call("PUT", f"{files}/a", content=b"a=b&c", headers=curl)).status_code == 201
    read = await service.call("GET", f"{files}/a")
    assert (read.content, read.headers["content-type"]) == (b"a=b&c", "application/octet-stream")


async def test_a_file_without_a_type_is_bytes(service: Service, files: str) -> None:
    await service.call("PUT", f"{files}/a", content=b"x")
    assert (await service.call("GET", f"{files}/a")).headers["content-type"] == "application/octet-stream"


REFUSED = [
    "..%2F..%2Fbob%2Fsecret",
    "%2E%2E/x",
    "a/%2E%2E/%2E%2E/x",
    "a%2f..%2fb",
    "a//b",
    "a/",
    "~root/x",
    "a%00b",
    "a%5Cb",
    "a%0Db",
    "CON",
    "%EF%BC%8F",
    "a%252e%252e%252fb",
    "%2E",
    "x" * 300,
    "%ff",
]


@pytest.mark.parametrize("path", REFUSED)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_a_path_that_is_no_portable_name_is_422(service: Service, files: str, method: str, path: str) -> None:
    url = service.client.base_url.copy_with(raw_path=f"{files}/{path}".encode())
    answer = await service.call(method, str(url), content=b"x" if method == "PUT" else None)
    assert answer.status_code == 422
    if method != "HEAD":
        assert kind(answer) == "invalid-request"


async def test_a_name_with_a_line_break_is_no_address(service: Service, files: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert (await service.call(method, f"{files}/a%0Ab")).status_code == 404


async def test_an_edit_is_never_lost_unseen(service: Service, files: str) -> None:
    path = f"{files}/a.txt"
    first = (await service.call("PUT", path, content=b"1", headers={"If-None-Match": "*"})).headers["etag"]
    again = await service.call("PUT", path, content=b"x", headers={"If-None-Match": "*"})
    assert (again.status_code, kind(again)) == (412, "precondition-failed")
    second = (await service.call("PUT", path, content=b"2", headers={"If-Match": first})).headers["etag"]
    for method in ("PUT", "DELETE"):
        late = await service.call(method, path, content=b"3" if method == "PUT" else None, headers={"If-Match": first})
        assert (late.status_code, kind(late)) == (412, "precondition-failed")
    assert (await service.call("PUT", path, content=b"3", headers={"If-Match": f'"x", {second}'})).status_code == 200
    assert (await service.call("PUT", path, content=b"4", headers={"If-Match": "*"})).status_code == 200
    assert (await service.call("GET", path)).content == b"4"
    assert (await service.call("PUT", f"{files}/new", content=b"4", headers={"If-Match": "*"})).status_code == 412
    assert (
        await service.call("PUT", f"{files}/new", content=b"4", headers={"If-None-Match": '"x"'})
    ).status_code == 422
    current = (await service.call("HEAD", path)).headers["etag"]
    assert (await service.call("PUT", path, content=b"5", headers={"If-Match": f"W/{current}"})).status_code == 412
    assert (await service.call("PUT", path, content=b"5", headers={"If-Match": current.strip('"')})).status_code == 200
    assert (await service.call("DELETE", path, headers={"If-Match": "*"})).status_code == 204
    assert (await service.call("DELETE", path, headers={"If-Match": "*"})).status_code == 412


async def test_a_race_between_the_look_and_the_write_is_412(service: Service, files: str) -> None:
    stored = service.stack.files

    class Racing:
        """Another writer is always a moment faster."""

        def __getattr__(self, name: str) -> object:
            return getattr(stored, name)

        async def write(self, tenant: TenantContext, path: str, data: bytes, **more: object) -> object:
            await stored.write(tenant, path, b"somebody else's")
            return await stored.write(tenant, path, data, **more)  # type: ignore[arg-type]

        async def delete(self, tenant: TenantContext, path: str, **more: object) -> None:
            await stored.write(tenant, path, b"somebody else's")
            await stored.delete(tenant, path, **more)  # type: ignore[arg-type]

    service.replace(files=Racing())
    assert (await service.call("PUT", f"{files}/a", content=b"mine", headers={"If-None-Match": "*"})).status_code == 412
    await stored.write(TENANT, "a", b"first")
    for method in ("PUT", "DELETE"):
        version = (await service.call("HEAD", f"{files}/a")).headers["etag"]
        content = b"mine" if method == "PUT" else None
        answer = await service.call(method, f"{files}/a", content=content, headers={"If-Match": version})
        assert (answer.status_code, kind(answer)) == (412, "precondition-failed")
        await stored.write(TENANT, "a", b"first")


async def test_who_has_the_version_gets_304(service: Service, files: str) -> None:
    version = (await service.call("PUT", f"{files}/a", content=b"x")).headers["etag"]
    for value in (version, f"W/{version}", "*", f'"other", {version}'):
        answer = await service.call("GET", f"{files}/a", headers={"If-None-Match": value})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", version)
    assert (await service.call("GET", f"{files}/a", headers={"If-None-Match": '"other"'})).status_code == 200


async def test_a_look_at_a_version_that_the_client_has_is_304(service: Service, files: str) -> None:
    version = (await service.call("PUT", f"{files}/a", content=b"x")).headers["etag"]
    answer = await service.call("HEAD", f"{files}/a", headers={"If-None-Match": version})
    assert (answer.status_code, answer.headers["etag"]) == (304, version)
    assert (await service.call("HEAD", f"{files}/a", headers={"If-None-Match": '"other"'})).status_code == 200


@pytest.mark.parametrize("more", [{}, {"Range": "bytes=0-0"}, {"If-None-Match": '"none"'}])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_who_asks_for_another_version_gets_412(
    service: Service, files: str, method: str, more: dict[str, str]
) -> None:
    version = (await service.call("PUT", f"{files}/a", content=b"x")).headers["etag"]
    for value in ('"other"', f"W/{version}"):
        assert (await service.call(method, f"{files}/a", headers={"If-Match": value, **more})).status_code == 412
    for value in (version, "*", f'"other", {version}'):
        assert (await service.call(method, f"{files}/a", headers={"If-Match": value, **more})).is_success
    assert (await service.call(method, f"{files}/b", headers={"If-Match": "*", **more})).status_code == 404


async def test_a_file_says_when_it_was_changed(service: Service, files: str) -> None:
    made = (await service.call("PUT", f"{files}/a", content=b"x")).json()["modified_at"]
    for method, headers in (
        ("GET", {}),
        ("HEAD", {}),
        ("GET", {"Range": "bytes=0-0"}),
        ("GET", {"If-None-Match": "*"}),
    ):
        answer = await service.call(method, f"{files}/a", headers=headers)
        assert parsedate_to_datetime(answer.headers["last-modified"]).timestamp() * 1000 == made
        assert answer.headers["last-modified"].endswith(" GMT")


@pytest.mark.parametrize(
    ("asked", "content", "place"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=-3", b"789", "bytes 7-9/10"),
        ("bytes=-99", b"0123456789", "bytes 0-9/10"),
        ("bytes=8-99", b"89", "bytes 8-9/10"),
    ],
)
async def test_a_range_is_206(service: Service, files: str, asked: str, content: bytes, place: str) -> None:
    await service.call("PUT", f"{files}/a", content=b"0123456789")
    answer = await service.call("GET", f"{files}/a", headers={"Range": asked})
    assert (answer.status_code, answer.content, answer.headers["content-range"]) == (206, content, place)


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=-0", "bytes=999999999999999999-"])
async def test_a_range_behind_the_end_is_416(service: Service, files: str, asked: str) -> None:
    await service.call("PUT", f"{files}/a", content=b"0123456789")
    answer = await service.call("GET", f"{files}/a", headers={"Range": asked})
    assert (answer.status_code, kind(answer)) == (416, "range-not-satisfiable")
    assert answer.headers["content-range"] == "bytes */10"


@pytest.mark.parametrize(
    "asked", ["bytes=0-1,4-5", "bytes=5-2", "bytes=-", "lines=1-2", "bytes=a-b", "bytes=" + "9" * 99 + "-"]
)
async def test_a_range_that_is_not_understood_is_ignored(service: Service, files: str, asked: str) -> None:
    await service.call("PUT", f"{files}/a", content=b"0123456789")
    answer = await service.call("GET", f"{files}/a", headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, b"0123456789")


async def test_a_range_of_another_version_is_the_whole_file(service: Service, files: str) -> None:
    version = (await service.call("PUT", f"{files}/a", content=b"0123456789")).headers["etag"]
    asked = {"Range": "bytes=0-1"}
    assert (await service.call("GET", f"{files}/a", headers={**asked, "If-Range": version})).status_code == 206
    assert (await service.call("GET", f"{files}/a", headers={**asked, "If-Range": '"old"'})).status_code == 200


async def test_a_large_file_is_stored_and_read_in_parts(service: Service, files: str) -> None:
    data = bytes(range(256)) * (MAX_UPLOAD_BYTES // 256)
    assert (await service.call("PUT", f"{files}/big", content=data)).status_code == 201
    whole = await service.call("GET", f"{files}/big")
    assert (whole.status_code, kind(whole)) == (413, "too-large")
    assert "Range" in whole.json()["detail"]
    assert "/my/projects/shop/file-downloads/" in whole.json()["detail"]
    read = b""
    while len(read) < len(data):
        part = await service.call("GET", f"{files}/big", headers={"Range": f"bytes={len(read)}-"})
        assert part.status_code == 206
        assert len(part.content) <= MAX_ANSWER_BYTES
        read += part.content
    assert read == data


async def test_a_file_over_five_mebibytes_is_413_however_it_is_sent(service: Service, files: str) -> None:
    data = b"x" * (MAX_UPLOAD_BYTES + 1)
    answer = await service.call("PUT", f"{files}/big", content=data)
    assert (answer.status_code, kind(answer)) == (413, "too-large")
    assert "/my/projects/shop/file-uploads/" in answer.json()["detail"]

    async def chunks() -> object:
        for start in range(0, len(data), 1 << 20):
            yield data[start : start + (1 << 20)]

    headers = {"Authorization": answer.request.headers["authorization"]}
    chunked = await service.client.put(f"{files}/big", content=chunks(), headers=headers)  # type: ignore[arg-type]
    assert (chunked.status_code, kind(chunked)) == (413, "too-large")
    assert (await service.call("HEAD", f"{files}/big")).status_code == 404


async def test_json_leaves_lambda_as_json_in_json_and_may_be_less(service: Service, files: str) -> None:
    data = b'"' * (MAX_ANSWER_BYTES * 2 // 3 + 1)
    headers = {"Content-Type": "application/json"}
    await service.call("PUT", f"{files}/a.json", content=data, headers=headers)
    assert (await service.call("GET", f"{files}/a.json")).status_code == 413


async def test_a_file_and_a_folder_cannot_have_one_name(service: Service, files: str) -> None:
    await service.call("PUT", f"{files}/a/b", content=b"x")
    for path in ("a", "a/b/c"):
        answer = await service.call("PUT", f"{files}/{path}", content=b"x")
        assert (answer.status_code, kind(answer)) == (409, "conflict")


async def test_folders_are_listed_in_pages(service: Service, files: str) -> None:
    paths = ["b.txt", "a/1", "a/2", "a/c/3", "a.txt", "d/x"]
    for path in paths:
        await service.call("PUT", f"{files}/{path}", content=b"x")
    root = (await service.call("GET", f"{files}/")).json()
    assert root["next"] is None
    assert [(item["path"], item["kind"]) for item in root["items"]] == [
        ("a", "folder"), ("a.txt", "file"), ("b.txt", "file"), ("d", "folder"),
    ]  # fmt: skip
    folder = (await service.call("GET", f"{files}/", params={"path": "/a/"})).json()["items"]
    assert [item["path"] for item in folder] == ["a/1", "a/2", "a/c"]
    seen: list[str] = []
    cursor: str | None = None
    while True:
        params = {"recursive": "true", "limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await service.call("GET", f"{files}/", params=params)).json()
        seen += [item["path"] for item in page["items"]]
        cursor = page["next"]
        if cursor is None:
            break
    assert sorted(seen) == sorted(paths)
    assert len(seen) == len(paths)
    first = (await service.call("GET", f"{files}/", params={"path": "a", "limit": 1})).json()
    answer = await service.call("GET", f"{files}/", params={"path": "d", "cursor": first["next"]})
    assert answer.status_code == 422
    assert (await service.call("GET", f"{files}/", params={"path": "../bob"})).status_code == 422


# -- tools


async def test_tools_are_listed_with_their_schemas(service: Service, project: str) -> None:
    items = (await service.call("GET", f"{project}/tools/")).json()["items"]
    assert [item["name"] for item in items] == list(TOOLS)
    read_file = items[0]
    assert set(read_file) == {"name", "description", "risk", "parameters"}
    assert (read_file["risk"], read_file["parameters"]["required"]) == ("reading", ["path"])


async def test_a_tool_works_on_the_callers_files(service: Service, project: str) -> None:
    written = await service.call("POST", f"{project}/tools/write_file", json={"path": "a.txt", "content": "one\ntwo\n"})
    assert (written.status_code, written.json()["tool"]) == (200, "write_file")
    assert written.json()["result"]["created"] is True
    read = await service.call("POST", f"{project}/tools/read_file", json={"path": "/a.txt", "end_line": 1})
    assert read.json()["result"]["content"] == "one\n"
    listed = await service.call("POST", f"{project}/tools/list_directory")
    assert [entry["path"] for entry in listed.json()["result"]["entries"]] == ["a.txt"]
    assert (await service.call("GET", f"{project}/files/a.txt")).content == b"one\ntwo\n"


async def test_two_calls_by_hand_never_share_an_effect(service: Service, project: str) -> None:
    effects = set()
    for path in ("a", "b"):
        await service.call("POST", f"{project}/tools/write_file", json={"path": path, "content": "x"})
        info = await service.stack.files.head(TENANT, path)
        assert info is not None
        effects.add(info.effect)
    assert len(effects) == 2
    assert None not in effects


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("read_file", {"path": "../bob/secret"}),
        ("read_file", {"path": "missing.txt"}),
        ("read_file", {}),
        ("read_file", {"path": "a", "agent_id": "coder"}),
        ("read_file", {"path": "a", "user_id": "bob"}),
        ("remember", {"text": "x"}),
        ("search_context", {"query": "x", "agent_id": 7}),
        ("search_files", {"query": "(", "regex": True}),
    ],
)
async def test_a_tool_that_refuses_is_422(
    service: Service, project: str, tool: str, arguments: dict[str, object]
) -> None:
    answer = await service.call("POST", f"{project}/tools/{tool}", json=arguments)
    assert (answer.status_code, kind(answer)) == (422, "tool-refused")


async def test_text_that_is_no_unicode_is_refused(service: Service, project: str) -> None:
    body = b'{"path": "a", "content": "\\ud800"}'
    answer = await service.call("POST", f"{project}/tools/write_file", content=body)
    assert (answer.status_code, kind(answer)) == (422, "tool-refused")


@pytest.mark.parametrize(("tool", "arguments"), [("remember", b'"text": "x"'), ("search_context", b'"query": "x"')])
async def test_an_agent_that_no_text_can_name_is_404(
    service: Service, project: str, tool: str, arguments: bytes
) -> None:
    body = b'{"agent_id": "\\ud800", ' + arguments + b"}"
    answer = await service.call("POST", f"{project}/tools/{tool}", content=body)
    assert (answer.status_code, kind(answer)) == (404, "not-found")


async def test_a_tool_that_is_not_there_is_404(service: Service, project: str) -> None:
    answer = await service.call("POST", f"{project}/tools/rm_rf", json={})
    assert (answer.status_code, kind(answer)) == (404, "not-found")


@pytest.mark.parametrize("body", [b"[]", b"7", b'"x"'])
async def test_arguments_are_an_object(service: Service, project: str, body: bytes) -> None:
    assert (await service.call("POST", f"{project}/tools/read_file", content=body)).status_code == 422


async def test_memory_is_one_agents(service: Service, project: str) -> None:
    note = {"text": "The user likes tea.", "agent_id": "coder"}
    assert (await service.call("POST", f"{project}/tools/remember", json=note)).status_code == 200
    found = await service.call("POST", f"{project}/tools/search_context", json={"query": "tea", "agent_id": "coder"})
    assert [match["text"] for match in found.json()["result"]["matches"]] == ["The user likes tea."]
    other = await service.call("POST", f"{project}/tools/search_context", json={"query": "tea", "agent_id": "analyst"})
    assert other.json()["result"]["matches"] == []
    nobody = await service.call("POST", f"{project}/tools/search_context", json={"query": "tea", "agent_id": "nobody"})
    assert (nobody.status_code, kind(nobody)) == (404, "not-found")
