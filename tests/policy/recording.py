"""Notes every call that AWS clients make: for whom, by which function, with whose credentials."""

import json
import threading
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import boto3

from tests.policy.requests import Call

__all__ = ["Record", "Recorder", "read_records"]

_LEFT_OUT: Final = frozenset({"Body", "Payload", "MessageBody"})
"""Parameters that no policy looks at."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """One call.

    Attributes:
        asker: User and project of the request or delivery that it was made for; nobody's for a sweep.
        function: Which function made it.
        tags: Of the session in which it was made; `None` for the function's own role.
    """

    asker: tuple[str, str] | None
    function: str
    tags: Mapping[str, str] | None
    call: Call


class Recorder:
    """Listens to boto3's events. A function's own calls are told by the access key that it was given."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", encoding="utf-8")
        self._lock = threading.Lock()
        self._here = threading.local()
        self._holders: dict[str, tuple[str, Mapping[str, str] | None]] = {}
        # Of the request itself, and not of the moment: a call may still be under way when the next one is made.
        self._asker: ContextVar[tuple[str, str] | None] = ContextVar("asker", default=None)

    @property
    def asker(self) -> tuple[str, str] | None:
        """Whose request or delivery is worked on here."""
        return self._asker.get()

    @asker.setter
    def asker(self, asker: tuple[str, str] | None) -> None:
        self._asker.set(asker)

    def as_function(self, function: str) -> None:
        """Have the clients that are made from now on be this function's."""
        key = f"OWN{function.upper()}"
        self._holders[key] = (function, None)
        boto3.setup_default_session(aws_access_key_id=key, aws_secret_access_key="x")
        session = boto3.DEFAULT_SESSION
        assert session is not None
        session.events.register("provide-client-params", self._asked)
        session.events.register("before-send", self._sent)
        session.events.register("after-call.sts.AssumeRole", self._assumed)

    def _asked(self, params: Mapping[str, Any], event_name: str, **_: Any) -> None:
        self._here.parameters = {name: value for name, value in params.items() if name not in _LEFT_OUT}

    def _sent(self, request: Any, event_name: str, **_: Any) -> None:
        service, operation = event_name.split(".")[1:]
        authorization = request.headers["Authorization"]
        text = authorization.decode() if isinstance(authorization, bytes) else authorization
        self._note(service, operation, self._here.parameters, text.partition("Credential=")[2].partition("/")[0])

    def _assumed(self, parsed: Mapping[str, Any], **_: Any) -> None:
        function = self._holders[self._here.key][0]
        tags = {tag["Key"]: tag["Value"] for tag in self._here.parameters["Tags"]}
        self._holders[parsed["Credentials"]["AccessKeyId"]] = (function, tags)

    def signed(self, operation: str, parameters: Mapping[str, Any], key: str) -> None:
        """Note a call that was signed for somebody else to make."""
        self._note("s3", operation, parameters, key)

    def _note(self, service: str, operation: str, parameters: Mapping[str, Any], key: str) -> None:
        self._here.key = key
        function, tags = self._holders[key]
        call = Call(service=service, operation=operation, parameters=parameters)
        record = Record(asker=self.asker, function=function, tags=tags, call=call)
        with self._lock:
            self._file.write(json.dumps(asdict(record), default=repr) + "\n")

    def close(self) -> None:
        self._file.close()


def read_records(file: Path) -> Iterator[Record]:
    """What was noted in a file."""
    for line in file.read_text("utf-8").splitlines():
        noted = json.loads(line)
        yield Record(
            asker=None if noted["asker"] is None else (noted["asker"][0], noted["asker"][1]),
            function=noted["function"],
            tags=noted["tags"],
            call=Call(**noted["call"]),
        )
