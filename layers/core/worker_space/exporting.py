"""Export: one archive of a project, page by page into a file that is gone once it is read.

What is open changes while it is read. Sessions are read first, then tasks, then messages and events: so every message
and event of the archive belongs to a session of it, and every answer to a task that had ended.
"""

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, Final
from zipfile import ZIP_DEFLATED, ZipFile

from worker_space.agent_records import check_live
from worker_space.archive_lines import (
    FORMAT,
    FORMAT_VERSION,
    KINDS,
    MANIFEST,
    MAX_LINES,
    MAX_ONE_TEXT,
    MAX_TEXT_BYTES,
    PROJECT,
    Line,
    Manifest,
    ProjectFacts,
    line_of,
)
from worker_space.clock import now_ms
from worker_space.errors import Conflict, NotFound, TooLarge
from worker_space.metrics import counted
from worker_space.plan_records import StoredPlan
from worker_space.policy import ToolPolicy
from worker_space.ports import Content, ContextStore, Files, Records, SignedRequest
from worker_space.records import Item
from worker_space.tasks import TaskState
from worker_space.tenancy import Key, TenantContext
from worker_space.texts import Texts

__all__ = ["Exporter"]

_PAGE: Final = 50
_FILES_PAGE: Final = 1_000
# Of those that lie in the content store: each takes a round trip, and waits in memory for its line.
_TEXTS_AT_ONCE: Final = 16
_KEPT_UNDER: Final = "export.zip"


@dataclass(slots=True, kw_only=True)
class _Seen:
    """What the archive has so far, as far as later kinds refer to it."""

    agents: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)
    sessions: dict[str, int] = field(default_factory=dict)
    tasks: set[str] = field(default_factory=set)
    open_tasks: set[str] = field(default_factory=set)


