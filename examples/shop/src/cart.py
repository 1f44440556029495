"""The cart: what a customer wants to buy, and what it costs."""

from dataclasses import dataclass, field

from catalogue import Product

DELIVERY_CENTS = 490
FREE_DELIVERY_FROM_CENTS = 3000
MAX_QUANTITY = 99


class CartError(Exception):
    """The cart refuses what was asked; the message is fit for the customer."""


@dataclass(frozen=True)
class Discount:
    """A discount code: so many percent off, from a minimum sum of goods on."""

    code: str
    percent: int
    minimum_cents: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.percent < 100:
            raise CartError(f"discount {self.code!r} must be between 1 and 99 percent")


@dataclass
class Cart:
    """The goods of one customer, by sku, and at most one discount."""

    quantities: dict[str, int] = field(default_factory=dict)
    products: dict[str, Product] = field(default_factory=dict)
    discount: Discount | None = None

    def add(self, product: Product, quantity: int = 1) -> None:
        """Put a product into the cart, on top of what is there already.

        Raises:
            CartError: The quantity is below 1, or the cart would hold more than 99 of it.
        """
        if quantity < 1:
            raise CartError(f"order at least one {product.name}")
        total = self.quantities.get(product.sku, 0) + quantity
        if total > MAX_QUANTITY:
            raise CartError(f"at most {MAX_QUANTITY} of {product.name} in one order")
        # TODO: refuse more than product.stock
        self.quantities[product.sku] = total
        self.products[product.sku] = product

    def remove(self, sku: str) -> None:
        """Take a product out again; taking out what is not there does nothing."""
        self.quantities.pop(sku, None)
        self.products.pop(sku, None)

    def goods_cents(self) -> int:
        """What the goods cost before any discount, in cents."""
        return sum(
            self.products[sku].price_cents * quantity for sku, quantity in self.quantities.items()
        )

    def discount_cents(self) -> int:
        """What the discount takes off, in cents; 0 while its minimum is not reached."""
        goods = self.goods_cents()
        if self.discount is None or goods < self.discount.minimum_cents:
            return 0
        # Rounded up, so that the sum to pay is rounded down.
        return -(-goods * self.discount.percent // 100)

    def delivery_cents(self) -> int:
        """What delivery costs, in cents: nothing for an empty cart or from 30.00 on."""
        payable = self.goods_cents() - self.discount_cents()
        if not self.quantities or payable >= FREE_DELIVERY_FROM_CENTS:
            return 0
        return DELIVERY_CENTS

    def total_cents(self) -> int:
        """What the customer pays, in cents."""
        return self.goods_cents() - self.discount_cents() + self.delivery_cents()
