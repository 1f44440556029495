"""The supervisor: what it starts, says, survives and leaves behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import boto3
import httpx
import pytest

from worker_space_local.issuer import Issuer, sign_token
from worker_space_local.layout import Ports, lay_out, processes
from worker_space_local.processes import Process, answers, free_ports
from worker_space_local.stack import Stack, StackError, serve

STAND_INS = ("aws", "redis", "qdrant")


def until(true: Callable[[], object], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A process that has ended but was not waited for has no executable any more.
    return b"\0" in Path(f"/proc/{pid}/cmdline").read_bytes() if Path("/proc").exists() else True


@contextmanager
def table(url: str) -> Iterator[Any]:
    with closing(boto3.client("dynamodb", endpoint_url=url, region_name="us-east-1")) as client:
        yield client


def put(url: str, sk: str) -> None:
    with table(url) as client:
        client.put_item(TableName="worker-space", Item={"pk": {"S": "p"}, "sk": {"S": sk}})


def kept(url: str) -> list[str]:
    with table(url) as client:
        return [item["sk"]["S"] for item in client.scan(TableName="worker-space")["Items"]]


@contextmanager
def serving(data_dir: Path, port: int) -> Iterator["subprocess.Popen[str]"]:
    """The stack as people start it, ready; killed at the end if it still runs."""
    environment = {**os.environ, "WORKER_SPACE_DATA_DIR": str(data_dir), "WORKER_SPACE_PORT": str(port)}
    command = [sys.executable, "-m", "worker_space_local.stack"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as stack:
        try:
            until(lambda: (data_dir / "endpoints.json").exists() or stack.poll() is not None, 60)
            yield stack
        finally:
            if stack.poll() is None:
                stack.kill()


def test_the_whole_stack_from_start_to_stop(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with serving(tmp_path, port) as stack:
        endpoints = json.loads((tmp_path / "endpoints.json").read_text())
        names = {"api", "aws", "redis", "qdrant", "issuer", "jwks", "bucket", "table"}
        assert set(endpoints) == names | {"processes"}
        assert endpoints["api"] == f"http://127.0.0.1:{port}"
        assert set(endpoints["processes"]) == {"aws", "redis", "qdrant", "api", "worker"}
        assert stat.S_IMODE((tmp_path / "credentials.json").stat().st_mode) == 0o600
        token = sign_token(tmp_path, "ada")
        projects = f"{endpoints['api']}/my/projects/"
        assert httpx.get(projects, headers={"authorization": f"Bearer {token}"}).status_code == 200
        assert httpx.get(projects).status_code == 401
        put(endpoints["aws"], "kept")

        worker = endpoints["processes"]["worker"]
        os.kill(worker, signal.SIGKILL)
        until(lambda: json.loads((tmp_path / "endpoints.json").read_text())["processes"]["worker"] != worker)

        started = time.monotonic()
        stack.send_signal(signal.SIGTERM)
        assert stack.wait(10) == 0
        assert time.monotonic() - started < 5
        assert not (tmp_path / "endpoints.json").exists()
        assert stack.stdout is not None
        said = stack.stdout.read()
        assert f"Worker Space listens on http://127.0.0.1:{port}" in said
        assert "worker ended with status -9: started again" in said
        until(lambda: not any(alive(pid) for pid in endpoints["processes"].values()), 5)
    with Stack(data_dir=tmp_path, services=("aws",)) as again:
        assert kept(again.endpoints["aws"]) == ["kept"]


def test_a_killed_supervisor_takes_its_processes_along_and_can_be_followed(tmp_path: Path) -> None:
    with serving(tmp_path, free_ports(1)[0]) as stack:
        endpoints = json.loads((tmp_path / "endpoints.json").read_text())
        put(endpoints["aws"], "kept")
        stack.kill()
        stack.wait()
    # At once, while the old processes are still ending.
    with Stack(data_dir=tmp_path, services=("aws", "qdrant")) as again:
        assert kept(again.endpoints["aws"]) == ["kept"]
        assert set(json.loads((tmp_path / "endpoints.json").read_text())["processes"]) == {"aws", "qdrant"}
    assert not any(alive(pid) for pid in endpoints["processes"].values())


def test_a_cache_or_a_memory_that_dies_stays_dead_and_is_told(tmp_path: Path) -> None:
    said: list[str] = []
    with Stack(data_dir=tmp_path, services=STAND_INS, say=said.append) as stack:
        stack.kill("redis")
        stack.kill("qdrant")
        until(lambda: any("slower" in line for line in said) and any("without recall" in line for line in said))
        assert set(json.loads((tmp_path / "endpoints.json").read_text())["processes"]) == {"aws"}
        assert answers(int(stack.endpoints["aws"].rsplit(":", 1)[-1]), "/_local/health")
    assert sum("slower" in line for line in said) == 1


def test_the_stack_ends_with_the_aws_stand_in(tmp_path: Path) -> None:
    said: list[str] = []
    with Stack(data_dir=tmp_path, services=("aws",), say=said.append) as stack:
        stack.kill("aws")
        assert stack.wait() == 1
    assert any("aws ended with status -9" in line for line in said)


def test_one_stack_at_a_time_uses_a_folder(tmp_path: Path) -> None:
    with Stack(data_dir=tmp_path, services=()):
        with (
            pytest.raises(StackError, match=f"Another stack \\(process {os.getpid()}\\) uses"),
            Stack(data_dir=tmp_path, services=()),
        ):
            pass
        assert (tmp_path / "endpoints.json").exists()
    with Stack(data_dir=tmp_path, services=()) as later:
        assert (tmp_path / "endpoints.json").exists()
        assert later.endpoints["bucket"] == "worker-space-local"


def test_a_taken_port_is_one_sentence_and_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "endpoints.json").write_text("{}")
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            port = taken.getsockname()[1]
            assert serve(data_dir=tmp_path, port=port) == 2
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert capsys.readouterr().out.startswith(f"Port {port} is taken: ")
    assert not (tmp_path / "endpoints.json").exists()


def test_a_port_that_is_no_number_is_one_sentence_and_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("WORKER_SPACE_PORT", "http")
    assert serve(say=said.append) == 2
    assert said == ["WORKER_SPACE_PORT is 'http': set it to a port number"]


def test_a_wrong_setting_is_one_sentence_before_anything_starts(tmp_path: Path) -> None:
    wrong = {**os.environ, "WORKER_SPACE_PRESIGNED_SECONDS": "8"}
    with (
        pytest.raises(StackError, match="set these environment variables right: WORKER_SPACE_PRESIGNED_SECONDS: "),
        Stack(data_dir=tmp_path, services=("aws",), environment=wrong),
    ):
        pass
    assert not list((tmp_path / "logs").iterdir())


def test_a_process_that_cannot_start_is_named_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "aws.zip").write_bytes(b"damaged")
    with (
        pytest.raises(StackError, match=r"aws ended with status 1 (.|\n)*move it away"),
        Stack(data_dir=tmp_path, services=("aws",)),
    ):
        pass
    (tmp_path / "aws.zip").unlink()
    with Stack(data_dir=tmp_path, services=("aws",)):
        pass


def test_a_stop_while_starting_leaves_nothing(tmp_path: Path) -> None:
    stack = Stack(data_dir=tmp_path, services=("aws",))
    stack.request_stop()
    with pytest.raises(StackError, match="stopped while it started"), stack:
        pass
    with Stack(data_dir=tmp_path, services=()):
        pass


def test_real_services_take_the_place_of_stand_ins(tmp_path: Path) -> None:
    given = {
        "UPSTASH_REDIS_REST_URL": "https://redis.example",
        "UPSTASH_REDIS_REST_TOKEN": "theirs",
        "QDRANT_URL": "https://qdrant.example",
        "JWT_ISSUER": "https://issuer.example",
        "JWT_JWKS_URL": "https://issuer.example/keys",
        "JWT_AUDIENCE": "mine",
        "AWS_PROFILE": "private",
        "AWS_SESSION_TOKEN": "private",
        "AWS_REGION": "eu-central-1",
        "WORKER_SPACE_VISIBILITY_SECONDS": "4",
        "OPENAI_API_KEY": "",
    }
    with Issuer(tmp_path) as issuer:
        layout = lay_out(given, tmp_path, Ports(api=1, aws=2, redis=3, qdrant=4), issuer)
    assert layout.endpoints["redis"] == layout.environment["UPSTASH_REDIS_REST_URL"] == "https://redis.example"
    assert (layout.endpoints["issuer"], layout.endpoints["jwks"]) == (given["JWT_ISSUER"], given["JWT_JWKS_URL"])
    assert layout.environment["UPSTASH_REDIS_REST_TOKEN"] == "theirs"
    assert layout.environment["JWT_AUDIENCE"] == "mine"
    assert layout.environment["WORKER_SPACE_VISIBILITY_SECONDS"] == "4"
    assert layout.environment["WORKER_SPACE_DEAD_LETTER_ARN"].split(":")[3] == "eu-central-1"
    assert not {"AWS_PROFILE", "AWS_SESSION_TOKEN", "OPENAI_API_KEY"} & layout.environment.keys()
    assert set(processes(layout, ("aws", "redis", "qdrant", "api", "worker"))) == {"aws", "api", "worker"}


def test_a_process_that_ignores_the_request_to_stop_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "stubborn.py"
    script.write_text(
        "import pathlib, signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"pathlib.Path({str(tmp_path / 'up')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    read, write = os.pipe()
    process = Process(
        name="stubborn",
        module=["stubborn"],
        environment={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        logs=tmp_path,
        ready=(tmp_path / "up").exists,
    )
    assert (process.pid, process.status, process.last_lines()) == (None, None, "")
    assert process.stop(0) is True
    (tmp_path / "stubborn.log").write_bytes(b"x" * 11 * 1024 * 1024)
    process.start(read, read)
    until(process.ready)
    assert (tmp_path / "stubborn.log.1").exists()
    process.signal(signal.SIGTERM)
    assert process.stop(time.monotonic() + 0.2) is False
    assert process.status == -signal.SIGKILL
    os.close(read)
    os.close(write)
