"""What each handler imports when it starts, and that requests which do not need the slow libraries do without them.

Each is looked at in a process of its own that can import only what ships: the layer's packages and Lambda's own.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.runtime.conftest import event
from worker_space_local.deployed import deployed
from worker_space_local.issuer import sign_token
from worker_space_local.stack import Stack

ROOT = Path(__file__).parents[2]
LOCKS = ("layers/dependencies/requirements.txt", "requirements/lambda.txt")

# Without the standard library and this project. A change of a list is a change of every cold start.
CORE = {
    "annotated_types",
    "aws_lambda_powertools",
    "aws_xray_sdk",
    "boto3",
    "botocore",
    "certifi",
    "dateutil",
    "httpx",
    "idna",
    "jmespath",
    "pydantic",
    "pydantic_core",
    "re2",
    "s3transfer",
    "six",
    "snapshot_restore_py",
    "typing_extensions",
    "typing_inspection",
    "upstash_redis",
    "urllib3",
    "wrapt",
}
AT_START = {
    "api": CORE
    | {
        "_cffi_backend",
        "annotated_doc",
        "anyio",
        "cryptography",
        "fastapi",
        "jwt",
        "mangum",
        "opentelemetry",
        "sniffio",
        "starlette",
    },
    "worker": CORE,
    "cleanup": CORE,
    "dead_letter": CORE,
}
ON_LAMBDA = {
    "AWS_LAMBDA_FUNCTION_NAME": "a-function",
    "LAMBDA_TASK_ROOT": "/var/task",
    "WORKER_SPACE_TRACING": "Active",
}
"""By these a handler knows that it is there, and logs, counts and traces."""
SLOW = {"anthropic", "genai_prices", "grpc", "numpy", "openai", "pydantic_ai", "qdrant_client", "tiktoken"}

LOOK = """
import json, re, sys
from importlib.metadata import packages_distributions

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

class OnlyWhatShips:
    # Other packages of the machine would be taken where they are there, as httpx takes rich.
    packages = {name: {plain(each) for each in found} for name, found in packages_distributions().items()}
    shipped = set(json.loads(sys.argv[1]))

    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in self.packages and top not in ("worker_space", "functions") and not self.packages[top] & self.shipped:
            raise ModuleNotFoundError(f"{top} does not ship", name=top)
        return None

sys.meta_path.insert(0, OnlyWhatShips())

def third_party():
    found = {name.partition(".")[0] for name, module in sys.modules.items()
             if "site-packages" in (getattr(module, "__file__", None) or "")}
    return sorted(found - {"_distutils_hack", "_virtualenv", "a1_coverage", "coverage"})
"""


def shipped() -> list[str]:
    """The distributions of the layer and of Lambda's runtime, from their locks."""
    text = "".join((ROOT / lock).read_text("utf-8") for lock in LOCKS)
    return [re.sub(r"[-_.]+", "-", name).lower() for name in re.findall(r"^([A-Za-z0-9._-]+)==", text, re.MULTILINE)]


def told(code: str, *arguments: str, variables: Mapping[str, str] | None = None) -> Any:
    """What a process that may import only what ships prints, as JSON."""
    ended = subprocess.run(
        [sys.executable, "-c", LOOK + code, json.dumps(shipped()), *arguments],
        cwd=ROOT,
        env={**os.environ, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout.splitlines()[-1])


@pytest.mark.parametrize("function", AT_START)
def test_a_handler_imports_at_its_start_what_is_listed(function: str) -> None:
    found = told(f"import functions.{function}.app\nprint(json.dumps(third_party()))", variables=ON_LAMBDA)
    assert set(found) == AT_START[function]


def test_a_handler_without_traces_imports_nothing_for_them() -> None:
    variables = {**ON_LAMBDA, "WORKER_SPACE_TRACING": "Disabled"}
    found = told("import functions.api.app\nprint(json.dumps(third_party()))", variables=variables)
    assert set(found) == AT_START["api"] - {"aws_xray_sdk", "wrapt"}


def test_what_does_not_ship_cannot_be_imported_in_these_tests() -> None:
    found = told("try:\n    import pytest\nexcept ModuleNotFoundError as error:\n    print(json.dumps(error.name))")
    assert found == "pytest"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("imports")
    without = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "WORKER_SPACE_"))}
    services = ("aws", "redis", "qdrant")
    with Stack(data_dir=folder, environment=without, say=lambda line: None, services=services) as up:
        yield up


SERVE = """
from functions.api.app import handler

class Context:
    aws_request_id = "x"
    def get_remaining_time_in_millis(self):
        return 29_000

answers = []
for event in json.load(open(sys.argv[2])):
    answer = handler(event, Context())
    answers.append([answer["statusCode"], answer["body"], third_party()])
print(json.dumps(answers))
"""


def test_requests_that_need_neither_recall_nor_a_model_import_no_slow_library(stack: Stack, tmp_path: Path) -> None:
    token = sign_token(stack.data_dir, "ann", 600)

    def request(method: str, path: str, template: str = "api_create_project") -> Any:
        made = event(template)
        made["headers"]["authorization"] = f"Bearer {token}"
        made["requestContext"]["http"] |= {"method": method, "path": path}
        made["rawPath"] = path
        if method == "GET":
            del made["body"], made["headers"]["content-type"], made["headers"]["content-length"]
        return made

    shop = "/my/projects/shop"
    requests = [
        request("POST", "/my/projects/"),
        request("GET", f"{shop}/agents/"),
        request("POST", f"{shop}/chat/", "api_send_message"),
        request("GET", f"{shop}/tasks/"),
        request("GET", f"{shop}/files/"),
        request("GET", "/health"),
    ]
    made = json.loads(requests[2]["body"])
    requests[2]["body"] = json.dumps({**made, "target_agent": "analyst"})
    requests[2]["headers"]["content-length"] = str(len(requests[2]["body"]))
    path = tmp_path / "events.json"
    path.write_text(json.dumps(requests), "utf-8")
    variables = deployed(stack.endpoints, stack.credentials)["ApiFunction"].variables
    region = {"AWS_REGION": stack.environment["AWS_REGION"]}
    answers = told(SERVE, str(path), variables={**variables, **region})
    assert [status for status, _, _ in answers] == [201, 200, 202, 200, 200, 200], answers
    for _, body, imported in answers:
        assert SLOW & set(imported) == set(), body


def test_the_worker_imports_the_slow_libraries_once_it_has_work() -> None:
    # Guards the test above: the names are those that these libraries have.
    found = told("import worker_space.adapters.model_messages, qdrant_client, openai\nprint(json.dumps(third_party()))")
    assert {"pydantic_ai", "openai", "qdrant_client", "numpy", "grpc"} <= set(found)
