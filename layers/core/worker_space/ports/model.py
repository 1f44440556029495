"""Language models."""

from collections.abc import Callable
from typing import Protocol

from worker_space.models import ModelReply, ModelRequest
from worker_space.tenancy import TenantContext

__all__ = ["Model"]


class Model(Protocol):
    """Language models by name."""

    def check(self, model: str) -> None:
        """Raise `InvalidRequest` when no provider of this deployment serves the name."""

    async def request(
        self, tenant: TenantContext, request: ModelRequest, *, on_text: Callable[[str], None] | None = None
    ) -> ModelReply:
        """One answer.

        Args:
            on_text: Is given each piece of the answer's text as it is produced, where the provider streams. Must not
                block. A request that is repeated inside (a passing failure) begins to stream only once it is answered,
                so that no piece is given twice.

        Raises:
            ModelError: The provider refuses, or its answer is unusable: repeating does not help.
            Unavailable: The provider does not answer in time, or has an error of its own.
        """
