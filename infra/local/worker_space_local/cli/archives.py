"""Commands that take a project away as one archive, and make a project out of one."""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

from worker_space_local.cli.screen import one_line, say, size
from worker_space_local.client import Client, ClientError, find_connection, segment

MAX_BYTES: Final = 5 << 20
_STDOUT: Final = Path("-")


def export_project(project: str, user: str, target: Path | None, *, force: bool) -> None:
    """Write a project's archive to a file, whole or not at all; `-` is the standard output.

    Raises:
        ClientError: The file exists, or cannot be written.
    """
    file = target or Path(f"{segment(project).lstrip('.') or 'project'}.zip")
    if file != _STDOUT and file.exists() and not force:
        raise ClientError(f"{file} exists: choose another file with -o, or replace it with --force")
    with Client(find_connection(user)) as client:
        data = client.request("GET", f"{segment(project)}/export").content
    if file == _STDOUT:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    _write(file, data)
    say(f"project {one_line(project)} is in {file} ({size(len(data))}); its files are not in it: get them with `pull`")


def _write(file: Path, data: bytes) -> None:
    part = file.with_name(f".{file.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(data)
        os.replace(part, file)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise ClientError(f"{file} cannot be written: {error.strerror}") from error


def import_project(file: Path, user: str, project: str | None, name: str | None) -> None:
    """Make a project out of an archive.

    Raises:
        ClientError: The file cannot be read or is too large for the API.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ClientError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ClientError(f"{file} has more than {size(MAX_BYTES)}: the API takes no larger archive")
    wanted = {key: value for key, value in (("id", project), ("name", name)) if value is not None}
    # A request that broke off and is sent again by a proxy must not make two projects.
    headers = {"Content-Type": "application/zip", "Idempotency-Key": secrets.token_hex(16)}
    with Client(find_connection(user)) as client:
        made = client.request("POST", "import", params=wanted, content=data, headers=headers).json()
    imported = {str(kind): int(count) for kind, count in made["imported"].items()}
    told = ", ".join(f"{imported.get(kind, 0)} {kind}" for kind in ("agents", "sessions", "messages", "tasks"))
    say(f"project {one_line(str(made['id']))} was made: {told}")
    if imported.get("files"):
        say(f"{imported['files']} files are named in the archive but not in it: send them with `push`")
