"""The job that all peers do, as data, and its oracle in plain Python.

Segment Spec track calls, keyed by customer. After every call: the customer's daily counts of the
last 90 days, six features of them, log1p, standardised with a given scaler, and the nearest of six
given centroids; a change record when that is not the customer's segment so far.

*Now* is the greatest time of a partition's calls so far (stream time), and the window holds today
and the 89 UTC days before. Nothing else moves time: the traffic leaves no room for a tick.
"""

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

DAY_MS = 86_400_000
DAYS = 90
ORDERS, CENTS, VIEWS, ADDS = range(4)
COUNTED = {"Order Completed": ORDERS, "Product Viewed": VIEWS, "Product Added": ADDS}
FEATURES = ("recency", "orders", "spend", "views", "adds", "basket")
MISSING = {"recency": float(DAYS), "basket": 0.0}
"""Raw values of who has never ordered, or not within the window."""
BORDER = 1e-5
"""Who at any call is so near a border between two centroids is not compared: segstream rounds
Vectors to float32, the others compute in float64, and either answer is right."""


class Axis(NamedTuple):
    """A feature, and how it is standardised: (log1p(raw) − mean) / scale."""

    name: str
    missing: float
    mean: float
    scale: float


class Change(NamedTuple):
    """A customer's segment is another; `left` None: had none. `event`: id of the message."""

    customer: str
    left: int | None
    entered: int
    event: str


@dataclass(frozen=True)
class Job:
    """What every peer is given. Segments are counted from 1, in the order of the centroids."""

    axes: list[Axis]
    centroids: list[list[float]]
    days: int = DAYS

    def data(self) -> dict[str, Any]:
        """As it is written for the peers."""
        axes = [axis._asdict() for axis in self.axes]
        return {**asdict(self), "axes": axes}

    def nearest(self, raw: Sequence[float | None]) -> tuple[int, float]:
        """(segment, how much farther the second nearest centroid is)."""
        z = standardised(self.axes, raw)
        distances = [math.dist(z, centroid) for centroid in self.centroids]
        first, second = sorted(distances)[:2]
        return distances.index(first) + 1, second - first


def standardised(axes: Sequence[Axis], raw: Sequence[float | None]) -> list[float]:
    """A point in the space of the centroids."""
    return [
        (math.log1p(axis.missing if x is None else x) - axis.mean) / axis.scale
        for axis, x in zip(axes, raw, strict=True)
    ]


@dataclass
class Customer:
    """What is known of one."""

    days: dict[int, list[int]] = field(default_factory=dict)  # day → orders, cents, views, adds
    ordered: int | None = None
    segment: int | None = None


class Oracle:
    """The job, as plainly as it can be said."""

    def __init__(self, job: Job | None = None) -> None:
        """Without a job, it only counts."""
        self.job = job
        self.customers: dict[str, Customer] = {}
        self.now: dict[int, int] = {}
        self.on_a_border: set[str] = set()

    def feed(self, records: Iterable[tuple[int, bytes, bytes]]) -> Iterator[Change]:
        """Changes that follow from (partition, key, value) of more calls."""
        for partition, _, value in records:
            change = self.take(partition, json.loads(value))
            if change is not None:
                yield change

    def take(self, partition: int, call: dict[str, Any]) -> Change | None:
        """One call."""
        name, time = call["userId"], milliseconds(call["timestamp"])
        now = self.now[partition] = max(self.now.get(partition, 0), time)
        if time // DAY_MS <= now // DAY_MS - DAYS:
            return None  # late
        customer = self.customers.setdefault(name, Customer())
        if (what := COUNTED.get(call["event"])) is not None:
            day = customer.days.setdefault(time // DAY_MS, [0, 0, 0, 0])
            day[what] += 1
            if what == ORDERS:
                day[CENTS] += round(call["properties"]["total"] * 100)
                customer.ordered = max(customer.ordered or 0, time)
        if self.job is None:
            return None
        segment, margin = self.job.nearest(features(customer, now))
        if margin < BORDER:
            self.on_a_border.add(name)
        left, customer.segment = customer.segment, segment
        return None if left == segment else Change(name, left, segment, call["messageId"])


def features(customer: Customer, now: int) -> list[float | None]:
    """Raw values in the order of FEATURES; None = missing."""
    since = now // DAY_MS - DAYS
    orders = cents = views = adds = 0
    for number, (o, c, v, a) in customer.days.items():
        if number > since:
            orders, cents, views, adds = orders + o, cents + c, views + v, adds + a
    recency = None if customer.ordered is None else (now - customer.ordered) / DAY_MS
    basket = cents / 100 / orders if orders else None
    return [recency, orders, cents / 100, views, adds, basket]


@lru_cache(1_000)
def milliseconds(text: str) -> int:
    """Of an RFC 3339 text."""
    return round(datetime.fromisoformat(text).timestamp() * 1000)
