"""What the templates promise, read from them: clocks, queues, the door, names, what stays and what is granted."""

import json
import re

import pytest

from tests.infra.templates import FUNCTIONS, GRANTS, MAIN, ROOT, TEMPLATES, listed, load, variables
from worker_space.tenancy import Names

STATEFUL = {"AWS::DynamoDB::Table", "AWS::S3::Bucket", "AWS::S3::BucketPolicy"}
NO_RESOURCE_LEVEL = {
    "lambda:CreateEventSourceMapping",
    "lambda:ListEventSourceMappings",
    "sqs:ListQueues",
    "xray:PutTelemetryRecords",
    "xray:PutTraceSegments",
}
"""The actions for which AWS knows no resource to name."""


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