class Exporter:
    """Writes archives of projects."""

    def __init__(self, *, records: Records, texts: Texts, content: Content, memory: ContextStore, files: Files) -> None:
        self._records = records
        self._texts = texts
        self._content = content
        self._memory = memory
        self._files = files

    async def export(self, tenant: TenantContext) -> bytes:
        """The project's archive (zip); see `archive_lines` for what it holds.

        Raises:
            NotFound: The user has no such project.
            TooLarge: The archive has over 20,000 lines, unpacks to more than 64 MiB, or one text has over 8 Mi
                characters.
            Unavailable: The table, the content store, the memory or the file store does not answer.
        """
        return await self._export(tenant, await self._home(tenant))

    async def offer(self, tenant: TenantContext, *, most: int, seconds: int) -> bytes | SignedRequest:
        """The project's archive; a large one as a request that reads it from the content store.

        There is one place for it, so at most the latest archive lies there. It goes with the project.

        Args:
            most: Bytes; an archive of more is not returned.
            seconds: How long the request may be begun.

        Raises:
            Conflict: The project was reset or made anew while its archive was stored.
            NotFound, TooLarge, Unavailable: As `export`.
        """
        home = await self._home(tenant)
        data = await self._export(tenant, home)
        if len(data) <= most:
            return data
        signed = await self._content.hand_out(
            tenant, _KEPT_UNDER, data, filename="project.zip", content_type="application/zip", seconds=seconds
        )
        try:
            # Whoever deletes the project lists its contents after that: one of the two sees the other.
            if (await self._home(tenant))[0]["epoch"] != home[0]["epoch"]:
                raise Conflict("the project was reset or made anew while it was exported: repeat the request")
        except (Conflict, NotFound):
            await self._content.delete(tenant, [_KEPT_UNDER])
            raise
        return signed

    async def _home(self, tenant: TenantContext) -> Sequence[Item]:
        home = (await self._records.query(tenant, Key.home())).items
        check_live(tenant, home)
        return home

    async def _export(self, tenant: TenantContext, home: Iterable[Item]) -> bytes:
        with tempfile.TemporaryFile() as spool:
            await self._write(tenant, home, spool)
            spool.seek(0)
            return spool.read()

    async def _write(self, tenant: TenantContext, home: Iterable[Item], spool: IO[bytes]) -> None:
        space, *agents = home
        seen = _Seen()
        sections: Mapping[str, AsyncIterator[Line]] = {
            "agents.jsonl": self._agents(agents, seen),
            "agent_versions.jsonl": self._versions(tenant, seen),
            "sessions.jsonl": self._sessions(tenant, seen),
            "tasks.jsonl": self._tasks(tenant, seen),
            "steps.jsonl": self._steps(tenant, seen),
            "messages.jsonl": self._messages(tenant, seen),
            "plans.jsonl": self._plans(tenant, seen),
            "approvals.jsonl": self._approvals(tenant, seen),
            "events.jsonl": self._events(tenant, seen),
            "context.jsonl": self._context(tenant, seen),
            "counters.jsonl": self._counters(tenant),
            "files.jsonl": self._list_files(tenant),
        }
        counts: dict[str, int] = {}
        room = _Room()
        with ZipFile(spool, "w", ZIP_DEFLATED) as archive:
            archive.writestr(PROJECT, _project(space).model_dump_json(indent=2))
            for name, lines in sections.items():
                counts[name] = 0
                with archive.open(name, "w") as section:
                    async for line in lines:
                        data = line.model_dump_json(exclude_none=True).encode() + b"\n"
                        section.write(data)
                        counts[name] += 1
                        room.take(len(data))
            manifest = Manifest(format=FORMAT, version=FORMAT_VERSION, exported_at=now_ms(), counts=counts)
            archive.writestr(MANIFEST, manifest.model_dump_json(indent=2))

    # -- the kinds -------------------------------------------------------------------------------
    async def _agents(self, items: Iterable[Item], seen: _Seen) -> AsyncIterator[Line]:
        for item in items:
            seen.agents[item["id"]] = item.get("context_generation", 1)
            seen.versions[item["id"]] = item["version"]
            yield line_of(KINDS["agents.jsonl"], item)

    async def _versions(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        async for item in self._items(tenant, Key.all_agent_versions()):
            # An agent that was changed meanwhile is in the archive as it was.
            if item["version"] <= seen.versions.get(item["id"], item["version"]):
                yield line_of(KINDS["agent_versions.jsonl"], item)

    async def _sessions(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        async for item in self._items(tenant, Key.sessions()):
            if "closing" not in item:
                seen.sessions[item["id"]] = item["next_number"]
                yield line_of(KINDS["sessions.jsonl"], item)

    async def _tasks(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        async def known() -> AsyncIterator[Item]:
            async for item in self._items(tenant, Key.tasks()):
                if item["number"] < seen.sessions.get(item["session_id"], 0):
                    seen.tasks.add(item["id"])
                    if not TaskState(item["state"]).ended:
                        seen.open_tasks.add(item["id"])
                    yield item

        async for item, text in self._with_texts(tenant, known()):
            more = {"output": text} if "content" in item or "content_key" in item else {}
            yield line_of(KINDS["tasks.jsonl"], {**item, **more})

    async def _steps(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        items = self._items(tenant, Key.all_steps())
        known = (item async for item in items if Key(item["sk"]).owner in seen.tasks)
        async for item, text in self._with_texts(tenant, known):
            more = {"task_id": Key(item["sk"]).owner, "body": _without_provider(text)}
            yield line_of(KINDS["steps.jsonl"], {**item, **more})

    async def _messages(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        def is_known(item: Item) -> bool:
            came_later = item["number"] >= seen.sessions.get(Key(item["sk"]).owner, 0)
            answer_to_open = item["role"] == "assistant" and item["task_id"] in seen.open_tasks
            return not came_later and not answer_to_open

        known = (item async for item in self._items(tenant, Key.all_messages()) if is_known(item))
        async for item, content in self._with_texts(tenant, known):
            more = {"session_id": Key(item["sk"]).owner, "content": content}
            yield line_of(KINDS["messages.jsonl"], {**item, **more})

    async def _plans(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        async for item in self._items(tenant, Key.plans()):
            stored = StoredPlan.of(item)
            if stored.plan.session_id in seen.sessions:
                yield line_of(KINDS["plans.jsonl"], {"plan": stored.plan, "former": stored.former})

    async def _approvals(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        known = (item async for item in self._items(tenant, Key.approvals()) if item["task_id"] in seen.tasks)
        async for item, arguments in self._with_texts(tenant, known):
            texts = {"arguments": arguments}
            if "edited" in item:
                texts["edited"] = await self._text(tenant, item["edited"])
            yield line_of(KINDS["approvals.jsonl"], {**item, **texts})

    async def _events(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        cut: str | None = None
        async for item in self._items(tenant, Key.all_events()):
            session_id, seq = Key(item["sk"]).owner, Key(item["sk"]).place
            if session_id == cut or session_id not in seen.sessions:
                continue
            if "task_id" in item and item["task_id"] not in seen.tasks:
                # From here on the session went on behind what is in the archive.
                cut = session_id
                continue
            yield line_of(KINDS["events.jsonl"], {**item, "session_id": session_id, "seq": seq})

    async def _context(self, tenant: TenantContext, seen: _Seen) -> AsyncIterator[Line]:
        for agent_id, generation in seen.agents.items():
            after: str | None = None
            while True:
                entries, after = await self._memory.entries(
                    tenant, agent_id, limit=_PAGE, after=after, generation=generation
                )
                for entry in entries:
                    values = {name: getattr(entry, name) for name in ("id", "text", "kind", "created_at", "success")}
                    ids = {"agent_id": agent_id, "task_id": entry.task_id, "session_id": entry.session_id}
                    yield line_of(KINDS["context.jsonl"], {**values, **ids})
                if after is None:
                    break

    async def _counters(self, tenant: TenantContext) -> AsyncIterator[Line]:
        async for item in self._items(tenant, Key.runtimes()):
            if counts := counted(item):
                yield line_of(KINDS["counters.jsonl"], {"agent_id": Key(item["sk"]).owner, "counts": counts})

    async def _list_files(self, tenant: TenantContext) -> AsyncIterator[Line]:
        after: str | None = None
        while True:
            page = await self._files.list(tenant, recursive=True, limit=_FILES_PAGE, after=after)
            for info in page.files:
                values = {"path": info.path, "size": info.size, "version": info.version}
                yield line_of(KINDS["files.jsonl"], values)
            after = page.after
            if after is None:
                return

    async def _with_texts(self, tenant: TenantContext, items: AsyncIterator[Item]) -> AsyncIterator[tuple[Item, str]]:
        """Items with their texts, of which some are read at a time."""
        several: list[Item] = []
        far = 0
        async for item in items:
            several.append(item)
            far += "content_key" in item
            if far == _TEXTS_AT_ONCE or len(several) == _PAGE:
                for pair in await self._read(tenant, several):
                    yield pair
                several, far = [], 0
        for pair in await self._read(tenant, several):
            yield pair

    async def _read(self, tenant: TenantContext, items: Sequence[Item]) -> Iterable[tuple[Item, str]]:
        return zip(items, await asyncio.gather(*(self._text(tenant, item) for item in items)), strict=True)

    async def _text(self, tenant: TenantContext, item: Item) -> str:
        text = await self._texts.read(tenant, item)
        if len(text) > MAX_ONE_TEXT:
            raise TooLarge(f"a text of the project has over {MAX_ONE_TEXT} characters: delete the session it is in")
        return text

    async def _items(self, tenant: TenantContext, prefix: Key) -> AsyncIterator[Item]:
        after: str | None = None
        while True:
            page = await self._records.query(tenant, prefix, limit=_PAGE, after=after)
            for item in page.items:
                yield item
            after = page.after
            if after is None:
                return


class _Room:
    """What an archive may still take."""

    def __init__(self) -> None:
        self._lines = MAX_LINES
        self._bytes = MAX_TEXT_BYTES

    def take(self, size: int) -> None:
        self._lines -= 1
        self._bytes -= size
        if self._lines < 0:
            raise TooLarge(f"the project has more than {MAX_LINES} things: delete sessions that you no longer need")
        if self._bytes < 0:
            raise TooLarge(
                f"the archive would unpack to over {MAX_TEXT_BYTES} bytes: delete sessions that you no longer need"
            )


def _project(space: Item) -> ProjectFacts:
    return ProjectFacts(
        name=space["name"],
        policy=ToolPolicy.model_validate(space.get("policy", {})),
        limits=space.get("limits", {}),
        created_at=space["created_at"],
    )


def _without_provider(body: str) -> str:
    """A step without the model library's own form of an answer: opaque to us, and of no use once the task has ended."""
    step: dict[str, Any] = json.loads(body)
    if isinstance(step.get("reply"), dict):
        step["reply"] = {**step["reply"], "provider": ""}
    return json.dumps(step)
