"""Whether a project may take one more message, or a user one more project: read first, then held to by the write.

What was read says no in words that name the limit and its end. What is written carries the same as conditions, so that
racing requests cannot pass a limit together; whose condition fails reads again.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from worker_space.agent_records import IS_LIVE, check_live
from worker_space.allowances import (
    PROJECT_LIMITS,
    Allowances,
    LimitChanges,
    Limits,
    day_ends,
    day_of,
    minute_ends,
    minute_of,
)
from worker_space.errors import ConditionFailed, Conflict, InvalidRequest, LimitReached, PaymentRequired
from worker_space.ports import Records
from worker_space.records import All, Any_, AtMost, Condition, Equals, Exists, Item, Missing, Update, Write
from worker_space.tenancy import Key, TenantContext, UserContext

__all__ = [
    "LEAST_CALL_TOKENS",
    "USER_MINUTE",
    "Admission",
    "Intake",
    "ProjectRoom",
    "files_counted_anew",
    "grant",
    "lowered",
    "used_up",
]

LEAST_CALL_TOKENS: Final = 256
"""Where fewer tokens are left in a day, they are used up: no model call comes to anything with them."""
USER_MINUTE: Final = "user's minute"
"""The label of the write that counts a user's message."""
_OPEN_TASKS_RETRY_SECONDS: Final = 30
_TRIES: Final = 5
_KEPT_SECONDS: Final = 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Intake:
    """What accepting one message adds to the write of the space's record.

    Attributes:
        set: Attributes with their new values.
        add: Numbers to add.
        when: What must hold of the record.
        also: Further writes of the same transaction, by their labels.
    """

    set: Mapping[str, Any] = field(default_factory=dict)
    add: Mapping[str, int] = field(default_factory=dict)
    when: Sequence[Condition] = ()
    also: Mapping[str, Write] = field(default_factory=dict)


