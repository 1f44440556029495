"""The price tables: what they are made of, and that the document has them."""

from dataclasses import replace

import pytest

from infra import costs
from infra.costs import BEGIN, END, Assumptions, Price, main, message, polling, projects, put_in, storage, tables
from tests.infra.templates import MAIN

GIVEN = Assumptions()


def test_the_document_has_the_tables_that_the_prices_give(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check"]) == 0, capsys.readouterr().err


def test_another_assumption_gives_other_tables_and_the_check_notices(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--check", "--busy-messages", "201"]) == 1
    assert "--write" in capsys.readouterr().err
    assert main(["--busy-messages", "201"]) == 0
    assert "201 messages a day" in capsys.readouterr().out


def test_an_empty_mapped_queue_is_asked_648000_times_a_month() -> None:
    assert costs.POLLS_A_MONTH == 648_000
    assert polling(720) == pytest.approx(0.324)
    assert polling(0) == 0


def test_a_project_asleep_costs_its_storage_alone() -> None:
    asleep, unused, light, busy = projects(GIVEN)
    assert asleep.messages * message(GIVEN) + polling(asleep.awake_hours) == 0
    assert polling(unused.awake_hours) > 100 * storage(GIVEN)
    assert light.messages < busy.messages


@pytest.mark.parametrize(
    ("change", "factor"),
    [({"worker_seconds": 60.0}, 3), ({"writes": 600.0}, 1.5), ({"requests": 400.0}, 1.5), ({"log_kb": 400.0}, 1.5)],
)
def test_what_a_message_does_is_what_it_costs(change: dict[str, float], factor: float) -> None:
    assert message(replace(GIVEN, **change)) > factor * message(GIVEN)  # type: ignore[arg-type]


def test_each_price_has_its_page_and_the_tables_name_it() -> None:
    prices = [value for value in vars(costs).values() if isinstance(value, Price)]
    assert len(prices) >= 12
    for price in prices:
        assert price.source.startswith("https://aws.amazon.com/")
        assert price.source in tables(GIVEN)
        assert price.of(price.per) == pytest.approx(price.usd)


def test_memory_is_what_the_template_gives() -> None:
    parameters = MAIN["Parameters"]
    assert GIVEN.api_mb == parameters["ApiMemoryMegabytes"]["Default"]
    assert GIVEN.worker_mb == parameters["WorkerMemoryMegabytes"]["Default"]
    assert GIVEN.background_mb == parameters["BackgroundMemoryMegabytes"]["Default"]
    assert GIVEN.pool == parameters["PoolQueues"]["Default"]


def test_only_the_tables_of_a_document_are_replaced() -> None:
    assert put_in(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\nnew\n{END}\nb"
    with pytest.raises(ValueError, match="no place"):
        put_in("nothing here", "new")
