"""Tokens and money a day: reserved before a model call, settled after; how much an input is taken to be."""

from typing import Any

import pytest

from tests.core.budgets import INPUT, OTHER, TENANT, Book, only_tokens, request, tokens
from worker_space.errors import InvalidRequest, ModelError, OverBudget, RunError, TaskCanceled, Unavailable
from worker_space.models import ModelReply, ModelRequest, ToolSpec, Usage
from worker_space.tenancy import UserContext
from worker_space.usage import estimated_input

pytestmark = pytest.mark.anyio


async def test_without_a_limit_nothing_is_read_or_written() -> None:
    class Untouchable:
        def __getattr__(self, name: str) -> Any:
            raise AssertionError(f"the table was asked to {name}")

    spending = Book(Untouchable()).spending("task_a")
    asked = request()
    assert await spending.reserve(asked, 0) is asked
    await spending.settle(Usage(input_tokens=10, output_tokens=10))
    await spending.release()


async def test_a_call_is_reserved_and_then_booked_as_what_it_used() -> None:
    book = Book(limit_tokens_per_day=100_000)
    spending = await book.working("task_a")
    bounded = await spending.reserve(request(max_tokens=500), 0)
    assert bounded.max_tokens == 500
    assert only_tokens(await book.day()) == tokens(INPUT + 500, 0)
    await spending.settle(Usage(input_tokens=20, output_tokens=30))
    assert only_tokens(await book.day()) == tokens(50, 50)
    assert await book.reservations() == []


async def test_an_answer_without_a_bound_of_its_own_gets_one() -> None:
    spending = await Book(limit_tokens_per_day=100_000).working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 4_096


async def test_an_answer_is_bounded_to_what_is_left() -> None:
    book = Book(limit_tokens_per_day=INPUT + 300)
    spending = await book.working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 300
    await spending.settle(Usage(input_tokens=INPUT, output_tokens=300))
    with pytest.raises(OverBudget, match=rf"this project has {INPUT + 300} used of {INPUT + 300} tokens.*midnight UTC"):
        await spending.reserve(request(), 1)


async def test_too_little_for_any_answer_is_refused_before_it_is_paid_for() -> None:
    book = Book(limit_tokens_per_day=INPUT + 255)
    spending = await book.working("task_a")
    with pytest.raises(OverBudget):
        await spending.reserve(request(), 0)
    assert await book.day() == {}
    # A short answer that is asked for as such fits.
    assert (await spending.reserve(request(max_tokens=10), 0)).max_tokens == 10


async def test_what_was_really_used_is_booked_also_where_it_is_more_than_was_reserved() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")
    await spending.reserve(request(max_tokens=300), 0)
    await spending.settle(Usage(input_tokens=9_000, output_tokens=900))
    assert only_tokens(await book.day()) == tokens(9_900, 9_900)
    with pytest.raises(OverBudget):
        await spending.reserve(request(), 1)


async def test_money_is_reserved_by_the_models_price() -> None:
    book = Book(limit_cost_per_day=10_000)
    spending = await book.working("task_a")
    bounded = await spending.reserve(request(max_tokens=1_000), 0)
    assert bounded.max_tokens == 1_000
    assert (await book.day())["committed_cost"] == INPUT + 2 * 1_000
    await spending.settle(Usage(input_tokens=100, output_tokens=50))
    assert (await book.day())["spent_cost"] == (await book.day())["committed_cost"] == 200


async def test_an_answer_is_bounded_to_what_can_be_paid() -> None:
    spending = await Book(limit_cost_per_day=INPUT + 2 * 400 + 1).working("task_a")
    assert (await spending.reserve(request(), 0)).max_tokens == 400


async def test_no_money_for_the_input_is_no_call() -> None:
    spending = await Book(limit_cost_per_day=INPUT).working("task_a")
    with pytest.raises(OverBudget, match="millionths of the currency"):
        await spending.reserve(request(), 0)


