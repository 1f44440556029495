"""The isolation suite's world over the real adapters, in a process of its own: `python -m tests.policy.scenario`.

Every call that an AWS client makes is noted (`tests.policy.recording`). The package under test is whichever Python
finds first, so that a copy with its checks taken out can be put to the same questions.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qs, unquote, urlsplit

import boto3
import httpx
from botocore.exceptions import ClientError

import worker_space
from tests.api.service import Service
from tests.isolation.test_every_endpoint import CASES, ELSEWHERE, TABLE, Case, ask
from tests.isolation.world import World, fill_world
from tests.memory_stack import MemoryStack, ScriptedModel, calls
from tests.policy.deployment import FUNCTIONS
from tests.policy.recording import Recorder
from worker_space.adapters.aws import make_client
from worker_space.adapters.memory_cache import MemoryCache
from worker_space.adapters.memory_context import MemoryContext
from worker_space.adapters.sqs_receiver import sqs_event
from worker_space.bootstrap import Environment
from worker_space.composition import compose
from worker_space.settings import Settings
from worker_space.tenancy import Names, TenantContext

__all__ = ["PREFIX", "VICTIM", "VICTIMS_FILE"]

PREFIX: Final = "ws"
VICTIM: Final = TenantContext("alice", "private")
VICTIMS_FILE: Final = "useralice_projectprivate/secret.txt"
"""Its key, spelled here as an attacker would who has seen one."""

_LAST: Final = ("cleanup_worker_space", "reset_worker_space", "delete_agent", "delete_session", "delete_project")


class _Invocation:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Stage:
    """All four functions, each with its own environment and its own credentials; one model, cache and memory."""

    def __init__(self, recorder: Recorder, variables: Mapping[str, str], *, api_scoped: bool) -> None:
        self.recorder = recorder
        self.model = ScriptedModel()
        names = Names(PREFIX)
        cache, memory = MemoryCache(names), MemoryContext(names)
        self.functions: dict[str, Environment] = {}
        for function in FUNCTIONS:
            recorder.as_function(function)
            settings = Settings.from_environment(
                {**variables, **({} if function != "api" or api_scoped else {"WORKER_SPACE_DATA_ROLE_ARN": ""})}
            )
            environment = Environment(settings)
            ports = replace(environment.ports, cache=cache, memory=memory, model=self.model)
            environment.parts = compose(ports, settings)
            self.functions[function] = environment
            if function == "worker":
                # As its mappings poll, with the worker's own role.
                self._poller = make_client("sqs", region=settings.region, timeout_seconds=10.0)
        self.settings = self.functions["api"].settings
        self.parts = self.functions["api"].parts
        self._names = names

    async def work(self, tenant: TenantContext) -> None:
        """Run what waits in the tenant's queues."""
        for generation in (1, 2):
            while (record := await asyncio.to_thread(self.receive, tenant, generation)) is not None:
                await asyncio.to_thread(self.functions["worker"].work, record, _Invocation())
                await asyncio.to_thread(self.acknowledge, record)

    def receive(self, tenant: TenantContext, generation: int) -> dict[str, Any] | None:
        """The next message, as its mapping would hand it on."""
        arn = f"{self.settings.dead_letter_arn.rpartition(':')[0]}:{self._names.queue(tenant, generation)}"
        try:
            answer = self._poller.receive_message(QueueUrl=self._url(arn), MessageSystemAttributeNames=["All"])
        except ClientError:
            return None
        messages = answer.get("Messages", [])
        return dict(sqs_event(messages, arn)["Records"][0]) if messages else None

    def acknowledge(self, record: Mapping[str, Any]) -> None:
        """Delete a message."""
        url = self._url(record["eventSourceARN"])
        self._poller.delete_message(QueueUrl=url, ReceiptHandle=record["receiptHandle"])

    def litter(self, tenant: TenantContext) -> None:
        """Leave an unfinished upload among a tenant's files, as somebody with access to the bucket might."""
        outsider = boto3.Session(aws_access_key_id="OUTSIDER", aws_secret_access_key="x").client("s3")
        outsider.create_multipart_upload(Bucket=self.settings.bucket, Key=f"{self._names.workspace(tenant)}half")
        outsider.close()

    def _url(self, arn: str) -> str:
        return f"{self._poller.meta.endpoint_url}/{arn.split(':')[4]}/{arn.rpartition(':')[2]}"


