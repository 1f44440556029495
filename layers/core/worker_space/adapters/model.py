"""Language models by name, over Pydantic AI: the port `Model`.

Importing this module costs nothing; Pydantic AI, and a provider's own library, are imported when a model is first
asked. `warm_up` does that ahead of time, because an import inside a request holds up the event loop for a second.
"""

import asyncio
import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from worker_space.errors import InvalidRequest, Unavailable
from worker_space.models import ModelReply, ModelRequest
from worker_space.tenancy import TenantContext

if TYPE_CHECKING:
    from pydantic_ai.models import Model as LibraryModel

__all__ = ["PydanticAIModels"]

_PROVIDERS: Final = ("bedrock", "offline", "openai")
_CONNECT_SECONDS: Final = 2.0
_ATTEMPTS: Final = 3
_MODELS_KEPT: Final = 64
# What the OpenAI client sends where a server of one's own asks for no key: it insists on some text.
_NO_KEY: Final = "none"


class PydanticAIModels:
    """The models this deployment serves: `offline:rules`, `openai:NAME` and `bedrock:NAME`.

    Clients belong to the event loop that first used them: make one instance per environment, and `close` it there.

    Args:
        region: AWS region of Bedrock.
        openai_base_url: Address of an OpenAI-compatible server, such as `http://127.0.0.1:11434/v1`; `None` is OpenAI.
        openai_api_key: Its key; needed for OpenAI itself.
        bedrock_client: A `bedrock-runtime` client to use in place of one of our own; its retries should be off.
        backoff_seconds: The pause before the first repetition of a request; the next one is twice as long.
        refused: Called when a provider does not accept our key.
    """

    def __init__(
        self,
        *,
        region: str,
        openai_base_url: str | None = None,
        openai_api_key: str | None = None,
        bedrock_client: Any = None,
        backoff_seconds: float = 0.5,
        refused: Callable[[], None] | None = None,
    ) -> None:
        self._openai_base_url = openai_base_url or None
        self._openai_api_key = openai_api_key or None
        self._region = region
        self._bedrock_client = bedrock_client
        self._backoff = backoff_seconds
        self._refused = refused
        self._models: dict[str, LibraryModel] = {}
        self._openai: Any = None
        self._bedrock: Any = None

    def __repr__(self) -> str:
        key = "set" if self._openai_api_key else "not set"
        return f"PydanticAIModels(openai_base_url={self._openai_base_url!r}, openai_api_key <{key}>)"

    def check(self, model: str) -> None:
        """Raise `InvalidRequest` when no provider of this deployment serves the name."""
        provider, _, name = model.partition(":")
        if provider not in _PROVIDERS or not name:
            raise InvalidRequest(
                f"{model[:80]!r} is no model of this deployment: use offline:rules, openai:NAME or bedrock:NAME"
            )
        if provider == "offline" and name != "rules":
            raise InvalidRequest(f"{model[:80]!r} does not exist: the only offline model is offline:rules")
        if provider == "openai" and not (self._openai_api_key or self._openai_base_url):
            raise InvalidRequest(
                f"{model[:80]!r} needs OPENAI_API_KEY, or OPENAI_BASE_URL for a compatible server without a key,"
                " in the deployment's settings; offline:rules needs neither"
            )

    def warm_up(self, model: str) -> None:
        """Import and construct what `model` needs, before a request has to wait for it.

        Raises:
            InvalidRequest: No provider of this deployment serves the name.
        """
        from worker_space.adapters import model_messages  # noqa: F401 - imported for its cost

        self._model(model)

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """One answer; what fails for a passing reason is sent at most twice more within `timeout_seconds`.

        A streamed answer is repeated only while none of its text was given: what broke off later is `Unavailable`,
        and says that it had begun.

        Raises:
            InvalidRequest: No provider of this deployment serves the name.
            ModelError: The provider refuses, or its answer is unusable.
            Unavailable: No answer in time, or an error on the provider's side.
        """
        from worker_space.adapters import model_messages as library

        model = self._model(request.model)
        messages = library.to_messages(request)
        parameters = library.to_parameters(request)
        if not request.model.startswith("offline:"):
            messages = model.prepare_messages(messages, parameters)
        clock = asyncio.get_running_loop().time
        deadline = clock() + request.timeout_seconds
        attempt = 1
        given = False

        def give(piece: str) -> None:
            nonlocal given
            given = True
            assert on_text is not None
            # Half a surrogate pair, a cut emoji, has no UTF-8.
            on_text(piece.encode(errors="replace").decode())

        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    settings = library.to_settings(request, max(0.1, deadline - clock()))
                    try:
                        if on_text is None:
                            response = await model.request(messages, settings, parameters)
                        else:
                            response = await library.streamed(model, messages, settings, parameters, give)
                        return library.to_reply(response, request)
                    except library.FAILURES as error:
                        failure = library.to_error(error, request, secrets=(self._openai_api_key,))
                        if self._refused is not None and library.is_about_the_key(error):
                            self._refused()
                        pause = self._pause(attempt, getattr(error, "retry_after", None))
                        last = given or attempt == _ATTEMPTS or clock() + pause >= deadline
                        if isinstance(failure, Unavailable):
                            failure.begun = given
                        if not isinstance(failure, Unavailable) or last:
                            raise failure from error
                    attempt += 1
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            raise Unavailable("model", f"no answer within {request.timeout_seconds:g} s", begun=given) from error

    async def close(self) -> None:
        """Close the clients' connections, on the event loop that used them."""
        client, self._openai = self._openai, None
        self._models.clear()
        if client is not None:
            await client.client.close()

    def _pause(self, attempt: int, asked: float | None) -> float:
        """Seconds before the next try: what the provider asks for, or a doubling pause spread by half."""
        own: float = self._backoff * 2 ** (attempt - 1) * random.uniform(0.5, 1.0)  # noqa: S311 - spread, not a secret
        return max(own, asked or 0.0)

    def _model(self, name: str) -> "LibraryModel":
        model = self._models.get(name)
        if model is None:
            self.check(name)
            # Names come from users: without a bound, a warm environment would keep every name ever tried.
            if len(self._models) >= _MODELS_KEPT:
                self._models.clear()
            model = self._models[name] = self._make(name)
        return model

    def _make(self, full_name: str) -> "LibraryModel":
        provider, _, name = full_name.partition(":")
        if provider == "offline":
            from worker_space.adapters.offline import offline_model

            return offline_model()
        if provider == "bedrock":
            from pydantic_ai.models.bedrock import BedrockConverseModel

            return BedrockConverseModel(name, provider=self._bedrock_provider())
        from pydantic_ai.models.openai import OpenAIChatModel

        return OpenAIChatModel(name, provider=self._openai_provider())

    def _openai_provider(self) -> Any:
        """One provider, and so one connection pool, for all OpenAI models."""
        if self._openai is None:
            import httpx2
            from openai import AsyncOpenAI
            from pydantic_ai.models import create_async_httpx2_client

            client = AsyncOpenAI(
                base_url=self._openai_base_url or "https://api.openai.com/v1",
                api_key=self._openai_api_key or _NO_KEY,
                # Repeated here, inside one deadline: the library's own repetitions would multiply with ours.
                max_retries=0,
                # A request's own timeout can shorten these but not lengthen them: see `create_async_httpx2_client`.
                http_client=create_async_httpx2_client(timeout=httpx2.Timeout(600, connect=_CONNECT_SECONDS)),
            )
            if client.base_url.host == "api.openai.com":
                from pydantic_ai.providers.openai import OpenAIProvider

                self._openai = OpenAIProvider(openai_client=client)
            else:
                from pydantic_ai.profiles.openai import OpenAIModelProfile
                from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

                # Compatible servers know `max_tokens`; several ignore its successor, and with it a limit on cost.
                profile = OpenAIModelProfile(openai_chat_supports_max_completion_tokens=False)
                self._openai = OpenAICompatibleProvider("openai-compatible", openai_client=client, profile=profile)
        return self._openai

    def _bedrock_provider(self) -> Any:
        if self._bedrock is None:
            from pydantic_ai.providers.bedrock import BedrockProvider

            from worker_space.adapters.aws import make_client

            client = self._bedrock_client or make_client("bedrock-runtime", region=self._region, timeout_seconds=120.0)
            self._bedrock = BedrockProvider(bedrock_client=client)
        return self._bedrock
