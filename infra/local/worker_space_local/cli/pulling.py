"""Getting a project's files into a folder: whole or not at all, and nothing of one's own is lost."""

import os
import secrets
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from worker_space_local.cli.folder import known_project, left_out, printable, some
from worker_space_local.cli.listing import choose_project
from worker_space_local.cli.pushing import AT_ONCE
from worker_space_local.cli.screen import Progress, clean, progress, say
from worker_space_local.cli.synced import Synced
from worker_space_local.client import Client, ClientError, Problem, data_dir, find_connection
from worker_space_local.project_files import Digests, Entry, ProjectFiles, digests

_MD5_DIGITS: Final = 32
# Hidden, so that a push leaves out what a killed pull left behind.
_PART: Final = ".worker-space-"


@dataclass(kw_only=True)
class Pull:
    """What a pull did: paths by outcome, and those that failed or were left out with the reason.

    Attributes:
        kept: They differ here, and nobody knows that the project's are the newer ones.
    """

    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)
    skipped: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    kind: str
    reason: str = ""
    md5: str = ""


class _Refused(Exception):
    """A file cannot be put here; the message says why."""


def pull(files: ProjectFiles, folder: Path, synced: Synced, *, force: bool) -> Pull:
    """Get the files that the folder lacks or has otherwise; delete nothing.

    A file here that was changed since it was last the same in the project is kept, unless `force` says otherwise.
    What has arrived stays when a pull is broken off: the next one skips it.
    """
    with progress("comparing files with the project's"):
        there = files.entries()
    result = Pull()
    wanted = {}
    for name, entry in there.items():
        reason = left_out(name)
        if reason is None:
            wanted[name] = entry
        else:
            result.skipped.setdefault(reason, []).append(name)
    total = sum(entry.size for entry in wanted.values())
    with progress("getting files", len(wanted), bytes_=total) as state, ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = [
            pool.submit(_get, files, folder, name, entry, synced, state, force=force) for name, entry in wanted.items()
        ]
        try:
            for (name, entry), job in zip(wanted.items(), jobs, strict=True):
                _enter(result, synced, name, entry, job.result())
                state.done += 1
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            synced.save()
    return result


def _enter(result: Pull, synced: Synced, name: str, entry: Entry, outcome: _Outcome) -> None:
    if outcome.kind == "failed":
        result.failed.append((name, outcome.reason))
        return
    getattr(result, outcome.kind).append(name)
    if outcome.kind != "kept":
        synced.note(name, entry.version, outcome.md5)


def _get(
    files: ProjectFiles, folder: Path, name: str, entry: Entry, synced: Synced, state: Progress, *, force: bool
) -> _Outcome:
    try:
        target = _place(folder, name)
        here = digests(target) if target.exists() else None
        if here is not None:
            if entry.version == here.md5 or synced.same(name, entry.version, here.md5):
                state.moved(entry.size)
                return _Outcome(kind="unchanged", md5=here.md5)
            if not force and synced.content(name) != here.md5:
                return _Outcome(kind="kept")
        target.parent.mkdir(parents=True, exist_ok=True)
        with _new_file(target) as (file, part):
            files.fetch(name, entry, file.write, state.moved)
            file.close()
            md5 = _checked(part, entry).md5
            if here is not None:
                if not force and digests(target) != here:
                    return _Outcome(kind="kept")
                part.chmod(stat.S_IMODE(target.stat().st_mode))
            part.replace(target)
        return _Outcome(kind="new" if here is None else "replaced", md5=md5)
    except _Refused as error:
        return _Outcome(kind="failed", reason=str(error))
    except UnicodeEncodeError:
        return _Outcome(kind="failed", reason="this system cannot spell its name")
    except OSError as error:
        return _Outcome(kind="failed", reason=f"it cannot be written: {error.strerror}")
    except Problem as problem:
        if problem.status in {404, 412}:
            return _Outcome(kind="failed", reason="the project's file changed meanwhile; pull again to get it")
        if 400 <= problem.status < 500 and problem.status not in {401, 429}:
            return _Outcome(kind="failed", reason=str(problem))
        raise


def _place(folder: Path, name: str) -> Path:
    """Where a file belongs.

    Raises:
        _Refused: Its name leads, or could lead, out of the folder, or something that is no file is there.
    """
    parts = name.split("/")
    if any(part in {"", ".", ".."} or any(c in part for c in "\\:\0") for part in parts):
        raise _Refused("its name leads out of the folder")
    place = folder
    for part in parts:
        place = place / part
        # Whoever made the link decides where it leads, and it may be changed at any time.
        if place.is_symlink():
            raise _Refused(f"{place} is a link: take it away to get the file")
    if place.exists() and not place.is_file():
        raise _Refused(f"{place} is here, and it is no file")
    return place


@contextmanager
def _new_file(target: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A new file beside the target, which is gone afterwards unless it has become the target."""
    part = target.with_name(f"{_PART}{secrets.token_hex(8)}")
    try:
        with part.open("xb") as file:
            yield file, part
    finally:
        part.unlink(missing_ok=True)


def _checked(part: Path, entry: Entry) -> Digests:
    """What has arrived.

    Raises:
        _Refused: It is not the project's file, byte by byte.
    """
    arrived = digests(part)
    whole = len(entry.version) != _MD5_DIGITS or not entry.version.isalnum() or arrived.md5 == entry.version
    if arrived.size != entry.size or not whole:
        raise _Refused("it did not arrive as it was sent; pull again")
    return arrived


def pull_folder(folder: Path, project: str | None, user: str, *, force: bool) -> bool:
    """Get a project's files into a folder and say what happened; whether it has all of them now.

    Raises:
        ClientError: It is no folder, or no project was named and none is known.
    """
    if folder.exists() and not folder.is_dir():
        raise ClientError(f"{str(folder)!r} is a file: give a folder")
    connection = find_connection(user)
    known = known_project(folder, data_dir()) if connection.local else None
    with Client(connection) as client:
        chosen = choose_project(client, project or known)
        say(f"project {chosen}")
        with ProjectFiles(client, chosen) as files:
            os.makedirs(folder, exist_ok=True)
            result = pull(files, folder, Synced.of(connection, user, chosen, folder), force=force)
    tell(result)
    return not (result.failed or result.kept)


def tell(result: Pull) -> None:
    """Say what a pull did."""
    for reason, paths in sorted(result.skipped.items()):
        say(f"  left out, {reason}: {some(paths)}")
    counts = {name: len(getattr(result, name)) for name in ("new", "replaced", "unchanged", "kept", "failed")}
    say(f"  {', '.join(f'{count} {name}' for name, count in counts.items())}")
    if result.replaced:
        say(f"  replaced because the project's are newer: {some(result.replaced)}")
    if result.kept:
        say(f"  kept because they were changed here: {some(result.kept)} (--force replaces them)")
    for name, reason in result.failed:
        say(f"  not here: {printable(name)}: {clean(reason)}")
