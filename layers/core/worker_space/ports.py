"""What the core needs of the outside world. Every method takes the tenant first; adapters implement one port each.

All methods raise `Unavailable` when the dependency does not answer within its deadline or fails on its own account.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from worker_space.models import ModelReply, ModelRequest
from worker_space.records import Item, Page, Write
from worker_space.tenancy import Key, TenantContext, UserContext

__all__ = [
    "QUEUE_FIELDS",
    "Cache",
    "Content",
    "ContextEntry",
    "ContextMatch",
    "ContextStore",
    "DueItems",
    "Embedder",
    "FileBody",
    "FileInfo",
    "FilePage",
    "Files",
    "FoundMapping",
    "FoundQueues",
    "Lease",
    "Model",
    "Queues",
    "Records",
    "SignedRequest",
    "SpacesByToken",
]

Owner = TenantContext | UserContext


class Records(Protocol):
    """The table, the truth. Reads are consistent."""

    async def get(self, owner: Owner, key: Key) -> Item | None:
        """One item, or `None`."""

    async def get_many(self, owner: Owner, keys: Sequence[Key]) -> Sequence[Item | None]:
        """At most 100 items in one call, in the order of `keys`, `None` for each that is missing."""

    async def query(
        self,
        owner: Owner,
        prefix: Key,
        *,
        limit: int | None = None,
        after: str | None = None,
        descending: bool = False,
    ) -> Page:
        """Items whose sort key begins with `prefix`, from one partition.

        Args:
            limit: Most items of the page; `None` reads to the end (1 call per 1 MB).
            after: Go on behind this sort key (an earlier page's `after`); it need not exist.
            descending: Newest (largest sort key) first.
        """

    async def write(self, owner: Owner, *writes: Write) -> None:
        """All writes or none; at most 100, no two on one item.

        Raises:
            ConditionFailed: A condition did not hold; it carries the items as stored. A collision with a
                transaction under way is repeated by the adapter and reported as `Unavailable` if it stays.
        """


class DueItems(Protocol):
    """The sweeper's sparse index: items that carry `due_shard` and `due_at`, of all tenants, oldest first."""

    async def due(self, shard: str, before: int, limit: int, *, since: int = 0) -> Sequence[tuple[TenantContext, Item]]:
        """At most `limit` items of `shard` whose `due_at` (epoch milliseconds) is from `since` to `before`, inclusive.

        The index follows the table with a delay: an item may be listed as it was a moment ago.
        """


class Cache(Protocol):
    """Redis: faster, never needed. A cache that is down raises `Unavailable`, within 2 s."""

    async def load(self, tenant: TenantContext) -> Mapping[str, str]:
        """All fields of the tenant's hash, in one round trip; empty when there is none."""

    async def store(self, tenant: TenantContext, fields: Mapping[str, str], *, ttl_seconds: int) -> None:
        """Set these fields and the hash's time to live, in one round trip."""

    async def forget(self, tenant: TenantContext, field: str) -> None:
        """Drop one field."""

    async def clear(self, tenant: TenantContext) -> None:
        """Drop the tenant's hash and signs, in one command; no other tenant's keys are looked at."""

    async def remains(self, tenant: TenantContext) -> int:
        """How many fields and signs there are of the tenant, asked anew in one round trip."""

    async def wake(self, tenant: TenantContext, task_id: str, *, ttl_seconds: int) -> None:
        """Leave the sign that a task has ended, in one round trip. All signs go with the latest one at the latest."""

    async def woken(self, tenant: TenantContext, task_id: str) -> bool:
        """Whether that sign is there."""

    async def ping(self) -> None:
        """Ask the server for a sign of life."""


class Queues(Protocol):
    """FIFO queues with the event source mappings that drain them.

    Either each project has a queue of its own for each generation, or a fixed number of *pooled* ones, made with the
    stack, serves all. The pooled ones are always there: creating, releasing and waking mean nothing to them, and only
    an own queue from before the switch is still listed and released.
    """

    async def create(self, tenant: TenantContext, generation: int) -> None:
        """Make queue and mapping; what exists already is success.

        Raises:
            Unavailable: Also when the queue's name was deleted less than 60 s ago.
        """

    async def release(self, tenant: TenantContext, generation: int) -> None:
        """Delete mapping and queue; what is gone already is success."""

    async def send(self, tenant: TenantContext, generation: int, body: str, *, group: str, deduplication: str) -> None:
        """Send one message.

        Raises:
            NotFound: The queue is gone.
        """

    async def extend(self, tenant: TenantContext, lease: "Lease", seconds: int) -> None:
        """Hide the message for `seconds` from now on.

        Raises:
            ClaimLost: The receipt is no longer the message's current one.
        """

    async def wake_worker(self, tenant: TenantContext, generation: int) -> None:
        """Ask the worker function, without waiting, to drain this queue until its mapping runs."""

    async def depth(self, tenant: TenantContext, generation: int) -> int | None:
        """About how many messages wait or are in flight; 0 when the queue is gone.

        `None` for a pooled queue: nobody can count one tenant's messages there, and the others' are not this one's
        to know.
        """

    async def exists(self, tenant: TenantContext, generation: int) -> bool:
        """Whether the queue that takes the tenant's messages is there."""

    async def generations(self, tenant: TenantContext) -> Sequence[int]:
        """Which of the tenant's own queues are there, by their names; a new or deleted one shows within a minute."""

    async def mappings(self, tenant: TenantContext, generation: int) -> int:
        """How many event source mappings of the queue there are, not counting those that are being deleted."""

    async def ping(self) -> None:
        """Ask the service for a sign of life."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundMapping:
    """An event source mapping as it was found.

    Attributes:
        queue: The name of its source.
        changed_at: When it was made or last changed, epoch milliseconds.
    """

    id: str
    queue: str
    changed_at: int


class FoundQueues(Protocol):
    """What there really is of projects' own queues and their mappings, of all tenants: for who looks for orphans.

    Other queues (of another deployment, the pooled ones, the dead letters') are neither listed nor removed. All calls
    together are paced, because Lambda takes 15 control-plane calls a second from a whole account.
    """

    def queues(self) -> AsyncIterator[Sequence[str]]:
        """The queues' names, page by page; a new or deleted one shows within a minute."""

    def mappings(self) -> AsyncIterator[Sequence[FoundMapping]]:
        """The mappings, page by page, without those that are being deleted."""

    async def mappings_of(self, queue: str) -> Sequence[FoundMapping]:
        """Those of one queue."""

    async def made_at(self, queue: str) -> int | None:
        """When the queue was made, epoch milliseconds; `None` when there is no such queue."""

    async def remove_queue(self, queue: str) -> None:
        """Delete a queue with what is in it; one that is gone is success.

        Raises:
            InvalidRequest: It is no project's own queue of this deployment.
        """

    async def remove_mapping(self, mapping: FoundMapping) -> None:
        """Delete a mapping; one that is gone is success.

        Raises:
            InvalidRequest: Its source is no project's own queue of this deployment.
        """


QUEUE_FIELDS = ("user_id", "project_id", "state", "generation", "releasing")
"""What `SpacesByToken` tells of a space."""


class SpacesByToken(Protocol):
    """The spaces' records for who has only names of queues. Reads are consistent."""

    async def spaces(self, tokens: Sequence[str]) -> Sequence[Item | None]:
        """`QUEUE_FIELDS` of at most 100 tenants' spaces, no tenant twice; `None` for each that is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lease:
    """One delivery of a message, as its receiver may extend it.

    Attributes:
        message_id: The message's own; a copy of it has another.
    """

    queue_url: str
    receipt_handle: str
    message_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextEntry:
    """One thing an agent remembers.

    Attributes:
        id: Names the entry within the agent (a task's id, say); storing it again replaces it.
        text: What is remembered and searched.
        kind: `interaction` (a message and its answer) or `note` (said to be remembered).
        created_at: Epoch milliseconds.
        success: False for an interaction that failed; such are not recalled.
    """

    id: str
    text: str
    kind: str
    created_at: int
    task_id: str | None = None
    session_id: str | None = None
    success: bool = True
    generation: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ContextMatch:
    """An entry that a search found; scores are comparable within one search only."""

    entry: ContextEntry
    score: float


class ContextStore(Protocol):
    """Agent memory. What one agent stored, no other agent or tenant finds."""

    async def ensure(self, tenant: TenantContext, agent_id: str) -> None:
        """Make sure that the agent's memory exists; cheap when it does."""

    async def add(self, tenant: TenantContext, agent_id: str, entry: ContextEntry) -> None:
        """Store an entry under its deterministic point id.

        Raises:
            NotFound: The agent's memory does not exist (a late writer must not bring an erased one back).
        """

    async def search(
        self, tenant: TenantContext, agent_id: str, query: str, *, limit: int, generation: int = 1
    ) -> Sequence[ContextMatch]:
        """The best successful entries of this context generation, best first.

        Empty without a memory, and for a query without a word that carries meaning.
        """

    async def entries(
        self,
        tenant: TenantContext,
        agent_id: str,
        *,
        limit: int,
        after: str | None = None,
        generation: int | None = None,
    ) -> tuple[Sequence[ContextEntry], str | None]:
        """A page of the agent's entries, failed ones too, and where to go on.

        Args:
            generation: Only entries of this one; `None` lists also what was cleared and is left.
        """

    async def remove(self, tenant: TenantContext, agent_id: str, entry_id: str) -> bool:
        """Delete one entry; whether it was there."""

    async def clear(self, tenant: TenantContext, agent_id: str, *, before: int) -> None:
        """Delete the entries of all generations below `before`; a missing memory is no error."""

    async def forget_session(self, tenant: TenantContext, agent_id: str, session_id: str) -> None:
        """Delete the agent's entries of one session, of all generations; a missing memory is no error."""

    async def drop(self, tenant: TenantContext, agent_id: str) -> None:
        """Delete the agent's memory with all it holds; a missing one is no error."""

    async def drop_all(self, tenant: TenantContext) -> None:
        """Delete all memory of the tenant, also of agents that nobody knows any more and of the other layout."""

    async def remains(self, tenant: TenantContext) -> int:
        """How many memories and entries of the tenant still exist, asked anew; 0 when nothing is left."""

    async def ping(self) -> None:
        """Ask the server for a sign of life."""


class Embedder(Protocol):
    """Turns texts into vectors whose nearness is nearness in meaning."""

    @property
    def space(self) -> str:
        """Names what its vectors may be compared with: another model's, or another length's, has another name."""

    @property
    def dimensions(self) -> int:
        """The length of each vector."""

    async def embed(self, tenant: TenantContext, texts: Sequence[str]) -> Sequence[Sequence[float]]:
        """One vector for each text, in their order. Long texts may be cut.

        Raises:
            Unavailable: There is no usable answer, for whatever reason: go on without vectors.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """A file of the User Workspace.

    Attributes:
        path: Normalised, relative to the project's root.
        size: Bytes.
        version: The ETag, with which a later write can ask for no change in between.
        modified_at: Epoch milliseconds.
        effect: The `task#step` that wrote this version, when an agent did.
    """

    path: str
    size: int
    version: str
    modified_at: int
    content_type: str | None = None
    effect: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FileBody:
    """Bytes of a file from `start` on."""

    info: FileInfo
    data: bytes
    start: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FilePage:
    """`folders` are paths without a trailing slash; `after` goes on behind this page."""

    files: Sequence[FileInfo]
    folders: Sequence[str] = field(default=())
    after: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedRequest:
    """A request to the store itself that its holder may make without any other credentials, until it expires.

    Attributes:
        url: Whoever has it has the right: it is neither logged nor kept.
        headers: Must be sent exactly as they are here; all of them are signed.
        expires_at: Epoch milliseconds. A transfer that has begun by then goes on.
    """

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    expires_at: int


class Files(Protocol):
    """The User Workspace in one S3 prefix. Paths are normalised already (`paths.workspace_path`)."""

    async def head(self, tenant: TenantContext, path: str) -> FileInfo | None:
        """What is known of a file without its bytes."""

    async def read(
        self, tenant: TenantContext, path: str, *, start: int = 0, length: int | None = None
    ) -> FileBody | None:
        """A file's bytes from `start`, `None` if there is no such file; `start` behind its end gives no bytes."""

    async def write(
        self,
        tenant: TenantContext,
        path: str,
        data: bytes,
        *,
        if_version: str | None = None,
        if_absent: bool = False,
        content_type: str | None = None,
        effect: str | None = None,
    ) -> FileInfo:
        """Store a file whole.

        Raises:
            ConditionFailed: It is not at `if_version` any more, or exists though `if_absent`.
        """

    async def delete(self, tenant: TenantContext, path: str, *, if_version: str | None = None) -> None:
        """Take a file away; a missing one is no error without `if_version`.

        Raises:
            ConditionFailed: It is not at `if_version` any more (also when it is gone).
        """

    async def copy(
        self, tenant: TenantContext, source: str, target: str, *, if_version: str, effect: str | None = None
    ) -> FileInfo:
        """Copy a file to a target that must not exist.

        Raises:
            ConditionFailed: The source is not at `if_version` any more, or the target exists.
        """

    async def list(
        self,
        tenant: TenantContext,
        folder: str = "",
        *,
        recursive: bool = False,
        limit: int = 1000,
        after: str | None = None,
    ) -> FilePage:
        """Files (and, unless `recursive`, folders) below `folder` (`""` is the root), in order of their paths."""

    async def sign_upload(
        self,
        tenant: TenantContext,
        path: str,
        *,
        size: int,
        seconds: int,
        content_type: str = "application/octet-stream",
        sha256: str | None = None,
        if_version: str | None = None,
        if_absent: bool = False,
    ) -> SignedRequest:
        """Let somebody store exactly this file, past us: another path, size, type or condition is refused by the store.

        Args:
            size: Bytes; the store takes at most 5 GiB at once.
            seconds: How long the request may be begun.
            sha256: 64 hexadecimal digits; the store then refuses other content.
            if_version: Stored only if the file is still at this version (`If-Match`).
            if_absent: Stored only if there is no such file (`If-None-Match`).
        """

    async def sign_download(
        self, tenant: TenantContext, path: str, *, seconds: int
    ) -> tuple[FileInfo, SignedRequest] | None:
        """Let somebody read this file as it is now, past us; `None` if there is no such file.

        A later change of the file does not reach the address; where the bucket keeps no versions, a request for a
        changed file may give the new one.
        """

    async def remains(self, tenant: TenantContext) -> int:
        """How much the store still holds for the tenant, asked anew.

        Objects with all their versions count, marks of deleted ones, and unfinished uploads.
        """

    async def erase(self, tenant: TenantContext) -> int:
        """Delete all that `remains` counts, for good; returns how much it was.

        It may take long, and may be cancelled and called again: what is gone stays gone.
        """

    async def ping(self) -> None:
        """Ask the store for a sign of life."""


class Content(Protocol):
    """Texts too large for the table: backend resources under a prefix of their own, no files of the user's."""

    async def put(self, tenant: TenantContext, key: str, text: str) -> None:
        """Store a text; the same key may be stored again."""

    async def get(self, tenant: TenantContext, key: str) -> str | None:
        """The text, or `None`."""

    def all_keys(self, tenant: TenantContext) -> AsyncIterator[str]:
        """Every key of the tenant."""

    async def delete(self, tenant: TenantContext, keys: Sequence[str]) -> None:
        """Delete these."""

    async def hand_out(
        self, tenant: TenantContext, key: str, data: bytes, *, filename: str, content_type: str, seconds: int
    ) -> SignedRequest:
        """Store bytes in the place of what lay under the key, and let somebody read exactly these, past us.

        Where the bucket keeps no versions, a request that comes after the next storing gives that one's.

        Args:
            filename: What a browser keeps them as.
            seconds: How long the request may be begun.
        """

    async def remains(self, tenant: TenantContext) -> int:
        """As `Files.remains`, of the contents."""

    async def erase(self, tenant: TenantContext) -> int:
        """As `Files.erase`, of the contents."""


class Model(Protocol):
    """Language models by name."""

    def check(self, model: str) -> None:
        """Raise `InvalidRequest` when no provider of this deployment serves the name."""

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """One answer.

        Args:
            on_text: Is given each piece of the answer's text as it is produced, where the provider streams. Must not
                block. A request that is repeated inside (a passing failure) begins to stream only once it is answered,
                so that no piece is given twice.

        Raises:
            ModelError: The provider refuses, or its answer is unusable: repeating does not help.
            Unavailable: The provider does not answer in time, or has an error of its own.
        """


JsonObject = Mapping[str, Any]
