"""What a deployment sets. The environment is read here and nowhere else in the package."""

import json
import os
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from worker_space.errors import InvalidRequest

__all__ = ["Price", "Settings", "TelemetrySettings", "variables_of"]


class Price(BaseModel):
    """What a million tokens of a model cost, in millionths of the deployment's currency."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    input: int = Field(ge=0, le=10**12)
    output: int = Field(ge=0, le=10**12)


def _parsed(value: Any) -> Any:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("it is no JSON") from error


_Prices = Annotated[Mapping[str, Price], BeforeValidator(_parsed)]
_Limit = Annotated[int | None, Field(ge=0, le=10**15)]
_TRANSFER_SECONDS: Final = 3_600


class TelemetrySettings(BaseModel):
    """What a function needs to know to tell of its work, also where its other settings are wrong."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    prefix: str = Field(default="ws", alias="WORKER_SPACE_PREFIX", description="Prefix of queues, keys, collections.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(default="INFO", alias="WORKER_SPACE_LOG_LEVEL")
    tracing: Literal["Active", "Disabled"] = Field(
        default="Disabled", alias="WORKER_SPACE_TRACING", description="Active sends segments to X-Ray; on Lambda only."
    )
    function_name: str = Field(
        default="",
        alias="AWS_LAMBDA_FUNCTION_NAME",
        description="Set by Lambda; where it is, logs are lines of JSON, and metrics are among them.",
    )

    @property
    def traces(self) -> bool:
        """Whether anybody takes segments from this process."""
        return self.tracing == "Active" and self.function_name != ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """The settings of this process.

        Raises:
            InvalidRequest: A variable is missing or has a bad value; the message names each.
        """
        source = os.environ if environment is None else environment
        names = [field.alias for field in cls.model_fields.values() if field.alias]
        found = {name: source[name] for name in names if source.get(name, "") != ""}
        try:
            return cls.model_validate(found)
        except ValidationError as error:
            told = ((".".join(map(str, each["loc"])), each["msg"]) for each in error.errors())
            problems = "; ".join(": ".join(filter(None, parts)) for parts in told)
            raise InvalidRequest(f"set these environment variables right: {problems}") from None


