"""The evaluator says what AWS documents, above all where people expect something else."""

from collections.abc import Sequence
from typing import Any

import pytest

from tests.policy.evaluator import PolicyError, Request, decide, may_assume

OBJECT = "arn:aws:s3:::bucket/ann/notes.txt"
TABLE = "arn:aws:dynamodb:eu-central-1:123456789012:table/t"
ROLE = "arn:aws:iam::123456789012:role/data"
WORKER = "arn:aws:iam::123456789012:role/worker"


def policy(*statements: dict[str, Any], version: str | None = "2012-10-17") -> dict[str, Any]:
    full = [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*", **statement} for statement in statements]
    return {"Statement": full} | ({} if version is None else {"Version": version})


def asks(action: str = "s3:GetObject", resource: str = OBJECT, **context: str | Sequence[str]) -> Request:
    # `__` stands for the colon, `_in_` for the slash of a condition key.
    return Request(
        action=action,
        resource=resource,
        context={key.replace("__", ":").replace("_in_", "/"): value for key, value in context.items()},
    )


def allowed(statement: dict[str, Any], request: Request) -> bool:
    return decide(request, [policy(statement)]).allowed


# -- effects


def test_without_a_statement_everything_is_refused() -> None:
    assert not decide(asks(), []).allowed
    assert not allowed({"Action": "s3:PutObject"}, asks())


def test_a_deny_wins_wherever_it_stands() -> None:
    deny = policy({"Sid": "No", "Effect": "Deny"})
    for documents in ([policy({}), deny], [deny, policy({})], [policy({}, {"Effect": "Deny", "Sid": "No"})]):
        decision = decide(asks(), documents)
        assert not decision.allowed
        assert decision.by == "No"


def test_a_deny_whose_condition_does_not_hold_denies_nothing() -> None:
    deny = policy({"Effect": "Deny", "Condition": {"Bool": {"aws:SecureTransport": "false"}}})
    assert decide(asks(aws__SecureTransport="true"), [policy({}), deny]).allowed
    assert not decide(asks(aws__SecureTransport="false"), [policy({}), deny]).allowed


def test_a_session_policy_takes_away_and_never_adds() -> None:
    both, read = policy({"Action": ["s3:GetObject", "s3:PutObject"]}), policy({})
    assert decide(asks(), [both], session=[read]).allowed
    assert not decide(asks("s3:PutObject"), [both], session=[read]).allowed
    assert not decide(asks("s3:PutObject"), [read], session=[both]).allowed
    assert not decide(asks(), [both], session=[]).allowed
    assert not decide(asks(), [both], session=[both, policy({"Effect": "Deny"})]).allowed


def test_a_resources_policy_denies_whom_it_names_and_allows_nobody_more() -> None:
    denying = policy({"Effect": "Deny", "Principal": {"AWS": WORKER}})
    allowing = policy({"Principal": "*"})
    assert not decide(asks(), [policy({})], resource=[denying], principal=WORKER).allowed
    assert decide(asks(), [policy({})], resource=[denying], principal=ROLE).allowed
    assert not decide(asks(), [], resource=[allowing], principal=ROLE).allowed


# -- actions and resources


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [("s3:Get*", True), ("S3:getobject", True), ("s3:GetObjec?", True), ("*", True), ("s3:Get", False)],
)
def test_actions_know_wildcards_and_no_case(pattern: str, fits: bool) -> None:
    assert allowed({"Action": pattern}, asks()) is fits


@pytest.mark.parametrize(
    ("pattern", "fits"),
    [
        ("arn:aws:s3:::bucket/ann/*", True),
        ("arn:aws:s3:::bucket/*", True),
        ("arn:aws:s3:::bucket*", True),
        ("arn:aws:s3:::bucket", False),
        ("arn:aws:s3:::Bucket/*", False),
        ("arn:aws:s3:::bucket/an/*", False),
        ("arn:aws:s3:::bucket/???/*", True),
        ("arn:aws:*", False),
        ("arn:*:s3:*:*:bucket/ann/*", True),
    ],
)
def test_resources_know_wildcards_and_case_and_are_compared_part_by_part(pattern: str, fits: bool) -> None:
    assert allowed({"Resource": pattern}, asks()) is fits


def test_a_wildcard_crosses_colons_in_the_last_part_only() -> None:
    log = "arn:aws:logs:eu-central-1:123456789012:log-group:g:log-stream:s"
    assert allowed({"Resource": "arn:aws:logs:eu-central-1:123456789012:log-group:g:*"}, asks(resource=log))
    assert not allowed({"Resource": "arn:aws:logs:*:log-group:g:*"}, asks(resource=log))


def test_an_action_without_a_resource_is_allowed_by_the_wildcard_alone() -> None:
    assert allowed({}, asks(resource="*"))
    assert not allowed({"Resource": "arn:aws:sqs:*:*:*"}, asks(resource="*"))


