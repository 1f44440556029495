"""The API's handler, called with the events that API Gateway sends, against the stand-ins."""

import base64
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from functions.api.app import handler
from tests.api.event_source import EventSource
from tests.api.signing import FakeIssuer, token
from worker_space.bootstrap import Environment


@pytest.fixture
def jwks() -> Iterator[str]:
    document = FakeIssuer().fetch("")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(document)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/jwks.json"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def variables(variables: dict[str, str], jwks: str) -> dict[str, str]:
    return {**variables, "JWT_JWKS_URL": jwks}


class Gateway:
    """Asks the handler as an HTTP API does (payload format 2.0)."""

    def __init__(self, environment: Environment, invocation: Any) -> None:
        self._context = invocation
        self.user = f"a-{environment.settings.prefix}"

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        query: str = "",
        anonymous: bool = False,
    ) -> dict[str, Any]:
        given = {} if anonymous else {"authorization": f"Bearer {token(self.user)}"}
        event = {
            "version": "2.0",
            "routeKey": "ANY /{proxy+}",
            "rawPath": path,
            "rawQueryString": query,
            "headers": {"host": "api.test", **given, **(headers or {})},
            "requestContext": {
                "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "192.0.2.1"},
                "stage": "$default",
                "requestId": "x",
            },
            "isBase64Encoded": body is not None,
        }
        if body is not None:
            event["body"] = base64.b64encode(body).decode()
        return handler(event, self._context)


@pytest.fixture
def gateway(environment: Environment, invocation: Any) -> Gateway:
    return Gateway(environment, invocation)


def test_health_needs_no_token_and_no_dependency(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/health", anonymous=True)
    assert (answer["statusCode"], answer["isBase64Encoded"], json.loads(answer["body"])) == (
        200,
        False,
        {"status": "ok"},
    )
    assert answer["headers"]["x-request-id"] == "00000000-0000-4000-8000-000000000000"


def test_every_dependency_is_ready(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/ready", anonymous=True)
    assert (answer["statusCode"], json.loads(answer["body"])["status"]) == (200, "ok"), answer["body"]


def test_without_a_token_there_is_a_readable_problem(gateway: Gateway) -> None:
    answer = gateway.ask("GET", "/my/projects/", anonymous=True)
    assert answer["statusCode"] == 401
    assert json.loads(answer["body"])["status"] == 401


def test_invocations_one_after_another_share_the_environment(gateway: Gateway) -> None:
    made = gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    assert made["statusCode"] == 201, made["body"]
    for _ in range(3):
        listed = gateway.ask("GET", "/my/projects/", query="limit=10")
        assert [item["id"] for item in json.loads(listed["body"])["items"]] == ["shop"]


def test_bytes_come_back_as_they_went(gateway: Gateway) -> None:
    gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    data = bytes(range(256)) * 64
    path = "/my/projects/shop/files/caf%C3%A9/a%20b.bin"
    stored = gateway.ask("PUT", path, body=data, headers={"content-type": "text/plain"})
    assert (stored["statusCode"], json.loads(stored["body"])["path"]) == (201, "caf\u00e9/a b.bin")
    read = gateway.ask("GET", path)
    assert read["isBase64Encoded"] is True
    assert base64.b64decode(read["body"]) == data
    part = gateway.ask("GET", path, headers={"range": "bytes=-2"})
    assert (part["statusCode"], base64.b64decode(part["body"])) == (206, b"\xfe\xff")
    version = read["headers"]["etag"]
    assert gateway.ask("PUT", path, body=b"2", headers={"if-match": version})["statusCode"] == 200
    assert gateway.ask("PUT", path, body=b"3", headers={"if-match": version})["statusCode"] == 412


def test_an_encoded_way_out_of_the_project_is_refused(gateway: Gateway) -> None:
    gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    answer = gateway.ask("GET", "/my/projects/shop/files/%2e%2e%2fother%2fsecret")
    assert answer["statusCode"] == 422


def test_a_message_is_accepted_with_its_tasks_address(gateway: Gateway) -> None:
    gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    body = b'{"content": "Analyse main.py", "target_agent": "coder"}'
    answer = gateway.ask("POST", "/my/projects/shop/chat/", body=body, headers={"prefer": "respond-async"})
    assert answer["statusCode"] == 202, answer["body"]
    task = gateway.ask("GET", answer["headers"]["location"])
    assert json.loads(task["body"])["state"] == "submitted"


def test_a_session_s_events_are_told_through_the_gateway_and_resume_where_they_were_cut(gateway: Gateway) -> None:
    gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    body = b'{"content": "Analyse main.py", "target_agent": "coder"}'
    sent = gateway.ask("POST", "/my/projects/shop/chat/", body=body, headers={"prefer": "respond-async"})
    chat = f"/my/projects/shop/chat/{json.loads(sent['body'])['task']['session_id']}"
    whole = gateway.ask("GET", f"{chat}/events")
    assert (whole["statusCode"], whole["isBase64Encoded"]) == (200, False)
    assert whole["headers"]["content-type"].startswith("text/event-stream")
    told = EventSource()
    told.feed(whole["body"].encode())
    assert [each.type for each in told.told] == ["message_created", "task_submitted"]
    # A gateway writes header names in lower case.
    rest = gateway.ask("GET", f"{chat}/events", headers={"last-event-id": "1"})
    resumed = EventSource()
    resumed.feed(rest["body"].encode())
    assert resumed.told == told.told[1:]
    empty = gateway.ask("GET", f"{chat}/events", query="last_event_id=2&wait=0.2")
    assert (empty["statusCode"], "data:" in empty["body"]) == (200, False)


def test_a_ticket_opens_a_stream_through_the_gateway_in_place_of_a_token(gateway: Gateway) -> None:
    gateway.ask("POST", "/my/projects/", body=b'{"id": "shop", "name": "Shop"}')
    session = json.loads(gateway.ask("POST", "/my/projects/shop/chat/sessions/", body=b"{}")["body"])["id"]
    made = json.loads(gateway.ask("POST", f"/my/projects/shop/chat/{session}/events/ticket")["body"])
    path, _, query = made["href"].partition("?")
    opened = gateway.ask("GET", path, query=f"{query}&wait=0", anonymous=True)
    assert opened["statusCode"] == 200, opened["body"]
    refused = gateway.ask("GET", path, query=f"{query}x&wait=0", anonymous=True)
    assert refused["statusCode"] == 401
    assert made["ticket"] not in refused["body"]