class Admission:
    """Decides on one message, by what is read in the same call as the heads it is accepted on.

    Args:
        limits: The project's, as far as known: only what they need is read.
        now: Epoch milliseconds.
    """

    def __init__(self, allowances: Allowances, limits: Limits, *, now: int) -> None:
        self._allowances = allowances
        self._user = allowances.user
        self._now = now
        self._day = day_of(now)
        self._read_day = limits.tokens_per_day is not None or limits.cost_per_day is not None

    @property
    def keys(self) -> Sequence[Key]:
        """What must be read beside the space's record; nothing where no limit needs it."""
        keys = []
        if self._read_day:
            keys.append(Key.usage(f"day{self._day}"))
        if self._user.tokens_per_day is not None or self._user.cost_per_day is not None:
            keys.append(Key.usage(f"day{self._day}", "user"))
        if self._user.messages_per_minute is not None:
            keys.append(Key.usage("minute", "user"))
        return keys

    def admit(self, space: Item, found: Sequence[Item | None]) -> Intake:
        """Accept, or say why not.

        Args:
            space: The space's record, just read.
            found: The items of `keys`, in their order, read in the same call.

        Raises:
            LimitReached: A limit is reached; `PaymentRequired` where it is one of money.
        """
        limits = self._allowances.of_record(space)
        items = dict(zip(self.keys, found, strict=True))
        days = (
            (Key.usage(f"day{self._day}"), limits, "this project"),
            (Key.usage(f"day{self._day}", "user"), self._user, "you"),
        )
        for key, allowed, whose in days:
            if (day := items.get(key)) is not None:
                used_up(day, self._day, whose, self._now, tokens=allowed.tokens_per_day, cost=allowed.cost_per_day)
        changes, add, when = _minute(space, limits.messages_per_minute, self._now, "this project")
        if limits.open_tasks is not None:
            when = [*when, _open_tasks(space, limits.open_tasks)]
        also: dict[str, Write] = {}
        if (place := Key.usage("minute", "user")) in items:
            item = items[place] or {}
            mine, mine_add, mine_when = _minute(item, self._user.messages_per_minute, self._now, "you")
            expires = {"expires_at": self._now // 1000 + _KEPT_SECONDS}
            also[USER_MINUTE] = Update(key=place, set=mine | expires, add=mine_add, when=All(*mine_when))
        return Intake(set=changes, add=add, when=when, also=also)


def lowered(
    allowances: Allowances, space: Item, changes: LimitChanges
) -> tuple[Mapping[str, int], Sequence[Condition]]:
    """The limits that an owner has set after these changes, and what they were made from.

    Raises:
        InvalidRequest: One is above what the deployment allows the project.
    """
    old: Mapping[str, int] = space.get("limits", {})
    granted = allowances.granted(space.get("operator_limits", {}))
    new = dict(old)
    for name, value in changes.sent.items():
        most: int | None = getattr(granted, name)
        if value is not None and most is not None and value > most:
            raise InvalidRequest(f"limits.{name}: this deployment allows at most {most}; its operator may raise that")
        if value is None:
            new.pop(name, None)
        else:
            new[name] = value
    return new, (Equals("limits", old) if "limits" in space else Missing("limits"),)


async def files_counted_anew(records: Records, tenant: TenantContext, changed: Collection[str]) -> Mapping[str, Write]:
    """What belongs to a change of the limit of files, by label: while there was none, nobody counted what was stored.

    Args:
        changed: Names of the limits that change.
    """
    kept = Key.usage("files")
    if "file_bytes" not in changed or await records.get(tenant, kept) is None:
        return {}
    # Without its day the sum is no longer believed: the next file has them counted by listing. What is held stays.
    return {"files": Update(key=kept, add={"revision": 1}, remove=["day"], when=Exists("sk"))}


async def grant(
    records: Records, tenant: TenantContext, changes: Mapping[str, int | None], *, revoke: Collection[str] = ()
) -> Mapping[str, int | None]:
    """Set limits for one project as the deployment's operator, above or below the deployment's own.

    What is decided by a rehydrated space (the budget of a run, the bytes of files) follows within the cache's time to
    live, 300 s; all else at once.

    Args:
        changes: New limits by name; `None` lifts one.
        revoke: Names whose limit is the deployment's own again.

    Returns:
        All that the operator has set for the project.

    Raises:
        InvalidRequest: There is no limit of that name.
        NotFound: There is no such project.
        Conflict: Others keep changing the project's limits.
    """
    if unknown := ({*changes, *revoke} - set(PROJECT_LIMITS)):
        raise InvalidRequest(f"there is no limit {sorted(unknown)[0]!r}: there are {', '.join(PROJECT_LIMITS)}")
    for _ in range(_TRIES):
        space = await records.get(tenant, Key.space())
        check_live(tenant, [] if space is None else [space])
        assert space is not None
        old: Mapping[str, int | None] = space.get("operator_limits", {})
        new = {name: value for name, value in {**old, **changes}.items() if name not in revoke}
        as_read = Equals("operator_limits", old) if "operator_limits" in space else Missing("operator_limits")
        granted = Update(key=Key.space(), set={"operator_limits": new}, when=All(IS_LIVE, as_read))
        anew = await files_counted_anew(records, tenant, {*changes, *revoke})
        try:
            await records.write(tenant, granted, *anew.values())
            return new
        except ConditionFailed:
            continue
    raise Conflict("others keep changing the limits of this project: try again")


def _minute(
    item: Item, most: int | None, now: int, whose: str
) -> tuple[dict[str, Any], dict[str, int], list[Condition]]:
    """One more message in the minute: what to set, what to add, and when."""
    if most is None:
        return {}, {}, []
    minute, stored = minute_of(now), item.get("minute")
    # Another machine's clock may be a little ahead; one that is far off does not stop anybody.
    if stored is not None and stored == minute + 1:
        minute = stored
    count = int(item.get("minute_count", 0)) if stored == minute else 0
    if count >= most:
        ends = minute_ends(minute)
        raise LimitReached(
            f"{whose} sent {count} messages in this minute, of at most {most}: repeat the request when it is over",
            retry_after=_seconds_until(ends, now),
            limit="messages_per_minute",
            until=ends,
        )
    if stored == minute:
        return {}, {"minute_count": 1}, [Equals("minute", minute), AtMost("minute_count", most - 1)]
    as_read: Condition = Missing("minute") if stored is None else Equals("minute", stored)
    return {"minute": minute, "minute_count": 1}, {}, [as_read]


def _open_tasks(space: Item, most: int) -> Condition:
    count = int(space.get("open_tasks", 0))
    if count >= most:
        raise LimitReached(
            f"this project has {count} open tasks of at most {most}: let some end, or cancel some",
            retry_after=_OPEN_TASKS_RETRY_SECONDS,
            limit="open_tasks",
        )
    return Any_(Missing("open_tasks"), AtMost("open_tasks", most - 1))


def used_up(day: Item, name: str, whose: str, now: int, *, tokens: int | None, cost: int | None) -> None:
    """Refuse where what was spent in a day leaves nothing for another model call.

    Args:
        day: The usage item of the day `name`.

    Raises:
        LimitReached: No tokens are left.
        PaymentRequired: No money is left.
    """
    ends = day_ends(name)
    retry_after = _seconds_until(ends, now)
    spent = int(day.get("spent_tokens", 0))
    if tokens is not None and spent > tokens - LEAST_CALL_TOKENS:
        text = f"{whose} used {spent} tokens today, of at most {tokens}: the next day begins at midnight UTC"
        raise LimitReached(text, retry_after=retry_after, limit="tokens_per_day", until=ends)
    spent = int(day.get("spent_cost", 0))
    if cost is not None and spent >= cost:
        text = f"{whose} spent {spent} millionths today, of at most {cost}: the next day begins at midnight UTC"
        raise PaymentRequired(text, retry_after=retry_after, limit="cost_per_day", until=ends)


def _seconds_until(moment: int, now: int) -> int:
    return max(1, -(-(moment - now) // 1000))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectRoom:
    """How many projects a user has, and the number by which two who make one at once exclude each other.

    Attributes:
        count: Projects there are.
        made: How often one was made under a limit; `None` before the first.
        most: The limit.
    """

    count: int
    made: int | None
    most: int

    @classmethod
    async def look(cls, records: Records, user: UserContext, *, most: int) -> "ProjectRoom":
        """Read the number first: a project that is made between the two reads is counted, or changes the number."""
        item = await records.get(user, Key.usage("projects", "user")) or {}
        page = await records.query(user, Key.projects(), limit=most + 1)
        return cls(count=len(page.items), made=item.get("made"), most=most)

    def one_more(self) -> Update:
        """The write that belongs to making a project; its condition fails where there is no room."""
        nobody_else: Condition = Missing("made") if self.made is None else Equals("made", self.made)
        never = AtMost("made", -1)
        when = nobody_else if self.count < self.most else never
        return Update(key=Key.usage("projects", "user"), add={"made": 1}, when=when)

    def check(self) -> None:
        """Say why `one_more` failed, if there was no room.

        Raises:
            LimitReached: The user has as many projects as they may have.
        """
        if self.count >= self.most:
            text = f"you have {self.most} projects, the most you may have: delete one first"
            raise LimitReached(text, retry_after=None, limit="projects")
