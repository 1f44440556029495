"""The README's reference lists every endpoint and every setting."""

from pathlib import Path

import pytest

from tests.api.test_health_document import DOCUMENT
from worker_space.settings import Settings

README = (Path(__file__).parents[2] / "README.md").read_text("utf-8")
PROJECT = "/my/projects/{project_id}"


@pytest.mark.parametrize("variable", [str(field.alias) for field in Settings.model_fields.values()])
def test_a_setting_is_listed(variable: str) -> None:
    assert f"`{variable}`" in README


@pytest.mark.parametrize("path", sorted(DOCUMENT["paths"]))
def test_an_endpoint_is_listed(path: str) -> None:
    shown = path.removeprefix(PROJECT) if path.startswith(f"{PROJECT}/") and path != f"{PROJECT}/" else path
    assert f"`{shown}`" in README or f"`{path}`" in README
