"""An erasure leaves nothing, proves it, and is certified only when nobody can bring anything back any more."""

import asyncio
import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.core.stages import TENANT, Died, Fate, send, space_of
from tests.memory_stack import MemoryStack, calls, settings
from worker_space.clock import now_ms
from worker_space.erasure_receipts import ErasureReceipt, ErasureState
from worker_space.errors import ClaimLost, Conflict, NotFound, Unavailable
from worker_space.idempotency import Repeat
from worker_space.models import ModelRequest
from worker_space.ports import ContextEntry
from worker_space.projects import NewProject
from worker_space.records import Put, Update
from worker_space.tasks import Delivery
from worker_space.tenancy import Key, TenantContext, UserContext

pytestmark = pytest.mark.anyio
USER = UserContext("alice")
OTHER = TenantContext("alice", "other")
STORES = {"table", "cache", "mappings", "queues", "memory", "contents", "files"}


async def _full_project(tenant: TenantContext = TENANT) -> MemoryStack:
    """Something in every store."""
    stack = MemoryStack(settings=settings(worker_timeout_seconds=300, presigned_seconds=300))
    await _fill(stack, tenant)
    return stack


async def _fill(stack: MemoryStack, tenant: TenantContext) -> None:
    repeat = Repeat(kind="project", key=f"k-{tenant.project_id}", fingerprint="f", scope="user")
    services = stack.parts.services
    await services.projects.create(USER, NewProject(id=tenant.project_id, name="SECRET"), repeat=repeat)
    for number in range(5):
        await stack.files.write(tenant, f"folder/{number}.txt", b"SECRET")
    await send(stack, "SECRET" * 20_000, tenant=tenant)
    await stack.work(tenant)
    await send(stack, "still waiting", tenant=tenant)
    await services.collaborators.registry.home(tenant, fresh=True)


@pytest.fixture
async def stack() -> MemoryStack:
    return await _full_project()


async def _begin(stack: MemoryStack, parts: Any = None, seconds: float = 10) -> ErasureReceipt:
    erasures = (parts or stack.parts).services.erasures
    receipt: ErasureReceipt = await erasures.begin(TENANT, seconds=seconds)
    return receipt


async def _time_passes(stack: MemoryStack, receipt: ErasureReceipt, *, until_due: bool = True) -> None:
    """The last possible late write is over."""
    past = {"again_at": 1, **({"due_at": 1} if until_due else {})}
    await stack.records.write(TENANT, Update(key=Key.erasure(receipt.id), set=past))


async def _due(stack: MemoryStack, receipt: ErasureReceipt) -> None:
    await stack.records.write(TENANT, Update(key=Key.erasure(receipt.id), set={"due_at": 1}))


async def _now(stack: MemoryStack, receipt: ErasureReceipt) -> ErasureReceipt:
    return await stack.parts.services.erasures.get(USER, receipt.id)


def _everything(stack: MemoryStack, tenant: TenantContext = TENANT) -> str:
    """All that the stores hold of the tenant, receipts aside."""
    inside: Any = stack
    items = inside.records._partitions
    mine = {place: each for place, each in items.items() if tenant.token in place}
    user = [item for sort, item in items.get("U#useralice#", {}).items() if not sort.startswith("ERASURE#")]
    return repr(
        (
            mine,
            [item for item in user if tenant.project_id in repr(item)],
            [key for key in inside.files._objects if key[0] == tenant],
            [key for key in inside.content._texts if key[0] == tenant],
            [name for name in inside.memory._collections if tenant.token in name],
            [name for name in inside.queues._queues if tenant.token in name],
            [name for name in inside.cache._entries if tenant.token in name],
        )
    )


async def test_every_store_is_cleared_and_asked_again(stack: MemoryStack) -> None:
    assert "SECRET" in _everything(stack)
    receipt = await _begin(stack)
    assert receipt.state is ErasureState.WAITING
    assert receipt.certified_at is None
    assert receipt.first_pass is not None
    assert receipt.second_pass is None
    assert receipt.first_pass.stores.keys() == STORES
    for name, count in receipt.first_pass.stores.items():
        assert count.found == count.deleted > 0, name
        assert count.remaining == 0, name
    assert receipt.first_pass.stores["files"].deleted == 5
    left = _everything(stack)
    assert "SECRET" not in left
    assert await stack.files.remains(TENANT) == 0
    assert (await stack.records.query(TENANT, Key.everything())).items == [await space_of(stack)]
    with pytest.raises(NotFound):
        await stack.parts.services.projects.get(TENANT)


