"""A folder of this machine as a project: which files belong to it, and sending those that differ."""

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker_space_local.cli.screen import clean, progress, say, size
from worker_space_local.client import Client, ClientError, Problem, data_dir, find_connection, segment

MAX_FILE_BYTES: Final = 5_000_000
MAX_FILES: Final = 5_000
_FOLDERS: Final = frozenset({"node_modules", "__pycache__", "venv"})
_ENDINGS: Final = frozenset({".pyc", ".pyo"})
_TOLD: Final = 5
_UPLOADS: Final = 4


@dataclass(frozen=True, kw_only=True)
class Selection:
    """What of a folder belongs to the project.

    Attributes:
        files: Files by their path in the project.
        skipped: Paths by the reason why they do not.
    """

    files: dict[str, Path] = field(default_factory=dict)
    skipped: dict[str, list[str]] = field(default_factory=dict)

    def skip(self, reason: str, path: str) -> None:
        """Note a path that does not belong."""
        self.skipped.setdefault(reason, []).append(path)


@dataclass(kw_only=True)
class Push:
    """What a push did: paths by outcome, and the refused ones with the reason."""

    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    refused: list[tuple[str, str]] = field(default_factory=list)


def select(folder: Path, *, but: Path | None = None) -> Selection:
    """Choose what of a folder belongs to the project.

    Hidden files, virtual environments, `node_modules`, `__pycache__`, links, and files over 5 MB do not.

    Args:
        folder: The folder to look through.
        but: A folder to leave out, such as the stack's own.

    Raises:
        ClientError: It is no folder, holds nothing to send, or more than 5,000 files.
    """
    if not folder.exists():
        raise ClientError(f"there is no folder {str(folder)!r}: give the folder of a project")
    if not folder.is_dir():
        raise ClientError(f"{str(folder)!r} is a file: give the folder it lies in")
    selection = Selection()
    unreadable: list[OSError] = []
    for where, folders, names in os.walk(folder, onerror=unreadable.append):
        here = Path(where)
        within = here.relative_to(folder)
        kept = []
        for name in sorted(folders):
            reason = _why_not_folder(here / name, but)
            if reason is None:
                kept.append(name)
            else:
                selection.skip(reason, f"{(within / name).as_posix()}/")
        folders[:] = kept
        for name in sorted(names):
            _consider(selection, here / name, (within / name).as_posix())
        if len(selection.files) > MAX_FILES:
            raise ClientError(f"{str(folder)!r} holds more than {MAX_FILES:,} files: choose a smaller folder")
    for error in unreadable:
        selection.skip("not readable", f"{error.filename}/")
    if not selection.files:
        left_out = " but what is left out (hidden, generated or too large)" if selection.skipped else ""
        raise ClientError(f"the folder {str(folder)!r} holds no files{left_out}: give the folder of a project")
    return selection


def _why_not_folder(path: Path, but: Path | None) -> str | None:
    if path.is_symlink():
        return "a link"
    if path.name in _FOLDERS or (path / "pyvenv.cfg").exists():
        return "generated"
    if path.name.startswith("."):
        return "hidden"
    if but is not None and path.resolve() == but.resolve():
        return "the stack's own data"
    return None


def _consider(selection: Selection, path: Path, name: str) -> None:
    # macOS lists names decomposed; a project's paths are composed.
    stored = unicodedata.normalize("NFC", name)
    try:
        found = path.lstat()
    except OSError:
        selection.skip("not readable", name)
        return
    if path.name.startswith("."):
        selection.skip("hidden", name)
    elif path.suffix in _ENDINGS:
        selection.skip("generated", name)
    elif stat.S_ISLNK(found.st_mode):
        selection.skip("a link", name)
    elif not stat.S_ISREG(found.st_mode):
        selection.skip("no regular file", name)
    elif found.st_size > MAX_FILE_BYTES:
        selection.skip(f"over {size(MAX_FILE_BYTES)}", f"{name} ({size(found.st_size)})")
    elif stored in selection.files:
        selection.skip("the same name as another once composed (NFC)", name)
    else:
        selection.files[stored] = path


