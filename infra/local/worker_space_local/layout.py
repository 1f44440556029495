"""What the stack consists of: its endpoints and secrets, its processes and their environment."""

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from worker_space_local.issuer import DEFAULT_AUDIENCE, Issuer
from worker_space_local.processes import Process, answers
from worker_space_local.server import HOST

SERVICES = ("aws", "redis", "qdrant", "api", "worker")
TABLE, BUCKET, PREFIX = "worker-space", "worker-space-local", "local"
_ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True, kw_only=True)
class Ports:
    """Where the processes listen on 127.0.0.1."""

    api: int
    aws: int
    redis: int
    qdrant: int


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One stack, not yet started.

    ``replaced`` names the stand-ins whose place something else takes; ``environment`` is what every process gets.
    """

    data_dir: Path
    ports: Ports
    endpoints: dict[str, Any]
    credentials: dict[str, str]
    environment: dict[str, str]
    replaced: frozenset[str]


def lay_out(given: Mapping[str, str], data_dir: Path, ports: Ports, issuer: Issuer) -> Layout:
    """Work out a stack from the environment it is started in.

    Args:
        given: that environment; ``JWT_*``, ``UPSTASH_REDIS_REST_URL`` and ``QDRANT_URL`` replace stand-ins.
        data_dir: where the stack keeps things.
        ports: where it listens.
        issuer: the development issuer.
    """
    given = {name: value for name, value in given.items() if value}
    stand_in = f"http://{HOST}:"
    token, key = secrets.token_urlsafe(24), secrets.token_urlsafe(24)
    if "UPSTASH_REDIS_REST_URL" in given:
        token = given.get("UPSTASH_REDIS_REST_TOKEN", "")
    if "QDRANT_URL" in given:
        key = given.get("QDRANT_API_KEY", "")
    region = given.get("AWS_REGION") or given.get("AWS_DEFAULT_REGION") or "us-east-1"
    account = f"{region}:123456789012"
    endpoints = {
        "api": f"{stand_in}{ports.api}",
        "aws": f"{stand_in}{ports.aws}",
        "redis": given.get("UPSTASH_REDIS_REST_URL", f"{stand_in}{ports.redis}"),
        "qdrant": given.get("QDRANT_URL", f"{stand_in}{ports.qdrant}"),
        "issuer": given.get("JWT_ISSUER", issuer.url),
        "jwks": given.get("JWT_JWKS_URL", issuer.jwks_url),
        "bucket": BUCKET,
        "table": TABLE,
    }
    credentials = {"redis_token": token, "qdrant_api_key": key}
    loopback = ",".join(filter(None, (given.get("NO_PROXY") or given.get("no_proxy"), f"{HOST},localhost")))
    fixed = {
        "WORKER_SPACE_TABLE": TABLE,
        "WORKER_SPACE_BUCKET": BUCKET,
        "WORKER_SPACE_PREFIX": PREFIX,
        "WORKER_SPACE_PORT": str(ports.api),
        "WORKER_SPACE_DATA_DIR": str(data_dir),
        "WORKER_SPACE_WORKER_FUNCTION": "worker",
        "WORKER_SPACE_DEAD_LETTER_ARN": f"arn:aws:sqs:{account}:{PREFIX}_dead-letter.fifo",
        "AWS_ENDPOINT_URL": endpoints["aws"],
        "AWS_REGION": region,
        "AWS_DEFAULT_REGION": region,
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_EC2_METADATA_DISABLED": "true",
        # Nothing of the user's own AWS set-up may reach the children.
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "UPSTASH_REDIS_REST_URL": endpoints["redis"],
        "UPSTASH_REDIS_REST_TOKEN": token,
        "QDRANT_URL": endpoints["qdrant"],
        "QDRANT_API_KEY": key,
        "JWT_ISSUER": endpoints["issuer"],
        "JWT_JWKS_URL": endpoints["jwks"],
        "NO_PROXY": loopback,
        "no_proxy": loopback,
    }
    defaults = {
        "JWT_AUDIENCE": DEFAULT_AUDIENCE,
        # Nothing is refused here, but everything goes the way that it goes on AWS.
        "WORKER_SPACE_DATA_ROLE_ARN": "arn:aws:iam::123456789012:role/local-data",
        "WORKER_SPACE_VISIBILITY_SECONDS": "60",
        "WORKER_SPACE_WORKER_TIMEOUT_SECONDS": "120",
        "WORKER_SPACE_DEFAULT_MODEL": "offline:rules",
        "WORKER_SPACE_SWEEP_SECONDS": "10",
        "POWERTOOLS_TRACE_DISABLED": "true",
    }
    kept = {name: value for name, value in given.items() if name not in ("AWS_PROFILE", "AWS_SESSION_TOKEN")}
    if kept.pop("PYTHONDONTWRITEBYTECODE", None):
        # The wish is a clean source tree. Without any bytecode every start would compile every library again.
        kept.setdefault("PYTHONPYCACHEPREFIX", str(Path(sys.prefix) / "pycache"))
    return Layout(
        data_dir=data_dir,
        ports=ports,
        endpoints=endpoints,
        credentials=credentials,
        environment={**defaults, **kept, **fixed},
        replaced=frozenset(
            name for name, url in (("redis", "UPSTASH_REDIS_REST_URL"), ("qdrant", "QDRANT_URL")) if url in given
        ),
    )


def processes(layout: Layout, services: tuple[str, ...]) -> dict[str, Process]:
    """Return the processes of a stack by name, in the order of their start, not yet started."""
    ports, given = layout.ports, layout.environment
    ready_file = layout.data_dir / "worker.ready"
    ping = {"authorization": f"Bearer {layout.credentials['redis_token']}"}
    names = ["--table", TABLE, "--bucket", BUCKET, "--prefix", PREFIX]
    if given.get("WORKER_SPACE_QUEUE_MODE") == "pooled":
        names += ["--pool-queues", given.get("WORKER_SPACE_POOL_QUEUES", "8")]
    threads = given.get("WORKER_SPACE_WORKER_THREADS", "4")
    server = [
        "--host",
        HOST,
        "--port",
        str(ports.api),
        "--no-access-log",
        "--timeout-graceful-shutdown",
        "1",
    ]
    table: dict[str, tuple[list[str], Callable[[], bool]]] = {
        "aws": (
            ["worker_space_local.aws", "--port", str(ports.aws), "--data", str(layout.data_dir), *names],
            lambda: answers(ports.aws, "/_local/health"),
        ),
        "redis": (
            ["worker_space_local.redis", "--port", str(ports.redis)],
            lambda: answers(ports.redis, "/", method="POST", body='["PING"]', headers=ping),
        ),
        "qdrant": (
            ["worker_space_local.qdrant", "--port", str(ports.qdrant), "--data", str(layout.data_dir / "qdrant")],
            lambda: answers(ports.qdrant, "/readyz"),
        ),
        "worker": (
            ["worker_space_local.poller", "--ready-file", str(ready_file), "--threads", threads],
            ready_file.exists,
        ),
        "api": (
            ["uvicorn", "functions.api.app:app", *server],
            # This also makes it load what it needs, so that the first user does not wait for that.
            lambda: answers(ports.api, "/ready", seconds=20),
        ),
    }
    ready_file.unlink(missing_ok=True)
    if url := layout.environment.get("WORKER_SPACE_REDIS_URL"):
        table["redis"][0].extend(["--redis-url", url])
    # The repository is on the path, so that functions.* can be imported, wherever the stack is started from.
    path = os.pathsep.join([str(_ROOT), *filter(None, [given.get("PYTHONPATH")])])
    return {
        name: Process(
            name=name,
            module=module,
            environment={**layout.environment, "PYTHONPATH": path},
            logs=layout.data_dir / "logs",
            ready=ready,
        )
        for name, (module, ready) in table.items()
        if name in services and name not in layout.replaced
    }