class Asking(Service):
    """Says to the recorder for whom it asks."""

    def __init__(self, stage: Stage, headers: Mapping[str, str]) -> None:
        super().__init__(cast("MemoryStack", stage))
        self._recorder = stage.recorder
        self._headers = headers

    async def call(self, method: str, path: str, **request: Any) -> httpx.Response:
        user = request.setdefault("user", "alice")
        project = path.split("/")[3] if path.startswith("/my/projects/") else ""
        self._recorder.asker = None if user is None else (user, unquote(project))
        request["headers"] = {**self._headers, **(request.get("headers") or {})}
        answer = await super().call(method, path, **request)
        if answer.is_success and path.endswith(("/file-uploads/", "/file-downloads/")):
            self._signed(answer.json())
        return answer

    def _signed(self, given: Mapping[str, Any]) -> None:
        """Whoever gets a signed address may use it: it counts as the call that it permits."""
        place = urlsplit(given["url"])
        bucket, _, key = unquote(place.path).lstrip("/").partition("/")
        holder = parse_qs(place.query)["X-Amz-Credential"][0].partition("/")[0]
        operation = {"PUT": "PutObject", "GET": "GetObject"}[given["method"]]
        self._recorder.signed(operation, {"Bucket": bucket, "Key": key}, holder)


def cases(last: bool) -> Iterator[tuple[str, str, Case]]:
    """How each operation under a project is tried: first those after which there is as much as before."""
    table = [row for row in TABLE if row[2] not in ELSEWHERE]
    for operation in _LAST if last else [row[2] for row in table if row[2] not in _LAST]:
        for method, path, known in table:
            if known == operation:
                yield from ((method, path, case) for case in CASES[operation])


async def attempt(what: Callable[[], Awaitable[Any]]) -> None:
    """Try something; a build without its checks may fail in any way, and goes on."""
    try:
        async with asyncio.timeout(30):
            await what()
    except Exception as error:
        print(f"{type(error).__name__}: {str(error)[:200]}", file=sys.stderr)


async def use(world: World, *, last: bool) -> None:
    """Alice does everything that can be done, in a project of her own."""
    call = world.service.call
    for method, path, case in cases(last):
        if last:
            await call("POST", "/my/projects/", json={"id": "shop", "name": "Shop"})
        await ask(world, method, path, case, user="alice", project="shop", ids=world.ids)
    if last:
        return
    await call("PUT", "/my/projects/shop/files/secret.txt", content=b"x")
    await call("POST", "/my/projects/shop/tools/move_file", json={"path": "secret.txt", "new_path": "moved.txt"})
    await call("POST", "/my/projects/shop/file-downloads/", json={"path": "moved.txt"})
    await call("GET", "/my/projects/")
    await call("GET", "/my/erasures/")
    async with world.service.worker("alice", "shop"):
        # Too long for the table: it goes under the prefix of contents.
        await call("POST", "/my/projects/shop/chat/", json={"content": "long " * 20_000, "target_agent": "coder"})


async def attack(world: World, *, last: bool) -> None:
    """Bob, who knows alice's ids, tries them wherever he can put them."""
    for method, path, case in cases(last):
        for project in ("private", "shop"):
            await attempt(lambda: ask(world, method, path, case, user="bob", project=project, ids=world.ids))  # noqa: B023


