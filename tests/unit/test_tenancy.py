"""Names: injective, prefix-free, and legal in every store, also for ids chosen by somebody who wants them not to be."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from worker_space.errors import InvalidRequest
from worker_space.tenancy import (
    Key,
    Names,
    QueueOwner,
    TenantContext,
    UserContext,
    partition,
    partition_of,
    session_tags,
)

AGENT = "agent_01k9zzzzzzzzzzzzzzzzzzzzzz"
NAMES = Names("local")
HOSTILE = st.one_of(
    st.sampled_from(
        [
            "u1",
            "u10",
            "u1_projectp1",
            "U1",
            "auth0|1234",
            "google-oauth2|5",
            "a@b.example",
            "user",
            "project",
            "1",
            "01",
            "-",
            "a-",
            "_",
            "a_b",
            "../x",
            "a/b",
            "a%2Fb",
            "hash_",
            "ＡＢ",
            "é",
            "e\u0301",
            "x" * 255,
            "550e8400-e29b-41d4-a716-446655440000",
            "*",
            "a:b",
            "a#0",
        ]
    ),
    st.text(alphabet="abAB01-_/.:#|%é", min_size=1, max_size=30),
    st.text(alphabet=st.characters(blacklist_categories=("Cc", "Cs")), min_size=1, max_size=255),
)
TENANTS = st.builds(TenantContext, HOSTILE, HOSTILE)


def spelled(tenant: TenantContext) -> dict[str, str]:
    """Every name of a tenant, by the store it is for."""
    return {
        "partition": partition(tenant, "tenant"),
        "queue": NAMES.queue(tenant, 1),
        "group": NAMES.group(tenant, AGENT, 0),
        "cache": NAMES.cached_agents(tenant),
        "sign": NAMES.ended_tasks(tenant),
        "collection": NAMES.collection(tenant, AGENT),
        "workspace": NAMES.workspace(tenant),
        "content": NAMES.content(tenant),
    }


@given(TENANTS, TENANTS)
@example(TenantContext("u1", "p1"), TenantContext("u10", "p1"))
@example(TenantContext("a_projectb", "c"), TenantContext("a", "b_projectc"))
@example(TenantContext("A", "p"), TenantContext("a", "p"))
@example(TenantContext("a", "p-g1"), TenantContext("a", "p"))
@example(TenantContext("a", "p"), TenantContext("a", "p-g1"))
@example(TenantContext("a", "p1"), TenantContext("a", "p10"))
def test_two_tenants_never_share_a_name_not_even_folded_or_as_a_beginning(
    one: TenantContext, other: TenantContext
) -> None:
    assume(one != other)
    for store, name in spelled(one).items():
        theirs = spelled(other)[store]
        assert name.casefold() != theirs.casefold()
        assert not theirs.casefold().startswith(name.casefold())
    assert not NAMES.queue(other, 11).startswith(NAMES.queue(one, 1).removesuffix("1.fifo"))
    assert not NAMES.collection(other, AGENT).startswith(NAMES.collections(one))


@given(TENANTS)
def test_names_are_legal_in_every_store(tenant: TenantContext) -> None:
    names = spelled(tenant)
    assert re.fullmatch(r"[A-Za-z0-9_-]{1,75}\.fifo", NAMES.queue(tenant, 36**8 - 1))
    assert len(NAMES.queue(tenant, 36**8 - 1)) <= 80
    assert re.fullmatch(r"[!-~]{1,128}", names["group"])
    assert re.fullmatch(r"[a-z0-9_-]{1,255}", names["collection"])
    assert re.fullmatch(r"[a-z0-9_-]{1,52}/", names["workspace"])
    assert re.fullmatch(r"_content/[a-z0-9_-]{1,52}/", names["content"])
    assert len(names["partition"].encode()) <= 2048
    assert len(names["cache"]) <= 255


@given(TENANTS, st.integers(1, 36**8 - 1))
def test_a_queues_name_tells_whose_it_is_and_its_spaces_partition(tenant: TenantContext, generation: int) -> None:
    owner = NAMES.queue_owner(NAMES.queue(tenant, generation))
    assert owner == QueueOwner(tenant.token, generation)
    assert partition_of(tenant.token) == partition(tenant, "tenant")


@pytest.mark.parametrize(
    "name",
    [
        "local_dead-letter.fifo",
        "local-dead-letter.fifo",
        "local-pool-0.fifo",
        "local2_useru1_projectp_g1.fifo",
        "loca_useru1_projectp_g1.fifo",
        "local_useru1_projectp_g0.fifo",
        "local_useru1_projectp_g1",
        "local_useru1_g1.fifo",
        "local_hash_short_g1.fifo",
        "local_local_useru1_projectp_g1.fifo",
        "x-local_useru1_projectp_g1.fifo",
        "local_backups_g1.fifo",
        "",
    ],
)
def test_other_queues_are_nobodys(name: str) -> None:
    assert NAMES.queue_owner(name) is None


def test_a_deployment_whose_prefix_begins_like_ours_has_no_queue_of_ours() -> None:
    tenant = TenantContext("u1", "p")
    assert Names("ws").queue_owner(Names("ws2").queue(tenant, 1)) is None
    assert Names("ws2").queue_owner(Names("ws").queue(tenant, 1)) is None
    assert not Names("ws2").queue(tenant, 1).startswith(Names("ws").queues)
    assert Names("ws-pool").queue_owner(Names("ws").pool_queue(0)) is None


@given(TENANTS, st.integers(1, 64))
def test_a_place_in_the_pool_is_always_the_same_and_no_own_queue(tenant: TenantContext, size: int) -> None:
    name = NAMES.pooled_queue(tenant, size)
    assert name in {NAMES.pool_queue(index) for index in range(size)}
    assert name == Names("local").pooled_queue(TenantContext(tenant.user_id, tenant.project_id), size)
    assert NAMES.is_pool_queue(name)
    assert NAMES.queue_owner(name) is None
    assert not NAMES.is_queue(tenant, name)
    assert len(name) <= 80


def test_a_place_in_the_pool_is_what_it_was_in_earlier_releases() -> None:
    assert NAMES.pooled_queue(TenantContext("alice", "shop"), 8) == "local-pool-6.fifo"
    assert NAMES.pooled_queue(TenantContext("auth0|1", "shop"), 8) == "local-pool-2.fifo"


def test_tenants_spread_over_the_pool() -> None:
    places = [NAMES.pooled_queue(TenantContext(f"u{number}", "p"), 8) for number in range(4000)]
    assert {400 < places.count(NAMES.pool_queue(index)) < 600 for index in range(8)} == {True}


@given(TENANTS)
@example(TenantContext("u", "\U0001f600" * 255))
def test_a_projects_place_in_its_users_list_is_a_legal_key(tenant: TenantContext) -> None:
    assert len(Key.project(tenant).sort.encode()) <= 1_024


@given(TENANTS)
def test_no_workspace_is_inside_the_content_prefix_or_another_workspace(tenant: TenantContext) -> None:
    assert NAMES.workspace(tenant).count("/") == 1
    assert not NAMES.workspace(tenant).startswith("_")


@given(HOSTILE, HOSTILE)
def test_users_never_share_a_partition(one: str, other: str) -> None:
    assume(one != other)
    assert partition(UserContext(one), "user").casefold() != partition(UserContext(other), "user").casefold()


def test_the_readable_form_is_kept_where_it_is_unambiguous() -> None:
    assert TenantContext("alice", "shop").token == "useralice_projectshop"
    assert TenantContext("42", "web-1").token == "user42_projectweb-1"
    assert NAMES.queue(TenantContext("alice", "shop"), 3) == "local_useralice_projectshop_g3.fifo"
    for hashed in (("Alice", "shop"), ("a_b", "shop"), ("auth0|1", "shop"), ("a", "s" * 60)):
        assert re.fullmatch(r"hash_[a-z2-7]{32}", TenantContext(*hashed).token)


@pytest.mark.parametrize("bad", ["", "x" * 256, "a\x00b", "a\nb", "\ud800"])
def test_ids_that_name_nobody_are_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        TenantContext(bad, "p")
    with pytest.raises(InvalidRequest):
        TenantContext("u", bad)
    with pytest.raises(InvalidRequest):
        UserContext(bad)


@pytest.mark.parametrize("bad", ["", "../x", "a/b", "A", "a#b", "a" * 65, "_a", "é"])
def test_an_id_that_this_service_did_not_make_names_no_item(bad: str) -> None:
    for make in (Key.agent, Key.session, Key.messages, Key.task, Key.steps, Key.runtime):
        with pytest.raises(InvalidRequest):
            make(bad)


@pytest.mark.parametrize("bad", ["", "A", "a_b", "-a", "a-", "a" * 13])
def test_a_stack_prefix_that_could_run_into_a_token_is_refused(bad: str) -> None:
    with pytest.raises(InvalidRequest):
        Names(bad)


@pytest.mark.parametrize("bad", [0, -1, 36**8])
def test_a_queue_generation_out_of_range_is_refused(bad: int) -> None:
    with pytest.raises(InvalidRequest):
        NAMES.queue(TenantContext("a", "b"), bad)


def test_a_queues_generation_is_read_from_its_name_for_its_own_tenant_only() -> None:
    mine, other = TenantContext("u1", "p"), TenantContext("u10", "p")
    name = NAMES.queue(mine, 12)
    assert name.startswith(NAMES.queues_of(mine))
    assert NAMES.generation(mine, name) == 12
    assert NAMES.generation(other, name) is None
    assert not name.startswith(NAMES.queues_of(other))
    for bad in (name.removesuffix(".fifo"), f"{name}x", NAMES.queues_of(mine) + "0.fifo", f"x{name}"):
        assert NAMES.generation(mine, bad) is None


def test_all_keys_of_a_kind_begin_with_it() -> None:
    assert Key.space().kind == Key.agents().kind == "HOME"
    assert Key.task("task_1").kind == Key.tasks().kind
    assert Key.reservation("task_1", 1).kind == Key.all_reservations().kind
    assert Key.erasure("erasure_1").kind == Key.erasures().kind
    assert Key.forgetting("session_1").kind == Key.forgettings().kind
    assert Key.runtime("agent_1").last == "agent_1"


def test_a_point_is_the_same_for_the_same_task_and_no_other() -> None:
    tenant, other = TenantContext("a", "b"), TenantContext("a", "c")
    assert NAMES.point(tenant, AGENT, "task_1") == NAMES.point(tenant, AGENT, "task_1")
    assert len({NAMES.point(t, AGENT, s) for t in (tenant, other) for s in ("task_1", "task_2")}) == 4


def test_the_user_partition_cannot_be_mistaken_for_a_tenants() -> None:
    assert partition(TenantContext("a", "s"), "tenant") != partition(UserContext("a_projects"), "user")
    with pytest.raises(InvalidRequest, match="name the project"):
        partition(UserContext("a"), "tenant")


@given(TENANTS)
def test_the_tags_of_a_session_spell_the_names_that_its_policy_permits(tenant: TenantContext) -> None:
    """As `infra/access.yaml` puts them together."""
    tags = session_tags(tenant)
    assert partition(tenant, "tenant") == f"T#{tags['tenant']}#"
    assert partition(tenant, "user") == f"U#{tags['user']}#"
    assert NAMES.workspace(tenant) == f"{tags['tenant']}/"
    assert NAMES.content(tenant) == f"_content/{tags['tenant']}/"
    assert NAMES.queue(tenant, 7) == f"{NAMES.prefix}_{tags['tenant']}_g7.fifo"
    # What STS takes for a tag's value and a session's name.
    for value in tags.values():
        assert re.fullmatch(r"[a-zA-Z0-9+=,.@_-]{2,64}", value)


@given(TENANTS)
def test_the_tags_of_who_is_known_in_part_fit_nobody_in_the_other_part(tenant: TenantContext) -> None:
    alone, queue = session_tags(tenant.user), session_tags(QueueOwner(tenant.token, 1))
    assert (alone["user"], queue["tenant"]) == (tenant.user.token, tenant.token)
    assert alone["tenant"] == queue["user"] == "none"
    assert "none" not in (tenant.token, tenant.user.token)
