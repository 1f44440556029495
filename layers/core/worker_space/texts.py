"""Texts of any length: small ones lie in their item, large ones in the content store, by claim check."""

from collections.abc import Mapping
from typing import Any, Final

from worker_space.errors import Unavailable
from worker_space.ports import Content
from worker_space.records import Item
from worker_space.tenancy import TenantContext

__all__ = ["INLINE_BYTES", "Texts"]

INLINE_BYTES: Final = 32 * 1024
"""Longer texts leave the item: it must stay far below DynamoDB's 400 KB, and a history is read whole."""


class Texts:
    """Puts texts where they belong and finds them again."""

    def __init__(self, content: Content) -> None:
        self._content = content

    async def keep(self, tenant: TenantContext, key: str, text: str) -> Mapping[str, Any]:
        """The attributes that stand for `text` in an item; a long one is stored first, under `key`."""
        if len(text) <= INLINE_BYTES // 4 or len(text.encode()) <= INLINE_BYTES:
            return {"content": text}
        await self._content.put(tenant, key, text)
        return {"content_key": key}

    async def read(self, tenant: TenantContext, item: Item) -> str:
        """The text of an item.

        Raises:
            Unavailable: The content store does not answer or has lost the text.
        """
        if (key := item.get("content_key")) is None:
            return str(item.get("content", ""))
        text = await self._content.get(tenant, key)
        if text is None:
            raise Unavailable("the content store", "a stored text is missing")
        return text
