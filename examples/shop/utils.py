"""Formatting of money and text."""


def money(cents: int) -> str:
    """Format cents as an amount, such as 1234 as ``12.34``."""
    sign = "-" if cents < 0 else ""
    return f"{sign}{abs(cents) // 100}.{abs(cents) % 100:02d}"


def parse_money(text: str) -> int:
    """Read an amount such as ``12.34`` or ``12`` as cents.

    Raises:
        ValueError: The text is no amount, or has more than two decimals.
    """
    whole, _, decimals = text.strip().partition(".")
    if not whole.isdigit() or (decimals and not decimals.isdigit()) or len(decimals) > 2:
        raise ValueError(f"{text!r} is not an amount of money")
    return int(whole) * 100 + int(decimals.ljust(2, "0") or 0)


def line(label: str, amount: str, width: int = 36) -> str:
    """One line of a receipt: the label on the left, the amount on the right."""
    room = width - len(amount) - 1
    return f"{label[:room]:<{room}} {amount}"


# TODO: use the customer's locale instead of a dot
def thousands(number):
    return f"{number:,}"
