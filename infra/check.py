"""`make template`: validate the templates, build functions and layers, and look at what would be deployed.

No account, no Docker, no network beyond the package index: layers are built by their makefiles.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
LAYER_LIMIT_MB = 200
"""Lambda takes 250 MB of layers and function together, unzipped; the rest is for growth and the functions."""

ELF_MACHINE = {"arm64": 0xB7, "x86_64": 0x3E}
"""`e_machine` of the ELF header, by the architecture's name on Lambda."""

COMPILED_MB = 50
"""What compiled modules add at most; a machine without Lambda's Python builds layers without them."""

UNWANTED = ("boto3", "botocore", "s3transfer", "dateutil", "six.py", "bin", "worker_space_local", "pytest", "moto")
"""What the runtime has already, or what no invocation needs."""

UNCHECKED_HASH = (1).to_bytes(4, "little")
"""The flags of a compiled module that is used without a look at its source."""


class CheckError(Exception):
    """Something would go wrong after a deployment; the message says what."""


def run(environment: dict[str, str], *command: str) -> None:
    """Run a command in the project's root.

    Raises:
        CheckError: It did not end with status 0.
    """
    print(">>", " ".join(command), flush=True)
    ended = subprocess.run(command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, check=False)
    if ended.returncode:
        raise CheckError(f"{command[0]} {command[1]} ended with status {ended.returncode}")


def megabytes(folder: Path) -> float:
    """The size of all files below a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def check_layers(build: Path, architecture: str) -> None:
    """Look at both layers as they would be deployed.

    Raises:
        CheckError: They are too big, made for another architecture, or carry what they should not.
    """
    total, without = 0.0, False
    for name, package in (("DependenciesLayer", "fastapi"), ("CoreLayer", "worker_space")):
        packages = build / name / "python"
        if not (packages / package).is_dir():
            raise CheckError(f"{name} has no python/{package}: functions could not import it")
        if unwanted := [entry for entry in UNWANTED if (packages / entry).exists()]:
            raise CheckError(f"{name} carries {', '.join(unwanted)}")
        if leftover := next(
            (path for path in packages.rglob("*") if path.name == "tests" or path.suffix == ".pyi"), None
        ):
            raise CheckError(f"{name} carries {leftover.relative_to(packages)}, which nothing imports")
        _check_libraries(packages, architecture)
        compiled = _check_compiled(packages)
        size = megabytes(build / name)
        print(f"   {name}: {size:.1f} MB unzipped, {'with' if compiled else 'without'} compiled modules")
        total += size
        without = without or not compiled
    limit = LAYER_LIMIT_MB - COMPILED_MB if without else LAYER_LIMIT_MB
    print(f"   {architecture}: together {total:.1f} MB, {limit} is the limit")
    if without:
        print("   (no CPython of Lambda's version was found to compile them: right, but slower at a cold start)")
    if total >= limit:
        raise CheckError(f"the layers are {total:.1f} MB, {limit} is the limit")


def _check_libraries(packages: Path, architecture: str) -> None:
    for library in packages.rglob("*.so*"):
        with library.open("rb") as file:
            header = file.read(20)
        if header[:4] == b"\x7fELF" and int.from_bytes(header[18:20], "little") != ELF_MACHINE[architecture]:
            raise CheckError(
                f"{library.relative_to(packages)} is not for {architecture}: build with ARCH={architecture}"
            )


def _check_compiled(packages: Path) -> bool:
    """Whether compiled modules are there; each has to be one that Lambda takes, or it would only cost space."""
    compiled = list(packages.rglob("*.pyc"))
    for module in compiled:
        with module.open("rb") as file:
            if file.read(8)[4:] != UNCHECKED_HASH:
                raise CheckError(
                    f"{module.relative_to(packages)} was compiled with its source's date: it is never used"
                )
    return bool(compiled)


def check_functions(build: Path, template: Path) -> None:
    """Look at every function's folder as it would be deployed.

    Raises:
        CheckError: A handler's file is missing, or third-party packages came along.
    """
    resources = yaml.load(template.read_text("utf-8"), Loader=_CloudFormationLoader)["Resources"]  # noqa: S506 - a SafeLoader
    for name, resource in resources.items():
        if resource["Type"] != "AWS::Serverless::Function":
            continue
        if not (build / name / "app.py").is_file():
            raise CheckError(f"{name} has no app.py: every invocation would fail")
        if (size := megabytes(build / name)) > 1:
            raise CheckError(f"{name} is {size:.1f} MB: packages belong into the layer")


class _CloudFormationLoader(yaml.SafeLoader):
    """Reads the short forms of intrinsic functions as what they are written over."""


_CloudFormationLoader.add_multi_constructor("!", lambda loader, _tag, node: _plain(loader, node))


def _plain(loader: yaml.SafeLoader, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return node.value


def main() -> int:
    """Run every check; the first failure ends with one sentence and status 1."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--architecture", choices=sorted(ELF_MACHINE), default="arm64")
    parser.add_argument("--sam-bin", type=Path, required=True, help="folder with sam, its python and uv")
    parser.add_argument("--checkov", type=Path, required=True, help="the command, from an environment of its own")
    arguments = parser.parse_args()
    tools = arguments.sam_bin.absolute()
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "ARCH": arguments.architecture,
        "SAM_CLI_TELEMETRY": "0",
        "SAM_CLI_POLL_AWS_MESSAGES": "0",
        # `sam` asks for a region even where it asks nobody in it.
        "AWS_DEFAULT_REGION": os.environ.get("AWS_DEFAULT_REGION", "eu-central-1"),
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    nested = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "infra").glob("*.yaml"))
    build = ROOT / ".aws-sam" / "build"
    try:
        run(environment, "sam", "validate", "--lint")
        # This environment's own: the rules compare with the settings.
        run(environment, str(Path(sys.executable).with_name("cfn-lint")), "--non-zero-exit-code", "informational",
            "--append-rules", "infra/cfn_rules", "--", "template.yaml", *nested)  # fmt: skip
        # Without the flag it asks its maker's site for texts that nobody here reads.
        run(environment, str(arguments.checkov), "--framework", "cloudformation", "--skip-download", "--quiet",
            "--compact", "--file", "template.yaml", *nested)  # fmt: skip
        run(environment, str(tools / "python"), "infra/published.py")
        # The one that is deployed comes last and lies where `sam deploy` looks; of the other only the sizes matter.
        for architecture in sorted(ELF_MACHINE, key=lambda name: name == arguments.architecture):
            place = build if architecture == arguments.architecture else build.with_name(architecture)
            override = f"Architecture={architecture}"
            run(environment | {"ARCH": architecture}, "sam", "build", "--build-dir", str(place),
                "--parameter-overrides", override)  # fmt: skip
            check_layers(place, architecture)
            check_functions(place, ROOT / "template.yaml")
    except CheckError as problem:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    print("templates valid, functions and layers built")
    return 0


if __name__ == "__main__":
    sys.exit(main())
