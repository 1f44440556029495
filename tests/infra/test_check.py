"""What `make template` refuses about a build, on small builds made by hand."""

import os
import py_compile
import struct
import subprocess
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

import pytest

from infra.check import COMPILED_MB, ELF_MACHINE, LAYER_LIMIT_MB, ROOT, CheckError, check_functions, check_layers

TEMPLATE = """
Resources:
  OneFunction:
    Type: AWS::Serverless::Function
    Properties:
      Handler: !Sub app.handler
  Other:
    Type: AWS::SQS::Queue
"""


@pytest.fixture
def build(tmp_path: Path) -> Path:
    for layer, package in (("DependenciesLayer", "fastapi"), ("CoreLayer", "worker_space")):
        (tmp_path / layer / "python" / package).mkdir(parents=True)
    (tmp_path / "OneFunction").mkdir()
    (tmp_path / "OneFunction" / "app.py").write_text("", "utf-8")
    (tmp_path / "template.yaml").write_text(TEMPLATE, "utf-8")
    return tmp_path


def library(build: Path, architecture: str) -> None:
    header = b"\x7fELF" + bytes(12) + struct.pack("<HH", 3, ELF_MACHINE[architecture])
    (build / "DependenciesLayer/python/fastapi/speedup.so").write_bytes(header)


def compiled(package: Path, mode: PycInvalidationMode) -> None:
    source = package / "module.py"
    source.write_text("", "utf-8")
    py_compile.compile(str(source), doraise=True, invalidation_mode=mode)


def test_a_sound_build_passes(build: Path) -> None:
    library(build, "arm64")
    check_layers(build, "arm64")
    check_functions(build, build / "template.yaml")


def test_a_library_for_another_architecture_is_refused(build: Path) -> None:
    library(build, "x86_64")
    with pytest.raises(CheckError, match=r"speedup\.so is not for arm64"):
        check_layers(build, "arm64")


@pytest.mark.parametrize("package", ["boto3", "worker_space_local"])
def test_a_package_that_must_not_ship_is_refused(build: Path, package: str) -> None:
    (build / "CoreLayer/python" / package).mkdir()
    with pytest.raises(CheckError, match=f"CoreLayer carries {package}"):
        check_layers(build, "arm64")


def test_layers_over_the_limit_are_refused(build: Path) -> None:
    with (build / "CoreLayer/python/worker_space/big").open("wb") as file:
        file.truncate(LAYER_LIMIT_MB * 1_000_000)
    with pytest.raises(CheckError, match="is the limit"):
        check_layers(build, "arm64")


def test_layers_without_compiled_modules_have_to_leave_room_for_them(build: Path) -> None:
    with (build / "CoreLayer/python/worker_space/big").open("wb") as file:
        file.truncate((LAYER_LIMIT_MB - COMPILED_MB) * 1_000_000 + 1)
    with pytest.raises(CheckError, match="150 is the limit"):
        check_layers(build, "arm64")
    for layer, package in (("DependenciesLayer", "fastapi"), ("CoreLayer", "worker_space")):
        compiled(build / layer / "python" / package, PycInvalidationMode.UNCHECKED_HASH)
    check_layers(build, "arm64")


def test_a_module_compiled_with_its_date_is_refused(build: Path) -> None:
    compiled(build / "CoreLayer/python/worker_space", PycInvalidationMode.TIMESTAMP)
    with pytest.raises(CheckError, match="never used"):
        check_layers(build, "arm64")


@pytest.mark.parametrize("leftover", ["tests/test_it.py", "types.pyi"])
def test_what_nothing_imports_is_refused(build: Path, leftover: str) -> None:
    path = build / "DependenciesLayer/python/fastapi" / leftover
    path.parent.mkdir(exist_ok=True)
    path.touch()
    with pytest.raises(CheckError, match="which nothing imports"):
        check_layers(build, "arm64")


def test_both_layers_look_for_their_compiler_in_the_same_way() -> None:
    texts = [(ROOT / f"layers/{name}/Makefile").read_text("utf-8") for name in ("core", "dependencies")]
    searches = [text[text.index("CANDIDATES = ") : text.index("endef")] for text in texts]
    assert searches[0] == searches[1]


def test_an_interpreter_that_does_not_run_or_is_another_version_compiles_nothing(tmp_path: Path) -> None:
    (tmp_path / "python3.99").write_text("#!/bin/sh\nexit 127\n", "utf-8")
    (tmp_path / "python3.99").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    command = ["make", "-s", "-C", str(ROOT / "layers/core"), "compiler", "PYTHON_VERSION=3.99"]

    def found(**more: str) -> str:
        environment = {**os.environ, "PATH": path, **more}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout

    assert found(COMPILER=sys.executable) == "\n"
    working = tmp_path / "working"
    working.write_text("#!/bin/sh\nexit 0\n", "utf-8")
    working.chmod(0o755)
    assert found(COMPILER=str(working)) == f"{working}\n"


def test_a_package_nested_twice_is_refused(build: Path) -> None:
    packages = build / "CoreLayer/python"
    (packages / "worker_space").rename(packages / "moved")
    with pytest.raises(CheckError, match="functions could not import it"):
        check_layers(build, "arm64")


def test_a_function_without_its_handler_is_refused(build: Path) -> None:
    (build / "OneFunction/app.py").unlink()
    with pytest.raises(CheckError, match=r"OneFunction has no app\.py"):
        check_functions(build, build / "template.yaml")


def test_packages_inside_a_function_are_refused(build: Path) -> None:
    (build / "OneFunction/package.py").write_bytes(bytes(2_000_000))
    with pytest.raises(CheckError, match="packages belong into the layer"):
        check_functions(build, build / "template.yaml")
