"""Judges recorded calls: by whom they were made, whose they are about, and what the deployed policies say."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from tests.policy.deployment import Deployment
from tests.policy.recording import Record
from tests.policy.requests import groups
from tests.policy.scenario import PREFIX
from worker_space.tenancy import Names, TenantContext, UserContext, session_tags

__all__ = [
    "NAMES_ONLY",
    "POLLED",
    "about",
    "broken_builds_table",
    "foreign",
    "kind",
    "own_calls_table",
    "refused",
    "tags_of",
]

NAMES_ONLY: Final = frozenset(
    {
        "lambda:CreateEventSourceMapping",
        "lambda:DeleteEventSourceMapping",
        "lambda:Invoke",
        "lambda:ListEventSourceMappings",
        "s3:ListMultipartUploads",
        "sqs:ListQueues",
    }
)
"""Calls that a function makes by its own role for some tenant: AWS has nothing narrower. They give names, or wire a
queue to the worker of this deployment; no item, object or message passes through them."""

POLLED: Final[Mapping[str, frozenset[str]]] = {
    "api": frozenset(),
    # What its mappings poll with.
    "worker": frozenset({"sqs:ChangeMessageVisibility", "sqs:GetQueueAttributes"}),
    # With which it removes queues that no project knows of.
    "cleanup": frozenset({"sqs:DeleteQueue", "sqs:GetQueueAttributes"}),
    "dead_letter": frozenset(),
}
"""What of a tenant's calls a function's own role allows, too."""

_KEY: Final = re.compile(r"([TU])#(.*)#")
_OTHER: Final = TenantContext("somebody", "else")


def kind(record: Record) -> str:
    """The call's name."""
    return f"{record.call.service}:{record.call.operation}"


def tags_of(asker: tuple[str, str]) -> dict[str, str]:
    """The session of whoever asks; where no project is named, of the user alone."""
    user, project = asker
    return session_tags(TenantContext(user, project) if project else UserContext(user))


def about(record: Record, deployed: Deployment) -> set[str]:
    """The tokens of those whose items, objects or queues a call names, users' with a `U#` before them."""
    found: set[str] = set()
    for request in (request for group in groups(record.call, deployed.place) for request in group):
        for key in request.values("dynamodb:LeadingKeys") or ():
            if match := _KEY.fullmatch(key):
                found.add(match[2] if match[1] == "T" else f"U#{match[2]}")
        _, _, service, _, _, name = request.resource.split(":", 5) if request.resource != "*" else [""] * 6
        if service == "s3":
            key = name.partition("/")[2] or (request.values("s3:prefix") or [""])[0]
            found.add(key.removeprefix("_content/").partition("/")[0])
        if service == "sqs" and (owner := Names(PREFIX).queue_owner(name)) is not None:
            found.add(owner.token)
    return found - {""}


def foreign(record: Record, deployed: Deployment) -> bool:
    """Whether a call that was made for somebody names what is another's."""
    if record.asker is None:
        return False
    user, project = record.asker
    owners = about(record, deployed)
    mine = {f"U#{UserContext(user).token}"}
    if project:
        mine.add(TenantContext(user, project).token)
    else:
        mine |= {owner for owner in owners if owner.startswith(f"{UserContext(user).token}_")}
    return bool(owners - mine)


def refused(record: Record, tags: Mapping[str, str] | None, deployed: Deployment) -> bool:
    """Whether nothing of a call would be done with these credentials; `None` stands for the function's own."""
    if tags is None:
        return not any(deployed.by_function(record.function, record.call))
    return not any(deployed.by_tenant(tags, record.call))


def broken_builds_table(
    attacks: Mapping[str, tuple[str, bool, Sequence[Record], Deployment]],
) -> Sequence[Sequence[str]]:
    """Each broken build, how often it asked for another's data, and what the policies say of that.

    Args:
        attacks: By name: what is broken, whether STS itself is asked for the wrong credentials, the records, the
            policies.
    """
    rows = [("build", "what is broken", "calls", "for another's data", "refused", "refused to the asker's credentials")]
    for name, (broken, wrong_credentials, records, deployed) in attacks.items():
        crossing = [record for record in records if record.tags is not None and foreign(record, deployed)]
        as_made = sum(refused(record, record.tags, deployed) for record in crossing)
        as_asked = sum(refused(record, tags_of(record.asker or ("", "")), deployed) for record in crossing)
        mark = " (*)" if wrong_credentials else ""
        rows.append((name, broken, str(len(records)), str(len(crossing)), f"{as_made}{mark}", str(as_asked)))
    return rows


def own_calls_table(records: Iterable[Record], deployed: Deployment) -> Sequence[Sequence[str]]:
    """Each kind of call, with whose credentials it was made, and what the policies say of it."""
    rows: dict[tuple[str, str], Counter[str]] = {}
    for record in records:
        row = rows.setdefault((kind(record), "own role" if record.tags is None else "tenant's"), Counter())
        row["calls"] += 1
        if record.tags is None:
            row["allowed"] += all(deployed.by_function(record.function, record.call))
        else:
            row["allowed"] += all(deployed.by_tenant(record.tags, record.call))
            row["refused"] += refused(record, session_tags(_OTHER), deployed)
    return [
        ("call", "credentials", "made", "allowed", "refused to another tenant"),
        *(
            (name, whose, str(row["calls"]), str(row["allowed"]), "" if whose == "own role" else str(row["refused"]))
            for (name, whose), row in sorted(rows.items())
        ),
    ]
