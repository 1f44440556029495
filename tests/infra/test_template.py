"""What the templates promise, read from the templates themselves."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker_space.settings import Settings

ROOT = Path(__file__).parents[2]
INFRA = sorted((ROOT / "infra").glob("*.yaml"))
TEMPLATES = [ROOT / "template.yaml", *INFRA]
STATEFUL = {"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy"}
NO_RESOURCE_LEVEL = {"lambda:CreateEventSourceMapping", "lambda:ListEventSourceMappings"}
"""The actions for which AWS knows no resource to name."""

NOT_OURS = {"AWS_ENDPOINT_URL", "POWERTOOLS_SERVICE_NAME"}
"""Variables that the libraries read, not `Settings`."""


class _Loader(yaml.SafeLoader):
    """Keeps intrinsic functions in their long form, so that `!Ref X` and `{Ref: X}` compare equal."""


def _intrinsic(loader: yaml.SafeLoader, tag: str, node: yaml.Node) -> dict[str, Any]:
    name = tag if tag in ("Ref", "Condition") else f"Fn::{tag}"
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    if isinstance(node, yaml.MappingNode):
        return {name: loader.construct_mapping(node, deep=True)}
    return {name: node.value}


_Loader.add_multi_constructor("!", _intrinsic)


def load(path: Path) -> dict[str, Any]:
    document = yaml.load(path.read_text("utf-8"), Loader=_Loader)
    assert isinstance(document, dict)
    return document


MAIN = load(ROOT / "template.yaml")
FUNCTIONS = {n: r["Properties"] for n, r in MAIN["Resources"].items() if r["Type"] == "AWS::Serverless::Function"}


def variables(function: str) -> dict[str, Any]:
    shared: dict[str, Any] = MAIN["Globals"]["Function"]["Environment"]["Variables"]
    own: dict[str, Any] = FUNCTIONS[function].get("Environment", {}).get("Variables", {})
    return shared | own


def statements(path: Path) -> Iterator[dict[str, Any]]:
    for resource in load(path)["Resources"].values():
        document = resource.get("Properties", {}).get("PolicyDocument")
        if document is not None:
            yield from document["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


GRANTS = [s for s in statements(ROOT / "infra" / "access.yaml") if s["Effect"] == "Allow"]


# -- what reaches the functions


def environment_names() -> dict[str, bool]:
    """Every variable that `Settings` reads, and whether it must be there."""
    return {field.alias or name: field.is_required() for name, field in Settings.model_fields.items()}


def test_the_four_entry_points_are_functions_of_their_folders() -> None:
    assert {properties["CodeUri"] for properties in FUNCTIONS.values()} == {
        "functions/api",
        "functions/worker",
        "functions/cleanup",
        "functions/dead_letter",
    }


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_sets_only_variables_that_something_reads(function: str) -> None:
    assert set(variables(function)) - set(environment_names()) - NOT_OURS == set()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_sets_every_variable_that_settings_need(function: str) -> None:
    needed = {name for name, required in environment_names().items() if required}
    assert needed - set(variables(function)) == set()


def test_the_api_knows_whose_tokens_to_take() -> None:
    assert {"JWT_ISSUER", "JWT_AUDIENCE", "JWT_JWKS_URL"} <= set(variables("ApiFunction"))


def test_settings_accept_what_the_template_gives_a_function() -> None:
    defaults = {name: str(parameter.get("Default", "")) for name, parameter in MAIN["Parameters"].items()}
    required_urls = {"RedisRestUrl": "https://redis.test", "QdrantUrl": "https://qdrant.test"}
    environment = {}
    for name, value in variables("ApiFunction").items():
        parameter = value.get("Ref") if isinstance(value, dict) else None
        environment[name] = (
            (defaults | required_urls).get(parameter, "value") if parameter or isinstance(value, dict) else value
        )
    settings = Settings.from_environment(environment)
    assert settings.prefix == "ws"
    assert settings.worker_timeout_seconds == 300


@pytest.mark.parametrize("name", ["UPSTASH_REDIS_REST_TOKEN", "QDRANT_API_KEY", "OPENAI_API_KEY"])
def test_a_secret_is_a_reference_and_never_a_parameter(name: str) -> None:
    values = [variables(function)[name] for function in FUNCTIONS if name in variables(function)]
    assert values
    assert all(value["Fn::Sub"].startswith("{{resolve:secretsmanager:${SecretsName}:") for value in values)


# -- limits and clocks


def test_the_api_answers_before_the_gateway_gives_up() -> None:
    assert FUNCTIONS["ApiFunction"]["Timeout"] < 30


def test_the_queues_visibility_is_the_workers_timeout() -> None:
    assert FUNCTIONS["WorkerFunction"]["Timeout"] == variables("WorkerFunction")["WORKER_SPACE_WORKER_TIMEOUT_SECONDS"]


def test_the_dead_letter_queue_hides_a_message_longer_than_its_function_runs() -> None:
    queue = load(ROOT / "infra/messaging.yaml")["Resources"]["DeadLetterQueue"]["Properties"]
    assert queue["VisibilityTimeout"] >= FUNCTIONS["DeadLetterFunction"]["Timeout"]
    assert queue["FifoQueue"] is True


def test_the_worker_may_continue_itself_and_is_published_under_the_alias_that_mappings_name() -> None:
    worker = FUNCTIONS["WorkerFunction"]
    assert worker["RecursiveLoop"] == "Allow"
    assert variables("WorkerFunction")["WORKER_SPACE_WORKER_FUNCTION"]["Fn::Sub"].endswith(
        f":function:{worker['FunctionName']['Fn::Sub']}:{worker['AutoPublishAlias']}"
    )


def test_partial_batches_are_reported_by_the_dead_letter_mapping() -> None:
    mapping = FUNCTIONS["DeadLetterFunction"]["Events"]["DeadLetters"]["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 1


# -- the door


def test_only_these_routes_are_open_without_a_token() -> None:
    api = MAIN["Resources"]["HttpApi"]["Properties"]
    assert api["Auth"]["DefaultAuthorizer"] in api["Auth"]["Authorizers"]
    events = (event["Properties"] for event in FUNCTIONS["ApiFunction"]["Events"].values())
    opened = {(e["Method"], e["Path"]) for e in events if e.get("Auth", {}).get("Authorizer") == "NONE"}
    assert opened == {
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/my/projects/{project_id}/chat/{session_id}/events"),
        ("OPTIONS", "/{proxy+}"),
    }


def test_the_access_log_holds_no_address_and_so_no_ticket() -> None:
    logged = set(
        re.findall(r"\$context\.[\w.]+", MAIN["Resources"]["HttpApi"]["Properties"]["AccessLogSettings"]["Format"])
    )
    assert "$context.routeKey" in logged
    assert logged.isdisjoint({"$context.path", "$context.requestOverride.path", "$context.http.path"})


# -- what outlives a deployment


def test_stateful_resources_are_retained() -> None:
    found = set()
    for path in TEMPLATES:
        for name, resource in load(path)["Resources"].items():
            if resource["Type"] in STATEFUL:
                found.add(resource["Type"])
                assert resource.get("DeletionPolicy") == "Retain", f"{path.name}: {name}"
                assert resource.get("UpdateReplacePolicy") == "Retain", f"{path.name}: {name}"
    assert found == STATEFUL


def test_the_table_has_the_keys_and_the_one_index_that_the_adapter_uses() -> None:
    table = load(ROOT / "infra/storage.yaml")["Resources"]["Table"]["Properties"]
    assert [key["AttributeName"] for key in table["KeySchema"]] == ["pk", "sk"]
    assert table["TimeToLiveSpecification"] == {"AttributeName": "expires_at", "Enabled": True}
    (index,) = table["GlobalSecondaryIndexes"]
    assert index["IndexName"] == "due"
    assert [key["AttributeName"] for key in index["KeySchema"]] == ["due_shard", "due_at"]
    assert index["Projection"] == {"ProjectionType": "ALL"}
    types = {a["AttributeName"]: a["AttributeType"] for a in table["AttributeDefinitions"]}
    assert types == {"pk": "S", "sk": "S", "due_shard": "S", "due_at": "N"}


def test_the_bucket_is_private_versioned_and_encrypted() -> None:
    bucket = load(ROOT / "infra/storage.yaml")["Resources"]["Bucket"]["Properties"]
    assert all(bucket["PublicAccessBlockConfiguration"].values())
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["VersioningConfiguration"]["Status"] == "Enabled"
    assert bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]


# -- what the functions may do


def test_no_action_is_granted_by_wildcard_and_nothing_may_scan() -> None:
    actions = {action for grant in GRANTS for action in listed(grant["Action"])}
    assert [action for action in actions if "*" in action] == []
    assert [action for action in actions if re.search(r"Scan|PartiQL", action)] == []


def test_every_resource_is_named_where_aws_lets_it_be_named() -> None:
    for grant in GRANTS:
        if "*" in listed(grant["Resource"]):
            assert set(listed(grant["Action"])) <= NO_RESOURCE_LEVEL, grant["Sid"]


def test_mappings_may_only_be_made_for_the_worker() -> None:
    for grant in GRANTS:
        actions = set(listed(grant["Action"]))
        if any("EventSourceMapping" in action for action in actions) and actions != {"lambda:ListEventSourceMappings"}:
            allowed = grant["Condition"]["ArnLike"]["lambda:FunctionArn"]
            assert allowed == [{"Ref": "WorkerArn"}, {"Fn::Sub": "${WorkerArn}:live"}]


def test_no_function_may_delete_the_dead_letter_queue() -> None:
    name = load(ROOT / "infra/messaging.yaml")["Resources"]["DeadLetterQueue"]["Properties"]["QueueName"]["Fn::Sub"]
    patterns = [
        resource["Fn::Sub"].rpartition(":")[2]
        for grant in GRANTS
        if "sqs:DeleteQueue" in listed(grant["Action"])
        for resource in listed(grant["Resource"])
    ]
    assert patterns == ["${Prefix}_*.fifo"]
    assert not name.startswith("${Prefix}_")


def test_only_the_worker_receives_from_projects_queues_and_calls_models() -> None:
    for policy in ("ReceivePolicyArn", "ModelsPolicyArn"):
        holders = [n for n, p in FUNCTIONS.items() if {"Fn::GetAtt": f"Access.Outputs.{policy}"} in p["Policies"]]
        assert holders == ["WorkerFunction"], policy


def test_only_the_worker_which_has_the_means_embeds() -> None:
    for name in FUNCTIONS:
        # Without the key or the permission, each search would pay for a refusal before it goes by words.
        assert ("WORKER_SPACE_EMBEDDING_MODEL" in variables(name)) is (name == "WorkerFunction")
        assert ("OPENAI_API_KEY" in variables(name)) is (name == "WorkerFunction")
        assert variables(name)["WORKER_SPACE_CONTEXT_LAYOUT"] == {"Ref": "ContextLayout"}


# -- parameters


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.name)
def test_every_parameter_has_a_type_a_description_and_a_constraint(path: Path) -> None:
    for name, parameter in load(path).get("Parameters", {}).items():
        assert parameter["Type"] in ("String", "Number"), name
        assert parameter["Description"].strip(), name
        assert {"AllowedPattern", "AllowedValues", "MinValue"} & set(parameter), name


def test_a_prefix_that_the_template_takes_is_one_that_settings_take() -> None:
    pattern = MAIN["Parameters"]["Prefix"]["AllowedPattern"]
    minimal = {name: "x" for name, required in environment_names().items() if required}
    for prefix in ("a", "ws", "team-7", "x" * 12):
        assert re.fullmatch(pattern, prefix)
        assert Settings.from_environment(minimal | {"WORKER_SPACE_PREFIX": prefix}).prefix == prefix


# -- our own lint rules


@pytest.mark.parametrize(
    ("template", "text", "replacement", "complaint"),
    [
        ("template.yaml", "Timeout: 29", "Timeout: 5000", "Lambda stops a function after 900 seconds"),
        ("template.yaml", "LogGroup: !Ref ApiLogs", "LogFormat: JSON", "logs are kept for ever"),
        (
            "infra/storage.yaml",
            "DeletionProtectionEnabled: true",
            "DeletionProtectionEnabled: false",
            "the table is the truth",
        ),
        ("infra/messaging.yaml", "SqsManagedSseEnabled: true", "SqsManagedSseEnabled: false", "encrypted at rest"),
    ],
)
def test_our_lint_rules_notice(template: str, text: str, replacement: str, complaint: str, tmp_path: Path) -> None:
    source = (ROOT / template).read_text("utf-8")
    assert text in source
    broken = tmp_path / "broken.yaml"
    broken.write_text(source.replace(text, replacement), "utf-8")
    linter = Path(sys.executable).with_name("cfn-lint")
    command = [str(linter), "--custom-rules", str(ROOT / "infra/cfn_rules.txt"), str(broken)]
    linted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert linted.returncode != 0
    assert complaint in linted.stdout