class Settings(TelemetrySettings):
    """One deployment's settings; each field's alias is the environment variable that sets it. Secrets are masked."""

    table: str = Field(alias="WORKER_SPACE_TABLE", description="DynamoDB table.")
    bucket: str = Field(alias="WORKER_SPACE_BUCKET", description="S3 bucket.")
    region: str = Field(default="us-east-1", alias="AWS_REGION")
    redis_url: str = Field(alias="UPSTASH_REDIS_REST_URL")
    redis_token: SecretStr = Field(default=SecretStr(""), alias="UPSTASH_REDIS_REST_TOKEN")
    qdrant_url: str = Field(alias="QDRANT_URL")
    qdrant_api_key: SecretStr | None = Field(default=None, alias="QDRANT_API_KEY")
    secret: str | None = Field(
        default=None,
        alias="WORKER_SPACE_SECRET",
        description="Secrets Manager's name or ARN of the JSON object with upstash_token and qdrant_api_key.",
    )
    model_secret: str | None = Field(
        default=None,
        alias="WORKER_SPACE_MODEL_SECRET",
        description="Likewise, of the one with openai_api_key.",
    )
    jwt_issuer: str = Field(default="", alias="JWT_ISSUER", description="Expected `iss`; the API needs it.")
    jwt_audience: str = Field(default="worker-space", alias="JWT_AUDIENCE", description="Expected `aud`.")
    jwt_jwks_url: str = Field(default="", alias="JWT_JWKS_URL", description="Where the issuer's keys are.")
    openai_base_url: str | None = Field(default=None, alias="OPENAI_BASE_URL")
    openai_api_key: SecretStr | None = Field(default=None, alias="OPENAI_API_KEY")
    default_model: str = Field(default="offline:rules", alias="WORKER_SPACE_DEFAULT_MODEL")
    embedding_model: str | None = Field(
        default=None,
        pattern=r"^(openai|bedrock):\S{1,200}$",
        alias="WORKER_SPACE_EMBEDDING_MODEL",
        description="Finds agent context by meaning, too; without one by words alone.",
    )
    embedding_dimensions: int | None = Field(
        default=None,
        ge=1,
        le=8192,
        alias="WORKER_SPACE_EMBEDDING_DIMENSIONS",
        description="Length of its vectors; known for OpenAI's and Titan's own models.",
    )
    context_layout: Literal["collection", "shared"] = Field(
        default="collection",
        alias="WORKER_SPACE_CONTEXT_LAYOUT",
        description="One Qdrant collection for each agent, or one for the whole stack.",
    )
    worker_function: str = Field(default="worker", alias="WORKER_SPACE_WORKER_FUNCTION")
    worker_timeout_seconds: int = Field(default=900, ge=10, le=900, alias="WORKER_SPACE_WORKER_TIMEOUT_SECONDS")
    dead_letter_arn: str = Field(default="", alias="WORKER_SPACE_DEAD_LETTER_ARN")
    data_role_arn: str | None = Field(
        default=None,
        pattern=r"^arn:[a-z-]+:iam::[0-9]{12}:role/\S{1,576}$",
        alias="WORKER_SPACE_DATA_ROLE_ARN",
        description="Role to assume for each tenant; without it, a function reaches everybody's data by its own.",
    )
    queue_mode: Literal["project", "pooled"] = Field(
        default="project",
        alias="WORKER_SPACE_QUEUE_MODE",
        description="A queue for each project, made when it is needed, or a fixed number for all (docs/scaling.md).",
    )
    pool_queues: int = Field(
        default=8, ge=1, le=64, alias="WORKER_SPACE_POOL_QUEUES", description="How many there are for all."
    )
    orphan_seconds: int = Field(
        default=3600,
        ge=1,
        alias="WORKER_SPACE_ORPHAN_SECONDS",
        description="A queue or mapping that no project knows of is removed when it is older.",
    )
    visibility_seconds: int = Field(
        default=60, ge=2, le=900, alias="WORKER_SPACE_VISIBILITY_SECONDS", description="The heartbeat's visibility."
    )
    answer_wait_seconds: float = Field(
        default=25.0,
        ge=0.0,
        le=28.0,
        alias="WORKER_SPACE_ANSWER_WAIT_SECONDS",
        description="How long a request waits for an answer, or for a session's next event; API Gateway stops at 30 s.",
    )
    redispatch_seconds: int = Field(
        default=120,
        ge=1,
        alias="WORKER_SPACE_REDISPATCH_SECONDS",
        description="After how long a dispatched task that nobody began is sent again.",
    )
    max_attempts: int = Field(default=5, ge=1, le=9, alias="WORKER_SPACE_MAX_ATTEMPTS")
    max_model_calls: int = Field(default=20, ge=1, le=200, alias="WORKER_SPACE_MAX_MODEL_CALLS")
    presigned_seconds: int = Field(
        default=600,
        ge=60,
        le=840,
        alias="WORKER_SPACE_PRESIGNED_SECONDS",
        description="How long an address for a file may be used; the credentials that sign it end after 900 s.",
    )
    max_upload_bytes: int = Field(
        default=1 << 30,
        ge=1,
        le=5 << 30,
        alias="WORKER_SPACE_MAX_UPLOAD_BYTES",
        description="Largest file that may be uploaded by such an address; S3 takes 5 GiB at once.",
    )
    idle_seconds: int = Field(
        default=3600,
        ge=1,
        alias="WORKER_SPACE_IDLE_SECONDS",
        description="After how long without a message a project's queue and mapping are given back.",
    )
    erase_again_seconds: int | None = Field(
        default=None,
        ge=1,
        alias="WORKER_SPACE_ERASE_AGAIN_SECONDS",
        description="When an erasure clears and asks everything once more; unset, behind the last possible late write. "
        "Less is for trials: what could write before the erasure may then still write behind its certificate.",
    )
    limit_agents: _Limit = Field(default=100, alias="WORKER_SPACE_LIMIT_AGENTS", description="Of a project.")
    limit_sessions: _Limit = Field(default=10_000, alias="WORKER_SPACE_LIMIT_SESSIONS", description="Of a project.")
    limit_open_tasks: _Limit = Field(
        default=1_000, alias="WORKER_SPACE_LIMIT_OPEN_TASKS", description="Of a project: tasks that have not ended."
    )
    limit_messages_per_minute: _Limit = Field(
        default=3_000,
        alias="WORKER_SPACE_LIMIT_MESSAGES_PER_MINUTE",
        description="Of a project, in one minute of the clock.",
    )
    limit_file_bytes: _Limit = Field(
        default=None, alias="WORKER_SPACE_LIMIT_FILE_BYTES", description="Of all of a project's files."
    )
    limit_tokens_per_day: _Limit = Field(
        default=None, alias="WORKER_SPACE_LIMIT_TOKENS_PER_DAY", description="Of a project's model calls, by UTC's day."
    )
    limit_cost_per_day: _Limit = Field(
        default=None, alias="WORKER_SPACE_LIMIT_COST_PER_DAY", description="Likewise, in millionths of the currency."
    )
    user_limit_projects: _Limit = Field(
        default=None, alias="WORKER_SPACE_USER_LIMIT_PROJECTS", description="Of a user; so are the next three."
    )
    user_limit_messages_per_minute: _Limit = Field(default=None, alias="WORKER_SPACE_USER_LIMIT_MESSAGES_PER_MINUTE")
    user_limit_tokens_per_day: _Limit = Field(default=None, alias="WORKER_SPACE_USER_LIMIT_TOKENS_PER_DAY")
    user_limit_cost_per_day: _Limit = Field(default=None, alias="WORKER_SPACE_USER_LIMIT_COST_PER_DAY")
    prices: _Prices = Field(
        default={},
        alias="WORKER_SPACE_PRICES",
        description='By model, JSON: {"openai:gpt-5-mini": {"input": 250000, "output": 2000000}}, in millionths of the '
        "currency for a million tokens.",
    )
    plan_approval_tasks: int = Field(
        default=8,
        ge=0,
        le=20,
        alias="WORKER_SPACE_PLAN_APPROVAL_TASKS",
        description="A plan of more tasks waits for the user's word; a project's policy may say otherwise.",
    )
    approval_seconds: int = Field(
        default=86_400,
        ge=1,
        le=31 * 86_400,
        alias="WORKER_SPACE_APPROVAL_SECONDS",
        description="How long a question to the user may be answered; after that the run goes on without the call.",
    )

    @model_validator(mode="after")
    def _has_a_token(self) -> Self:
        if not (self.redis_token.get_secret_value() or self.secret):
            raise ValueError("UPSTASH_REDIS_REST_TOKEN or WORKER_SPACE_SECRET has to be set")
        return self

    @property
    def pool(self) -> int | None:
        """How many queues all projects share; `None` where each has its own."""
        return self.pool_queues if self.queue_mode == "pooled" else None

    @property
    def erase_again(self) -> int:
        """After how many seconds nobody can hold a right any more that was given before an erasure.

        An invocation may run for the worker's timeout, STS credentials of a tenant last 900 s. An address that was
        signed for a client may be used as long as its setting says, and a transfer that began by then goes on: it has
        an hour more, time for 1 GiB at 300 kB/s. A minute is added for clocks.
        """
        if self.erase_again_seconds is not None:
            return self.erase_again_seconds
        return max(self.worker_timeout_seconds, self.presigned_seconds + _TRANSFER_SECONDS, 900) + 60