async def climb(world: World, stage: Stage) -> None:
    """Bob tries to leave his folder, himself and through an agent."""
    way = f"../{VICTIMS_FILE}"
    tools: list[tuple[str, dict[str, object]]] = [
        ("read_file", {"path": way}),
        ("write_file", {"path": way, "content": "mine"}),
        ("list_directory", {"path": "../useralice_projectprivate"}),
        ("move_file", {"path": way, "new_path": "mine.txt"}),
    ]
    call = world.service.call
    for name, arguments in tools:
        await attempt(lambda: call("POST", f"/my/projects/shop/tools/{name}", user="bob", json=arguments))  # noqa: B023
    upload = {"path": way, "size": 4}
    await attempt(lambda: call("POST", "/my/projects/shop/file-uploads/", user="bob", json=upload))
    harmless: list[tuple[str, dict[str, object]]] = [
        ("read_file", {"path": "secret.txt"}),
        ("list_directory", {}),
        ("write_file", {"path": "mine.txt", "content": "mine"}),
    ]
    stage.model.script = [calls(*tools[:3], *harmless)]

    async def by_agent() -> None:
        async with world.service.worker("bob", "shop"):
            message = {"content": f"Read {way}", "target_agent": "coder"}
            await call("POST", "/my/projects/shop/chat/", user="bob", json=message)

    await attempt(by_agent)


async def background(world: World, stage: Stage) -> None:
    """What happens without a request: a dead letter, sweeps, the reconciler, the end of an erasure."""
    await world.service.project("late")
    message = {"content": "hello", "target_agent": "coder"}
    await world.service.call("POST", "/my/projects/late/chat/", json=message, headers={"Prefer": "respond-async"})
    record = await asyncio.to_thread(stage.receive, TenantContext("alice", "late"), 1)
    assert record is not None
    await asyncio.to_thread(stage.functions["dead_letter"].bury, record)
    await asyncio.to_thread(stage.acknowledge, record)
    await stage.work(TenantContext("alice", "late"))
    stage.recorder.asker = None
    cleanup = stage.functions["cleanup"]
    deadline = time.monotonic() + 30
    counts = {"hibernated": 0, "erased": 0}
    while not all(counts.values()) and time.monotonic() < deadline:
        await asyncio.sleep(1)
        done = await asyncio.to_thread(cleanup.sweep, _Invocation())
        counts = {name: counts[name] + done[name] for name in counts}
    assert all(counts.values()), counts
    await asyncio.to_thread(cleanup.reconcile, _Invocation())


async def play(stage: Stage) -> dict[str, str]:
    """All there is; the ids of what the victim has."""
    world = World(service=Asking(stage, {}), owners=set())
    await world.service.call("GET", "/ready", user=None)
    await fill_world(world)
    await use(world, last=False)
    await attack(world, last=False)
    await climb(world, stage)
    await attack(world, last=True)
    stage.litter(TenantContext("alice", "shop"))
    await use(world, last=True)
    await background(world, stage)
    return world.ids_of[VICTIM.project_id]


async def play_broken(stage: Stage, ids: Mapping[str, str]) -> None:
    """The attack alone, on what a good build has made before."""
    # What a build without its checks might believe.
    world = World(service=Asking(stage, {"X-User-Id": VICTIM.user_id}), owners=set(), ids=dict(ids))
    await attempt(lambda: world.service.project("shop", user="bob"))
    await attack(world, last=False)
    await climb(world, stage)
    await attack(world, last=True)


def main() -> None:
    """Play, and leave the records in a file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=Path, required=True)
    parser.add_argument("--ids", type=Path, required=True)
    parser.add_argument("--broken", action="store_true")
    parser.add_argument("--api-unscoped", action="store_true")
    given = parser.parse_args()
    recorder = Recorder(given.records)
    print(Path(worker_space.__file__).parent)
    stage = Stage(recorder, os.environ, api_scoped=not given.api_unscoped)
    if given.broken:
        asyncio.run(play_broken(stage, json.loads(given.ids.read_text())))
    else:
        given.ids.write_text(json.dumps(asyncio.run(play(stage))))
    recorder.close()


if __name__ == "__main__":
    main()