async def test_only_a_second_pass_after_the_last_possible_write_certifies(stack: MemoryStack) -> None:
    receipt = await _begin(stack)
    # A signed address, an hour for a transfer that began with it, and a minute for clocks.
    assert receipt.again_at == receipt.requested_at + 3_960_000
    await stack.parts.sweeper.sweep(seconds=5)
    assert (await _now(stack, receipt)).state is ErasureState.WAITING
    await _due(stack, receipt)
    assert (await stack.parts.sweeper.sweep(seconds=5))["erased"] == 0
    await _time_passes(stack, receipt)
    assert (await stack.parts.sweeper.sweep(seconds=5))["erased"] == 1
    certified = await _now(stack, receipt)
    assert certified.state is ErasureState.CERTIFIED
    assert certified.certified_at is not None
    assert certified.second_pass is not None
    assert {count.found for count in certified.second_pass.stores.values()} == {0}
    assert {count.remaining for count in certified.second_pass.stores.values()} == {0}
    assert (await stack.parts.sweeper.sweep(seconds=5))["erased"] == 0


async def test_what_stays_is_a_record_without_names(stack: MemoryStack) -> None:
    epoch = (await space_of(stack))["epoch"]
    receipt = await _begin(stack)
    await _time_passes(stack, receipt)
    await stack.parts.sweeper.sweep(seconds=5)
    assert await space_of(stack) == {
        "sk": Key.space().sort,
        "state": "deleted",
        "epoch": epoch + 1,
        "generation": 1,
        "purged": True,
    }
    assert "without any name" in (await _now(stack, receipt)).kept


async def test_a_late_worker_brings_nothing_back(stack: MemoryStack) -> None:
    """It stalls in its model call until the first pass is over, then runs a tool, and tries to remember its answer."""
    go_on, asked = asyncio.Event(), asyncio.Event()

    async def hold(_: ModelRequest) -> None:
        asked.set()
        await go_on.wait()

    stack.model.before = hold
    stack.model.script = [calls(("write_file", {"path": "late.txt", "content": "SECRET"}))]
    message = stack.queues.receive(TENANT, 1)
    assert message is not None
    delivery = Delivery.model_validate_json(message.body)
    working = asyncio.create_task(stack.parts.worker.handle(delivery, message.lease, deadline=1e12))
    await asked.wait()
    receipt = await _begin(stack)
    go_on.set()
    with contextlib.suppress(ClaimLost, NotFound):
        await working
    await _time_passes(stack, receipt)
    assert (await stack.parts.sweeper.sweep(seconds=5))["erased"] == 1
    assert "SECRET" not in _everything(stack)
    assert (await stack.records.query(TENANT, Key.everything())).items == [await space_of(stack)]


async def test_what_reaches_a_store_after_the_first_pass_is_found_by_the_second(stack: MemoryStack) -> None:
    signed = await stack.files.sign_upload(TENANT, "late.txt", size=6, seconds=300)
    receipt = await _begin(stack)
    status, _ = await stack.files.perform("PUT", signed.url, signed.headers, b"SECRET")
    assert status == 200
    # A worker that was in the middle of it: S3, Qdrant and Redis ask for no epoch.
    await stack.files.write(TENANT, "late too.txt", b"SECRET")
    await stack.content.put(TENANT, "task_x/answer.1", "SECRET")
    await stack.memory.ensure(TENANT, "agent_x")
    await stack.memory.add(TENANT, "agent_x", ContextEntry(id="1", text="SECRET", kind="note", created_at=1))
    await stack.cache.store(TENANT, {"space": "SECRET"}, ttl_seconds=300)
    await stack.cache.wake(TENANT, "task_SECRET", ttl_seconds=300)
    await stack.queues.create(TENANT, 2)
    await stack.records.write(TENANT, Put(key=Key.step("task_x", 1), item={"content": "SECRET"}))
    await _time_passes(stack, receipt)
    assert (await stack.parts.sweeper.sweep(seconds=5))["erased"] == 1
    certified = await _now(stack, receipt)
    assert certified.second_pass is not None
    found = {name: count.found for name, count in certified.second_pass.stores.items()}
    assert found == {"table": 1, "cache": 2, "mappings": 1, "queues": 1, "memory": 2, "contents": 1, "files": 2}
    assert {count.remaining for count in certified.second_pass.stores.values()} == {0}
    assert "SECRET" not in _everything(stack)


async def test_queues_of_all_generations_go(stack: MemoryStack) -> None:
    await stack.records.write(
        TENANT, Update(key=Key.space(), set={"generation": 7}, include={"releasing": frozenset("3")})
    )
    for generation in (3, 5, 7):
        await stack.queues.create(TENANT, generation)
    receipt = await _begin(stack)
    assert await stack.queues.generations(TENANT) == []
    assert receipt.first_pass is not None
    assert receipt.first_pass.stores["queues"].deleted == 4


