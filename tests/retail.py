"""Real customers for tests: the panel of the preset's year of orders, at a date.

Computed here by brute force, so that it is also a check on what the segmenter samples.
Chen, D. (2015), Online Retail, UCI Machine Learning Repository, doi 10.24432/C5BW33, CC BY 4.0.
"""

import csv
import lzma
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from segstream.core.calendar import DAY, instant_ms, midnight_after
from segstream.core.feature import Vectors
from segstream.core.hash import customer_hash
from segstream.core.panel import Panel, PanelSample
from segstream.learn import Training
from segstream.space import TrainedFeature

DATA = Path(__file__).parents[1] / "segstream" / "presets" / "retail-year.csv.xz"
WINDOW = 90 * DAY


class Order(NamedTuple):
    """An invoice, or a cancellation (spend < 0), of one customer."""

    at: int
    lines: int
    spend: float


FEATURES = (
    TrainedFeature("recency", "recency(orders)", "log1p", 180.0, low="recent", high="lapsed"),
    TrainedFeature("orders", "orders[90d]", "log1p", low="", high="frequent"),
    TrainedFeature("spend", "spend[90d]", "log1p", low="", high="big-spending"),
    TrainedFeature(
        "basket", "spend[90d] / orders[90d]", "log1p", low="small-basket", high="big-basket"
    ),
    TrainedFeature("adds", "adds[90d]", "log1p", low="", high=""),
    TrainedFeature(
        "refunded", "refunded[90d] / spend[90d]", "log1p", 0.0, low="", high="refund-heavy"
    ),
)
TRAINING = Training(FEATURES, "retail")


@cache
def orders() -> dict[str, list[Order]]:
    """Invoices by customer, in order of time."""
    found: dict[tuple[str, str], list[float]] = {}
    with lzma.open(DATA, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["InvoiceNo"]:  # the following lines of an invoice do not repeat this
                customer, number = row["CustomerID"], row["InvoiceNo"]
                at = datetime.fromisoformat(row["InvoiceDate"]).replace(tzinfo=UTC).timestamp()
            if customer:
                invoice = found.setdefault((customer, number), [at, 0, 0.0])
                invoice[1] += 1
                invoice[2] += float(row["Quantity"]) * float(row["UnitPrice"])
    by_customer = defaultdict(list)
    for (customer, _), (at, count, spend) in found.items():
        by_customer[customer].append(Order(int(at * 1000), int(count), spend))
    return {customer: sorted(found) for customer, found in by_customer.items()}


def vector(history: list[Order], now: int) -> Vectors | None:
    """The six raw features at `now`; None: not a customer yet, or forgotten."""
    past = [order for order in history if order.at <= now]
    if not past or now - past[-1].at >= 2 * WINDOW:
        return None
    bought = [order for order in past if order.spend > 0]
    window = [order for order in past if order.at > now - WINDOW]
    spend = sum(order.spend for order in window if order.spend > 0)
    count = sum(order.spend > 0 for order in window)
    nan = float("nan")
    return np.array(
        [
            (now - bought[-1].at) / DAY if bought else nan,
            count,
            spend,
            spend / count if count else nan,
            sum(order.lines for order in window if order.spend > 0),
            -sum(order.spend for order in window if order.spend < 0) / spend if spend else nan,
        ],
        np.float32,
    )


def samples(day: str) -> Iterator[PanelSample]:
    """A sample of every customer there is at the midnight that begins `day` (2011-06-01)."""
    at = midnight_after(instant_ms(f"{day}T00:00:00Z"))
    for customer, history in orders().items():
        values = vector(history, at)
        if values is not None:
            yield PanelSample(at, customer_hash(customer), values)


def panel(day: str) -> Panel:
    """The panel at the midnight that begins `day`."""
    filled = Panel(len(FEATURES))
    for sample in samples(day):
        filled.put(sample)
    return filled
