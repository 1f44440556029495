"""Commands that take a project away as one archive, and make a project out of one."""

import os
import secrets
import sys
from pathlib import Path
from typing import Final

from worker_space_local.cli.screen import one_line, say, size
from worker_space_local.client import Client, ClientError, Json, find_connection, segment
from worker_space_local.project_files import ProjectFiles, digests

THROUGH_API_BYTES: Final = 5 << 20
MAX_BYTES: Final = 65 << 20
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
        answer = client.request("GET", f"{segment(project)}/export")
        data = answer.content
        if (elsewhere := answer.headers.get("location")) is not None:
            with ProjectFiles(client, project) as files:
                data = files.signed(elsewhere)
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


def import_project(file: Path, user: str, project: str | None, name: str | None, via: str | None) -> None:
    """Make a project out of an archive.

    Args:
        via: A project that a file too large for a request passes through; it is there for that time only.

    Raises:
        ClientError: The file cannot be read or is too large.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
    except OSError as error:
        raise ClientError(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise ClientError(f"{file} has more than {size(MAX_BYTES)}: the API takes no larger archive")
    large = len(data) > THROUGH_API_BYTES
    if large and via is None:
        raise ClientError(
            f"{file} has more than {size(THROUGH_API_BYTES)}: name a project of yours that it may pass through, "
            "with --via PROJECT"
        )
    wanted = {key: value for key, value in (("id", project), ("name", name)) if value is not None}
    # A request that broke off and is sent again by a proxy must not make two projects.
    headers = {"Content-Type": "application/zip", "Idempotency-Key": secrets.token_hex(16)}
    with Client(find_connection(user)) as client:
        if large and via is not None:
            made = _import_via(client, via, file, wanted, headers)
        else:
            made = client.request("POST", "import", params=wanted, content=data, headers=headers).json()
    imported = {str(kind): int(count) for kind, count in made["imported"].items()}
    told = ", ".join(f"{imported.get(kind, 0)} {kind}" for kind in ("agents", "sessions", "messages", "tasks"))
    say(f"project {one_line(str(made['id']))} was made: {told}")
    if imported.get("files"):
        say(f"{imported['files']} files are named in the archive but not in it: send them with `push`")


def _import_via(client: Client, via: str, file: Path, wanted: dict[str, str], headers: dict[str, str]) -> Json:
    """Make a project out of an archive that lies among another project's files meanwhile."""
    path = f"import-{secrets.token_hex(8)}.zip"
    with ProjectFiles(client, via) as files:
        try:
            files.send(path, file, digests(file), None, lambda _: None)
        except OSError as error:
            raise ClientError(f"{file} cannot be read: {error.strerror}") from error
        try:
            asked = {**wanted, "from_project": via, "path": path}
            made: Json = client.request("POST", "import", params=asked, headers=headers).json()
        finally:
            files.remove(path)
    return made