# -- policy variables


TAGGED = {"Resource": "arn:aws:s3:::bucket/${aws:PrincipalTag/tenant}/*"}


def test_a_variable_is_the_callers_own_tag() -> None:
    assert allowed(TAGGED, asks(aws__PrincipalTag_in_tenant="ann"))
    assert not allowed(TAGGED, asks(aws__PrincipalTag_in_tenant="an"))
    assert not allowed(TAGGED, asks(aws__PrincipalTag_in_tenant="bob"))


def test_a_missing_tag_matches_nothing_and_an_empty_one_only_itself() -> None:
    assert not allowed(TAGGED, asks())
    assert not allowed(TAGGED, asks(aws__PrincipalTag_in_tenant=""))
    assert allowed(TAGGED, asks(resource="arn:aws:s3:::bucket//x", aws__PrincipalTag_in_tenant=""))


@pytest.mark.parametrize("tag", ["*", "a*", "???", "${aws:PrincipalTag/user}"])
def test_a_tag_is_taken_literally(tag: str) -> None:
    assert not allowed(TAGGED, asks(aws__PrincipalTag_in_tenant=tag, aws__PrincipalTag_in_user="ann"))


def test_names_of_keys_know_no_case() -> None:
    assert allowed(TAGGED, asks(aws__principaltag_in_TENANT="ann"))


def test_the_older_language_knows_no_variables() -> None:
    for version in ("2008-10-17", None):
        request = asks(aws__PrincipalTag_in_tenant="ann")
        assert not decide(request, [policy(TAGGED, version=version)]).allowed


def test_a_variable_may_have_a_default_and_a_wildcard_may_be_meant_literally() -> None:
    request = asks(resource="arn:aws:s3:::bucket/team/x")
    assert allowed({"Resource": "arn:aws:s3:::bucket/${aws:PrincipalTag/tenant, 'team'}/x"}, request)
    assert allowed({"Resource": "arn:aws:s3:::b${*}/x"}, asks(resource="arn:aws:s3:::b*/x"))
    assert not allowed({"Resource": "arn:aws:s3:::b${*}/x"}, asks(resource="arn:aws:s3:::bb/x"))


# -- conditions


def conditioned(operator: str, expected: Any, **context: str | Sequence[str]) -> bool:
    request = Request(action="s3:GetObject", resource=OBJECT, context=context)
    return allowed({"Condition": {operator: {"k": expected}}}, request)


@pytest.mark.parametrize(
    ("operator", "expected", "value", "holds"),
    [
        ("StringEquals", "a*", "a*", True),
        ("StringEquals", "a*", "ab", False),
        ("StringEquals", ["a", "b"], "b", True),
        ("StringEquals", "A", "a", False),
        ("StringEqualsIgnoreCase", "A", "a", True),
        ("StringNotEquals", ["a", "b"], "b", False),
        ("StringNotEquals", ["a", "b"], "c", True),
        ("StringLike", "a*", "a", True),
        ("StringLike", "a*", "ba", False),
        ("StringNotLike", "a*", "ba", True),
        ("ArnLike", "arn:aws:lambda:*:*:function:w", "arn:aws:lambda:eu:1:function:w", True),
        ("ArnLike", "arn:aws:lambda:*:function:w", "arn:aws:lambda:eu:1:function:w", False),
        ("Bool", "true", "True", True),
        ("Bool", True, "true", True),
        ("NumericLessThan", "10", "9", True),
        ("NumericLessThan", "10", "10", False),
        ("NumericLessThanEquals", 10, "10", True),
        ("NumericLessThan", "10", "nine", False),
    ],
)
def test_operators(operator: str, expected: Any, value: str, holds: bool) -> None:
    assert conditioned(operator, expected, k=value) is holds


@pytest.mark.parametrize(
    ("operator", "holds"),
    [
        ("StringEquals", False),
        ("StringLike", False),
        ("Bool", False),
        ("NumericLessThan", False),
        ("StringEqualsIfExists", True),
        ("StringNotEquals", True),
        ("ForAllValues:StringEquals", True),
        ("ForAnyValue:StringEquals", False),
        ("ForAnyValue:StringNotEquals", False),
    ],
)
@pytest.mark.parametrize("absent", [{}, {"k": ()}], ids=["missing", "empty"])
def test_a_key_that_is_absent(operator: str, holds: bool, absent: dict[str, Sequence[str]]) -> None:
    request = Request(action="s3:GetObject", resource=OBJECT, context=absent)
    assert allowed({"Condition": {operator: {"k": "x"}}}, request) is holds


