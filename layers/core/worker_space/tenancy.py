"""Every name that carries a tenant is spelled here, and nowhere else.

A *token* stands for a (user, project) pair in every store. Two rules hold for all names made from it, and property
tests over hostile ids prove them:

* **injective**: two different pairs never share a name, also not after case folding or truncation.
  The readable form ``user{u}_project{p}`` is used only where both ids are lower-case letters, digits and hyphens:
  such ids cannot hold ``_``, so the form can be read in one way only. All other pairs, and long ones, get ``hash_`` and
  a 160-bit SHA-256 over the length-prefixed ids, in lower-case base32: no readable form starts with ``hash_``.
* **prefix-free**: no name of one pair is the beginning of another pair's name, because a delimiter that a token
  cannot contain follows every token (``_g`` for queues, ``/`` for objects, ``:`` for cache keys, ``_agent`` for
  collections: after a token's own single ``_`` a second one cannot belong to an id).
"""

import base64
import hashlib
import re
import unicodedata
import uuid
from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from worker_space.errors import InvalidRequest

__all__ = [
    "Key",
    "Names",
    "QueueOwner",
    "TenantContext",
    "UserContext",
    "partition",
    "partition_of",
    "project_address",
    "session_tags",
]

_READABLE: Final = re.compile(r"[a-z0-9][a-z0-9-]*")
_PART: Final = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
_PREFIX: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,10}[a-z0-9])?")
# What `TenantContext.token` gives.
_TENANT_IN_A_NAME: Final = r"user[a-z0-9][a-z0-9-]*_project[a-z0-9][a-z0-9-]*|hash_[a-z2-7]{32}"
_POINTS: Final = uuid.UUID("6f2b3c1e-6c0f-5d2c-9a55-0d8f0b7f5e11")

# 12 (prefix) + 1 + 52 (token) + 2 + 8 (generation) + 5 (".fifo") = 80, the most SQS takes for a queue's name.
_TOKEN_MAX: Final = 52
_GENERATION_MAX: Final = 36**8 - 1
_ID_MAX: Final = 255
_PROJECT_BYTES: Final = 1_000


def _check_id(kind: str, value: str) -> None:
    if not 1 <= len(value) <= _ID_MAX:
        raise InvalidRequest(f"a {kind} must be text of 1 to {_ID_MAX} characters")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in value):
        raise InvalidRequest(f"a {kind} must not hold control characters")


def _digest(*parts: str) -> str:
    """160 bits of SHA-256 over the length-prefixed parts: 32 characters of lower-case base32."""
    sha = hashlib.sha256()
    for part in parts:
        # A name is looked up before anybody checks it: JSON can spell half a surrogate pair, UTF-8 cannot.
        data = part.encode(errors="surrogatepass")
        sha.update(len(data).to_bytes(4, "big") + data)
    return base64.b32encode(sha.digest()[:20]).decode().lower()


@dataclass(frozen=True, slots=True)
class UserContext:
    """One user, as the verified token names them.

    Raises:
        InvalidRequest: The id is empty, longer than 255 characters or holds control characters.
    """

    user_id: str

    def __post_init__(self) -> None:
        _check_id("user id", self.user_id)

    @property
    def token(self) -> str:
        if _READABLE.fullmatch(self.user_id) and len(self.user_id) <= _TOKEN_MAX - len("user"):
            return f"user{self.user_id}"
        return f"hash_{_digest(self.user_id)}"


