"""Secrets by reference: when they are asked for, what stays when they cannot be, and where they must not appear."""

import json
import logging
import traceback
from typing import Any

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError

from worker_space.adapters.secrets import SecretSettings
from worker_space.errors import InvalidRequest, Unavailable
from worker_space.settings import Settings

STORES, MODELS = "stack/stores", "stack/models"
NAMED = {
    "WORKER_SPACE_TABLE": "t",
    "WORKER_SPACE_BUCKET": "b",
    "UPSTASH_REDIS_REST_URL": "u",
    "QDRANT_URL": "q",
    "WORKER_SPACE_SECRET": STORES,
}
DOWN = ReadTimeoutError(endpoint_url="https://secretsmanager.test")
FORBIDDEN = ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetSecretValue")


class Vault:
    """Secrets Manager, as far as it is asked. Its clock stands still, except that waiting in vain takes 2 s."""

    def __init__(self, **contents: Any) -> None:
        self.contents: dict[str, Any] = {
            STORES: {"upstash_token": "redis-1", "qdrant_api_key": "qdrant-1"},
            MODELS: {"openai_api_key": "openai-1"},
        } | contents
        self.asked: list[str] = []
        self.now = 0.0

    def get_secret_value(self, *, SecretId: str) -> dict[str, Any]:
        self.asked.append(SecretId)
        content = self.contents[SecretId]
        if isinstance(content, ReadTimeoutError):
            self.now += 2.0
        if isinstance(content, Exception):
            raise content
        return {"SecretBinary": content} if isinstance(content, bytes) else {"SecretString": _text(content)}


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content)


def source(vault: Vault, **more: str) -> SecretSettings:
    declared = Settings.from_environment(NAMED | more)
    return SecretSettings(declared, client=lambda: vault, clock=lambda: vault.now)


def keys(settings: Settings) -> tuple[str | None, ...]:
    found = (settings.redis_token, settings.qdrant_api_key, settings.openai_api_key)
    return tuple(None if secret is None else secret.get_secret_value() for secret in found)


def test_what_the_secret_holds_is_filled_in_and_nothing_that_is_not_named() -> None:
    vault = Vault()
    assert keys(source(vault).current()) == ("redis-1", "qdrant-1", None)
    assert vault.asked == [STORES]


def test_only_who_names_the_models_secret_gets_the_models_key() -> None:
    vault = Vault()
    assert keys(source(vault, WORKER_SPACE_MODEL_SECRET=MODELS).current()) == ("redis-1", "qdrant-1", "openai-1")


def test_a_stores_secret_that_holds_the_models_key_too_does_not_give_it_away() -> None:
    vault = Vault(**{STORES: {"upstash_token": "redis-1", "openai_api_key": "openai-1"}})
    assert keys(source(vault).current()) == ("redis-1", None, None)


def test_without_a_named_secret_nobody_is_asked() -> None:
    environment = {name: value for name, value in NAMED.items() if name != "WORKER_SPACE_SECRET"}
    declared = Settings.from_environment(environment | {"UPSTASH_REDIS_REST_TOKEN": "direct"})

    def refuse() -> Any:
        raise AssertionError("a client was made")

    assert SecretSettings(declared, client=refuse).current() is declared


def test_one_of_token_and_secret_is_needed_and_the_complaint_names_both() -> None:
    environment = {name: value for name, value in NAMED.items() if name != "WORKER_SPACE_SECRET"}
    with pytest.raises(InvalidRequest, match="UPSTASH_REDIS_REST_TOKEN or WORKER_SPACE_SECRET"):
        Settings.from_environment(environment)


def test_a_key_in_the_environment_itself_goes_first() -> None:
    found = source(Vault(), QDRANT_API_KEY="direct").current()
    assert keys(found) == ("redis-1", "direct", None)


