"""Large files over the real stack: by addresses that the API gives, and by `push` and `pull`."""

import hashlib
import os
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conftest import User
from worker_space_local.stack import Stack

DATA = secrets.token_bytes(20_000_000)


def send(given: dict[str, Any], content: bytes = b"", **changes: str) -> httpx.Response:
    """A request with nothing but what the API gave."""
    request = {**given, **changes, "headers": {**given["headers"]}}
    # What a client says of itself; the signature decides whether it is true.
    request["headers"].pop("Content-Length", None)
    with httpx.Client(trust_env=False, timeout=60) as client:
        return client.request(request["method"], request["url"], headers=request["headers"], content=content or None)


def test_a_large_file_goes_up_and_down_by_address_and_an_altered_one_is_refused(
    user: Callable[[str], User],
) -> None:
    mine, other = user("ada").project("large"), user("eve").project("large")
    other.put("data.bin", "eve's")
    body = {"path": "data.bin", "size": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
    given = mine.call("POST", "/file-uploads/", 201, json=body)
    for part, altered in (("X-Amz-Expires=600", "X-Amz-Expires=900"), ("userada", "usereve")):
        assert part in given["url"]
        assert send(given, DATA, url=given["url"].replace(part, altered)).status_code == 403
    assert send(given, DATA[:-1]).status_code == 403
    assert send(given, DATA[::-1]).status_code == 400
    assert send(given, DATA).status_code == 200
    assert mine.call("GET", "/files/", 200)["items"][0]["version"] == hashlib.md5(DATA).hexdigest()
    mine.call("GET", "/files/data.bin", 413)
    down = mine.call("POST", "/file-downloads/", 201, json={"path": "data.bin"})
    assert send(down).content == DATA
    assert send(down, url=down["url"].replace("userada", "usereve")).status_code == 403
    assert send(down, url=down["url"].partition("?")[0]).status_code == 403


def test_push_and_pull_carry_a_large_file_byte_by_byte(stack: Stack, tmp_path: Path) -> None:
    environment = {**os.environ, "WORKER_SPACE_DATA_DIR": str(stack.data_dir)}
    folder = tmp_path / "sent"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "ä large.bin").write_bytes(DATA)
    (folder / "notes.md").write_text("small\n")

    def call(*arguments: str) -> str:
        command = [sys.executable, "-m", "worker_space_local.cli", *arguments, "--user", "ada", "-p", "pushed"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "2 new, 0 replaced, 0 unchanged, 0 failed" in call("push", str(folder))
    assert "0 new, 0 replaced, 2 unchanged, 0 failed" in call("push", str(folder))
    assert "2 new" in call("pull", str(tmp_path / "got"))
    assert (tmp_path / "got" / "data" / "ä large.bin").read_bytes() == DATA
    assert (tmp_path / "got" / "notes.md").read_text() == "small\n"
    assert "0 new, 0 replaced, 2 unchanged" in call("pull", str(tmp_path / "got"))
