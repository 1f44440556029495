"""Credentials for one tenant: a role assumed with the tenant's own names as session tags.

The role's policy names the tenant's partition, prefixes and queues by those tags (`infra/access.yaml`), so whoever
holds such credentials reaches nothing of anybody else's, whatever the code asks for.
(https://docs.aws.amazon.com/IAM/latest/UserGuide/id_session-tags.html)

They live 15 minutes, the shortest that STS grants, and are renewed two minutes before their end. One environment asks
STS once for each tenant and quarter of an hour.
"""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from worker_space.ports import Owner
from worker_space.tenancy import TenantContext

__all__ = ["CREDENTIAL_SECONDS", "ClientOf", "TenantClients", "the_same"]

CREDENTIAL_SECONDS: Final = 900
_RENEWED_EARLY_SECONDS: Final = 120.0
_TENANTS_KEPT: Final = 32

ClientOf = Callable[[Owner], Any]
"""The client with which an owner's data is reached. Its operations may be called from worker threads only."""


def the_same(client: Any) -> ClientOf:
    """One client, with the function's own permissions, for everybody."""
    return lambda _owner: client


@dataclass(slots=True)
class _Session:
    """One tenant's credentials and the clients made with them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    good_until: float = 0.0
    credentials: Mapping[str, str] = field(default_factory=dict)
    clients: dict[str, Any] = field(default_factory=dict)


class _Lazy:
    """A client whose operations fetch it first, in the thread that calls: STS may have to be asked."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return lambda **arguments: getattr(self._find(), operation)(**arguments)


class TenantClients:
    """Makes and keeps the clients of the tenants that this environment works for.

    Args:
        sts: A boto3 STS client with the function's own permissions.
        role_arn: The data role.
        make: Makes a client: the service's name and the credentials as `boto3.client` takes them.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        *,
        sts: Any,
        role_arn: str,
        make: Callable[[str, Mapping[str, str]], Any],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sts = sts
        self._role_arn = role_arn
        self._make = make
        self._clock = clock
        self._lock = threading.Lock()
        # By tenant, the least lately used first: an entry is never read under another tenant's name.
        self._sessions: OrderedDict[TenantContext, _Session] = OrderedDict()

    def __repr__(self) -> str:
        return f"TenantClients({self._role_arn!r}, {len(self._sessions)} tenants)"

    def service(self, name: str) -> ClientOf:
        """The clients of one service, by tenant.

        Raises:
            TypeError: (by what is returned) A user alone is no tenant: these credentials are for one project.
        """

        def client_of(owner: Owner) -> Any:
            if not isinstance(owner, TenantContext):
                raise TypeError("scoped credentials are made for a tenant, not for a user alone")
            return _Lazy(lambda: self._client(owner, name))

        return client_of

    def _client(self, tenant: TenantContext, service: str) -> Any:
        with self._lock:
            session = self._sessions.setdefault(tenant, _Session())
            self._sessions.move_to_end(tenant)
            if len(self._sessions) > _TENANTS_KEPT:
                self._sessions.popitem(last=False)
        with session.lock:
            now = self._clock()
            if now >= session.good_until:
                session.credentials = self._assume(tenant)
                session.clients = {}
                session.good_until = now + CREDENTIAL_SECONDS - _RENEWED_EARLY_SECONDS
            if service not in session.clients:
                session.clients[service] = self._make(service, session.credentials)
            return session.clients[service]

    def _assume(self, tenant: TenantContext) -> Mapping[str, str]:
        answer = self._sts.assume_role(
            RoleArn=self._role_arn,
            # Stands in CloudTrail beside each call that is made with them.
            RoleSessionName=tenant.token,
            DurationSeconds=CREDENTIAL_SECONDS,
            Tags=[{"Key": "tenant", "Value": tenant.token}, {"Key": "user", "Value": tenant.user.token}],
        )
        found = answer["Credentials"]
        return {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }
