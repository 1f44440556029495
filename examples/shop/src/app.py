"""The shop's command line: take an order such as ``apple=3 bread=1`` and print its receipt."""

import argparse
import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cart import Cart, CartError, Discount
from catalogue import CatalogueError, Product, load_catalogue
from utils import line, money

# TODO: read the data folder from the environment
DATA = ROOT / "data"


class Shop:
    """The price list and the discount codes of one data folder."""

    def __init__(self, data: Path) -> None:
        self.products: dict[str, Product] = load_catalogue(data / "products.csv")
        self.discounts: dict[str, dict[str, int]] = json.loads(
            (data / "discounts.json").read_text(encoding="utf-8")
        )

    def order(self, items: list[str], code: str | None = None) -> Cart:
        """Fill a cart from words such as ``apple=3``.

        Args:
            items: One word per product; the quantity may be left out and is then 1.
            code: A discount code, in whatever case.

        Raises:
            CartError: A product, a quantity or the code is not known.
        """
        cart = Cart()
        for item in items:
            sku, _, quantity = item.partition("=")
            if sku not in self.products:
                raise CartError(f"we do not sell {sku!r}")
            if quantity and not quantity.isdigit():
                raise CartError(f"{quantity!r} is not a quantity")
            cart.add(self.products[sku], int(quantity or 1))
        if code is not None:
            cart.discount = self.find_discount(code)
        return cart

    def find_discount(self, code: str) -> Discount:
        """Look a discount code up.

        Raises:
            CartError: There is no such code.
        """
        found = self.discounts.get(code.upper())
        if found is None:
            raise CartError(f"{code!r} is not a discount code of ours")
        return Discount(code.upper(), found["percent"], found["minimum_cents"])

    def price_list(self) -> str:
        return "\n".join(line(p.name, money(p.price_cents)) for p in self.products.values())


def receipt(cart: Cart) -> str:
    """The receipt as text: a line per product, then discount, delivery and total."""
    lines = [
        line(
            f"{quantity} x {cart.products[sku].name}",
            money(cart.products[sku].price_cents * quantity),
        )
        for sku, quantity in cart.quantities.items()
    ]
    if cart.discount is not None and cart.discount_cents():
        lines.append(line(f"Discount {cart.discount.code}", money(-cart.discount_cents())))
    lines.append(line("Delivery", money(cart.delivery_cents())))
    lines.append(line("TOTAL", money(cart.total_cents())))
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the shop once.

    Returns:
        0 when the receipt or the price list was printed, 2 when the order was refused.
    """
    parser = argparse.ArgumentParser(
        prog="shop", description="Order something from the corner shop."
    )
    parser.add_argument("items", nargs="*", help="what to order, such as apple=3")
    parser.add_argument("--code", help="a discount code")
    parser.add_argument("--list", action="store_true", help="print the price list")
    options = parser.parse_args(arguments)
    try:
        shop = Shop(DATA)
        if options.list:
            print(shop.price_list())
            return 0
        if not options.items:
            raise CartError("order something, for example: apple=3 bread=1")
        print(receipt(shop.order(options.items, options.code)))
        return 0
    except (CartError, CatalogueError) as error:
        print(f"shop: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main())
