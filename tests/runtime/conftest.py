"""What `make runtime-test` built, under Lambda's runtime client, against an embedded stack that has no worker."""

import base64
import copy
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from worker_space_local.deployed import deployed
from worker_space_local.issuer import sign_token
from worker_space_local.poller import AwsConnection, Receiver
from worker_space_local.runtime_api import Function, LocalFunction, Outcome
from worker_space_local.stack import Stack
from worker_space_local.template import DeployedFunction

EVENTS = Path(__file__).parents[2] / "events"
# Read while the tests are collected: what a person has set is gone when they run.
_ARTIFACTS = os.environ.get("ARTIFACTS")
_PYTHON = os.environ.get("ARTIFACTS_PYTHON")
artifacts = pytest.mark.skipif(_ARTIFACTS is None, reason="`make runtime-test` builds what these tests run")


def event(name: str) -> Any:
    return json.loads((EVENTS / f"{name}.json").read_text("utf-8"))


class Account:
    """The deployed functions with what AWS puts in front of them: the gateway, the mappings, the scheduler."""

    def __init__(self, stack: Stack, log: Path, resources: ExitStack) -> None:
        assert _ARTIFACTS is not None
        assert _PYTHON is not None
        self.stack = stack
        self.log = log
        self._place, self._python = Path(_ARTIFACTS), Path(_PYTHON)
        self.described = deployed(stack.endpoints, stack.credentials)
        self._resources = resources
        self._functions: dict[str, LocalFunction] = {}
        self._sqs = resources.enter_context(closing(AwsConnection(stack.endpoints["aws"])))

    def folder(self, id_: str) -> Path:
        return self._place / "build" / id_

    def start(
        self,
        id_: str,
        *,
        folder: Path | None = None,
        handler: str | None = None,
        timeout_seconds: float | None = None,
        **variables: str,
    ) -> LocalFunction:
        """The function's environments: as the template has it, or with some of that changed."""
        described: DeployedFunction = self.described[id_]
        assert set(variables) <= set(described.variables)
        function = Function(
            name=described.name,
            folder=folder or self.folder(id_),
            variables={**described.variables, **variables},
            python=self._python,
            libraries=(self._place / "opt" / "python", self._place / "runtime"),
            timeout_seconds=timeout_seconds or described.timeout_seconds,
            log=self.log,
            runtime=described.runtime,
            handler=handler or described.handler,
            memory_mb=described.memory_mb,
        )
        return self._resources.enter_context(LocalFunction(function))

    def invoke(self, id_: str, payload: Any) -> Outcome:
        """Invoke a function that is kept for all tests."""
        if id_ not in self._functions:
            self._functions[id_] = self.start(id_)
        return self._functions[id_].invoke(payload)

    def ask(self, user: str, template: Any, **changes: Any) -> Any:
        """What a user gets for a request like the one of an event; checked to be no error of the function."""
        outcome = self.invoke("ApiFunction", self.request(user, template, **changes))
        assert not outcome.failed, outcome.payload
        answer = outcome.payload
        body = base64.b64decode(answer["body"]) if answer.get("isBase64Encoded") else answer["body"]
        return answer["statusCode"], json.loads(body)

    def request(
        self, user: str, template: Any, *, method: str = "POST", path: str | None = None, body: Any = None
    ) -> Any:
        """The event of a user's request, from one of the events that the repository carries."""
        made = copy.deepcopy(template)
        token = sign_token(self.stack.data_dir, user, 600)
        made["headers"]["authorization"] = f"Bearer {token}"
        made["rawPath"] = made["requestContext"]["http"]["path"] = path or made["rawPath"]
        made["requestContext"]["http"]["method"] = method
        if body is not None:
            made["body"] = json.dumps(body)
        elif method == "GET":
            del made["body"], made["headers"]["content-type"], made["headers"]["content-length"]
        if "body" in made:
            made["headers"]["content-length"] = str(len(made["body"].encode()))
        return made

    def batch(self, *, dead: bool = False) -> tuple[Mapping[str, Any], Callable[[], None]]:
        """The next SQS batch of a project's queue, or of the dead-letter queue, and what deletes it."""
        for source in self._sqs.local("ready?wait=10")["queues"]:
            if source["queue_arn"].endswith("dead-letter.fifo") == dead:
                receiver = Receiver(self._sqs, source, lambda: None)
                found = receiver.receive(0)
                if found is not None:
                    return found, functools.partial(receiver.delete, found["Records"][0]["receiptHandle"])
        raise AssertionError("no message came")


@pytest.fixture(scope="session")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    folder = tmp_path_factory.mktemp("account")
    without = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WORKER_SPACE_"))}
    with (
        Stack(
            data_dir=folder / "stack", environment=without, say=lambda line: None, services=("aws", "redis", "qdrant")
        ) as stack,
        ExitStack() as resources,
    ):
        yield Account(stack, folder / "functions.log", resources)
