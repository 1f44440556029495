"""`worker-space export` and `worker-space import`: a project as a file, and back."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.local.cli_server import FakeApi
from worker_space_local.cli import main
from worker_space_local.issuer import make_key


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    state, here = tmp_path / "state", tmp_path / "here"
    state.mkdir()
    here.mkdir()
    make_key(state)
    with FakeApi() as server:
        server.projects["shop"] = {"id": "shop", "name": "Shop"}
        server.files["shop"] = {}
        (state / "endpoints.json").write_text(json.dumps({"api": server.url, "issuer": "http://issuer"}))
        monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(state))
        monkeypatch.chdir(here)
        yield server


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize("command", ["export", "import"])
def test_help_shows_an_example(command: str) -> None:
    result = call(command, "--help")
    assert result.exit_code == 0
    assert f"worker-space {command} shop" in result.output


def test_export_writes_the_archive_beside_its_project_name(api: FakeApi) -> None:
    result = call("export", "shop")
    assert result.exit_code == 0, result.output
    assert "project shop is in shop.zip" in result.output
    assert Path("shop.zip").read_bytes() == api.archive
    assert [path.name for path in Path().iterdir()] == ["shop.zip"]


def test_export_replaces_a_file_only_when_told_to(api: FakeApi) -> None:
    Path("mine.zip").write_bytes(b"mine")
    refused = call("export", "shop", "-o", "mine.zip")
    assert refused.exit_code == 1
    assert "mine.zip exists" in refused.output
    assert Path("mine.zip").read_bytes() == b"mine"
    assert api.sent("GET", ".*/export") == []
    assert call("export", "shop", "-o", "mine.zip", "--force").exit_code == 0
    assert Path("mine.zip").read_bytes() == api.archive


def test_export_to_the_standard_output_is_the_archive_and_nothing_else(api: FakeApi) -> None:
    result = call("export", "shop", "-o", "-")
    assert (result.exit_code, result.stdout_bytes) == (0, api.archive)
    assert list(Path().iterdir()) == []


def test_a_project_that_cannot_be_exported_leaves_no_file(api: FakeApi) -> None:
    problem = {"status": 413, "title": "Too large", "detail": "delete sessions that you no longer need"}
    api.refuse = [("GET", ".*/export", problem)]
    for project in ("shop", "missing"):
        result = call("export", project)
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
    assert list(Path().iterdir()) == []


def test_a_file_that_cannot_be_written_is_said(api: FakeApi) -> None:
    result = call("export", "shop", "-o", "no/such/folder/shop.zip")
    assert result.exit_code == 1
    assert "cannot be written" in result.output


def test_import_sends_the_file_as_it_is_and_says_what_came_of_it(api: FakeApi) -> None:
    Path("shop.zip").write_bytes(api.archive)
    result = call("import", "shop.zip", "--id", "shop-2", "--name", "Copy")
    assert result.exit_code == 0, result.output
    assert "project shop-2 was made: 4 agents, 2 sessions, 16 messages, 8 tasks" in result.output
    assert "3 files are named" in result.output
    assert api.sent("POST", "/my/projects/import") == [api.archive]


def test_import_without_an_id_says_which_the_service_made(api: FakeApi) -> None:
    Path("shop.zip").write_bytes(api.archive)
    assert "project p-1 was made" in call("import", "shop.zip").output


def test_import_says_what_is_wrong_with_an_archive(api: FakeApi) -> None:
    Path("shop.zip").write_bytes(b"x")
    problem = {"status": 422, "title": "A value in the request is wrong", "detail": "agents.jsonl, line 3: …"}
    api.refuse = [("POST", "/my/projects/import", problem)]
    result = call("import", "shop.zip")
    assert result.exit_code == 1
    assert "agents.jsonl, line 3" in result.output


def test_export_gets_a_large_archive_from_the_store_without_the_token(api: FakeApi) -> None:
    api.at_address = True
    result = call("export", "shop")
    assert result.exit_code == 0, result.output
    assert Path("shop.zip").read_bytes() == api.archive
    ((method, headers),) = api.at_store
    assert (method, "authorization" in headers) == ("GET", False)


def test_import_sends_a_large_file_through_a_project_that_is_named_and_leaves_nothing_there(api: FakeApi) -> None:
    data = b"PK" + bytes(5 << 20)
    Path("shop.zip").write_bytes(data)
    result = call("import", "shop.zip", "--id", "shop-2", "--via", "shop")
    assert result.exit_code == 0, result.output
    assert "project shop-2 was made" in result.output
    ((project, _, sent),) = api.imported_from
    assert (project, sent == data) == ("shop", True)
    assert all("authorization" not in headers for _, headers in api.at_store)
    assert api.files["shop"] == {}
    api.refuse = [("POST", "/my/projects/import", {"status": 422, "title": "A value is wrong"})]
    assert call("import", "shop.zip", "--via", "shop").exit_code == 1
    assert api.files["shop"] == {}


def test_import_of_a_large_file_says_which_option_it_needs(api: FakeApi) -> None:
    Path("shop.zip").write_bytes(bytes((5 << 20) + 1))
    result = call("import", "shop.zip")
    assert (result.exit_code, "--via PROJECT" in result.output) == (1, True)


@pytest.mark.parametrize("size", [None, (65 << 20) + 1])
def test_import_reads_a_file_of_at_most_65_mib(api: FakeApi, size: int | None) -> None:
    if size is not None:
        Path("shop.zip").write_bytes(bytes(size))
    result = call("import", "shop.zip")
    assert result.exit_code == 1
    assert "shop.zip" in result.output
    assert api.sent("POST", ".*") == []
