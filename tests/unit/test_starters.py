"""The starter pack is made of agents that this service accepts."""

import pytest

from worker_space.adapters.model import PydanticAIModels
from worker_space.agents import AgentConfig
from worker_space.starters import STARTERS, starter
from worker_space.tools.catalogue import TOOLS, check_names
from worker_space.tools.tool import Risk


def test_there_are_four_of_different_names() -> None:
    assert [config.name for config in STARTERS] == ["coder", "analyst", "writer", "planner"]


@pytest.mark.parametrize("config", STARTERS, ids=lambda config: config.name)
def test_a_starter_is_a_valid_agent_that_runs_without_a_key(config: AgentConfig) -> None:
    assert AgentConfig.model_validate(config.model_dump()) == config
    check_names(config.tools)
    PydanticAIModels(region="eu-central-1").check(config.model)
    assert config.metadata["role"] == config.name
    assert config.metadata["capabilities"]


@pytest.mark.parametrize("config", STARTERS, ids=lambda config: config.name)
def test_a_prompt_names_no_tool_that_its_agent_lacks(config: AgentConfig) -> None:
    named = {name for name in TOOLS if name in config.system_prompt}
    assert named <= set(config.tools)


def test_only_the_coder_may_take_files_away_and_the_analyst_changes_none() -> None:
    risks = {config.name: {TOOLS[name].risk for name in config.tools if name != "remember"} for config in STARTERS}
    assert [name for name, found in risks.items() if Risk.DELETING in found] == ["coder"]
    assert risks["analyst"] == {Risk.READING}


def test_a_starter_can_be_had_with_another_model() -> None:
    assert starter("coder", model="openai:gpt-5-mini").model == "openai:gpt-5-mini"
    assert starter("coder").model == "offline:rules"
    with pytest.raises(KeyError):
        starter("nobody")
