"""`make publish`, over a Lambda that remembers what it was told."""

from typing import Any

import pytest

from infra.publish import NotPublishedError, functions, publish


class Lambda:
    """One function whose settings changed since version 3, unless told otherwise."""

    def __init__(self, *states: str, published: str = "4") -> None:
        self.states = list(states)
        self.published = published
        self.alias = "3"
        self.now = 0.0

    def get_alias(self, **_: str) -> dict[str, str]:
        return {"FunctionVersion": self.alias}

    def publish_version(self, *, FunctionName: str) -> dict[str, str]:
        return {"Version": self.published}

    def get_function_configuration(self, *, FunctionName: str, Qualifier: str) -> dict[str, str]:
        assert Qualifier == self.published
        return {"State": self.states.pop(0) if len(self.states) > 1 else self.states[0], "StateReason": "no reason"}

    def update_alias(self, *, FunctionName: str, Name: str, FunctionVersion: str) -> None:
        assert Name == "live"
        self.alias = FunctionVersion

    def sleep(self, seconds: float) -> None:
        assert self.alias == "3", "the alias moved to a version that was not ready"
        self.now += seconds

    def run(self) -> tuple[str, str]:
        return publish(self, "worker", sleep=self.sleep, clock=lambda: self.now)


def test_the_alias_moves_when_the_version_and_its_snapshot_are_ready() -> None:
    client = Lambda("Pending", "Pending", "Active")
    assert client.run() == ("3", "4")
    assert client.alias == "4"
    assert client.now == 10.0


def test_nothing_changed_is_nothing_done() -> None:
    client = Lambda("Active", published="3")
    assert client.run() == ("3", "3")


@pytest.mark.parametrize("state", ["Failed", "Pending"])
def test_a_version_that_does_not_become_ready_leaves_the_alias_where_it_is(state: str) -> None:
    client = Lambda("Pending", state)
    with pytest.raises(NotPublishedError, match=f"worker: version 4 is {state}: no reason"):
        client.run()
    assert client.alias == "3"
    assert client.now <= 600.0


def test_the_functions_of_a_stack_are_found_on_every_page() -> None:
    class CloudFormation:
        def get_paginator(self, name: str) -> Any:
            assert name == "list_stack_resources"
            return self

        def paginate(self, *, StackName: str) -> list[dict[str, Any]]:
            return [
                {"StackResourceSummaries": [{"ResourceType": kind, "PhysicalResourceId": f"{StackName}-{index}"}]}
                for index, kind in enumerate(["AWS::Lambda::Function", "AWS::Lambda::Alias", "AWS::Lambda::Function"])
            ]

    assert list(functions(CloudFormation(), "s")) == ["s-0", "s-2"]
