"""Starts the AWS stand-in and the scenario against it, and gives what was noted."""

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.policy.deployment import ROOT, Deployment, deployment
from tests.policy.recording import Record, read_records
from tests.policy.scenario import PREFIX
from tests.servers import stand_in

__all__ = ["Played", "play"]

_SECONDS: Final = 240


@dataclass(frozen=True, kw_only=True)
class Played:
    """What came of a scenario.

    Attributes:
        package: The folder of the package that was under test.
        deployed: The policies under which the calls are judged.
        said: What the process wrote to its standard error.
    """

    package: Path
    deployed: Deployment
    records: Sequence[Record]
    said: str


def play(folder: Path, *, package: Path | None = None, api_scoped: bool = True) -> Played:
    """Play the scenario with the package in this working tree, or only its attack with another.

    Args:
        folder: Holds what the stand-in keeps: a broken build attacks what a good one has left there.
        package: A folder that holds another `worker_space`.
    """
    data = folder / "aws"
    if package is not None:
        data = package.parent / "aws"
        shutil.copytree(folder / "aws", data)
    records = (package.parent if package else folder) / "records.jsonl"
    log = records.with_suffix(".log")
    options = ["--data", str(data), "--prefix", PREFIX]
    with stand_in("worker_space_local.aws", log, *options, path="/_local/health") as url:
        with urllib.request.urlopen(f"{url}/_local/health", timeout=5) as answer:
            made = json.load(answer)
        deployed = deployment(
            prefix=PREFIX,
            table=made["table"],
            bucket=made["bucket"],
            dead_letter_arn=made["dead_letters"],
            api_scoped=api_scoped,
        )
        variables = {
            **{name: os.environ[name] for name in ("PATH", "HOME", "PYTHONDONTWRITEBYTECODE") if name in os.environ},
            "PYTHONPATH": os.pathsep.join([*([str(package)] if package else []), str(ROOT)]),
            "AWS_ENDPOINT_URL": url,
            "AWS_REGION": made["region"],
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "WORKER_SPACE_TABLE": made["table"],
            "WORKER_SPACE_BUCKET": made["bucket"],
            "WORKER_SPACE_PREFIX": PREFIX,
            "WORKER_SPACE_DEAD_LETTER_ARN": made["dead_letters"],
            "WORKER_SPACE_DATA_ROLE_ARN": deployed.data_role_arn,
            "WORKER_SPACE_WORKER_FUNCTION": deployed.place.arn("lambda", f"function:{deployed.place.worker}"),
            "WORKER_SPACE_WORKER_TIMEOUT_SECONDS": "60",
            "WORKER_SPACE_IDLE_SECONDS": "1",
            "WORKER_SPACE_ERASE_AGAIN_SECONDS": "1",
            "WORKER_SPACE_ANSWER_WAIT_SECONDS": "8",
            "WORKER_SPACE_ORPHAN_SECONDS": "1",
            "UPSTASH_REDIS_REST_URL": "http://127.0.0.1:9",
            "UPSTASH_REDIS_REST_TOKEN": "x",
            "QDRANT_URL": "http://127.0.0.1:9",
            "JWT_ISSUER": "https://issuer.test",
            "JWT_JWKS_URL": "http://127.0.0.1:9/jwks.json",
        }
        command = [sys.executable, "-m", "tests.policy.scenario", "--records", str(records)]
        command += ["--ids", str(folder / "ids.json")]
        command += ["--broken"] if package else []
        command += [] if api_scoped else ["--api-unscoped"]
        ended = subprocess.run(
            command, env=variables, cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        if ended.returncode:
            raise RuntimeError(f"the scenario ended with {ended.returncode}:\n{ended.stderr[-6000:]}")
    return Played(
        package=Path(ended.stdout.splitlines()[0]),
        deployed=deployed,
        records=list(read_records(records)),
        said=ended.stderr,
    )
