"""`make env` and `make bridge`: the functions' variables for containers, and their way to the stand-ins."""

import asyncio
import gc
import json
from pathlib import Path

import pytest

from tests.stand_ins import Aws, Endpoint
from worker_space_local.bridge import main as bridge
from worker_space_local.bridge import ports, relay
from worker_space_local.deployed import deployed, main, moved
from worker_space_local.processes import free_ports
from worker_space_local.template import TemplateError

pytestmark = pytest.mark.anyio
JWKS = "http://127.0.0.1:9/jwks.json"


@pytest.fixture
def data_dir(tmp_path: Path, aws: Aws, redis: Endpoint, qdrant: Endpoint) -> Path:
    endpoints = {
        "api": "http://127.0.0.1:8",
        "aws": aws.url,
        "redis": redis.url,
        "qdrant": qdrant.url,
        "issuer": "http://127.0.0.1:9",
        "jwks": JWKS,
        "table": aws.table,
        "bucket": aws.bucket,
    }
    credentials = {"redis_token": redis.secret, "qdrant_api_key": qdrant.secret}
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints), "utf-8")
    (tmp_path / "credentials.json").write_text(json.dumps(credentials), "utf-8")
    return tmp_path


def test_the_file_has_every_function_with_the_templates_variables_and_the_bridges_addresses(
    data_dir: Path, aws: Aws, redis: Endpoint, tmp_path: Path
) -> None:
    output = tmp_path / "env.json"
    assert main(["--host", "192.0.2.7", "--output", str(output), "--data-dir", str(data_dir)]) == 0
    written = json.loads(output.read_text("utf-8"))
    assert set(written) == {"ApiFunction", "WorkerFunction", "CleanupFunction", "DeadLetterFunction"}
    api = written["ApiFunction"]
    assert api["AWS_ENDPOINT_URL"] == aws.url.replace("127.0.0.1", "192.0.2.7")
    assert api["JWT_JWKS_URL"] == JWKS.replace("127.0.0.1", "192.0.2.7")
    # Tokens name their issuer: that stays.
    assert api["JWT_ISSUER"] == "http://127.0.0.1:9"
    assert "127.0.0.1" not in api["UPSTASH_REDIS_REST_URL"] + api["QDRANT_URL"]
    endpoints = json.loads((data_dir / "endpoints.json").read_text("utf-8"))
    credentials = json.loads((data_dir / "credentials.json").read_text("utf-8"))
    assert {name: set(variables) for name, variables in written.items()} == {
        name: set(function.variables) for name, function in deployed(endpoints, credentials).items()
    }
    # The functions ask Secrets Manager for what the template keeps out of their configuration.
    assert redis.secret not in output.read_text("utf-8")
    assert output.stat().st_mode & 0o777 == 0o600


def test_a_parameter_of_no_template_is_refused(data_dir: Path) -> None:
    endpoints = json.loads((data_dir / "endpoints.json").read_text("utf-8"))
    credentials = json.loads((data_dir / "credentials.json").read_text("utf-8"))
    with pytest.raises(TemplateError, match="no parameter Colour"):
        deployed(endpoints, credentials, given={"Colour": "red"})


def test_without_a_running_stack_both_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "env.json"
    assert main(["--host", "192.0.2.7", "--output", str(output), "--data-dir", str(tmp_path)]) == 1
    assert bridge(["--host", "127.0.0.1", "--data-dir", str(tmp_path)]) == 1
    assert capsys.readouterr().err.count("no stack runs") == 2
    assert not output.exists()


def test_an_address_that_this_machine_has_not_is_refused(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bridge(["--host", "192.0.2.7", "--data-dir", str(data_dir)]) == 1
    assert "is Docker running?" in capsys.readouterr().err


def test_only_the_services_that_functions_ask_are_relayed(data_dir: Path) -> None:
    endpoints = json.loads((data_dir / "endpoints.json").read_text("utf-8"))
    numbers = {int(endpoints[name].split(":")[2].partition("/")[0]) for name in ("aws", "redis", "qdrant", "jwks")}
    assert ports(data_dir) == numbers
    assert moved(endpoints, "192.0.2.7")["api"] == endpoints["api"]


async def test_a_relay_passes_bytes_both_ways_and_the_end_of_either() -> None:
    (port,) = free_ports(1)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        content = await reader.read()
        # Nobody reads from the asking side any more; the relay waits for the answer all the same.
        await asyncio.sleep(0.05)
        gc.collect()
        writer.write(content)
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", port), await relay("127.0.0.2", port):
        reader, writer = await asyncio.open_connection("127.0.0.2", port)
        writer.write(b"x" * 100_000)
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 10) == b"x" * 100_000
        writer.close()
        await writer.wait_closed()
        # Both ends of the relay see the end, before the loop goes.
        await asyncio.sleep(0.2)


async def test_a_relay_to_nobody_closes_the_connection() -> None:
    (port,) = free_ports(1)
    async with await relay("127.0.0.2", port):
        reader, writer = await asyncio.open_connection("127.0.0.2", port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        await writer.wait_closed()