async def test_the_id_cannot_be_used_again_before_the_erasure_is_certified(stack: MemoryStack) -> None:
    receipt = await _begin(stack)
    again = NewProject(id="shop", name="Again")
    with pytest.raises(Conflict, match="being erased"):
        await stack.parts.services.projects.create(USER, again)
    await _time_passes(stack, receipt)
    await stack.parts.sweeper.sweep(seconds=5)
    await stack.parts.services.projects.create(USER, again)
    await stack.files.write(TENANT, "new.txt", b"mine")
    # Whatever of the old erasure comes late finds that it is not its project any more.
    await stack.parts.sweeper.sweep(seconds=5)
    assert await stack.files.head(TENANT, "new.txt") is not None
    assert (await stack.parts.services.projects.get(TENANT)).name == "Again"
    sent = await send(stack)
    assert sent.number == 0


async def test_another_project_of_the_same_user_is_untouched(stack: MemoryStack) -> None:
    await _fill(stack, OTHER)
    before = _everything(stack, OTHER)
    receipt = await _begin(stack)
    await _time_passes(stack, receipt)
    await stack.parts.sweeper.sweep(seconds=5)
    assert _everything(stack, OTHER) == before


class Down:
    """A port that does not answer as long as it is down."""

    def __init__(self, below: object, *methods: str) -> None:
        self._below, self._methods, self.down = below, methods, True

    def __getattr__(self, name: str) -> Any:
        if self.down and name in self._methods:
            return self._fail
        return getattr(self._below, name)

    async def _fail(self, *_: object, **__: object) -> None:
        raise Unavailable("it", "down")


@pytest.mark.parametrize(
    ("port", "methods", "store"),
    [
        ("memory", ("remains", "drop_all"), "memory"),
        ("files", ("erase",), "files"),
        ("files", ("remains",), "files"),
        ("content", ("erase", "remains"), "contents"),
        ("cache", ("remains",), "cache"),
        ("queues", ("generations",), "queues"),
        ("queues", ("mappings",), "mappings"),
    ],
)
async def test_a_store_that_does_not_answer_is_asked_until_it_does(
    stack: MemoryStack, port: str, methods: tuple[str, ...], store: str
) -> None:
    down = Down(getattr(stack, port), *methods)
    parts = stack.compose(**{port: down})
    receipt = await _begin(stack, parts)
    assert receipt.state is ErasureState.CLEARING
    assert receipt.first_pass is not None
    assert receipt.first_pass.ended_at is None
    # The others are not kept waiting.
    done = [name for name, count in receipt.first_pass.stores.items() if count.remaining == 0]
    assert len(done) >= 5
    await _time_passes(stack, receipt)
    assert (await parts.sweeper.sweep(seconds=5))["erased"] == 0
    assert (await _now(stack, receipt)).certified_at is None
    down.down = False
    await _due(stack, receipt)
    assert (await parts.sweeper.sweep(seconds=5))["erased"] == 1
    certified = await _now(stack, receipt)
    assert certified.second_pass is not None
    assert certified.second_pass.stores[store].remaining == 0
    assert "SECRET" not in _everything(stack)


async def test_what_a_store_does_not_let_go_keeps_an_erasure_from_being_certified(stack: MemoryStack) -> None:
    class Sticky:
        sticks = True

        def __getattr__(self, name: str) -> Any:
            return getattr(stack.files, name)

        async def remains(self, tenant: TenantContext) -> int:
            return 1 if self.sticks else await stack.files.remains(tenant)

    sticky = Sticky()
    parts = stack.compose(files=sticky)
    receipt = await _begin(stack, parts)
    await _time_passes(stack, receipt)
    assert (await parts.sweeper.sweep(seconds=5))["left"] == 1
    now = await _now(stack, receipt)
    assert now.certified_at is None
    assert now.second_pass is not None
    assert now.second_pass.stores["files"].remaining == 1
    # Not at once again: the sweeper has other things to do.
    item = await stack.records.get(USER, Key.erasure(receipt.id)) or {}
    assert item["due_at"] > now_ms() + 30_000
    sticky.sticks = False
    await _due(stack, receipt)
    assert (await parts.sweeper.sweep(seconds=5))["erased"] == 1