def test_null_asks_whether_a_key_is_there() -> None:
    assert conditioned("Null", "true")
    assert not conditioned("Null", "false")
    assert conditioned("Null", "false", k="")
    assert not conditioned("Null", "true", k="x")
    assert conditioned("Null", "true", k=())


@pytest.mark.parametrize(
    ("operator", "values", "holds"),
    [
        ("ForAllValues:StringEquals", ["a"], True),
        ("ForAllValues:StringEquals", ["a", "b"], True),
        ("ForAllValues:StringEquals", ["a", "c"], False),
        ("ForAnyValue:StringEquals", ["a", "c"], True),
        ("ForAnyValue:StringEquals", ["c", "d"], False),
        ("ForAllValues:StringLike", ["a", "b"], True),
        ("ForAllValues:StringNotEquals", ["c"], True),
        ("ForAllValues:StringNotEquals", ["a", "c"], False),
    ],
)
def test_several_values(operator: str, values: Sequence[str], holds: bool) -> None:
    assert conditioned(operator, ["a", "b"], k=values) is holds


def test_every_operator_and_every_key_has_to_hold() -> None:
    both = {"Condition": {"StringEquals": {"a": "1", "b": "2"}, "Null": {"c": "true"}}}
    assert allowed(both, asks(a="1", b="2"))
    assert not allowed(both, asks(a="1", b="3"))
    assert not allowed(both, asks(a="1", b="2", c="3"))


LEADING = {
    "Action": "dynamodb:*",
    "Resource": TABLE,
    "Condition": {"ForAllValues:StringEquals": {"dynamodb:LeadingKeys": ["T#${aws:PrincipalTag/tenant}#"]}},
}


def test_for_all_values_alone_lets_a_scan_through_and_null_does_not() -> None:
    scan = asks("dynamodb:Scan", TABLE, aws__PrincipalTag_in_tenant="ann")
    assert allowed(LEADING, scan)
    walled = {**LEADING, "Condition": {**LEADING["Condition"], "Null": {"dynamodb:LeadingKeys": "false"}}}  # type: ignore[dict-item]
    assert not allowed(walled, scan)
    own = asks("dynamodb:Query", TABLE, aws__PrincipalTag_in_tenant="ann", dynamodb__LeadingKeys=["T#ann#"])
    assert allowed(walled, own)


def test_leading_keys_without_a_tag_fit_nothing() -> None:
    for keys in (["T##"], ["T#ann#"], ["T#${aws:PrincipalTag/tenant}#"]):
        assert not allowed(LEADING, asks("dynamodb:Query", TABLE, dynamodb__LeadingKeys=keys))


# -- assuming a role


TRUST = policy(
    {
        "Principal": {"AWS": [WORKER]},
        "Action": ["sts:AssumeRole", "sts:TagSession"],
        "Condition": {
            "Null": {"aws:RequestTag/tenant": "false"},
            "ForAllValues:StringEquals": {"aws:TagKeys": ["tenant"]},
        },
    }
)
del TRUST["Statement"][0]["Resource"]
MAY = policy({"Action": ["sts:AssumeRole", "sts:TagSession"], "Resource": ROLE})


@pytest.mark.parametrize(
    ("tags", "caller", "identity", "may"),
    [
        ({"tenant": "ann"}, WORKER, MAY, True),
        ({}, WORKER, MAY, False),
        ({"user": "ann"}, WORKER, MAY, False),
        ({"tenant": "ann", "role": "admin"}, WORKER, MAY, False),
        ({"tenant": "ann"}, ROLE, MAY, False),
        ({"tenant": "ann"}, WORKER, policy({}), False),
        ({"tenant": "ann"}, WORKER, policy({"Action": "sts:AssumeRole", "Resource": ROLE}), False),
        ({"tenant": "ann"}, WORKER, policy({"Action": "sts:*", "Resource": WORKER}), False),
    ],
)
def test_assuming_needs_both_sides_and_the_tags(
    tags: dict[str, str], caller: str, identity: dict[str, Any], may: bool
) -> None:
    assert may_assume(ROLE, tags, caller=caller, identity=[identity], trust=TRUST) is may


# -- what is not understood


@pytest.mark.parametrize(
    "statement",
    [
        {"Condition": {"DateLessThan": {"k": "2026-01-01"}}},
        {"Condition": {"ForSomeValues:StringEquals": {"k": "x"}}},
        {"NotAction": "s3:PutObject"},
        {"Effect": "Maybe"},
    ],
)
def test_what_is_not_understood_is_refused_loudly(statement: dict[str, Any]) -> None:
    with pytest.raises(PolicyError):
        allowed(statement, asks(k="x"))


def test_several_values_under_an_operator_for_one_are_refused_loudly() -> None:
    with pytest.raises(PolicyError, match="ForAllValues"):
        conditioned("StringEquals", "x", k=["x", "y"])
