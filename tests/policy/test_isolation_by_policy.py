"""The deployed policies keep tenants apart, whatever the code asks for.

The isolation suite's world is played over the real adapters; every call that an AWS client makes is judged by the
documents of `infra/access.yaml`. Then the same questions are put to builds whose own checks are broken.
"""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.policy.deployment import FUNCTIONS
from tests.policy.mutants import MUTANTS
from tests.policy.playing import Played, play
from tests.policy.verdicts import NAMES_ONLY, POLLED, about, foreign, kind, refused, tags_of
from worker_space.tenancy import TenantContext, UserContext, session_tags

ALICE, BOB = TenantContext("alice", "private"), TenantContext("bob", "shop")
MADE_BY_TENANTS = {
    "dynamodb:BatchGetItem",
    "dynamodb:DeleteItem",
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "dynamodb:Query",
    "dynamodb:TransactWriteItems",
    "dynamodb:UpdateItem",
    "s3:AbortMultipartUpload",
    "s3:CopyObject",
    "s3:DeleteObject",
    "s3:DeleteObjects",
    "s3:GetObject",
    "s3:HeadObject",
    "s3:ListObjectVersions",
    "s3:ListObjectsV2",
    "s3:PutObject",
    "sqs:ChangeMessageVisibility",
    "sqs:CreateQueue",
    "sqs:DeleteQueue",
    "sqs:GetQueueAttributes",
    "sqs:SendMessage",
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("policy")


@pytest.fixture(scope="session")
def played(folder: Path) -> Played:
    """The build of this working tree, with an API that is switched to the tenants' credentials."""
    return play(folder)


def test_the_scenario_makes_every_kind_of_call_that_tenants_credentials_are_for(played: Played) -> None:
    made = {kind(record) for record in played.records if record.tags is not None}
    assert made == MADE_BY_TENANTS
    assert {record.function for record in played.records} == set(FUNCTIONS)


def test_everything_that_is_done_is_allowed(played: Played) -> None:
    for record in played.records:
        if record.tags is None:
            assert all(played.deployed.by_function(record.function, record.call)), record
        else:
            assert all(played.deployed.by_tenant(record.tags, record.call)), record
            assert played.deployed.tells_what_is_missing(record.tags, record.call), record


def test_everything_is_done_with_the_credentials_of_whoever_asks(played: Played) -> None:
    for record in played.records:
        if record.tags is not None and record.asker is not None:
            # A project that is made is named by the request's body and not by its address.
            user, project = record.asker
            assert record.tags["user"] == UserContext(user).token, record
            assert not project or record.tags == tags_of(record.asker), record


def test_nothing_is_asked_for_that_is_another_users(played: Played) -> None:
    assert [record for record in played.records if foreign(record, played.deployed)] == []


def test_another_tenant_is_refused_every_one_of_these_calls(played: Played) -> None:
    for record in played.records:
        if record.tags is None:
            continue
        for other in (ALICE, BOB):
            tags = session_tags(other)
            if tags["user"] != record.tags["user"]:
                assert refused(record, tags, played.deployed), record


def test_another_project_of_the_same_user_reaches_what_is_the_users_and_no_more(played: Played) -> None:
    other = session_tags(TenantContext("alice", "another"))
    reached = [
        record
        for record in played.records
        if record.tags is not None
        and record.tags["user"] == other["user"]
        and not refused(record, other, played.deployed)
    ]
    assert reached
    for record in reached:
        assert about(record, played.deployed) == {"U#useralice"}, record


@pytest.mark.parametrize(
    ("strict", "loose"),
    [
        ("worker-space-local/${aws:PrincipalTag/tenant}/*", "worker-space-local/*"),
        ("_content/${aws:PrincipalTag/tenant}/*", "_content/*"),
        ('"s3:prefix": ["${aws:PrincipalTag/tenant}/*"', '"s3:prefix": ["*"'),
        ('ForAllValues:StringEquals": {"dynamodb:LeadingKeys', 'ForAllValues:StringNotEquals": {"dynamodb:LeadingKeys'),
        ("ws_${aws:PrincipalTag/tenant}_g*.fifo", "ws_*_g*.fifo"),
        ("${aws:PrincipalTag/tenant}", ALICE.token),
    ],
    ids=["objects", "contents", "listing", "items", "queues", "all"],
)
def test_looser_documents_would_be_noticed(played: Played, strict: str, loose: str) -> None:
    document = json.dumps(played.deployed.data)
    assert strict in document
    looser = replace(played.deployed, data=json.loads(document.replace(strict, loose)))
    assert not all(
        refused(record, session_tags(BOB), looser)
        for record in played.records
        if record.tags is not None and record.tags["user"] == ALICE.user.token
    )


def test_a_users_credentials_without_a_project_reach_no_project(played: Played) -> None:
    alone = session_tags(UserContext("alice"))
    for record in played.records:
        if record.tags is not None and not refused(record, alone, played.deployed):
            assert about(record, played.deployed) == {"U#useralice"}, record


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_functions_own_role_reaches_nobodys_data(played: Played, function: str) -> None:
    reached = {
        kind(record)
        for record in played.records
        if record.tags is not None and any(played.deployed.by_function(function, record.call))
    }
    assert reached <= POLLED[function]


def test_what_functions_do_by_their_own_roles_is_named_here(played: Played) -> None:
    done = {(record.function, kind(record)) for record in played.records if record.tags is None}
    by_function = {
        "api": {"dynamodb:GetItem", "s3:GetBucketLocation", "sqs:GetQueueAttributes"},
        "worker": {"sqs:ReceiveMessage", "sqs:DeleteMessage"},
        "cleanup": {"dynamodb:Query", "dynamodb:BatchGetItem"},
        "dead_letter": set[str](),
    }
    for function, name in done:
        assert name in by_function[function] | NAMES_ONLY | {"sts:AssumeRole"}, (function, name)


def test_an_api_that_is_not_switched_is_allowed_all_it_does_and_the_others_stay_as_they_are(folder: Path) -> None:
    own = folder / "unscoped"
    own.mkdir()
    played = play(own, api_scoped=False)
    assert {record.tags is None for record in played.records if record.function == "api"} == {True}
    assert {record.function for record in played.records if record.tags} == {"worker", "cleanup", "dead_letter"}
    for record in played.records:
        decided = (
            played.deployed.by_function(record.function, record.call)
            if record.tags is None
            else played.deployed.by_tenant(record.tags, record.call)
        )
        assert all(decided), record
    # Nobody but who may assume the data role assumes it.
    assert all(record.function != "api" for record in played.records if kind(record) == "sts:AssumeRole")


# -- builds without their own checks


@pytest.fixture(params=MUTANTS)
def broken(request: pytest.FixtureRequest, played: Played, folder: Path) -> tuple[str, Played]:
    home = folder / request.param
    home.mkdir()
    return request.param, play(folder, package=MUTANTS[request.param].build(home / "package"))


def test_a_broken_build_asks_for_anothers_data_and_is_refused(broken: tuple[str, Played], folder: Path) -> None:
    name, attacked = broken
    assert attacked.package == folder / name / "package" / "worker_space"
    crossing = [record for record in attacked.records if foreign(record, attacked.deployed)]
    assert len(crossing) >= 3, Counter(map(kind, attacked.records))
    for record in crossing:
        assert record.asker is not None
        if record.tags is None:
            # Polling is what delivers work; a message says whose it is, and all that follows needs their credentials.
            assert kind(record) in {"sqs:ReceiveMessage", "sqs:DeleteMessage"}, record
            continue
        tags = tags_of(record.asker) if MUTANTS[name].wrong_credentials else record.tags
        assert refused(record, tags, attacked.deployed), record
