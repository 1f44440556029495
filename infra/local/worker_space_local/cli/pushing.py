"""Sending a folder to a project: what the project lacks or has otherwise, several files at a time."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from worker_space_local.cli.folder import Selection, printable, project_id, select, simple_id, some, tell_skipped
from worker_space_local.cli.screen import Progress, clean, progress, say
from worker_space_local.cli.synced import Synced
from worker_space_local.client import Client, ClientError, Problem, data_dir, find_connection
from worker_space_local.project_files import Entry, ProjectFiles, digests

AT_ONCE: Final = 4


@dataclass(kw_only=True)
class Push:
    """What a push did: paths by outcome, and those that failed with the reason."""

    new: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    unchanged: list[str] = field(default_factory=list)
    failed: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    kind: str
    reason: str = ""
    version: str = ""
    md5: str = ""


def push(client: Client, project: str, selection: Selection, synced: Synced) -> Push:
    """Send the files that the project lacks or has otherwise; delete nothing.

    Each is stored only if the project still has what was listed, so that an agent's edit made meanwhile is not lost.
    What has arrived stays when a push is broken off: the next one skips it.
    """
    with ProjectFiles(client, project) as files:
        with progress("comparing files with the project's"):
            there = files.entries()
        result = Push()
        sizes = sum(path.stat().st_size for path in selection.files.values() if path.exists())
        with (
            progress("sending files", len(selection.files), bytes_=sizes) as state,
            ThreadPoolExecutor(AT_ONCE) as pool,
        ):
            jobs = [
                pool.submit(_send, files, name, path, there.get(name), synced, state)
                for name, path in selection.files.items()
            ]
            try:
                for name, job in zip(selection.files, jobs, strict=True):
                    _enter(result, synced, name, job.result())
                    state.done += 1
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
            finally:
                synced.save()
    return result


def _enter(result: Push, synced: Synced, name: str, outcome: _Outcome) -> None:
    if outcome.kind == "failed":
        result.failed.append((name, outcome.reason))
        return
    {"new": result.new, "replaced": result.replaced, "unchanged": result.unchanged}[outcome.kind].append(name)
    synced.note(name, outcome.version, outcome.md5)


def _send(files: ProjectFiles, name: str, path: Path, there: Entry | None, synced: Synced, state: Progress) -> _Outcome:
    try:
        here = digests(path)
        # A version is the content's MD5 where it was stored in one piece; otherwise only what was noted tells.
        if there is not None and (there.version == here.md5 or synced.same(name, there.version, here.md5)):
            state.moved(here.size)
            return _Outcome(kind="unchanged", version=there.version, md5=here.md5)
        version = files.send(name, path, here, None if there is None else there.version, state.moved)
    except UnicodeEncodeError:
        return _Outcome(kind="failed", reason="its name is not valid Unicode")
    except OSError as error:
        return _Outcome(kind="failed", reason=f"it cannot be read: {error.strerror}")
    except Problem as problem:
        if problem.status == 412:
            return _Outcome(kind="failed", reason="the project's file changed meanwhile; push again to replace it")
        if 400 <= problem.status < 500 and problem.status not in {401, 429}:
            return _Outcome(kind="failed", reason=str(problem))
        raise
    return _Outcome(kind="new" if there is None else "replaced", version=version, md5=here.md5)


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
        result = push(client, chosen, selection, Synced.of(connection, user, chosen, folder))
    tell(result)
    return not result.failed


def tell(result: Push) -> None:
    """Say what a push did."""
    counts = {name: len(getattr(result, name)) for name in ("new", "replaced", "unchanged", "failed")}
    say(f"  {', '.join(f'{count} {name}' for name, count in counts.items())}")
    if result.replaced:
        say(f"  replaced because they differed: {some(result.replaced)}")
    for name, reason in result.failed:
        say(f"  not sent: {printable(name)}: {clean(reason)}")
