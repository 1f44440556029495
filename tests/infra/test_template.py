"""What the templates promise, read from the templates themselves."""

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from worker_space.adapters.secrets import SECRET_FIELDS
from worker_space.settings import Settings, variables_of
from worker_space.tenancy import Names

ROOT = Path(__file__).parents[2]
INFRA = sorted((ROOT / "infra").glob("*.yaml"))
TEMPLATES = [ROOT / "template.yaml", *INFRA]
STATEFUL = {"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy"}
NO_RESOURCE_LEVEL = {
    "lambda:CreateEventSourceMapping",
    "lambda:ListEventSourceMappings",
    "sqs:ListQueues",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
"""The actions for which AWS knows no resource to name."""

NOT_OURS = ("AWS_ENDPOINT_URL", "POWERTOOLS_")
"""Beginnings of the variables that libraries read, not `Settings`."""


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
        properties = resource.get("Properties", {})
        for holder in (properties, *properties.get("Policies", ())):
            if "PolicyDocument" in holder:
                yield from holder["PolicyDocument"]["Statement"]


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


GRANTS = [s for s in statements(ROOT / "infra" / "access.yaml") if s["Effect"] == "Allow"]


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
    worker = MAIN["Globals"]["Function"] | FUNCTIONS["WorkerFunction"]
    assert worker["RecursiveLoop"] == "Allow"
    assert variables("WorkerFunction")["WORKER_SPACE_WORKER_FUNCTION"]["Fn::Sub"].endswith(
        f":function:{worker['FunctionName']['Fn::Sub']}:{worker['AutoPublishAlias']}"
    )


def test_partial_batches_are_reported_by_the_dead_letter_mapping() -> None:
    mapping = FUNCTIONS["DeadLetterFunction"]["Events"]["DeadLetters"]["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert mapping["BatchSize"] == 1


# -- queues that all projects share


POOL = load(ROOT / "infra/pool.yaml")["Resources"]


def test_the_pool_is_as_large_as_it_can_be_asked_for_and_named_as_the_core_spells_it() -> None:
    queues = [resource for resource in POOL.values() if resource["Type"] == "AWS::SQS::Queue"]
    names = [queue["Properties"]["QueueName"]["Fn::Sub"].replace("${Prefix}", "ws") for queue in queues]
    assert names == [
        Names("ws").pool_queue(index) for index in range(max(MAIN["Parameters"]["PoolQueues"]["AllowedValues"]))
    ]
    conditions = [queue.get("Condition") for queue in queues]
    assert conditions == [None, "AtLeast2", "AtLeast4", "AtLeast4", *["AtLeast8"] * 4]


def test_each_queue_of_the_pool_is_like_a_projects_own_and_has_a_mapping_to_the_alias() -> None:
    for index in range(8):
        queue, mapping = POOL[f"Queue{index}"], POOL[f"Mapping{index}"]
        assert queue.get("Condition") == mapping.get("Condition")
        assert queue["Properties"]["FifoQueue"] is True
        assert queue["Properties"]["ContentBasedDeduplication"] is False
        assert queue["Properties"]["DeduplicationScope"] == "queue"
        assert queue["Properties"]["VisibilityTimeout"] == {"Ref": "WorkerTimeoutSeconds"}
        assert queue["Properties"]["RedrivePolicy"]["maxReceiveCount"] == 10
        assert mapping["Properties"]["EventSourceArn"] == {"Fn::GetAtt": f"Queue{index}.Arn"}
        assert mapping["Properties"]["BatchSize"] == 1
        assert mapping["Properties"]["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert MAIN["Resources"]["Pool"]["Properties"]["Parameters"]["WorkerAliasArn"] == {"Ref": "WorkerFunction.Alias"}


def test_nobody_may_delete_a_queue_of_the_pool_and_only_where_there_is_one_may_anybody_use_it() -> None:
    document = load(ROOT / "infra/access.yaml")
    about_the_pool = {
        name: resource
        for name, resource in document["Resources"].items()
        if "-pool-" in str(resource.get("Properties", {}).get("PolicyDocument", ""))
    }
    assert len(about_the_pool) == 3
    for name, resource in about_the_pool.items():
        assert resource["Condition"] in ("SharesQueues", "ApiSharesQueues"), name
        for statement in resource["Properties"]["PolicyDocument"]["Statement"]:
            assert "sqs:DeleteQueue" not in statement["Action"]
            assert "sqs:SetQueueAttributes" not in statement["Action"]
            # `*` would fit the dead-letter queue of a deployment whose prefix is ours and `-pool`.
            assert statement["Resource"]["Fn::Sub"].endswith(":${Prefix}-pool-?.fifo")


def test_orphans_are_looked_for_once_a_day_and_the_sweep_stays_what_it_was() -> None:
    events = {name: event["Properties"] for name, event in FUNCTIONS["CleanupFunction"]["Events"].items()}
    assert json.loads(events["EveryDay"]["Input"]) == {"source": "aws.scheduler", "reconcile": True}
    assert events["EveryDay"]["ScheduleExpression"] == "rate(1 day)"
    assert "reconcile" not in json.loads(events["EveryMinute"]["Input"])
    assert events["EveryDay"]["Name"] != events["EveryMinute"]["Name"]


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


def test_a_browsers_page_may_send_and_see_what_the_api_uses() -> None:
    cors = MAIN["Resources"]["HttpApi"]["Properties"]["CorsConfiguration"]
    assert {"Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Prefer", "Last-Event-ID"} <= set(
        cors["AllowHeaders"]
    )
    assert {"ETag", "Location", "Retry-After", "X-Request-Id"} <= set(cors["ExposeHeaders"])
    assert MAIN["Parameters"]["CorsAllowedOrigins"]["Default"] == ""
    assert "AllowCredentials" not in cors


@pytest.mark.parametrize(
    ("origins", "taken"),
    [
        ("", True),
        ("*", True),
        ("https://app.example.com", True),
        ("https://a.example,https://b.example,http://localhost:3000,https://d.example", True),
        ("https://a,https://b,https://c,https://d,https://e", False),
        ("https://app.example.com/", False),
        ("app.example.com", False),
        ("https://a, https://b", False),
    ],
)
def test_origins_are_origins(origins: str, taken: bool) -> None:
    pattern = MAIN["Parameters"]["CorsAllowedOrigins"]["AllowedPattern"]
    assert bool(re.fullmatch(pattern, origins)) is taken


def test_the_access_log_holds_no_address_and_so_no_ticket() -> None:
    logged = set(
        re.findall(r"\$context\.[\w.]+", MAIN["Resources"]["HttpApi"]["Properties"]["AccessLogSettings"]["Format"])
    )
    assert "$context.routeKey" in logged
    assert logged.isdisjoint({"$context.path", "$context.requestOverride.path", "$context.http.path"})


# -- two deployments in one account


def test_every_name_that_is_given_begins_with_the_prefix() -> None:
    """A name without it would be taken when the second deployment in the account is made."""
    named = []
    for path in TEMPLATES:
        for resource in load(path)["Resources"].values():
            properties = resource.get("Properties", {})
            named += [properties[key] for key in properties if re.fullmatch(r"\w*Name", key)]
            for event in properties.get("Events", {}).values():
                if event["Type"] == "ScheduleV2":
                    named.append(event["Properties"]["Name"])
    ours = [name["Fn::Sub"] for name in named if isinstance(name, dict) and "Fn::Sub" in name]
    assert len(ours) >= 4
    assert [name for name in ours if not name.startswith("${Prefix}")] == []


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
    patterns = {
        resource["Fn::Sub"]
        for grant in GRANTS
        if "sqs:DeleteQueue" in listed(grant["Action"])
        for resource in listed(grant["Resource"])
    }
    assert patterns
    assert all(":${AWS::AccountId}:${Prefix}_" in pattern for pattern in patterns)
    assert not name.startswith("${Prefix}_")


def test_only_the_worker_receives_from_projects_queues_and_calls_models() -> None:
    for action in ("sqs:ReceiveMessage", "bedrock:InvokeModel"):
        holders = set()
        for resource in load(ROOT / "infra/access.yaml")["Resources"].values():
            properties = resource["Properties"]
            for statement in properties.get("PolicyDocument", {}).get("Statement", []):
                # Everybody's dead letters lie in one queue, which the function behind it polls.
                if action in listed(statement["Action"]) and statement["Resource"] != {"Ref": "DeadLetterArn"}:
                    holders |= {role["Ref"] for role in properties["Roles"]}
        assert holders == {"WorkerRole"}, action


def test_only_the_worker_which_has_the_means_embeds() -> None:
    for name in FUNCTIONS:
        # Without the key or the permission, each search would pay for a refusal before it goes by words.
        assert ("WORKER_SPACE_EMBEDDING_MODEL" in variables(name)) is (name == "WorkerFunction")
        assert ("WORKER_SPACE_MODEL_SECRET" in variables(name)) is (name == "WorkerFunction")
        assert variables(name)["WORKER_SPACE_CONTEXT_LAYOUT"] == {"Ref": "ContextLayout"}


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


# -- what checkov is told to leave alone


def test_every_skip_stands_beside_its_resource_with_its_reason() -> None:
    skipped = 0
    for path in TEMPLATES:
        for name, resource in load(path)["Resources"].items():
            for skip in resource.get("Metadata", {}).get("checkov", {}).get("skip", []):
                skipped += 1
                assert re.fullmatch(r"CKV\w*_\d+", skip["id"]), name
                assert len(skip["comment"].split()) >= 8, f"{path.name}: {name}: {skip['id']}"
    assert skipped
    assert "--skip-check" not in (ROOT / "infra/check.py").read_text("utf-8")


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