@dataclass(frozen=True, slots=True)
class TenantContext:
    """One (user, project) pair: the first argument of every port method.

    Attributes:
        user_id: The verified `sub` claim of the token (RFC 7519, section 4.1.2).
        project_id: The project of that user, from the URL.

    Raises:
        InvalidRequest: An id is empty, longer than 255 characters or holds control characters.
    """

    user_id: str
    project_id: str

    def __post_init__(self) -> None:
        _check_id("user id", self.user_id)
        _check_id("project id", self.project_id)

    @property
    def user(self) -> UserContext:
        return UserContext(self.user_id)

    @property
    def token(self) -> str:
        """The pair's name in every store: `[a-z0-9_-]`, at most 52 characters."""
        readable = f"user{self.user_id}_project{self.project_id}"
        if len(readable) <= _TOKEN_MAX and _READABLE.fullmatch(self.user_id) and _READABLE.fullmatch(self.project_id):
            return readable
        return f"hash_{_digest(self.user_id, self.project_id)}"

    @property
    def pseudonym(self) -> str:
        """Stands for the pair in logs and traces: 16 hexadecimal digits of the token's SHA-256. It names nothing."""
        return hashlib.sha256(self.token.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Key:
    """An item's place: a sort key in the tenant's own partition or in its user's.

    There is no way to spell another tenant's partition: `partition` derives it from the context of the call.
    """

    sort: str
    scope: Literal["tenant", "user"] = "tenant"

    @property
    def kind(self) -> str:
        """What kind of item it is: all keys of one kind begin with it."""
        return self.sort.partition("#")[0]

    @property
    def last(self) -> str:
        """The last part: the id of an item that is named by one."""
        return self.sort.rpartition("#")[2]

    # -- the space and its projects --------------------------------------------------------------
    @classmethod
    def home(cls) -> "Key":
        """Begins the keys of the space's record and its agents, so that one query rehydrates both."""
        return cls("HOME")

    @classmethod
    def space(cls) -> "Key":
        return cls("HOME")

    @classmethod
    def project(cls, tenant: TenantContext) -> "Key":
        name = tenant.project_id
        # A sort key has at most 1,024 bytes. No project has so long an id, and it is asked for all the same.
        return cls(f"PROJECT#{name if len(name.encode()) <= _PROJECT_BYTES else _digest(name)}", "user")

    @classmethod
    def projects(cls) -> "Key":
        return cls("PROJECT#", "user")

    @classmethod
    def idempotency(cls, kind: str, key: str, scope: Literal["tenant", "user"] = "tenant") -> "Key":
        return cls(f"IDEMPOTENCY#{_digest(kind, key)}", scope)

    @classmethod
    def idempotencies(cls, scope: Literal["tenant", "user"] = "tenant") -> "Key":
        return cls("IDEMPOTENCY#", scope)

    # -- agents ----------------------------------------------------------------------------------
    @classmethod
    def agent(cls, agent_id: str) -> "Key":
        return cls(f"HOME#AGENT#{_part(agent_id)}")

    @classmethod
    def agents(cls) -> "Key":
        return cls("HOME#AGENT#")

    @classmethod
    def agent_name(cls, name: str) -> "Key":
        return cls(f"AGENTNAME#{_digest(unicodedata.normalize('NFC', name).casefold())}")

    @classmethod
    def agent_version(cls, agent_id: str, version: int) -> "Key":
        return cls(f"AGENTVERSION#{_part(agent_id)}#{version:08d}")

    @classmethod
    def agent_versions(cls, agent_id: str) -> "Key":
        return cls(f"AGENTVERSION#{_part(agent_id)}#")

    @classmethod
    def all_agent_versions(cls) -> "Key":
        return cls("AGENTVERSION#")

    @classmethod
    def runtime(cls, agent_id: str) -> "Key":
        return cls(f"RUNTIME#{_part(agent_id)}")

    @classmethod
    def runtimes(cls) -> "Key":
        return cls("RUNTIME#")

    # -- sessions, messages, tasks ---------------------------------------------------------------
    @classmethod
    def session(cls, session_id: str) -> "Key":
        return cls(f"SESSION#{_part(session_id)}")

    @classmethod
    def sessions(cls) -> "Key":
        return cls("SESSION#")

    @classmethod
    def message(cls, session_id: str, number: int) -> "Key":
        return cls(f"MESSAGE#{_part(session_id)}#{number:012d}")

    @classmethod
    def messages(cls, session_id: str) -> "Key":
        return cls(f"MESSAGE#{_part(session_id)}#")

    @classmethod
    def task(cls, task_id: str) -> "Key":
        return cls(f"TASK#{_part(task_id)}")

    @classmethod
    def tasks(cls) -> "Key":
        return cls("TASK#")

    @classmethod
    def step(cls, task_id: str, number: int) -> "Key":
        return cls(f"STEP#{_part(task_id)}#{number:06d}")

    @classmethod
    def steps(cls, task_id: str) -> "Key":
        return cls(f"STEP#{_part(task_id)}#")

    # -- of all sessions and tasks, for those who read everything ------------------------------------
    @classmethod
    def all_messages(cls) -> "Key":
        return cls("MESSAGE#")

    @classmethod
    def all_steps(cls) -> "Key":
        return cls("STEP#")

    @classmethod
    def all_events(cls) -> "Key":
        return cls("EVENT#")

    @property
    def owner(self) -> str:
        """Whose it is: of a message's or event's key the session, of a step's the task, of a runtime's the agent."""
        return self.sort.split("#")[1]

    @property
    def place(self) -> int:
        """The number at the end of a message's, event's or step's key."""
        return int(self.sort.rpartition("#")[2])

    @classmethod
    def forgetting(cls, session_id: str) -> "Key":
        """What is noted of a deleted session until no agent remembers it."""
        return cls(f"FORGETTING#{_part(session_id)}")

    @classmethod
    def forgettings(cls) -> "Key":
        return cls("FORGETTING#")

    # -- events, approvals, plans ------------------------------------------------------------------
    @classmethod
    def event(cls, session_id: str, seq: int) -> "Key":
        return cls(f"EVENT#{_part(session_id)}#{seq:012d}")

    @classmethod
    def events(cls, session_id: str) -> "Key":
        return cls(f"EVENT#{_part(session_id)}#")

    @classmethod
    def stream_ticket(cls, secret: str) -> "Key":
        """Where a ticket for an event stream is kept: by a digest, so that the table holds nothing to open it with."""
        return cls(f"TICKET#{_digest('ticket', secret)}")

    @classmethod
    def approval(cls, approval_id: str) -> "Key":
        return cls(f"APPROVAL#{_part(approval_id)}")

    @classmethod
    def approvals(cls) -> "Key":
        return cls("APPROVAL#")

    @classmethod
    def plan(cls, plan_id: str) -> "Key":
        return cls(f"PLAN#{_part(plan_id)}")

    @classmethod
    def plans(cls) -> "Key":
        return cls("PLAN#")

    # -- what is used, and what is owed --------------------------------------------------------------
    @classmethod
    def usage(cls, period: str, scope: Literal["tenant", "user"] = "tenant") -> "Key":
        """What was used in a period, such as `day20261122`, by the project or by all of a user's projects."""
        return cls(f"USAGE#{_part(period)}", scope)

    @classmethod
    def reservation(cls, task_id: str, number: int) -> "Key":
        return cls(f"RESERVATION#{_part(task_id)}#{number:06d}")

    @classmethod
    def reservations(cls, task_id: str) -> "Key":
        return cls(f"RESERVATION#{_part(task_id)}#")

    @classmethod
    def all_reservations(cls) -> "Key":
        return cls("RESERVATION#")

    @classmethod
    def erasure(cls, erasure_id: str) -> "Key":
        """The receipt of an erasure: it outlives the project, so the user's own partition holds it."""
        return cls(f"ERASURE#{_part(erasure_id)}", "user")

    @classmethod
    def erasures(cls) -> "Key":
        return cls("ERASURE#", "user")

    @classmethod
    def everything(cls) -> "Key":
        return cls("")


def _part(value: str) -> str:
    """A server-made id inside a longer name; anything else cannot name an object of ours."""
    if not _PART.fullmatch(value):
        raise InvalidRequest(f"{value[:80]!r} is not an id of this service")
    return value


def project_address(project_id: str) -> str:
    """A project's path in the HTTP surface, without a slash at its end."""
    return f"/my/projects/{quote(project_id, safe='')}"


def partition(owner: TenantContext | UserContext, scope: Literal["tenant", "user"]) -> str:
    """The table's partition key for `scope` as seen by `owner`."""
    if scope == "user":
        user = owner if isinstance(owner, UserContext) else owner.user
        return f"U#{user.token}#"
    if isinstance(owner, UserContext):
        raise InvalidRequest("a user alone has no worker space: name the project")
    return partition_of(owner.token)


def partition_of(token: str) -> str:
    """The table's partition key of the tenant with this token, for those who know no more of it (`QueueOwner`)."""
    return f"T#{token}#"


@dataclass(frozen=True, slots=True)
class QueueOwner:
    """Whose a queue is, as far as its name tells.

    Attributes:
        token: The tenant's; a hashed one does not tell the ids.
        generation: Of the queue.
    """

    token: str
    generation: int


def session_tags(owner: TenantContext | UserContext | QueueOwner) -> dict[str, str]:
    """The tags of credentials that reach what is `owner`'s, and nothing of anybody else's.

    The data role's policy spells names with them (`infra/access.yaml`), as this module does with the same tokens. Who
    is known in part reaches that part: no token of a tenant or user is the word `none`.
    """
    match owner:
        case TenantContext():
            return {"tenant": owner.token, "user": owner.user.token}
        case UserContext():
            return {"tenant": "none", "user": owner.token}
        case QueueOwner():
            return {"tenant": owner.token, "user": "none"}


@dataclass(frozen=True, slots=True)
class Names:
    """The names of one deployed stack's per-tenant resources.

    Args:
        prefix: The stack's own prefix, `[a-z0-9-]`, 1 to 12 characters; permissions are granted by it.
    """

    prefix: str

    def __post_init__(self) -> None:
        if not _PREFIX.fullmatch(self.prefix):
            raise InvalidRequest(
                f"{self.prefix!r} is no name prefix: use 1 to 12 lower-case letters, digits or inner hyphens"
            )

    # -- SQS: at most 80 of [A-Za-z0-9_-] and ".fifo" -----------------------------------------------
    def queue(self, tenant: TenantContext, generation: int) -> str:
        if not 1 <= generation <= _GENERATION_MAX:
            raise InvalidRequest(f"{generation} is no queue generation")
        return f"{self.prefix}_{tenant.token}_g{generation}.fifo"

    def is_queue(self, tenant: TenantContext, name: str) -> bool:
        """Whether `name` is a queue of this tenant, of whatever generation."""
        return self.generation(tenant, name) is not None

    def generation(self, tenant: TenantContext, name: str) -> int | None:
        """The generation of a queue of this tenant; `None` for any other name."""
        match = re.fullmatch(rf"{self.prefix}_{tenant.token}_g([1-9][0-9]*)\.fifo", name)
        return None if match is None else int(match[1])

    def queues_of(self, tenant: TenantContext) -> str:
        """What the tenant's queues of all generations begin with, and no other tenant's."""
        return f"{self.prefix}_{tenant.token}_g"

    @property
    def queues(self) -> str:
        """What every project queue of this stack begins with."""
        return f"{self.prefix}_"

    def queue_owner(self, name: str) -> QueueOwner | None:
        """Whose queue this is; `None` for the name of anything but a project queue of this stack."""
        match = re.fullmatch(rf"{self.prefix}_({_TENANT_IN_A_NAME})_g([1-9][0-9]{{0,13}})\.fifo", name)
        return None if match is None else QueueOwner(match[1], int(match[2]))

    def pool_queue(self, index: int) -> str:
        """One of the queues that all projects share where there is none for each, counted from 0.

        No underscore follows the prefix: whoever may remove `{prefix}_*` must never reach a queue of the template.
        """
        return f"{self.prefix}-pool-{index}.fifo"

    def is_pool_queue(self, name: str) -> bool:
        """Whether `name` is a queue of this stack's pool, whatever its size."""
        return re.fullmatch(rf"{self.prefix}-pool-(0|[1-9][0-9]?)\.fifo", name) is not None

    def pooled_queue(self, tenant: TenantContext, size: int) -> str:
        """The queue of a pool of `size` that is this tenant's: always the same, until the size changes."""
        return self.pool_queue(int.from_bytes(hashlib.sha256(tenant.token.encode()).digest()[:8], "big") % size)

    def group(self, tenant: TenantContext, agent_id: str, slot: int) -> str:
        return f"{tenant.token}:{_part(agent_id)}#{slot}"

    # -- Redis ---------------------------------------------------------------------------------------
    def cached_agents(self, tenant: TenantContext) -> str:
        return f"{self.prefix}:{tenant.token}:agents"

    def ended_tasks(self, tenant: TenantContext) -> str:
        """The signs of all tasks that ended a moment ago: one key, so that nobody has to look for them."""
        return f"{self.prefix}:{tenant.token}:done"

    # -- Qdrant: at most 255 -------------------------------------------------------------------------
    def collection(self, tenant: TenantContext, agent_id: str) -> str:
        return f"{self.prefix}_{tenant.token}_agent_{_part(agent_id)}"

    def collections(self, tenant: TenantContext) -> str:
        return f"{self.prefix}_{tenant.token}_agent_"

    @property
    def shared_collection(self) -> str:
        """The one collection of the shared layout; no token of a tenant begins with `shared`."""
        return f"{self.prefix}_shared_agents"

    def owner(self, tenant: TenantContext, agent_id: str | None = None) -> dict[str, str]:
        """The payload fields that say whose a point is; without an agent, the tenant's alone."""
        owner = {"tenant": tenant.token}
        return owner if agent_id is None else {**owner, "agent_id": _part(agent_id)}

    def point(self, tenant: TenantContext, agent_id: str, source: str) -> str:
        """The same task always gives the same point, so a redelivery never stores twice (RFC 9562, version 5)."""
        return str(uuid.uuid5(_POINTS, _digest(tenant.token, agent_id, source)))

    # -- S3 ------------------------------------------------------------------------------------------
    def workspace(self, tenant: TenantContext) -> str:
        """The prefix of the user's own files."""
        return f"{tenant.token}/"

    def content(self, tenant: TenantContext) -> str:
        """The prefix of texts too large for the table: backend resources, no files of the user's."""
        return f"_content/{tenant.token}/"
