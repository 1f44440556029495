"""Names that people give: what a name must be to be read, compared and printed."""

import unicodedata

__all__ = ["visible"]


def visible(value: str) -> str:
    """The name in NFC, without space around it.

    Raises:
        ValueError: It has no visible character, or holds control, format, private or unassigned ones.
    """
    value = unicodedata.normalize("NFC", value).strip()
    if not value:
        raise ValueError("a name needs at least one visible character")
    if any(unicodedata.category(character)[0] == "C" for character in value):
        raise ValueError("a name must not hold control or invisible characters")
    return value
