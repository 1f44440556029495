"""The part of Lambda that the local stack has: named functions, event source mappings, asynchronous invocations.

Nothing runs here. The poller asks which mapped queues have messages (``ready``) and runs the worker itself.
"""

import json
import time
import uuid
from typing import Any, TypeAlias
from urllib.parse import parse_qs, unquote

from worker_space_local.sqs import QueueStore

Body: TypeAlias = dict[str, Any]
MAX_ASYNC_BYTES = 1024 * 1024
_MAPPINGS = "/2015-03-31/event-source-mappings"


class LambdaError(Exception):
    """An error answer: HTTP status, the exception's name and its message."""

    def __init__(self, status: int, name: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.message = message


def _function_name(reference: str) -> str:
    """Return the bare name from a name, ARN or either with an alias or version."""
    parts = reference.split(":")
    return parts[6] if len(parts) > 6 else parts[0]


class FunctionStore:
    """Functions that exist by name, their mappings, and the invocations nobody has picked up yet."""

    def __init__(self, region: str, account: str, queues: QueueStore) -> None:
        self.queues = queues
        self.functions: dict[str, str] = {}
        self.mappings: dict[str, Body] = {}
        self.recursion: dict[str, str] = {}
        self.wake_ups: list[Body] = []
        self._arn = f"arn:aws:lambda:{region}:{account}"

    def seed(self, name: str) -> str:
        """Make a function exist and return its ARN."""
        self.functions[name] = f"{self._arn}:function:{name}"
        return self.functions[name]

    def map(self, queue_arn: str, function: str) -> None:
        """Make a queue's mapping, as a template would: one message at a time, with partial batch answers.

        Raises:
            LambdaError: queue or function are not there, or the mapping is there already.
        """
        answers = ["ReportBatchItemFailures"]
        self._create(
            {"EventSourceArn": queue_arn, "FunctionName": function, "BatchSize": 1, "FunctionResponseTypes": answers}
        )

    def call(self, method: str, path: str, query: str, content: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        """Answer one request of Lambda's REST API with (status, body).

        Raises:
            LambdaError: the error answer to give.
        """
        if path.startswith(_MAPPINGS):
            identity = path.removeprefix(_MAPPINGS).strip("/")
            return self._mapping(method, identity, query, json.loads(content or b"{}"))
        parts = [unquote(part) for part in path.strip("/").split("/")]
        if len(parts) < 3 or parts[1] != "functions":
            raise LambdaError(404, "ResourceNotFoundException", f"The local stack has no Lambda operation at {path!r}")
        name = self._existing(parts[2])
        action = parts[3] if len(parts) > 3 else ""
        if action == "invocations" and method == "POST":
            return self._invoke(name, content, headers.get("x-amz-invocation-type", "RequestResponse"))
        if action == "recursion-config":
            if method == "PUT":
                self.recursion[name] = json.loads(content)["RecursiveLoop"]
            return 200, {"RecursiveLoop": self.recursion.get(name, "Terminate")}
        if action in ("", "configuration") and method == "GET":
            described = {"FunctionName": name, "FunctionArn": self.functions[name], "State": "Active"}
            return 200, described if action else {"Configuration": described}
        raise LambdaError(
            404, "ResourceNotFoundException", f"The local stack has no Lambda operation {method} {path!r}"
        )

    def _existing(self, reference: str) -> str:
        name = _function_name(reference)
        if name not in self.functions:
            raise LambdaError(404, "ResourceNotFoundException", f"Function not found: {self._arn}:function:{name}")
        return name

    def _invoke(self, name: str, content: bytes, kind: str) -> tuple[int, Any]:
        if kind == "DryRun":
            return 204, None
        if kind != "Event":
            raise LambdaError(400, "InvalidParameterValueException", "The local stack only invokes with type Event")
        if len(content) > MAX_ASYNC_BYTES:
            raise LambdaError(413, "RequestTooLargeException", "The payload is larger than 1 MiB")
        self.wake_ups.append({"function": name, "payload": json.loads(content or b"null")})
        self.queues.changed()
        return 202, None

    # Event source mappings

    def _mapping(self, method: str, identity: str, query: str, body: Body) -> tuple[int, Any]:
        if not identity:
            return (202, self._create(body)) if method == "POST" else (200, self._list(parse_qs(query)))
        if identity not in self.mappings:
            raise LambdaError(404, "ResourceNotFoundException", "The resource you requested does not exist.")
        mapping = self.mappings[identity]
        if method == "GET":
            return 200, mapping
        if method == "DELETE":
            del self.mappings[identity]
            return 202, mapping | {"State": "Deleting"}
        if "FunctionName" in body:
            mapping["FunctionArn"] = self._target(body["FunctionName"])
        if "Enabled" in body:
            mapping["State"] = "Enabled" if body["Enabled"] else "Disabled"
        mapping.update({field: body[field] for field in ("BatchSize", "ScalingConfig") if field in body})
        mapping["LastModified"] = time.time()
        self.queues.changed()
        return 202, mapping

    def _target(self, reference: str) -> str:
        """Return the ARN a mapping targets: the function's, with the alias or version if one is named."""
        name = self._existing(reference)
        qualifier = reference.split(":")[7:] if reference.startswith("arn:") else reference.split(":")[1:]
        return ":".join([self.functions[name], *qualifier])

    def _create(self, body: Body) -> Body:
        target = self._target(body["FunctionName"])
        source = body["EventSourceArn"]
        queue = self.queues.by_arn(source)
        if queue is None:
            raise LambdaError(
                400,
                "InvalidParameterValueException",
                "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue.",
            )
        batch = int(body.get("BatchSize", 10))
        if queue.fifo and not 1 <= batch <= 10:
            raise LambdaError(
                400, "InvalidParameterValueException", "Batch size must be between 1 and 10 for FIFO queues"
            )
        for mapping in self.mappings.values():
            if mapping["EventSourceArn"] == source and mapping["FunctionArn"] == target:
                raise LambdaError(
                    409,
                    "ResourceConflictException",
                    f'The event source arn (" {source} ") and function (" {_function_name(target)} ") provided mapping '
                    f"already exists. Please update or delete the existing mapping with UUID {mapping['UUID']}",
                )
        identity = str(uuid.uuid4())
        mapping = {
            "UUID": identity,
            "BatchSize": batch,
            "EventSourceArn": source,
            "FunctionArn": target,
            "LastModified": time.time(),
            "State": "Enabled" if body.get("Enabled", True) else "Disabled",
            "StateTransitionReason": "USER_INITIATED",
            "FunctionResponseTypes": body.get("FunctionResponseTypes") or [],
        }
        if body.get("ScalingConfig"):
            mapping["ScalingConfig"] = body["ScalingConfig"]
        self.mappings[identity] = mapping
        self.queues.changed()
        return mapping

    def _list(self, query: dict[str, list[str]]) -> Body:
        source = query.get("EventSourceArn", [None])[0]
        function = query.get("FunctionName", [None])[0]
        start, size = query.get("Marker", [""])[0], int(query.get("MaxItems", ["100"])[0])
        found = [
            mapping
            for identity, mapping in sorted(self.mappings.items())
            if identity > start
            and (source is None or mapping["EventSourceArn"] == source)
            and (function is None or _function_name(mapping["FunctionArn"]) == _function_name(function))
        ]
        answer: Body = {"EventSourceMappings": found[:size]}
        if len(found) > size:
            answer["NextMarker"] = found[size - 1]["UUID"]
        return answer

    # For the poller

    async def ready(self, seconds: float, always: list[str]) -> Body:
        """Wait until a mapped queue, or one of the queues ``always`` (by ARN), has a message to give.

        Returns:
            ``queues`` with the number of groups (for standard queues: messages) that can be received now, and the
            ``wake_ups`` that came in; both empty when ``seconds`` ran out.
        """
        deadline = time.monotonic() + seconds
        while True:
            now = time.time()
            found: list[Body] = []
            next_change = seconds
            sources = {m["EventSourceArn"] for m in self.mappings.values() if m["State"] == "Enabled"}
            for source in [*always, *sources.difference(always)]:
                queue = self.queues.by_arn(source)
                if queue is None or not queue.messages:
                    continue
                self.queues.redrive(queue, now)
                receivable = queue.receivable(now)
                if count := len({message.group for message in receivable}) if queue.fifo else len(receivable):
                    found.append({"queue_url": queue.url, "queue_arn": queue.arn, "receivable": count})
                elif (due := queue.next_change(now)) is not None:
                    next_change = min(next_change, due)
            left = deadline - time.monotonic()
            if found or self.wake_ups or left <= 0:
                wake_ups, self.wake_ups = self.wake_ups, []
                return {"queues": found, "wake_ups": wake_ups}
            await self.queues.wait(min(left, next_change))
