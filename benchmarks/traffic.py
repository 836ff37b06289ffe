"""Deterministic Segment Spec calls of a shop, for the preset `retail`.

60 % Product Viewed, 25 % Product Added, 12 % Order Completed, 3 % Order Refunded; about 300 bytes;
customers by Zipf's law. The same arguments give the same bytes.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from segstream.core.hash import partitions_of

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

FLAT, HOT = 0.7, 1.1
TRAFFICS = (("flat", FLAT), ("hot", HOT))
PARTITIONS = 4
START_MS = int(datetime(2026, 6, 1, 12, tzinfo=UTC).timestamp() * 1000)
"""Event time at which the live traffic begins; long past, so that no time is clamped."""
HISTORY_DAYS = 85
SETTLING_MS = 2 * 3_600_000
"""Longer than newcomers are watched before they enter a segment (`hysteresis.first`)."""
SHARES = {
    "Product Viewed": 0.60,
    "Product Added": 0.25,
    "Order Completed": 0.12,
    "Order Refunded": 0.03,
}
VIEWED, ADDED, COMPLETED, REFUNDED = range(4)
_FIRST_MONEY = COMPLETED  # kinds from here on have a total
_DAY_MS = 86_400_000
_PRODUCT = '"product_id":"sku-%05d","name":"Thing No. %d","quantity":1,"currency":"GBP"'
_ORDER = '"order_id":"order-%08d","products":%d,"total":%.2f,"currency":"GBP"'
_CALL = (
    '{"type":"track","event":"%s","messageId":"msg-%012d","userId":"%s","timestamp":"%s",'
    '"properties":{%s},"context":{"library":{"name":"analytics.js","version":"2.11.1"},'
    '"locale":"en-GB","ip":"203.0.113.7"}}'
)


class People(NamedTuple):
    """Customers by rank, the most active first. `partition` int64 [customers]."""

    ids: list[str]
    partition: Ints
    weights: Floats  # sum 1
    usual: Floats  # size of an order, so that segments can be told apart by it

    def draw(self, number: int, rng: np.random.Generator) -> Ints:
        """Ranks of the customers of `number` events."""
        return _drawn(self.weights, number, rng)


class Traffic(NamedTuple):
    """Events as columns of equal length, in the order of sending."""

    people: People
    number: Ints  # the message's own
    customer: Ints  # rank
    kind: Ints  # position in SHARES
    time: Ints  # ms
    total: Floats  # of an order or a refund, else NaN

    def __len__(self) -> int:
        return len(self.number)

    @property
    def partition(self) -> Ints:
        return self.people.partition[self.customer]

    def on(self, partition: int) -> "Traffic":
        """Only the events of one partition."""
        mine = self.partition == partition
        return Traffic(self.people, *(column[mine] for column in self[1:]))

    def records(self) -> Iterator[tuple[int, bytes, bytes]]:
        """(partition, key, value) of each event."""
        ids, names = self.people.ids, list(SHARES)
        columns = zip(*(c.tolist() for c in (*self[1:], self.partition)), strict=True)
        second, text = -1, ""
        for number, customer, kind, time, total, partition in columns:
            if time // 1000 != second:
                second = time // 1000
                text = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
            if kind < _FIRST_MONEY:
                more = _PRODUCT % (number * 7919 % 20_000, number % 977)
            else:
                more = _ORDER % (number, number % 9, total)
            at = f"{text}.{time % 1000:03d}Z"
            value = _CALL % (names[kind], number, ids[customer], at, more)
            yield partition, ids[customer].encode(), value.encode()


def people(
    number: int,
    zipf: float,
    partitions: int = PARTITIONS,
    only: Ints | None = None,
    like: int | None = None,
) -> People:
    """Customers, the r-th of whom is as active as r^−zipf.

    `only`: ranks of some of them, sorted. `like`: their orders are of the sizes of so many.
    """
    ranks = np.arange(number) if only is None else only
    numbers = np.random.default_rng(number).permutation(number)[ranks]
    ids = [f"customer-{i:07d}" for i in numbers.tolist()]
    where = partitions_of([i.encode() for i in ids], partitions, "murmur2")
    weights = (ranks + 1.0) ** -zipf
    kin = ranks if like is None else ranks * like // number
    usual = 20.0 + 180.0 * ((kin * 2_654_435_761) % 1_000) / 1_000
    return People(ids, where, weights / weights.sum(), usual)


def visitors(number: int, zipf: float, events: int) -> Ints:
    """Ranks, among `number` customers, of those of `events` events; nobody is named for it."""
    weights = np.arange(1, number + 1, dtype=np.float64) ** -zipf
    return _drawn(weights / weights.sum(), events, np.random.default_rng([3, number]))


def _drawn(weights: Floats, number: int, rng: np.random.Generator) -> Ints:
    ranks = np.searchsorted(np.cumsum(weights), rng.random(number), "right")
    return np.minimum(ranks, len(weights) - 1)


def history(who: People, each: int = 12) -> Traffic:
    """The past 85 days: every customer once, and `each` − 1 times as many events by Zipf's law.

    Times are in no order, but the first event of a partition is the latest: the clock stands
    SETTLING_MS before START_MS from then on, so the past is filled in without a tick. In the end
    everybody looks at something, just before START_MS: newcomers enter a segment by then.
    """
    rng = np.random.default_rng(1)
    size = len(who.ids)
    past = np.concatenate([rng.permutation(size), who.draw((each - 1) * size, rng)])
    time = START_MS - SETTLING_MS - rng.integers(1, HISTORY_DAYS * _DAY_MS, len(past))
    time[np.unique(who.partition[past], return_index=True)[1]] = START_MS - SETTLING_MS
    customer = np.concatenate([past, rng.permutation(size)]).astype(np.int64)
    filled = _filled(who, customer, np.append(time, np.full(size, START_MS - 1)), 0, rng)
    filled.kind[len(past) :] = VIEWED
    filled.total[len(past) :] = np.nan
    return filled


def live(
    who: People,
    events: int,
    *,
    first: int,
    rate: float = 20_000,
    start: int | None = None,
    customer: Ints | None = None,
) -> Traffic:
    """`events` events at `rate` per second of event time; `first`: messages sent before.

    The first one is at `start`, in ms; else as if the messages before had come at `rate` too.
    `customer`: whose they are, if they are not to be drawn.
    """
    rng = np.random.default_rng([2, first])
    number = np.arange(first, first + events) if start is None else np.arange(events)
    time = (START_MS if start is None else start) + (number * 1000 / rate).astype(np.int64)
    return _filled(who, who.draw(events, rng) if customer is None else customer, time, first, rng)


def _filled(
    who: People, customer: Ints, time: Ints, first: int, rng: np.random.Generator
) -> Traffic:
    number = len(customer)
    kind = rng.choice(len(SHARES), number, p=list(SHARES.values())).astype(np.int64)
    total = np.round(who.usual[customer] * rng.lognormal(0.0, 0.4, number), 2)
    total[kind == REFUNDED] *= 0.3
    total[kind < _FIRST_MONEY] = np.nan
    return Traffic(who, np.arange(first, first + number), customer, kind, time, total)
