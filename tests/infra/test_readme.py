"""The README lists every endpoint and every setting, and docs/deploy.md every parameter."""

from pathlib import Path

import pytest

from tests.api.test_health_document import DOCUMENT
from tests.infra.test_template import MAIN
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
