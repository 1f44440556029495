"""The README lists every endpoint, setting and module, and docs/deploy.md every parameter."""

import re
from fnmatch import fnmatch
from pathlib import Path

import pytest

from tests.api.test_health_document import DOCUMENT
from tests.infra.templates import MAIN
from worker_space.settings import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DEPLOY = (ROOT / "docs/deploy.md").read_text("utf-8")
PROJECT = "/my/projects/{project_id}"


@pytest.mark.parametrize("variable", [str(field.alias) for field in Settings.model_fields.values()])
def test_a_setting_is_listed(variable: str) -> None:
    assert f"`{variable}`" in README


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_an_endpoint_is_listed(path: str) -> None:
    shown = path.removeprefix(PROJECT) if path.startswith(f"{PROJECT}/") and path != f"{PROJECT}/" else path
    assert f"`{shown}`" in README or f"`{path}`" in README


@pytest.mark.parametrize("parameter", sorted(MAIN["Parameters"]))
def test_a_parameter_is_listed(parameter: str) -> None:
    assert f"`{parameter}`" in DEPLOY


def test_every_module_of_the_core_has_a_room() -> None:
    table = README[README.index("The core's rooms") : README.index("| the face |")]
    rooms = set(re.findall(r"`([a-z_*]+)/?`", table))
    outside = {"__init__", "adapters", "api", "bootstrap", "composition", "jobs", "manager", "space"}
    paths = (ROOT / "layers/core/worker_space").iterdir()
    modules = {path.stem for path in paths if path.suffix == ".py" or (path / "__init__.py").exists()} - outside
    assert {module for module in modules if not any(fnmatch(module, room) for room in rooms)} == set()
    assert {room for room in rooms if not any(fnmatch(module, room) for module in modules)} == set()