def test_it_is_asked_once_in_a_quarter_of_an_hour_and_the_same_settings_mean_no_change() -> None:
    vault = Vault()
    secrets = source(vault)
    first = secrets.current()
    vault.now = 899.0
    assert secrets.current() is first
    assert len(vault.asked) == 1
    vault.now = 900.0
    assert secrets.current() is first
    assert len(vault.asked) == 2


def test_a_rotated_key_arrives_within_a_quarter_of_an_hour() -> None:
    vault = Vault()
    secrets = source(vault)
    secrets.current()
    vault.contents[STORES]["upstash_token"] = "redis-2"
    vault.now = 900.0
    assert keys(secrets.current()) == ("redis-2", "qdrant-1", None)


def test_a_refused_key_has_it_asked_for_early_but_once_a_minute() -> None:
    vault = Vault()
    secrets = source(vault)
    secrets.doubt()
    secrets.current()
    vault.contents[STORES]["upstash_token"] = "redis-2"
    secrets.doubt()
    assert keys(secrets.current()) == ("redis-1", "qdrant-1", None)
    vault.now = 60.0
    assert keys(secrets.current()) == ("redis-2", "qdrant-1", None)
    for _ in range(5):
        secrets.doubt()
        secrets.current()
    assert len(vault.asked) == 2


@pytest.mark.parametrize(
    "failure", [DOWN, FORBIDDEN, b"bytes", "no json", "[1]"], ids=["down", "forbidden", "bytes", "text", "list"]
)
def test_what_was_read_stays_while_it_cannot_be_read_again(failure: Any, caplog: pytest.LogCaptureFixture) -> None:
    vault = Vault()
    secrets = source(vault, WORKER_SPACE_MODEL_SECRET=MODELS)
    first = secrets.current()
    vault.contents[STORES] = vault.contents[MODELS] = failure
    vault.now = 1_000.0
    assert secrets.current() is first
    assert STORES in caplog.text
    asked = len(vault.asked)
    assert secrets.current() is first
    assert len(vault.asked) == asked
    vault.contents[STORES] = {"upstash_token": "redis-2"}
    vault.now += 60.0
    assert secrets.current().redis_token.get_secret_value() == "redis-2"


def test_a_start_without_the_stores_secret_goes_on_and_asks_again_soon() -> None:
    vault = Vault(**{STORES: DOWN})
    secrets = source(vault)
    assert keys(secrets.current()) == ("", None, None)
    vault.contents[STORES] = {"upstash_token": "redis-1"}
    vault.now += 10.0
    assert keys(secrets.current()) == ("redis-1", None, None)


def test_a_worker_does_not_start_without_the_models_secret_and_waits_for_one_deadline() -> None:
    vault = Vault(**{STORES: DOWN, MODELS: DOWN})
    secrets = source(vault, WORKER_SPACE_MODEL_SECRET=MODELS)
    with pytest.raises(Unavailable, match="models' secret"):
        secrets.current()
    assert vault.now <= 2.0
    with pytest.raises(Unavailable):
        secrets.current()
    assert vault.now <= 2.0


def test_a_stores_secret_that_is_refused_does_not_keep_a_worker_from_its_models() -> None:
    vault = Vault(**{STORES: FORBIDDEN})
    secrets = source(vault, WORKER_SPACE_MODEL_SECRET=MODELS)
    assert keys(secrets.current()) == ("", None, "openai-1")


@pytest.mark.parametrize("content", ['{"upstash_token": "marked-secret"', '["marked-secret"]', '"marked-secret"'])
def test_no_content_reaches_a_log_an_error_or_a_repr(content: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = source(Vault(**{STORES: content, MODELS: content}), WORKER_SPACE_MODEL_SECRET=MODELS)
    with pytest.raises(Unavailable) as refusal:
        secrets.current()
    good = source(Vault(**{STORES: {"upstash_token": "marked-secret"}}))
    raised = "".join(traceback.format_exception(refusal.value))
    told = f"{refusal.value!r}{raised}{secrets!r}{good.current()!r}{good!r}{caplog.text}"
    assert "marked-secret" not in told
