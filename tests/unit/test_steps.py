"""Steps as they are shown: whatever a model has called, the table can keep what is told of it."""

import json
from typing import Any

import pytest

from worker_space.adapters.dynamodb import _dynamo
from worker_space.steps import short_arguments

NESTED = json.loads("[" * 60 + "]" * 60)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a" * 300, "a" * 200),
        (["a.txt", 7, 0.25, None, True], ["a.txt", 7, 0.25, None, True]),
        ({"lines": [1, 2]}, {"lines": [1, 2]}),
        (0, 0),
        (float("inf"), "Infinity"),
        (float("nan"), "NaN"),
        (1e300, "1e+300"),
        (1e-300, "1e-300"),
        (10**50, str(10**50)),
        ([1e300], "[1e+300]"),
        ({"": 1}, '{"": 1}'),
        ("half a \ud83d", "half a ?"),
        (["half a \ud83d"], '["half a ?"]'),
        (NESTED, json.dumps(NESTED)),
    ],
)
def test_arguments_that_the_table_cannot_keep_are_shown_as_text(value: Any, shown: Any) -> None:
    told = short_arguments({"path": "a.txt", "value": value})
    assert told == {"path": "a.txt", "value": shown}
    json.dumps(_dynamo(told), ensure_ascii=False).encode()


def test_names_of_arguments_are_the_models_too() -> None:
    assert short_arguments({"": 1, "\ud83d": 2}) == {"(no name)": 1, "?": 2}
    assert short_arguments("no object \ud83d") == "no object ?"