async def test_under_a_limit_of_money_a_model_without_a_price_is_refused() -> None:
    spending = await Book(limit_cost_per_day=10**9).working("task_a")
    with pytest.raises(RunError, match=r"openai:unknown has no price.*WORKER_SPACE_PRICES"):
        await spending.reserve(request(model="openai:unknown"), 0)
    # The offline model is free, even when nothing may be spent at all.
    free = await Book(limit_cost_per_day=0).working("task_b")
    assert (await free.reserve(request(model="offline:rules"), 0)).max_tokens == 4_096


async def test_the_users_limit_holds_over_all_projects() -> None:
    book = Book(user_limit_tokens_per_day=2 * (INPUT + 500))
    for tenant in (TENANT, OTHER):
        spending = await book.working("task_a", tenant=tenant)
        await spending.reserve(request(max_tokens=500), 0)
    third = await book.working("task_b")
    with pytest.raises(OverBudget, match=r"you have .* reserved"):
        await third.reserve(request(max_tokens=500), 0)
    assert only_tokens(await book.day(UserContext("alice"))) == tokens(2 * (INPUT + 500), 0)
    # The project has no limit of its own, but should it get one, the day is counted.
    for tenant in (TENANT, OTHER):
        assert only_tokens(await book.day(tenant)) == tokens(INPUT + 500, 0)


@pytest.mark.parametrize("error", [ModelError("refused"), Unavailable("model", "gone"), InvalidRequest("unknown")])
async def test_a_call_that_came_to_nothing_gives_its_reservation_back(error: Exception) -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise error

    with pytest.raises(type(error)):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(0, 0)
    assert await book.reservations() == []


@pytest.mark.parametrize("limits", [{"limit_tokens_per_day": 10_000}, {}], ids=["limited", "without a limit"])
async def test_a_call_that_broke_off_after_text_had_come_is_booked_as_its_input(limits: dict[str, int]) -> None:
    book = Book(**limits)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise Unavailable("model", "gone", begun=True)

    with pytest.raises(Unavailable):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)
    assert (await book.day())["spent_cost"] == INPUT
    assert (await book.reservations(), spending.owed()) == ([], {})


async def test_a_call_that_nobody_wants_any_more_does_not_hold_its_answers_tokens() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise TaskCanceled("the task was canceled")

    with pytest.raises(TaskCanceled):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(INPUT, INPUT)
    assert await book.reservations() == []


async def test_an_answer_that_cannot_be_used_is_booked_as_what_it_used() -> None:
    book = Book(limit_tokens_per_day=10_000)
    spending = await book.working("task_a")

    async def ask(_: ModelRequest) -> ModelReply:
        raise ModelError("it gave an empty answer", used=(20, 400))

    with pytest.raises(ModelError):
        await spending.call(request(), 0, ask)
    assert only_tokens(await book.day()) == tokens(420, 420)
    assert await book.reservations() == []


# -- estimates -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "least"),
    [
        ("The quick brown fox jumps over the lazy dog. " * 100, 1_000),
        ("def f(x): return {k: v for k, v in x.items() if v}\n" * 100, 1_700),
        ("你好，世界。" * 100, 700),
        ("🙂🙃🦄" * 100, 900),
        ("ጤና ይስጥልኝ " * 100, 2_000),
    ],
    ids=["prose", "code", "Chinese", "emoji", "Amharic"],
)
def test_an_input_is_never_estimated_below_what_tokenizers_make_of_it(text: str, least: int) -> None:
    # The least are counts by cl100k, rounded up.
    assert estimated_input(request(text=text)) >= least


def test_the_tools_are_part_of_the_input() -> None:
    tool = ToolSpec(name="read_file", description="x" * 400, parameters={"type": "object"})
    with_tool = request().model_copy(update={"tools": (tool,)})
    assert estimated_input(with_tool) >= INPUT + 200
