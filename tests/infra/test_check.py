"""What `make template` refuses about a build, on small builds made by hand."""

import struct
from pathlib import Path

import pytest

from infra.check import ELF_MACHINE, LAYER_LIMIT_MB, CheckError, check_functions, check_layers

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