async def test_an_erasure_that_takes_long_goes_on_where_it_was(stack: MemoryStack) -> None:
    class Slow:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.files, name)

        async def erase(self, tenant: TenantContext) -> int:
            await asyncio.sleep(5)
            return 0

    receipt = await _begin(stack, stack.compose(files=Slow()), seconds=0.3)
    assert receipt.state is ErasureState.CLEARING
    assert await stack.files.remains(TENANT) == 5
    await _due(stack, receipt)
    await stack.parts.sweeper.sweep(seconds=5)
    receipt = await _now(stack, receipt)
    assert receipt.state is ErasureState.WAITING
    assert receipt.first_pass is not None
    assert receipt.first_pass.stores["files"].deleted == 5
    assert receipt.first_pass.stores["table"].deleted > 5


@pytest.mark.parametrize("too_late", [False, True])
async def test_whatever_step_an_erasure_dies_at_it_is_ended_or_has_not_begun(too_late: bool) -> None:
    steps = 0
    while True:
        stack = await _full_project()
        fate = Fate(steps, too_late=too_late)
        parts = stack.compose(
            records=fate.over(stack.records, "write"),
            queues=fate.over(stack.queues, "release"),
            memory=fate.over(stack.memory, "drop_all"),
            files=fate.over(stack.files, "erase", "remains"),
        )
        try:
            receipt = await _begin(stack, parts)
            await _time_passes(stack, receipt)
            await parts.sweeper.sweep(seconds=5)
        except Died:
            assert fate.struck
        receipts, _ = await stack.parts.services.erasures.page(USER, limit=9, after=None)
        if receipts:
            for _ in range(2):
                if (await _now(stack, receipts[0])).certified_at is None:
                    await _time_passes(stack, receipts[0])
                    await stack.parts.sweeper.sweep(seconds=5)
            assert (await _now(stack, receipts[0])).certified_at is not None
            assert "SECRET" not in _everything(stack)
        else:
            assert steps == 0
            assert (await stack.parts.services.projects.get(TENANT)).name == "SECRET"
        if not fate.struck:
            break
        steps += 1
    assert steps >= 10


def test_two_sweeps_at_once_certify_once_and_clear_nothing_of_a_successor() -> None:
    for _ in range(30):
        stack = asyncio.run(_full_project())
        receipt = asyncio.run(_begin(stack))
        asyncio.run(_time_passes(stack, receipt))
        start = threading.Barrier(2)

        def sweep(stack: MemoryStack = stack, start: threading.Barrier = start) -> int:
            sweeper = stack.compose().sweeper
            start.wait()
            return asyncio.run(sweeper.sweep(seconds=5))["erased"]

        with ThreadPoolExecutor(2) as pool:
            counts = [each.result() for each in [pool.submit(sweep), pool.submit(sweep)]]
        assert sum(counts) == 1


async def test_who_goes_on_with_an_erasure_has_it_for_itself(stack: MemoryStack) -> None:
    """A second sweeper that comes by while the first one clears must not be clearing when the id is used again."""
    receipt = await _begin(stack)
    await _time_passes(stack, receipt)
    counts: list[int] = []

    class Watching:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack.files, name)

        async def erase(self, tenant: TenantContext) -> int:
            counts.append((await stack.parts.sweeper.sweep(seconds=5))["erased"])
            return await stack.files.erase(tenant)

    assert (await stack.compose(files=Watching()).sweeper.sweep(seconds=5))["erased"] == 1
    assert counts == [0]


async def test_receipts_are_their_users_own_and_the_newest_come_first(stack: MemoryStack) -> None:
    erasures = stack.parts.services.erasures
    first = await _begin(stack)
    await _fill(stack, OTHER)
    second = await erasures.begin(OTHER, seconds=5)
    page, after = await erasures.page(USER, limit=1, after=None)
    assert [each.id for each in page] == [max(first.id, second.id)]
    assert after is not None
    rest, _ = await erasures.page(USER, limit=9, after=after)
    assert [each.id for each in rest] == [min(first.id, second.id)]
    assert (await erasures.page(UserContext("bob"), limit=9, after=None))[0] == []
    for bad in (first.id[:-1], "nothing", "erasure_../x"):
        with pytest.raises(NotFound):
            await erasures.get(USER, bad)
    with pytest.raises(NotFound):
        await erasures.get(UserContext("bob"), first.id)


async def test_a_missing_or_deleted_project_cannot_be_erased(stack: MemoryStack) -> None:
    with pytest.raises(NotFound):
        await stack.parts.services.erasures.begin(TenantContext("alice", "nobodys"), seconds=1)
    await _begin(stack)
    with pytest.raises(NotFound):
        await _begin(stack)
    assert len((await stack.parts.services.erasures.page(USER, limit=9, after=None))[0]) == 1
