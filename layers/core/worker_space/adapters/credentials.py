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
from typing import Any, Final, Protocol, TypeAlias

from botocore.exceptions import ClientError

from worker_space.adapters.aws import error_code, is_passing
from worker_space.errors import Unavailable
from worker_space.serving import entitled
from worker_space.tenancy import QueueOwner, TenantContext, UserContext, session_tags

__all__ = ["CREDENTIAL_SECONDS", "AnyOwner", "ClientOf", "TenantClients", "the_same"]

CREDENTIAL_SECONDS: Final = 900
_RENEWED_EARLY_SECONDS: Final = 120.0
# What signing takes after the credentials were looked at.
_SIGNING_SECONDS: Final = 5.0
_OWNERS_KEPT: Final = 32

AnyOwner: TypeAlias = TenantContext | UserContext | QueueOwner


class ClientOf(Protocol):
    """Finds the client with which an owner's data is reached. Its operations may be called from worker threads only."""

    def __call__(self, owner: AnyOwner, *, lasting: float = 0.0) -> Any:
        """The client.

        Args:
            lasting: For so many seconds what it signs is to be good.
        """


def the_same(client: Any) -> ClientOf:
    """One client, with the function's own permissions, for everybody."""

    def client_of(owner: AnyOwner, *, lasting: float = 0.0) -> Any:
        return client

    return client_of


@dataclass(slots=True)
class _Session:
    """One owner's credentials and the clients made with them."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    expires_at: float = 0.0
    keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    clients: dict[int, Any] = field(default_factory=dict)


class _Lazy:
    """A client whose operations fetch it first, in the thread that calls: STS may have to be asked."""

    def __init__(self, find: Callable[[], Any]) -> None:
        self._find = find

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        return lambda **arguments: getattr(self._find(), operation)(**arguments)


class TenantClients:
    """Makes and keeps the clients of those for whom this environment works.

    Credentials are taken for whom the request or delivery is served (`serving`), also when a call names another owner.

    Args:
        sts: A boto3 STS client with the function's own permissions.
        role_arn: The data role.
        clock: Epoch seconds. A clock that only grows stands still while Lambda keeps an environment frozen.
    """

    def __init__(self, *, sts: Any, role_arn: str, clock: Callable[[], float] = time.time) -> None:
        self._sts = sts
        self._role_arn = role_arn
        self._clock = clock
        self._lock = threading.Lock()
        self._makers: list[Callable[[Mapping[str, str]], Any]] = []
        # By owner, the least lately used first: an entry is never read under another owner's name.
        self._sessions: OrderedDict[AnyOwner, _Session] = OrderedDict()

    def __repr__(self) -> str:
        return f"TenantClients({self._role_arn!r}, {len(self._sessions)} owners)"

    def made_by(self, make: Callable[[Mapping[str, str]], Any]) -> ClientOf:
        """The clients of one service, by owner.

        Args:
            make: Makes a client with these keys, as `boto3.client` takes them.
        """
        which = len(self._makers)
        self._makers.append(make)

        def client_of(owner: AnyOwner, *, lasting: float = 0.0) -> Any:
            # Here and not in the calling thread, which knows nothing of whom is served.
            holder = owner if isinstance(owner, QueueOwner) else entitled(owner)
            return _Lazy(lambda: self._client(holder, which, lasting))

        return client_of

    def _client(self, owner: AnyOwner, which: int, lasting: float) -> Any:
        with self._lock:
            session = self._sessions.setdefault(owner, _Session())
            self._sessions.move_to_end(owner)
            if len(self._sessions) > _OWNERS_KEPT:
                self._sessions.popitem(last=False)
        with session.lock:
            left = session.expires_at - self._clock()
            if left < max(_RENEWED_EARLY_SECONDS, lasting + _SIGNING_SECONDS):
                session.keys, session.expires_at = self._assume(owner)
                session.clients = {}
            if which not in session.clients:
                session.clients[which] = self._makers[which](session.keys)
            return session.clients[which]

    def _assume(self, owner: AnyOwner) -> tuple[Mapping[str, str], float]:
        """Keys for the owner, and until when they are good.

        Raises:
            Unavailable: STS refuses for good.
            ClientError: It refuses for a reason that passes; `AwsCalls` tries again.
        """
        tags = session_tags(owner)
        try:
            answer = self._sts.assume_role(
                RoleArn=self._role_arn,
                # Stands in CloudTrail beside each call that is made with them.
                RoleSessionName=owner.token,
                DurationSeconds=CREDENTIAL_SECONDS,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
        except ClientError as error:
            if is_passing(error):
                raise
            raise Unavailable("credentials", error_code(error)) from error
        found = answer["Credentials"]
        keys = {
            "aws_access_key_id": found["AccessKeyId"],
            "aws_secret_access_key": found["SecretAccessKey"],
            "aws_session_token": found["SessionToken"],
        }
        return keys, found["Expiration"].timestamp()