def push(client: Client, project: str, selection: Selection) -> Push:
    """Send the files that the project lacks or has otherwise; delete nothing.

    Each is stored only if the project still has what was listed, so that an agent's edit made meanwhile is not lost.
    """
    with progress("comparing files with the project's"):
        there = {
            entry["path"]: (int(entry["size"]), str(entry["version"]).strip('"'))
            for entry in client.items(f"{segment(project)}/files/", recursive="true")
            if entry.get("kind") == "file"
        }
    result = Push()
    with progress("sending files", len(selection.files)) as state, ThreadPoolExecutor(_UPLOADS) as pool:
        jobs = [pool.submit(_send, client, project, name, path, there) for name, path in selection.files.items()]
        try:
            for name, job in zip(selection.files, jobs, strict=True):
                outcome, reason = job.result()
                if outcome == "refused":
                    result.refused.append((name, reason))
                else:
                    {"new": result.new, "replaced": result.replaced, "unchanged": result.unchanged}[outcome].append(
                        name
                    )
                state.done += 1
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return result


def push_folder(folder: Path, project: str | None, user: str) -> bool:
    """Send a folder to a project, made if there is none, and say what happened; whether all of it was sent.

    Raises:
        ClientError: The folder cannot be used, or a deployed project that only seems to be its own exists already.
    """
    selection = select(folder, but=data_dir())
    connection = find_connection(user)
    name = folder.resolve().name
    # Which folder has which project is remembered for the stack of this machine only.
    chosen = project or (project_id(folder, data_dir()) if connection.local else simple_id(name))
    with Client(connection) as client:
        made = client.ensure_project(chosen, name or chosen)
        if not (made or project or connection.local):
            raise ClientError(
                f"there is a project {chosen} already: to send the folder into it, say --project {chosen}"
            )
        say(f"project {chosen}{' (new)' if made else ''}")
        tell_skipped(selection)
        result = push(client, chosen, selection)
    tell(result)
    return not result.refused


def _send(client: Client, project: str, name: str, path: Path, there: dict[str, tuple[int, str]]) -> tuple[str, str]:
    version = None
    try:
        data = path.read_bytes()
        if name in there:
            known, version = there[name]
            # An object's ETag is its MD5 where it was stored in one piece; otherwise it differs and the file is sent.
            if known == len(data) and version == hashlib.md5(data, usedforsecurity=False).hexdigest():
                return "unchanged", ""
        client.put_file(project, name, data, version)
    except UnicodeEncodeError:
        return "refused", "its name is not valid Unicode"
    except OSError as error:
        return "refused", f"it cannot be read: {error.strerror}"
    except Problem as problem:
        if problem.status == 412:
            return "refused", "the project's file changed meanwhile; push again to replace it"
        if problem.status in {400, 404, 413, 415, 422}:
            return "refused", str(problem)
        raise
    return ("new" if version is None else "replaced"), ""


def tell_skipped(selection: Selection) -> None:
    """Say what was left out and why."""
    for reason, paths in sorted(selection.skipped.items()):
        say(f"  left out, {reason}: {_some(paths)}")


def tell(result: Push) -> None:
    """Say what a push did."""
    parts = [f"{len(result.new)} new", f"{len(result.replaced)} replaced", f"{len(result.unchanged)} unchanged"]
    say(f"  {', '.join(parts)}")
    if result.replaced:
        say(f"  replaced because they differed: {_some(result.replaced)}")
    for name, reason in result.refused:
        say(f"  not sent: {_printable(name)}: {clean(reason)}")


def _some(paths: Iterable[str]) -> str:
    names = [_printable(path) for path in paths]
    more = f" and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + more


def _printable(name: str) -> str:
    return clean(name.encode("utf-8", "backslashreplace").decode())


def project_id(folder: Path, state: Path) -> str:
    """The id of the project that a folder is sent to: its name, with a number where another folder has that name.

    Args:
        folder: The folder.
        state: The stack's data folder, which remembers which folder has which id.
    """
    resolved = str(folder.resolve())
    memory = state / "folders.json"
    known: dict[str, str] = {}
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        known = {str(key): str(value) for key, value in found.items()}
    except FileNotFoundError:
        pass
    except (OSError, ValueError, AttributeError) as error:
        raise ClientError(f"{memory} cannot be read ({error}): delete it to start afresh") from error
    base = simple_id(folder.resolve().name)
    number, chosen = 1, base
    while known.get(chosen, resolved) != resolved:
        number += 1
        chosen = f"{base}-{number}"
    if chosen not in known:
        state.mkdir(parents=True, exist_ok=True)
        written = memory.with_suffix(".new")
        written.write_text(json.dumps({**known, chosen: resolved}, indent=1), encoding="utf-8")
        written.replace(memory)
    return chosen


def simple_id(name: str) -> str:
    """A folder's name as a project id: lower-case letters, digits and hyphens, at most 40."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:40].rstrip("-") or "project"
