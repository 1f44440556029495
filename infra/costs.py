"""What projects cost a month by AWS's list prices: the tables of `docs/scaling.md`.

`python infra/costs.py` prints them; every assumption is an argument. `--write` puts them into the document, `--check`
tells whether the document has what the assumptions give. Upstash, Qdrant Cloud and the models' providers have prices of
their own and are left out, and so are AWS's free tiers, which are an account's and not a project's.
"""

import argparse
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DOCUMENT: Final = ROOT / "docs" / "scaling.md"
BEGIN: Final = "<!-- made by infra/costs.py -->"
END: Final = "<!-- end of what infra/costs.py made -->"

REGION: Final = "us-east-1 (N. Virginia)"
AS_OF: Final = "2026-06"
MONTH_HOURS: Final = 720
MONTH_SECONDS: Final = MONTH_HOURS * 3600

POLLS_A_MONTH: Final = 5 * MONTH_SECONDS // 20
"""Of one mapped queue that is empty: Lambda asks with five long polls of 20 s at once."""


@dataclass(frozen=True)
class Price:
    """A list price in US dollars for `per` units, and the page that has it."""

    usd: float
    per: float
    source: str

    def of(self, units: float) -> float:
        return units * self.usd / self.per


SQS: Final = Price(0.50, 1e6, "https://aws.amazon.com/sqs/pricing/")
"""Requests to FIFO queues, empty receives as well."""

LAMBDA_REQUEST: Final = Price(0.20, 1e6, "https://aws.amazon.com/lambda/pricing/")
LAMBDA_GB_SECOND: Final = Price(0.0000133334, 1, "https://aws.amazon.com/lambda/pricing/")
"""On arm64."""

SNAPSTART_GB_SECOND: Final = Price(0.0000015046, 1, "https://aws.amazon.com/lambda/pricing/")
"""For keeping the snapshot of a published version."""

HTTP_API: Final = Price(1.00, 1e6, "https://aws.amazon.com/api-gateway/pricing/")
TABLE_WRITE: Final = Price(0.625, 1e6, "https://aws.amazon.com/dynamodb/pricing/on-demand/")
"""A write of up to 1 KB on demand; a transaction counts each of its items twice."""

TABLE_READ: Final = Price(0.125, 1e6, "https://aws.amazon.com/dynamodb/pricing/on-demand/")
TABLE_GB: Final = Price(0.25 + 0.20, 1, "https://aws.amazon.com/dynamodb/pricing/on-demand/")
"""Storage and point-in-time recovery, for a GB and month."""

S3_GB: Final = Price(0.023, 1, "https://aws.amazon.com/s3/pricing/")
S3_PUT: Final = Price(0.005, 1e3, "https://aws.amazon.com/s3/pricing/")
S3_GET: Final = Price(0.0004, 1e3, "https://aws.amazon.com/s3/pricing/")
LOGS_GB: Final = Price(0.50, 1, "https://aws.amazon.com/cloudwatch/pricing/")
ALARM: Final = Price(0.10, 1, "https://aws.amazon.com/cloudwatch/pricing/")
DASHBOARD: Final = Price(3.00, 1, "https://aws.amazon.com/cloudwatch/pricing/")
SECRET: Final = Price(0.40, 1, "https://aws.amazon.com/secrets-manager/pricing/")


@dataclass(frozen=True, kw_only=True)
class Assumptions:
    """What a project does and a deployment has; each is an argument of the command.

    Args:
        table_mb: Items of a project: agents, chats, tasks and events of some hundred messages.
        files_mb: The user's own files with their old versions.
        writes: Write units of one message with one tool call (50 counted, and some for larger items).
        reads: Read units, of its clients' questions, too.
        sqs_requests: Send, receive, hide, delete.
        requests: HTTP requests for one message: sending, events, listing.
        worker_seconds: How long a task runs, waiting for its model.
        api_seconds: How long its requests wait, together.
        light_messages: Messages a day of somebody who uses a project now and then.
        light_days: On so many days a month.
        light_hours: For so many hours a day the project is awake: the use, and an hour until it sleeps.
        pool: Queues that all projects share.
        sweep_seconds: How long a look of the sweeper takes.
    """

    table_mb: float = 2.0
    files_mb: float = 50.0
    writes: float = 60.0
    reads: float = 20.0
    sqs_requests: float = 4.0
    objects_read: float = 2.0
    objects_written: float = 0.2
    requests: float = 4.0
    log_kb: float = 4.0
    worker_seconds: float = 6.0
    worker_mb: float = 1536
    api_seconds: float = 6.5
    api_mb: float = 1024
    background_mb: float = 1024
    light_messages: float = 20
    light_days: float = 22
    light_hours: float = 3
    busy_messages: float = 200
    busy_days: float = 30
    busy_hours: float = 12
    pool: int = 8
    sweep_seconds: float = 0.5
    alarms: int = 14
    secrets: int = 2


@dataclass(frozen=True, kw_only=True)
class Project:
    """How one project is used in a month: its messages, and for how many hours its queue is mapped."""

    name: str
    messages: float
    awake_hours: float


