"""An endless, seeded stream of calls for tests that break things: all that may come, and strays.

A small shop of which one quarter of a day passes per beat: customers come, change their habits, go
and are forgotten; versions of the model follow each other. Among their calls are repeats, late and
old ones, visitors, CloudEvents, control records, garbage, and calls on another customer's
partition. Every third beat is quiet: its records lead to no output, so that only N moves.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from segstream.core.hash import partitions_of
from segstream.core.output import ms_text

HOUR, DAY = 3_600_000, 86_400_000
START = 1_583_020_800_000
"""2020-03-01: long past, so that event time may run as fast as it likes without being clamped."""
BEAT = 6 * HOUR
QUIET = 3
"""Every third beat."""

PRESET = Path(__file__).parents[2] / "segstream" / "presets" / "retail.toml"
MEASURES, _, _ = PRESET.read_text().partition("[hysteresis]")
"""And features; the tests have a hysteresis of their own, under which much happens."""
_MORE = """
tick.period = "12h"
hysteresis = { clear = 0.9, held = 0.95, hold = "1d" }
panel.size = 120
training = { first_customers = 40, maintain = "3d", moved = 0, segments = 3 }

[measures.dearest]
kind = "last"
events = ["Order Completed"]
field = "properties.total"

[measures.countries]
kind = "distinct"
events = ["Order Completed"]
field = "properties.country"
values = ["United Kingdom", "France", "Germany"]

[features.countries]
expression = "countries[7d]"

[traits.plan]
kind = "choice"
values = ["gold", "silver"]
"""
CONFIG = _MORE + MEASURES.replace("90d", "7d").partition("\n\n")[2]
"""Windows of a week: who is silent for two is forgotten."""

HABITS = {  # of the kinds: viewed, added, completed, refunded
    "looks": (8, 2, 0, 0),
    "buys": (2, 3, 6, 0),
    "returns": (1, 1, 4, 3),
}
KINDS = ("Product Viewed", "Product Added", "Order Completed", "Order Refunded")
LIBRARIES = ("analytics.js", "analytics-python", "librdkafka", None)
OTHERS = (
    "stray", "stray", "repeat", "late", "old", "visitor", "plan", "page", "structured", "binary",
    "garbage", "nobody", "alias", "wrong value", "nothing", "unknown control", "unknown version",
    "clock",
)  # fmt: skip


class Sent(NamedTuple):
    """A record for `customer-events`."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass
class _Customer:
    id: str
    habit: str
    until: int


def played(beat: int) -> int:
    """Event time at a beat: as fast as beats come."""
    return START + beat * BEAT


def traffic(
    seed: int,
    partitions: int,
    time_of: Callable[[int], int] = played,
    arrivals: float = 2.0,
    strays: bool = True,
) -> Iterator[list[Sent]]:
    """The records of one beat after the other. `arrivals`: new customers per beat, on average.

    About 16 customers are active and 80 have States per arrival and beat, of about 20 calls.
    With `played` no record lets the wall clock in: all have a time of their own. `strays`: calls
    on another customer's partition, which are forwarded.
    """
    others = [kind for kind in OTHERS if strays or kind != "stray"]
    shop = _Shop(Random(seed), partitions, arrivals, others)
    beat = 0
    while True:
        yield shop.beat(time_of(beat))
        beat += 1
        if beat % QUIET == 0:
            yield shop.quiet_beat()


