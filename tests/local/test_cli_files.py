"""`push`, `pull`, `ls` and `cat`: what moves, what is skipped, what is kept, and what is refused."""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tests.local.cli_server import FakeApi
from worker_space_local.cli import main
from worker_space_local.cli.screen import progress
from worker_space_local.issuer import make_key
from worker_space_local.project_files import THROUGH_API_BYTES

LARGE = bytes(range(256)) * (THROUGH_API_BYTES // 256 + 1)


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeApi]:
    state = tmp_path / "state"
    state.mkdir()
    make_key(state)
    monkeypatch.setenv("WORKER_SPACE_DATA_DIR", str(state))
    with FakeApi() as server:
        (state / "endpoints.json").write_text(json.dumps({"api": server.url, "issuer": "http://issuer"}))
        server.projects["shop"] = {"id": "shop", "name": "Shop"}
        server.files["shop"] = {"a.txt": b"one\n", "src/b.py": b"print(1)\n"}
        yield server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "work"
    made.mkdir()
    return made


def call(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def pull(folder: Path, *more: str) -> Result:
    return call("pull", str(folder), "-p", "shop", *more)


def push(folder: Path) -> Result:
    return call("push", str(folder), "-p", "shop")


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# -- large files


def test_a_large_file_goes_past_the_api_and_comes_back_the_same(api: FakeApi, folder: Path, tmp_path: Path) -> None:
    (folder / "big file.bin").write_bytes(LARGE)
    sent = push(folder)
    assert (sent.exit_code, "1 new, 0 replaced, 0 unchanged, 0 failed" in sent.output) == (0, True)
    assert api.files["shop"]["big file.bin"] == LARGE
    assert api.sent("PUT", "/my/.*") == []
    assert api.sent("POST", ".*/file-uploads/")[0]["sha256"] == hashlib.sha256(LARGE).hexdigest()
    got = pull(tmp_path / "copy")
    assert got.exit_code == 0, got.output
    assert (tmp_path / "copy" / "big file.bin").read_bytes() == LARGE
    assert [method for method, _ in api.at_store] == ["PUT", "GET"]
    for _, headers in api.at_store:
        assert "authorization" not in headers
        assert "transfer-encoding" not in headers


def test_a_large_file_is_not_sent_again_and_replaced_when_it_differs(api: FakeApi, folder: Path) -> None:
    (folder / "big.bin").write_bytes(LARGE)
    push(folder)
    assert "0 new, 0 replaced, 1 unchanged" in push(folder).output
    assert len(api.at_store) == 1
    (folder / "big.bin").write_bytes(LARGE[:-1] + b"x")
    assert "0 new, 1 replaced, 0 unchanged" in push(folder).output
    assert api.at_store[1][1]["if-match"] == f'"{hashlib.md5(LARGE).hexdigest()}"'


def test_a_version_that_is_no_digest_of_the_content_is_remembered(api: FakeApi, folder: Path) -> None:
    api.version = lambda data: f"{hashlib.md5(data[::-1]).hexdigest()}-7"
    (folder / "c.txt").write_text("three\n")
    assert "1 new" in push(folder).output
    assert "0 new, 0 replaced, 1 unchanged" in push(folder).output
    assert "2 new, 0 replaced, 1 unchanged" in pull(folder).output
    api.requests.clear()
    assert "0 new, 0 replaced, 3 unchanged" in pull(folder).output
    assert [path for _, path, _ in api.requests if not path.endswith("/files/")] == []


def test_what_the_store_refuses_is_reported_and_the_rest_is_sent(api: FakeApi, folder: Path) -> None:
    (folder / "big.bin").write_bytes(LARGE)
    (folder / "c.txt").write_text("three\n")
    problem = {"status": 413, "title": "Too large", "detail": "a file has at most 9 bytes here"}
    api.refuse.append(("POST", ".*/file-uploads/", problem))
    result = push(folder)
    assert result.exit_code == 1
    assert "1 new, 0 replaced, 0 unchanged, 1 failed" in result.output
    assert "not sent: big.bin: Too large: a file has at most 9 bytes here [413]" in result.output
    assert api.files["shop"]["c.txt"] == b"three\n"


def test_an_edit_of_a_large_file_made_while_pushing_is_not_overwritten(api: FakeApi, folder: Path) -> None:
    (folder / "big.bin").write_bytes(LARGE)
    push(folder)
    (folder / "big.bin").write_bytes(LARGE * 2)

    def edit(method: str, path: str) -> None:
        if path.endswith("/file-uploads/"):
            api.files["shop"]["big.bin"] = b"an agent's"

    api.then = edit
    result = push(folder)
    assert result.exit_code == 1
    assert "changed meanwhile" in result.output
    assert api.files["shop"]["big.bin"] == b"an agent's"


@pytest.mark.parametrize("after", [b"shorter", LARGE + b"longer", LARGE[::-1]])
def test_a_file_that_changes_while_it_is_sent_is_reported_and_the_rest_is_sent(
    api: FakeApi, folder: Path, after: bytes
) -> None:
    (folder / "big.bin").write_bytes(LARGE)
    (folder / "c.txt").write_text("three\n")

    def edit(method: str, path: str) -> None:
        if path.endswith("/file-uploads/"):
            (folder / "big.bin").write_bytes(after)

    api.then = edit
    result = push(folder)
    assert (result.exit_code, "1 new, 0 replaced, 0 unchanged, 1 failed" in result.output) == (1, True)
    assert "big.bin" not in api.files["shop"]
    assert api.files["shop"]["c.txt"] == b"three\n"


def test_no_file_goes_to_an_address_in_the_clear(api: FakeApi, folder: Path) -> None:
    (folder / "big.bin").write_bytes(LARGE)
    api.url = "http://store.example"
    result = push(folder)
    assert result.exit_code == 1
    assert "not https" in result.stderr


# -- pull


def test_pull_gets_a_projects_files_into_a_new_folder(api: FakeApi, tmp_path: Path) -> None:
    result = pull(tmp_path / "new" / "place")
    assert result.exit_code == 0, result.output
    assert "2 new, 0 replaced, 0 unchanged, 0 kept, 0 failed" in result.output
    assert content(tmp_path / "new" / "place") == {"a.txt": b"one\n", "src/b.py": b"print(1)\n"}


def test_pull_gets_only_what_differs(api: FakeApi, folder: Path) -> None:
    pull(folder)
    api.requests.clear()
    api.files["shop"]["a.txt"] = b"two\n"
    result = pull(folder)
    assert (result.exit_code, "0 new, 1 replaced, 1 unchanged" in result.output) == (0, True)
    assert "replaced because the project's are newer: a.txt" in result.output
    assert content(folder)["a.txt"] == b"two\n"
    assert [path for _, path, _ in api.requests if "files/" in path][-1].endswith("/files/a.txt")
    assert sum("files/src" in path for _, path, _ in api.requests) == 0


def test_a_file_that_was_changed_here_is_kept_unless_forced(api: FakeApi, folder: Path) -> None:
    pull(folder)
    api.files["shop"]["a.txt"] = b"theirs\n"
    (folder / "a.txt").write_text("mine\n")
    result = pull(folder)
    assert result.exit_code == 1
    assert "kept because they were changed here: a.txt (--force replaces them)" in result.output
    assert content(folder)["a.txt"] == b"mine\n"
    assert pull(folder, "--force").exit_code == 0
    assert content(folder)["a.txt"] == b"theirs\n"


def test_a_file_that_was_never_the_same_is_kept(api: FakeApi, folder: Path) -> None:
    (folder / "a.txt").write_text("mine\n")
    result = pull(folder)
    assert (result.exit_code, "1 new, 0 replaced, 0 unchanged, 1 kept" in result.output) == (1, True)
    assert content(folder)["a.txt"] == b"mine\n"


def test_an_agents_edit_of_what_was_pushed_is_pulled(api: FakeApi, folder: Path) -> None:
    (folder / "c.txt").write_text("three\n")
    call("push", str(folder))
    api.files["work"]["c.txt"] = b"three and more\n"
    # The project is the one that the folder was sent to, though there is another one.
    result = call("pull", str(folder))
    assert (result.exit_code, "project work" in result.output) == (0, True)
    assert content(folder) == {"c.txt": b"three and more\n"}


def test_a_lost_memory_keeps_what_differs(api: FakeApi, folder: Path, tmp_path: Path) -> None:
    pull(folder)
    (memory,) = (tmp_path / "state" / "synced").iterdir()
    memory.write_text("{")
    api.files["shop"]["a.txt"] = b"theirs\n"
    assert pull(folder).exit_code == 1
    assert content(folder)["a.txt"] == b"one\n"


@pytest.mark.parametrize("name", ["../evil", "a/../../evil", "/evil", "a//b", "./x", "a\\..\\evil", "c:evil"])
def test_a_name_that_leads_out_of_the_folder_is_refused_and_the_rest_is_got(
    api: FakeApi, folder: Path, name: str
) -> None:
    api.files["shop"][name] = b"evil"
    result = pull(folder)
    assert result.exit_code == 1
    assert "leads out of the folder" in result.output
    assert content(folder) == {"a.txt": b"one\n", "src/b.py": b"print(1)\n"}
    assert not (folder.parent / "evil").exists()


@pytest.mark.parametrize("force", [[], ["--force"]])
def test_a_link_leads_nothing_out_of_the_folder(api: FakeApi, folder: Path, tmp_path: Path, force: list[str]) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.txt").write_text("mine")
    (folder / "src").symlink_to(tmp_path / "outside")
    (folder / "a.txt").symlink_to(tmp_path / "outside" / "a.txt")
    result = pull(folder, *force)
    assert (result.exit_code, "2 failed" in result.output) == (1, True)
    assert content(tmp_path / "outside") == {"a.txt": b"mine"}


def test_what_tools_of_this_machine_would_run_is_left_in_the_project(api: FakeApi, folder: Path) -> None:
    for name in (".git/hooks/post-checkout", ".env", "src/.vscode/x", "node_modules/x", "a/__pycache__/b.pyc", "b.pyc"):
        api.files["shop"][name] = b"#!/bin/sh\n"
    result = pull(folder)
    assert result.exit_code == 0
    assert set(content(folder)) == {"a.txt", "src/b.py"}
    assert "left out, hidden: .env, .git/hooks/post-checkout" in result.output
    assert "left out, generated: " in result.output


@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_arrives_otherwise_than_it_was_sent_is_not_kept(api: FakeApi, folder: Path, large: bool) -> None:
    api.files["shop"] = {"a.txt": LARGE if large else b"whole"}
    (folder / "a.txt").write_text("before")
    for damage in (lambda data: data[:-1], lambda data: data[:-1] + b"?"):
        api.damage = damage
        result = pull(folder, "--force")
        assert (result.exit_code, "did not arrive as it was sent" in result.output) == (1, True)
        assert content(folder) == {"a.txt": b"before"}


@pytest.mark.parametrize("large", [False, True])
def test_a_file_that_changes_while_pulling_is_reported(api: FakeApi, folder: Path, large: bool) -> None:
    api.files["shop"] = {"a.txt": LARGE if large else b"listed"}

    def edit(method: str, path: str) -> None:
        if "/files/?" in path:
            api.files["shop"]["a.txt"] = LARGE + b"newer" if large else b"newer"

    api.then = edit
    result = pull(folder)
    assert (result.exit_code, "changed meanwhile; pull again" in result.output) == (1, True)
    assert content(folder) == {}


def test_a_folder_in_a_files_place_is_reported(api: FakeApi, folder: Path) -> None:
    (folder / "a.txt").mkdir()
    (folder / "src").write_text("a file where a folder belongs")
    result = pull(folder)
    assert (result.exit_code, "2 failed" in result.output) == (1, True)
    assert (folder / "a.txt").is_dir()


def test_a_pull_that_was_broken_off_goes_on_where_it_ended(api: FakeApi, folder: Path) -> None:
    api.files["shop"] = {f"f{number}": f"{number}".encode() for number in range(9)}
    api.refuse.append(("GET", ".*/files/f8", {"status": 503, "title": "Unavailable"}))
    broken = pull(folder)
    assert broken.exit_code == 1
    assert "Unavailable" in broken.stderr
    there = set(content(folder))
    assert "f8" not in there
    api.refuse.clear()
    api.requests.clear()
    assert f"{9 - len(there)} new, 0 replaced, {len(there)} unchanged" in pull(folder).output
    assert len([path for _, path, _ in api.requests if "/files/f" in path]) == 9 - len(there)


def test_a_replaced_file_keeps_its_mode_and_no_part_is_left_behind(api: FakeApi, folder: Path) -> None:
    pull(folder)
    (folder / "a.txt").chmod(0o750)
    api.files["shop"]["a.txt"] = b"two\n"
    pull(folder)
    assert (folder / "a.txt").stat().st_mode & 0o777 == 0o750
    umask = os.umask(0)
    os.umask(umask)
    assert (folder / "src" / "b.py").stat().st_mode & 0o777 == 0o666 & ~umask
    assert {path.name for path in folder.rglob("*")} == {"a.txt", "src", "b.py"}


def test_what_a_killed_pull_left_behind_is_not_pushed(api: FakeApi, folder: Path) -> None:
    (folder / ".worker-space-0123").write_text("half")
    (folder / "c.txt").write_text("three")
    push(folder)
    assert set(api.files["shop"]) == {"a.txt", "src/b.py", "c.txt"}


def test_a_file_is_no_folder_to_pull_into(api: FakeApi, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = pull(tmp_path / "file")
    assert (result.exit_code, "is a file" in result.stderr) == (1, True)


# -- ls and cat


def test_ls_lists_files_and_folders(api: FakeApi) -> None:
    result = call("ls", "-p", "shop")
    assert result.exit_code == 0
    lines = [line.split() for line in result.output.splitlines()]
    assert lines[0] == ["PATH", "SIZE", "CHANGED"]
    assert lines[1][:3] == ["a.txt", "4", "B"]


def test_ls_of_nothing_says_so(api: FakeApi) -> None:
    api.files["shop"] = {}
    assert "project shop has no files" in call("ls", "-p", "shop").output


@pytest.mark.parametrize("data", [b"\x00\xff\r\n", b"", LARGE])
def test_cat_prints_a_file_byte_by_byte(api: FakeApi, data: bytes) -> None:
    api.files["shop"]["x.bin"] = data
    result = call("cat", "x.bin", "-p", "shop")
    assert (result.exit_code, result.stdout_bytes) == (0, data)


def test_cat_of_a_missing_file_is_an_error(api: FakeApi) -> None:
    result = call("cat", "none", "-p", "shop")
    assert (result.exit_code, result.stdout_bytes) == (1, b"")


def test_progress_counts_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("sending files", 9, bytes_=20_000_000, first=0.01, every=30) as state:
        state.done = 4
        state.moved(12_000_000)
        time.sleep(0.3)
    assert capsys.readouterr().err == "… still sending files: 4 of 9, 12.0 MB of 20.0 MB\n"