def projects(given: Assumptions) -> tuple[Project, ...]:
    """Four projects, from one that nobody uses to one that is used all day."""
    return (
        Project(name="asleep: nobody uses it", messages=0, awake_hours=0),
        Project(name="awake, but nothing is sent", messages=0, awake_hours=MONTH_HOURS),
        Project(
            name=f"{given.light_messages:g} messages a day on {given.light_days:g} days,"
            f" awake {given.light_hours:g} h a day",
            messages=given.light_messages * given.light_days,
            awake_hours=given.light_hours * given.light_days,
        ),
        Project(
            name=f"{given.busy_messages:g} messages a day on {given.busy_days:g} days,"
            f" awake {given.busy_hours:g} h a day",
            messages=given.busy_messages * given.busy_days,
            awake_hours=given.busy_hours * given.busy_days,
        ),
    )


def storage(given: Assumptions) -> float:
    """What lies there whether it is used or not."""
    return TABLE_GB.of(given.table_mb / 1000) + S3_GB.of(given.files_mb / 1000)


def polling(hours: float) -> float:
    """Asking one mapped queue, for so many hours, whether it has something."""
    return SQS.of(POLLS_A_MONTH * hours / MONTH_HOURS)


def message(given: Assumptions) -> float:
    """One message with one tool call, without its model."""
    return sum(
        (
            HTTP_API.of(given.requests),
            LAMBDA_REQUEST.of(given.requests + 1),
            LAMBDA_GB_SECOND.of(given.worker_seconds * given.worker_mb / 1024),
            LAMBDA_GB_SECOND.of(given.api_seconds * given.api_mb / 1024),
            TABLE_WRITE.of(given.writes),
            TABLE_READ.of(given.reads),
            SQS.of(given.sqs_requests),
            S3_GET.of(given.objects_read),
            S3_PUT.of(given.objects_written),
            LOGS_GB.of(given.log_kb / 1e6),
        )
    )


def fixed(given: Assumptions) -> list[tuple[str, float]]:
    """What a deployment costs without a single project."""
    sweeps = MONTH_SECONDS / 60
    memory_gb = (given.api_mb + given.worker_mb + 2 * given.background_mb) / 1024
    sweeping = LAMBDA_REQUEST.of(sweeps) + LAMBDA_GB_SECOND.of(
        sweeps * given.sweep_seconds * given.background_mb / 1024
    )
    return [
        ("the sweeper, every minute", sweeping),
        ("polling the dead-letter queue", polling(MONTH_HOURS)),
        (f"snapshots of four functions ({memory_gb:g} GB); `SnapStart=None` has none", SNAPSTART_GB_SECOND.of(
            memory_gb * MONTH_SECONDS
        )),
        (f"{given.alarms} alarms and a dashboard", ALARM.of(given.alarms) + DASHBOARD.of(1)),
        (f"{given.secrets} secrets", SECRET.of(given.secrets)),
        (f"polling a pool of {given.pool} queues, where there is one", given.pool * polling(MONTH_HOURS)),
    ]  # fmt: skip


def tables(given: Assumptions) -> str:
    """The tables, in Markdown."""
    thousand = message(given) * 1000
    lines = [
        f"List prices of {REGION} as of {AS_OF}, in US dollars a month of 30 days. A message has one tool call and",
        f"occupies a worker for {given.worker_seconds:g} s; a thousand cost {thousand:.2f}, without the model.",
        "",
        "| a project | storage | messages | its own queue | with a queue of its own | in a pool |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for each in projects(given):
        stored, sent, asked = storage(given), each.messages * message(given), polling(each.awake_hours)
        lines.append(
            f"| {each.name} | {stored:.4f} | {sent:.4f} | {asked:.4f} | **{stored + sent + asked:.4f}**"
            f" | **{stored + sent:.4f}** |"
        )
    lines += ["", "| a deployment, without any project | a month |", "|---|---:|"]
    lines += [f"| {name} | {cost:.2f} |" for name, cost in fixed(given)]
    lines += [
        "",
        "| all queues together | each its own | a pool |",
        "|---|---:|---:|",
    ]
    light = projects(given)[2]
    pool = given.pool * polling(MONTH_HOURS)
    for count in (10, 100, 1_000, 10_000, 50_000):
        lines.append(
            f"| {count:,} projects, awake {light.awake_hours:g} h a month | {count * polling(light.awake_hours):,.2f}"
            f" | {pool:,.2f} |"
        )
    pages = sorted({price.source for price in globals().values() if isinstance(price, Price)})
    lines += ["", f"Prices: {' · '.join(f'<{page}>' for page in pages)}"]
    return "\n".join(lines)


def put_in(text: str, made: str) -> str:
    """The document with these tables.

    Raises:
        ValueError: It has no place for them.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{DOCUMENT.name} has no place for the tables: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{made}\n{END}{after}"


def main(arguments: list[str] | None = None) -> int:
    """Print, write or check; 1 when the document has other tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/scaling.md")
    parser.add_argument("--write", action="store_true", help="put them into docs/scaling.md")
    for field in fields(Assumptions):
        option = f"--{field.name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help="default %(default)s")
    given = vars(parser.parse_args(arguments))
    check, write = given.pop("check"), given.pop("write")
    made = tables(Assumptions(**given))
    if not (check or write):
        print(made)
        return 0
    text = DOCUMENT.read_text("utf-8")
    wanted = put_in(text, made)
    if write:
        DOCUMENT.write_text(wanted, "utf-8")
        return 0
    if text != wanted:
        print("docs/scaling.md has other tables: run `python infra/costs.py --write`", file=sys.stderr)
        return 1
    print("docs/scaling.md has the tables that the prices and assumptions give")
    return 0


if __name__ == "__main__":
    sys.exit(main())