_NOBODY: Final[frozenset[str]] = frozenset()
_ONLY: Final[Mapping[str, frozenset[str]]] = {
    # Lambda sets them.
    "function_name": _NOBODY,
    "region": _NOBODY,
    # Secrets are named, never set: `secret`, `model_secret`.
    "redis_token": _NOBODY,
    "qdrant_api_key": _NOBODY,
    "openai_api_key": _NOBODY,
    # They follow from what AWS allows; tests shorten them.
    "answer_wait_seconds": _NOBODY,
    "redispatch_seconds": _NOBODY,
    "erase_again_seconds": _NOBODY,
    "orphan_seconds": _NOBODY,
    "jwt_issuer": frozenset({"api"}),
    "jwt_audience": frozenset({"api"}),
    "jwt_jwks_url": frozenset({"api"}),
    # Its being set is what lets an agent name an openai: model; the key stays with the worker.
    "openai_base_url": frozenset({"api", "worker"}),
    "model_secret": frozenset({"worker"}),
    # Without the key or the permission, each search elsewhere would pay for a refusal before it goes by words.
    "embedding_model": frozenset({"worker"}),
    "embedding_dimensions": frozenset({"worker"}),
}
"""The settings that not every function of a deployment has, and which have them."""


def variables_of(function: str) -> frozenset[str]:
    """The environment variables that a deployment gives one of its functions, no more and no less.

    Args:
        function: Its folder: api, worker, cleanup or dead_letter.
    """
    return frozenset(
        field.alias or name
        for name, field in Settings.model_fields.items()
        if name not in _ONLY or function in _ONLY[name]
    )
