"""Health, readiness, and the document that describes the surface."""

import ast
import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import validate

from tests.api.service import Service
from worker_space.api.app import create_app
from worker_space.errors import Unavailable

pytestmark = pytest.mark.anyio


async def well() -> None:
    return None


async def down() -> None:
    raise Unavailable("redis", "http://10.0.0.7 refused")


async def hanging() -> None:
    await asyncio.sleep(60)


async def test_health_asks_nothing(service: Service) -> None:
    service.replace(dependencies={"table": down})
    answer = await service.call("GET", "/health", user=None)
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


@pytest.mark.parametrize(
    ("down_ones", "status", "word"),
    [
        ([], 200, "ok"),
        (["redis"], 200, "degraded"),
        (["redis", "qdrant"], 200, "degraded"),
        (["table"], 503, "unavailable"),
        (["queue", "redis"], 503, "unavailable"),
        (["files"], 503, "unavailable"),
    ],
)
async def test_readiness_says_what_answers(service: Service, down_ones: list[str], status: int, word: str) -> None:
    names = ["table", "files", "queue", "redis", "qdrant"]
    service.replace(dependencies={name: down if name in down_ones else well for name in names})
    answer = await service.client.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (status, word)
    states = answer.json()["dependencies"]
    assert {name for name in names if not states[name]["ok"]} == set(down_ones)
    assert all(isinstance(state["ms"], int) for state in states.values())
    assert "10.0.0.7" not in answer.text


async def test_dependencies_that_hang_are_asked_together_and_for_two_seconds(service: Service) -> None:
    service.replace(dependencies={"redis": hanging, "qdrant": hanging, "table": well})
    began = time.monotonic()
    answer = await service.client.get("/ready")
    assert time.monotonic() - began < 3.5
    assert answer.json()["status"] == "degraded"


# -- the document


def document() -> dict[str, Any]:
    def nobody() -> Any:
        raise AssertionError("the document needs no services")

    return create_app(nobody).openapi()


DOCUMENT = document()
OPERATIONS = [(method, path) for path, item in DOCUMENT["paths"].items() for method in item]


def refs(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for part in value.values():
            yield from refs(part)
    elif isinstance(value, list):
        for part in value:
            yield from refs(part)


def test_the_document_is_valid_openapi() -> None:
    validate(DOCUMENT)
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert set(refs(DOCUMENT)) <= known


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_an_operation_is_described(method: str, path: str) -> None:
    operation = DOCUMENT["paths"][path][method]
    assert operation["summary"]
    assert operation["tags"]
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", operation["operationId"])
    good = {status: answer for status, answer in operation["responses"].items() if status.startswith("2")}
    assert good
    for status, answer in good.items():
        assert answer["description"]
        if status != "204":
            media = next(iter(answer["content"].values()))
            assert "schema" in media
            assert "example" in media
    for parameter in operation.get("parameters", []):
        assert parameter.get("description"), parameter["name"]
    if path.startswith("/my/"):
        assert {"401", "404", "422", "500", "503"} <= set(operation["responses"])
        assert operation["security"] == [{"HTTPBearer": []}]
    for status, answer in operation["responses"].items():
        if status[0] in "45" and path.startswith("/my/"):
            media = answer["content"]["application/problem+json"]
            assert media["schema"] == {"$ref": "#/components/schemas/Problem"}
            assert media["example"]["status"] == int(status)


def test_operation_ids_are_unique_and_stay() -> None:
    ids = sorted(DOCUMENT["paths"][path][method]["operationId"] for method, path in OPERATIONS)
    assert ids == [
        "add_context", "call_tool", "cancel_plan", "cancel_task", "cleanup_worker_space", "clear_context",
        "confirm_approval", "create_agent", "create_download", "create_plan", "create_project", "create_session",
        "create_stream_ticket", "create_upload", "delete_agent", "delete_file", "delete_project", "delete_session",
        "execute_plan", "export_project", "get_agent", "get_agent_metrics", "get_agent_status", "get_agent_version",
        "get_approval", "get_erasure", "get_limits", "get_plan", "get_project", "get_session", "get_task",
        "get_worker_space", "head_file", "health", "import_project", "list_agent_versions", "list_agents",
        "list_approvals", "list_context", "list_erasures", "list_files", "list_messages", "list_plans",
        "list_projects", "list_sessions", "list_steps", "list_tasks", "list_tools", "read_file", "ready",
        "reject_approval", "remove_context", "reset_worker_space", "restore_agent_version", "retry_plan_task",
        "send_message", "start_chat", "stream_events", "update_agent", "update_project", "write_file",
    ]  # fmt: skip


def test_the_readme_names_no_query_parameter_that_is_not_served() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"[?&]([a-z_]+)=", readme))
    operations = [operation for path in DOCUMENT["paths"].values() for operation in path.values()]
    parameters = [each for operation in operations for each in operation.get("parameters", ())]
    assert named
    assert named <= {each["name"] for each in parameters if each["in"] == "query"}


def test_the_bearer_token_is_the_one_way_in() -> None:
    assert DOCUMENT["components"]["securitySchemes"] == {
        "HTTPBearer": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token of the deployment's issuer.",
        }
    }


async def test_the_document_is_served_and_no_page_that_loads_scripts(service: Service) -> None:
    served = await service.call("GET", "/openapi.json", user=None)
    assert served.json()["info"]["title"] == "Worker Space"
    for path in ("/docs", "/redoc"):
        assert (await service.call("GET", path, user=None)).status_code == 404


def test_the_surface_imports_no_vendor_that_is_slow_to_load() -> None:
    heavy = ["qdrant_client", "openai", "pydantic_ai", "boto3", "botocore", "upstash_redis", "numpy", "grpc"]
    code = f"import sys, worker_space.api.app; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ast.literal_eval(done.stdout) == []
