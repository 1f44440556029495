"""`make runtime-test`: build what would be deployed, for this machine, and try it by Lambda's own runtime client.

The interpreter is Lambda's version where one is found (see `layers/core/Makefile`), else the one that runs this: then
the same makefiles build a layer for that one, from the same lock. Everything lies in `.aws-sam/runtime`: `build` as SAM
made it, `opt` with the layers in one folder as on Lambda, `runtime` with what Lambda's runtime brings.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from infra.check import ROOT, CheckError, check_functions, check_layers, run

PLACE = ROOT / ".aws-sam" / "runtime"
LAMBDA_VERSION = "3.13"
ARCHITECTURES = {"x86_64": "x86_64", "aarch64": "arm64"}
LAYERS = ("DependenciesLayer", "CoreLayer")


def interpreter(environment: dict[str, str]) -> tuple[str, Path]:
    """The version to build for, and an executable of it that works from everywhere."""
    command = ["make", "-s", "-C", "layers/core", "compiler", f"PYTHON_VERSION={LAMBDA_VERSION}"]
    found = _told(environment, *command).strip()
    ask = "import sys; print('%d.%d' % sys.version_info[:2]); print(sys._base_executable)"
    version, executable = _told(environment, found or sys.executable, "-c", ask).splitlines()
    return version, Path(executable)


def _told(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True).stdout


def unpack(layers: Path, opt: Path) -> None:
    """Lay the layers into one folder, one over the other, as Lambda unpacks them into `/opt`.

    Raises:
        CheckError: Two of them have the same file.
    """
    for layer in LAYERS:
        for source in sorted((layers / layer).rglob("*")):
            target = opt / source.relative_to(layers / layer)
            if source.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif target.exists():
                raise CheckError(f"both layers have {target.relative_to(opt)}")
            else:
                _link(source, target)


def _link(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)


def main() -> int:
    """Build, test, and end with the tests' status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sam-bin", type=Path, required=True, help="folder with sam")
    parser.add_argument("--uv", type=Path, required=True)
    given, pytest_arguments = parser.parse_known_args()
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        print("error: Lambda's packages run on Linux on x86_64 or aarch64 only", file=sys.stderr)
        return 1
    architecture = ARCHITECTURES[platform.machine()]
    environment = os.environ | {
        "PATH": f"{given.sam_bin.absolute()}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ARCH": architecture,
        "UV": str(given.uv.absolute()),
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_AWS_MESSAGES": "0",
        "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "eu-central-1"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    version, executable = interpreter(environment)
    print(f">> {executable} (CPython {version}), {architecture}")
    if version != LAMBDA_VERSION:
        print(f"   Lambda's is {LAMBDA_VERSION}, which is not here: the layers are built for this one")
    environment |= {"PYTHON_VERSION": version, "COMPILER": str(executable)}
    shutil.rmtree(PLACE, ignore_errors=True)
    build = PLACE / "build"
    try:
        override = f"Architecture={architecture}"
        run(environment, "sam", "build", "--build-dir", str(build), "--parameter-overrides", override)
        check_layers(build, architecture)
        check_functions(build, ROOT / "template.yaml")
        unpack(build, PLACE / "opt")
        install = (
            "pip",
            "install",
            "--quiet",
            "--compile-bytecode",
            "--require-hashes",
            "--no-config",
            "-r",
            "requirements/lambda.txt",
        )
        where = ("--python", str(executable), "--target", str(PLACE / "runtime"))
        run(environment, environment["UV"], *install, *where)
    except CheckError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    tested = {**environment, "ARTIFACTS": str(PLACE), "ARTIFACTS_PYTHON": str(executable)}
    command = [sys.executable, "-m", "pytest", "tests/runtime", *pytest_arguments]
    return subprocess.run(command, cwd=ROOT, env=tested, stdin=subprocess.DEVNULL, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