@dataclass
class _Shop:
    rng: Random
    partitions: int
    arrivals: float
    others: list[str]
    customers: list[_Customer] = field(default_factory=list)
    last: list[Sent] = field(default_factory=list)  # accepted calls of the last beat
    born: int = 0
    number: int = 0

    def beat(self, now: int) -> list[Sent]:
        rng = self.rng
        self.customers = [c for c in self.customers if c.until > now]
        while rng.random() < self.arrivals / (1 + self.arrivals):
            self.born += 1
            habit = rng.choice(list(HABITS))
            stays = now + int(rng.expovariate(1 / (4 * DAY)))
            self.customers.append(_Customer(f"customer-{self.born}", habit, stays))
        sent, self.last = [], []
        for customer in self.customers:
            if rng.random() < 0.05:
                customer.habit = rng.choice(list(HABITS))
            calls = rng.choice((0, 1, 1, 2))
            for at in sorted(now + rng.randrange(BEAT // 2) for _ in range(calls)):
                self.last.append(self._on_home(customer.id, self._track(customer, at)))
                sent.append(self.last[-1])
        sent += [
            other
            for kind in rng.choices(self.others, k=3 * self.partitions)
            if (other := self._other(kind, now)) is not None
        ]
        rng.shuffle(sent)
        return sent

    def quiet_beat(self) -> list[Sent]:
        """Repeats, a few per partition: counted, and nothing else."""
        return self.rng.sample(self.last, min(len(self.last), 2 * self.partitions))

    # -- records ----------------------------------------------------------------------

    def home(self, raw: str) -> int:
        return int(partitions_of([raw.encode()], self.partitions, "murmur2")[0])

    def _on_home(
        self, raw: str, body: dict[str, Any], headers: list[tuple[str, bytes]] | None = None
    ) -> Sent:
        return Sent(self.home(raw), raw.encode(), json.dumps(body).encode(), headers or [])

    def _call(self, raw: str, at: int, **fields: Any) -> dict[str, Any]:
        self.number += 1
        name = self.rng.choice(LIBRARIES)
        context = {"context": {"library": {"name": name}}} if name else {}
        ids = {"messageId": f"m-{self.number}", "userId": raw, "timestamp": ms_text(at)}
        return {"type": "track", **ids, **context, **fields}

    def _track(self, customer: _Customer, at: int) -> dict[str, Any]:
        rng = self.rng
        event = rng.choices(KINDS, HABITS[customer.habit])[0]
        properties: dict[str, Any] = {"product_id": f"sku-{rng.randrange(100)}"}
        if event.startswith("Order"):
            country = rng.choice(("United Kingdom", "France", "Germany", "Spain"))
            properties = {"total": round(rng.lognormvariate(3.5, 0.7), 2), "country": country}
        return self._call(customer.id, at, event=event, properties=properties)

    def _someone(self) -> str:
        return self.rng.choice(self.customers).id if self.customers else "customer-0"

    def _other(self, kind: str, now: int) -> Sent | None:
        """A record of one of the OTHERS; None if there is nothing yet that it could be made of."""
        rng, raw = self.rng, self._someone()
        if kind == "repeat":
            return rng.choice(self.last) if self.last else None
        if kind == "stray":
            return self._stray(raw, now)
        if kind in ("structured", "binary"):
            return self._cloud_event(raw, now, binary=kind == "binary")
        if kind in ("garbage", "nobody", "alias", "wrong value", "nothing"):
            return self._dead(kind, raw, now)
        if kind in ("clock", "unknown control", "unknown version"):
            return self._control(kind, now)
        return self._said(kind, raw, now)

    def _said(self, kind: str, raw: str, now: int) -> Sent:
        viewed = {"event": "Product Viewed"}
        match kind:
            case "late":
                return self._on_home(raw, self._call(raw, now - 20 * DAY, **viewed))
            case "old":
                return self._on_home(raw, self._call(raw, now - 3 * DAY, **viewed))
            case "plan":
                traits = {"plan": self.rng.choice(("gold", "silver", "tin"))}
                return self._on_home(raw, self._call(raw, now, type="identify", traits=traits))
            case "page":
                return self._on_home(raw, self._call(raw, now, type="page", properties={}))
        visitor = f"visitor-{self.rng.randrange(20)}"
        body = self._call(visitor, now, **viewed)
        return self._on_home(visitor, {**body, "anonymousId": body.pop("userId")})

    def _stray(self, raw: str, now: int) -> Sent:
        """On another partition; half of them without a time of their own, some often forwarded."""
        rng = self.rng
        body = self._call(raw, now, event="Order Completed", properties={"total": 9.99})
        headers = [("trace", b"\xff\x00")]
        if rng.random() < 0.3:
            headers.append(("segstream.hops", rng.choice((b"1", b"2", b"3", b"x"))))
        if rng.random() < 0.5:
            body.pop("timestamp")
            headers.append(("segstream.appended", ms_text(now).encode()))
        elsewhere = (self.home(raw) + rng.randint(1, self.partitions - 1)) % self.partitions
        return self._on_home(raw, body, headers)._replace(partition=elsewhere)

    def _cloud_event(self, raw: str, now: int, *, binary: bool) -> Sent:
        body = self._call(raw, now, event="Product Added")
        body.pop("timestamp")
        number = str(body.pop("messageId"))
        event = {
            "specversion": "1.0", "id": number, "source": "/shop", "type": "call",
            "time": ms_text(now),
        }  # fmt: skip
        if binary:
            headers = [(f"ce_{name}", text.encode()) for name, text in event.items()]
            return self._on_home(raw, body, headers)
        content = [("content-type", b"application/cloudevents+json")]
        return self._on_home(raw, {**event, "data": body}, content)

    def _control(self, kind: str, now: int) -> Sent:
        name, data = {
            "clock": (b"clock", {"time": ms_text(now)}),
            "unknown control": (b"erase", {"customer": "u"}),
            "unknown version": (b"model", {"version": 999_999, "digest": "0" * 64}),
        }[kind]
        headers = [
            ("ce_specversion", b"1.0"), ("ce_id", b"c"), ("ce_source", b"tests"),
            ("ce_type", b"segstream." + name), ("content-type", b"application/json"),
        ]  # fmt: skip
        return Sent(self.rng.randrange(self.partitions), None, json.dumps(data).encode(), headers)

    def _dead(self, kind: str, raw: str, now: int) -> Sent:
        call = self._call(raw, now, event="Order Completed", properties={"total": 1})
        bodies: dict[str, dict[str, Any]] = {
            "nobody": {**call, "userId": None},
            "alias": {**call, "type": "alias", "previousId": "someone"},
            "wrong value": {**call, "properties": {"total": "much"}},
        }
        sent = self._on_home(raw, bodies.get(kind, call))
        if kind == "nothing":
            return sent._replace(value=None)
        if kind == "garbage":
            assert sent.value is not None
            return sent._replace(value=sent.value[:-1])
        return sent
