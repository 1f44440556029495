"""Credentials for one tenant are asked for once, renewed in time, and never used for another."""

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from worker_space.adapters.credentials import CREDENTIAL_SECONDS, TenantClients, the_same
from worker_space.tenancy import TenantContext, UserContext

ANN, BOB = TenantContext("ann", "shop"), TenantContext("bob", "shop")


class Sts:
    """Hands out credentials that say whose they are."""

    def __init__(self) -> None:
        self.asked: list[Mapping[str, Any]] = []
        self.wait = threading.Event()
        self.wait.set()

    def assume_role(self, **request: Any) -> Mapping[str, Any]:
        self.wait.wait(5)
        self.asked.append(request)
        tags = {tag["Key"]: tag["Value"] for tag in request["Tags"]}
        key = f"{tags['tenant']}|{tags['user']}|{len(self.asked)}"
        return {"Credentials": {"AccessKeyId": key, "SecretAccessKey": "s", "SessionToken": "t"}}


class Client:
    """Answers with the credentials it was made with."""

    def __init__(self, service: str, credentials: Mapping[str, str]) -> None:
        self.service, self.key = service, credentials["aws_access_key_id"]

    def whose(self) -> str:
        return f"{self.service}:{self.key}"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _clients(sts: Sts, clock: Clock) -> TenantClients:
    return TenantClients(sts=sts, role_arn="arn:aws:iam::1:role/data", make=Client, clock=clock)


def test_one_tenant_is_asked_for_once_whatever_the_service() -> None:
    sts = Sts()
    clients = _clients(sts, Clock())
    for service in ("s3", "dynamodb", "s3"):
        assert clients.service(service)(ANN).whose() == f"{service}:{ANN.token}|userann|1"
    assert len(sts.asked) == 1
    assert sts.asked[0]["DurationSeconds"] == CREDENTIAL_SECONDS
    assert sts.asked[0]["RoleSessionName"] == ANN.token


def test_each_tenant_has_its_own_also_in_turns() -> None:
    sts = Sts()
    s3 = _clients(sts, Clock()).service("s3")
    found = [s3(tenant).whose() for tenant in (ANN, BOB, ANN, BOB)]
    assert found == [f"s3:{ANN.token}|userann|1", f"s3:{BOB.token}|userbob|2"] * 2


def test_they_are_renewed_before_they_end() -> None:
    sts, clock = Sts(), Clock()
    s3 = _clients(sts, clock).service("s3")
    client = s3(ANN)
    client.whose()
    clock.now = CREDENTIAL_SECONDS - 121
    client.whose()
    assert len(sts.asked) == 1
    clock.now = CREDENTIAL_SECONDS - 119
    assert client.whose().endswith("|2")


def test_many_threads_at_once_ask_once_and_get_their_own() -> None:
    sts = Sts()
    sts.wait.clear()
    s3 = _clients(sts, Clock()).service("s3")
    with ThreadPoolExecutor(16) as pool:
        asking = {pool.submit(s3(tenant).whose): tenant for tenant in (ANN, BOB) * 8}
        sts.wait.set()
        for each, tenant in asking.items():
            assert each.result().startswith(f"s3:{tenant.token}|")
    assert len(sts.asked) == 2


def test_only_so_many_tenants_are_kept_and_the_latest_stay() -> None:
    sts = Sts()
    clients = _clients(sts, Clock())
    s3 = clients.service("s3")
    for number in range(40):
        s3(TenantContext("ann", f"p{number}")).whose()
        s3(ANN).whose()
    assert len(sts.asked) == 41
    s3(TenantContext("ann", "p0")).whose()
    assert len(sts.asked) == 42
    assert "32 tenants" in repr(clients)


def test_a_refusal_of_sts_is_not_kept() -> None:
    class Refuses(Sts):
        def assume_role(self, **request: Any) -> Mapping[str, Any]:
            if not self.asked:
                self.asked.append(request)
                raise RuntimeError("AccessDenied")
            return super().assume_role(**request)

    s3 = _clients(Refuses(), Clock()).service("s3")
    with pytest.raises(RuntimeError):
        s3(ANN).whose()
    assert s3(ANN).whose().startswith(f"s3:{ANN.token}")


def test_a_user_alone_is_no_tenant() -> None:
    with pytest.raises(TypeError, match="user alone"):
        _clients(Sts(), Clock()).service("dynamodb")(UserContext("ann"))


def test_without_a_role_everybody_is_served_by_one_client() -> None:
    client = object()
    assert the_same(client)(ANN) is client is the_same(client)(UserContext("bob"))
