"""What the templates give to the functions and take from a deployment: settings, secrets, parameters and places."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.infra.templates import FUNCTIONS, GRANTS, MAIN, ROOT, TEMPLATES, listed, load, variables
from worker_space.adapters.secrets import SECRET_FIELDS
from worker_space.settings import Settings, variables_of

NOT_OURS = ("AWS_ENDPOINT_URL", "POWERTOOLS_")
"""Beginnings of the variables that libraries read, not `Settings`."""


# -- what reaches the functions


def environment_names() -> dict[str, bool]:
    """Every variable that `Settings` reads, and whether it must be there."""
    return {field.alias or name: field.is_required() for name, field in Settings.model_fields.items()}


MINIMAL = {name: "x" for name, required in environment_names().items() if required} | {"WORKER_SPACE_SECRET": "x"}


def test_the_four_entry_points_are_functions_of_their_folders() -> None:
    assert {properties["CodeUri"] for properties in FUNCTIONS.values()} == {
        "functions/api",
        "functions/worker",
        "functions/cleanup",
        "functions/dead_letter",
    }


def ours(function: str) -> set[str]:
    return {name for name in variables(function) if not name.startswith(NOT_OURS)}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_functions_environment_is_exactly_its_settings(function: str) -> None:
    assert ours(function) == variables_of(FUNCTIONS[function]["CodeUri"].rpartition("/")[2])


def test_every_setting_reaches_some_function_or_is_a_secret_or_a_clock() -> None:
    deployed = set().union(*(ours(function) for function in FUNCTIONS))
    # Lambda itself sets those that begin with AWS_.
    assert {name for name in environment_names() if not name.startswith("AWS_")} - deployed == {
        "UPSTASH_REDIS_REST_TOKEN",
        "QDRANT_API_KEY",
        "OPENAI_API_KEY",
        "WORKER_SPACE_ANSWER_WAIT_SECONDS",
        "WORKER_SPACE_REDISPATCH_SECONDS",
        "WORKER_SPACE_ERASE_AGAIN_SECONDS",
        "WORKER_SPACE_ORPHAN_SECONDS",
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_the_environment_fits_into_the_4_kb_that_lambda_allows(function: str) -> None:
    """With the longest values that the parameters take, and room for addresses, names and ARNs."""
    size = 0
    for name, value in variables(function).items():
        parameter = MAIN["Parameters"].get(value.get("Ref", ""), {}) if isinstance(value, dict) else None
        size += len(name) + (len(str(value)) if parameter is None else _longest(parameter))
    assert size < 4096


def _longest(parameter: dict[str, Any]) -> int:
    if "AllowedValues" in parameter:
        return max(len(str(value)) for value in parameter["AllowedValues"])
    if parameter.get("AllowedPattern") == "[0-9]{0,15}":
        return 15
    if "MaxValue" in parameter:
        return len(str(parameter["MaxValue"]))
    return int(parameter.get("MaxLength", 90))


def test_the_api_knows_whose_tokens_to_take() -> None:
    assert {"JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL"} <= set(variables("ApiFunction"))


def test_settings_accept_what_the_template_gives_a_function() -> None:
    defaults = {name: str(parameter.get("Default", "")) for name, parameter in MAIN["Parameters"].items()}
    required_urls = {"RedisRestUrl": "https://redis.test", "QdrantUrl": "https://qdrant.test"}

    def value_of(value: Any) -> str:
        if not isinstance(value, dict):
            return str(value)
        if "Ref" in value:
            return (defaults | required_urls).get(value["Ref"], "value")
        # Of a choice, what stands first; everything else is an ARN or a name that only a deployment knows.
        return value_of(value["Fn::If"][1]) if "Fn::If" in value else "arn:aws:iam::123456789012:role/it"

    for function in FUNCTIONS:
        settings = Settings.from_environment({name: value_of(value) for name, value in variables(function).items()})
        assert settings.prefix == "ws"
        assert settings.worker_timeout_seconds == 300


def test_no_secret_stands_in_a_template() -> None:
    for path in TEMPLATES:
        assert "{{resolve:" not in path.read_text("utf-8"), path.name
    secrets = {Settings.model_fields[field].alias for fields in SECRET_FIELDS.values() for field in fields.values()}
    assert secrets == {"UPSTASH_REDIS_REST_TOKEN", "QDRANT_API_KEY", "OPENAI_API_KEY"}
    for function in FUNCTIONS:
        assert secrets.isdisjoint(variables(function)), function


def test_who_is_told_a_secrets_name_may_read_it_and_nobody_else_may() -> None:
    access = load(ROOT / "infra/access.yaml")["Resources"]
    for variable, policy in (
        ("WORKER_SPACE_SECRET", "SecretPolicy"),
        ("WORKER_SPACE_MODEL_SECRET", "ModelSecretPolicy"),
    ):
        holders = {role["Ref"] for role in access[policy]["Properties"]["Roles"]}
        told = {
            properties["Role"]["Fn::GetAtt"] for name, properties in FUNCTIONS.items() if variable in variables(name)
        }
        assert told == {f"Access.Outputs.{role}Arn" for role in holders}
    grants = [grant for grant in GRANTS if "secretsmanager:GetSecretValue" in listed(grant["Action"])]
    assert [grant["Resource"]["Fn::Sub"].rpartition(":")[2] for grant in grants] == [
        "${SecretsName}-??????",
        "${ModelSecretName}-??????",
    ]


# -- parameters


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_parameter_has_a_type_a_description_and_a_constraint(path: Path) -> None:
    for name, parameter in load(path).get("Parameters", {}).items():
        assert parameter["Type"] in ("String", "Number"), name
        assert parameter["Description"].strip(), name
        assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter), name
        assert ("MinValue" in parameter) is ("MaxValue" in parameter), name


def test_a_default_and_its_limits_are_those_of_the_settings() -> None:
    compared = set()
    fields = {field.alias: field for field in Settings.model_fields.values()}
    for variable, value in variables("WorkerFunction").items():
        parameter = MAIN["Parameters"].get(value.get("Ref", "") if isinstance(value, dict) else "", {})
        field = fields.get(variable)
        # The worker's own timeout is a choice of the deployment; the settings only know the most that Lambda allows.
        if field is None or parameter.get("Type") != "Number" or variable == "WORKER_SPACE_WORKER_TIMEOUT_SECONDS":
            continue
        compared.add(variable)
        assert parameter["Default"] == field.default, variable
        for bound in parameter.get("AllowedValues") or (parameter["MinValue"], parameter["MaxValue"]):
            Settings.from_environment(MINIMAL | {variable: str(bound)})
    assert len(compared) >= 8


def test_a_prefix_that_the_template_takes_is_one_that_settings_take() -> None:
    pattern = MAIN["Parameters"]["Prefix"]["AllowedPattern"]
    for prefix in ("a", "ws", "team-7", "x" * 12):
        assert re.fullmatch(pattern, prefix)
        assert Settings.from_environment(MINIMAL | {"WORKER_SPACE_PREFIX": prefix}).prefix == prefix


# -- the deployments that samconfig.toml describes


SAMCONFIG = tomllib.loads((ROOT / "samconfig.toml").read_text("utf-8"))
PLACES = ["default", "dev", "staging", "prod"]


def test_each_place_has_a_stack_a_prefix_and_a_secret_of_its_own() -> None:
    places = {name: found for name, found in SAMCONFIG.items() if isinstance(found, dict)}
    assert list(places) == PLACES
    assert len({found["global"]["parameters"]["stack_name"] for found in places.values()}) == 4
    for name in ("Prefix", "SecretsName"):
        assert len({overrides(place).get(name) for place in PLACES}) == 4, name


@pytest.mark.parametrize("place", PLACES)
def test_a_place_builds_alike_and_sets_only_what_the_template_takes(place: str) -> None:
    assert SAMCONFIG[place]["build"] == SAMCONFIG["default"]["build"]
    assert SAMCONFIG[place]["deploy"]["parameters"]["resolve_s3"] is True
    for name, value in overrides(place).items():
        parameter = MAIN["Parameters"][name]
        if "AllowedValues" in parameter:
            assert value in map(str, parameter["AllowedValues"]), name
        elif "AllowedPattern" in parameter:
            assert re.fullmatch(parameter["AllowedPattern"], value), name
        else:
            assert parameter["MinValue"] <= int(value) <= parameter["MaxValue"], name


def overrides(place: str) -> dict[str, str]:
    given = SAMCONFIG[place]["deploy"]["parameters"].get("parameter_overrides", [])
    return dict(pair.split("=", 1) for pair in given)
