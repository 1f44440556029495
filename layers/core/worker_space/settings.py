"""What a deployment sets. The environment is read here and nowhere else in the package."""

import os
from collections.abc import Mapping
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from worker_space.errors import InvalidRequest

__all__ = ["Settings"]


class Settings(BaseModel):
    """One deployment's settings; each field's alias is the environment variable that sets it. Secrets are masked."""

    model_config = ConfigDict(frozen=True, extra="ignore", populate_by_name=True)

    table: str = Field(alias="WORKER_SPACE_TABLE", description="DynamoDB table.")
    bucket: str = Field(alias="WORKER_SPACE_BUCKET", description="S3 bucket.")
    prefix: str = Field(default="ws", alias="WORKER_SPACE_PREFIX", description="Prefix of queues, keys, collections.")
    region: str = Field(default="us-east-1", alias="AWS_REGION")
    redis_url: str = Field(alias="UPSTASH_REDIS_REST_URL")
    redis_token: SecretStr = Field(alias="UPSTASH_REDIS_REST_TOKEN")
    qdrant_url: str = Field(alias="QDRANT_URL")
    qdrant_api_key: SecretStr | None = Field(default=None, alias="QDRANT_API_KEY")
    jwt_issuer: str = Field(default="", alias="JWT_ISSUER", description="Expected `iss`; the API needs it.")
    jwt_audience: str = Field(default="worker-space", alias="JWT_AUDIENCE", description="Expected `aud`.")
    jwt_jwks_url: str = Field(default="", alias="JWT_JWKS_URL", description="Where the issuer's keys are.")
    openai_base_url: str | None = Field(default=None, alias="OPENAI_BASE_URL")
    openai_api_key: SecretStr | None = Field(default=None, alias="OPENAI_API_KEY")
    default_model: str = Field(default="offline:rules", alias="WORKER_SPACE_DEFAULT_MODEL")
    worker_function: str = Field(default="worker", alias="WORKER_SPACE_WORKER_FUNCTION")
    worker_timeout_seconds: int = Field(default=900, ge=10, le=900, alias="WORKER_SPACE_WORKER_TIMEOUT_SECONDS")
    dead_letter_arn: str = Field(default="", alias="WORKER_SPACE_DEAD_LETTER_ARN")
    visibility_seconds: int = Field(
        default=60, ge=2, le=900, alias="WORKER_SPACE_VISIBILITY_SECONDS", description="The heartbeat's visibility."
    )
    answer_wait_seconds: float = Field(
        default=25.0,
        ge=0.0,
        le=28.0,
        alias="WORKER_SPACE_ANSWER_WAIT_SECONDS",
        description="How long a message's request waits for the answer; API Gateway stops at 30 s.",
    )
    redispatch_seconds: int = Field(
        default=120,
        ge=1,
        alias="WORKER_SPACE_REDISPATCH_SECONDS",
        description="After how long a dispatched task that nobody began is sent again.",
    )
    max_attempts: int = Field(default=5, ge=1, le=9, alias="WORKER_SPACE_MAX_ATTEMPTS")
    max_model_calls: int = Field(default=20, ge=1, le=200, alias="WORKER_SPACE_MAX_MODEL_CALLS")
    log_level: str = Field(default="INFO", alias="WORKER_SPACE_LOG_LEVEL")

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
            problems = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            raise InvalidRequest(f"set these environment variables right: {problems}") from None
