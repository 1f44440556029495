"""Credentials for one tenant are asked for once, renewed in time, and never used for another."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from worker_space.adapters.credentials import CREDENTIAL_SECONDS, TenantClients, the_same
from worker_space.errors import Unavailable
from worker_space.serving import serving, serving_project
from worker_space.tenancy import QueueOwner, TenantContext, UserContext

ANN, BOB = TenantContext("ann", "shop"), TenantContext("bob", "shop")
ROLE = "arn:aws:iam::123456789012:role/data"


class Clock:
    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


class Sts:
    """Hands out credentials that say whose they are."""

    def __init__(self, clock: Clock) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.clock = clock
        self.wait = threading.Event()
        self.wait.set()

    def assume_role(self, **request: Any) -> Mapping[str, Any]:
        self.wait.wait(5)
        self.asked.append(request)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        key = f"{tags['tenant']}|{tags['user']}|{len(self.asked)}"
        until = datetime.fromtimestamp(self.clock.now + request["DurationSeconds"], UTC)
        return {"Credentials": {"AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": "t", "Expiration": until}}


class Client:
    """Answers with the credentials it was made with."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        self.key = keys["aws_access_key_id"]

    def whose(self) -> str:
        return self.key


class World:
    """Clients of two services over one STS."""

    def __init__(self, sts: type[Sts] = Sts) -> None:
        self.clock = Clock()
        self.sts = sts(self.clock)
        self.clients = TenantClients(sts=self.sts, role_arn=ROLE, clock=self.clock)
        self.s3 = self.clients.made_by(Client)
        self.table = self.clients.made_by(Client)


def test_one_tenant_is_asked_for_once_whatever_the_service() -> None:
    world = World()
    for service in (world.s3, world.table, world.s3):
        assert service(ANN).whose() == f"{ANN.token}|userann|1"
    assert len(world.sts.asked) == 1
    assert world.sts.asked[0]["RoleArn"] == ROLE
    assert world.sts.asked[0]["DurationSeconds"] == CREDENTIAL_SECONDS
    assert world.sts.asked[0]["RoleSessionName"] == ANN.token


def test_each_tenant_has_its_own_also_in_turns() -> None:
    world = World()
    found = [world.s3(tenant).whose() for tenant in (ANN, BOB, ANN, BOB)]
    assert found == [f"{ANN.token}|userann|1", f"{BOB.token}|userbob|2"] * 2


def test_who_is_known_in_part_gets_credentials_for_that_part() -> None:
    world = World()
    assert world.table(UserContext("ann")).whose() == "none|userann|1"
    assert world.table(QueueOwner(ANN.token, 3)).whose() == f"{ANN.token}|none|2"


def test_they_are_renewed_before_they_end() -> None:
    world = World()
    world.s3(ANN).whose()
    began = world.clock.now
    world.clock.now = began + CREDENTIAL_SECONDS - 121
    world.s3(ANN).whose()
    assert len(world.sts.asked) == 1
    world.clock.now = began + CREDENTIAL_SECONDS - 119
    assert world.s3(ANN).whose().endswith("|2")
    assert world.table(ANN).whose().endswith("|2")


def test_what_is_signed_for_ten_minutes_is_signed_with_credentials_that_last_so_long() -> None:
    world = World()
    world.s3(ANN).whose()
    world.clock.now += CREDENTIAL_SECONDS - 610
    assert world.s3(ANN, lasting=600).whose().endswith("|1")
    world.clock.now += 10
    assert world.s3(ANN).whose().endswith("|1")
    assert world.s3(ANN, lasting=600).whose().endswith("|2")


def test_many_threads_at_once_ask_once_and_get_their_own() -> None:
    world = World()
    world.sts.wait.clear()
    with ThreadPoolExecutor(16) as pool:
        asking = {pool.submit(world.s3(tenant).whose): tenant for tenant in (ANN, BOB) * 8}
        world.sts.wait.set()
        for each, tenant in asking.items():
            assert each.result().startswith(f"{tenant.token}|")
    assert len(world.sts.asked) == 2


def test_only_so_many_tenants_are_kept_and_the_latest_stay() -> None:
    world = World()
    for number in range(40):
        world.s3(TenantContext("ann", f"p{number}")).whose()
        world.s3(ANN).whose()
    assert len(world.sts.asked) == 41
    world.s3(TenantContext("ann", "p0")).whose()
    assert len(world.sts.asked) == 42
    assert "32 owners" in repr(world.clients)


@pytest.mark.parametrize(
    ("code", "raised"), [("AccessDenied", Unavailable), ("Throttling", ClientError), ("ValidationError", Unavailable)]
)
def test_a_refusal_of_sts_is_told_and_not_kept(code: str, raised: type[Exception]) -> None:
    class Refuses(Sts):
        def assume_role(self, **request: Any) -> Mapping[str, Any]:
            if not self.asked:
                self.asked.append(request)
                raise ClientError({"Error": {"Code": code}}, "AssumeRole")
            return super().assume_role(**request)

    world = World(Refuses)
    with pytest.raises(raised, match=code):
        world.s3(ANN).whose()
    assert world.s3(ANN).whose().startswith(ANN.token)


def test_without_a_role_everybody_is_served_by_one_client() -> None:
    client = object()
    assert the_same(client)(ANN) is client is the_same(client)(UserContext("bob"), lasting=60)


# -- for whom they are taken


def test_a_call_for_somebody_else_is_made_with_the_rights_of_whom_is_served() -> None:
    world = World()
    with serving(ANN):
        assert world.s3(BOB).whose().startswith(f"{ANN.token}|userann")
        assert world.table(UserContext("bob")).whose().startswith(f"{ANN.token}|userann")
    assert world.s3(BOB).whose().startswith(f"{BOB.token}|userbob")


def test_the_user_of_a_request_is_certain_before_its_project_is() -> None:
    world = World()
    with serving(UserContext("ann")):
        assert world.table(TenantContext("bob", "new")).whose().startswith("userann_projectnew|userann")
        assert world.table(UserContext("bob")).whose().startswith("none|userann")
        serving_project("shop")
        assert world.table(TenantContext("bob", "new")).whose().startswith(f"{ANN.token}|userann")
    assert world.table(BOB).whose().startswith(BOB.token)


def test_a_project_is_served_only_for_a_user() -> None:
    world = World()
    serving_project("shop")
    assert world.table(BOB).whose().startswith(BOB.token)
    with serving(ANN):
        serving_project("other")
        assert world.table(BOB).whose().startswith(ANN.token)
