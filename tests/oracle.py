"""docs/semantics.md, sections 3 to 9, by brute force, for one partition.

Every accepted event is kept for ever; every row is computed from all of them, from nothing
that an earlier row computed. Shares no code with `segstream/core`: the two are held against
each other. Times are ms since 1970 UTC, minutes are absolute.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import xxhash

from tests.oracle_evidence import Accepted, Evidence, Expression, History
from tests.oracle_reading import (
    LARGEST,
    LARGEST_FORWARDED,
    MIB,
    MOST_HOPS,
    Call,
    Envelope,
    Headers,
    Rejected,
    appended_of,
    duration_ms,
    envelope,
    hops_of,
    instant,
    measures_of,
    money_of,
    partition_of,
    read_call,
    size_of,
    traits_of,
)

MINUTE = 60_000
WINDOWED = re.compile(r"(\w+)\[")
OUTCOMES = (
    "valid", "duplicates", "late", "forwarded", "dead_letters", "control", "skewed", "saturated",
)  # fmt: skip
CAUSES = ("first", "behaviour", "time", "model", "forgotten")
Position = tuple[int, int]


@dataclass(frozen=True)
class Output:
    """One outgoing record; its value is bytes, or what they say (a dict), or null.

    `ce_id` of changes, `reason` of dead letters, `target` (partition) of forwarded calls, which
    have the topic `events`. `headers` of the last two, a dead letter's message and topic left out.
    """

    topic: str
    key: str | bytes | None
    value: Any
    position: Position
    ce_id: str | None = None
    reason: str | None = None
    headers: Headers | None = None
    target: int | None = None


class Record(NamedTuple):
    """One incoming record; `append_time` in ms, a null value is a tombstone."""

    offset: int
    append_time: int
    headers: Headers | None
    value: bytes | None
    key: bytes | None = None


@dataclass
class Customer:
    """`written` is the time of the last writing row."""

    id: str
    hash: int
    history: History = field(default_factory=History)
    segment: int | None = None
    pending: int | None = None
    pending_since: int | None = None
    stamp: int | None = None
    sequence: int = 0
    since: int | None = None
    written: int = 0

    @property
    def level(self) -> int:
        return 64 - self.hash.bit_length()

    @property
    def last(self) -> int:
        return max(event.time for event in self.history.events)

    def decision(self) -> tuple[int | None, ...]:
        return self.segment, self.pending, self.pending_since, self.stamp


@dataclass(frozen=True)
class Row:
    """A customer evaluated at `at`; `event` is (messageId, name), None for a tick."""

    customer: Customer
    at: int
    position: Position
    ce_id: str
    event: tuple[str, str] | None


def customer_hash(customer: str) -> int:
    return int.from_bytes(hashlib.blake2b(customer.encode(), digest_size=8).digest(), "big")


def ms_text(time: int) -> str:
    return f"{np.datetime64(time, 'ms')!s}Z"


def as_written(value: float | None) -> float | None:
    """A raw value as the shortest decimal text that reads back as the same float32."""
    return None if value is None else float(str(np.float32(value)))


def id_of(features: Mapping[str, str]) -> str:
    """Id of a feature list: name → expression, in order."""
    text = json.dumps(list(features.items()), separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Oracle:
    """One partition. `feed` the records in offset order; read `outputs`, `checkpoint`, `states`."""

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        partition: int,
        partitions: int,
        partitioner: str = "murmur2",
        models: Mapping[int, Mapping[str, Any]],
        features_id: str | None = None,
    ) -> None:
        self.partition, self.partitions, self.partitioner = partition, partitions, partitioner
        self.models = models
        self.measures, self.traits = measures_of(config), traits_of(config)
        self.money = money_of(config)
        self.features = {n: f["expression"] for n, f in config.get("features", {}).items()}
        for name, entry in config.get("traits", {}).items():
            if entry.get("in_model") and entry["kind"] == "choice":
                self.features |= {f"{name}={v}": f"is_({name}, '{v}')" for v in entry["values"]}
            elif entry.get("in_model"):
                self.features[name] = name
        self.features_id = features_id or id_of(self.features)
        self.period = duration_ms(config.get("tick", {}).get("period", "1d"))
        self.pane = duration_ms(config.get("pane", {}).get("length", "1d"))
        hysteresis = config.get("hysteresis", {})
        self.clear, self.held = hysteresis.get("clear", 0.75), hysteresis.get("held", 0.9)
        self.hold = duration_ms(hysteresis.get("hold", "5d"))
        self.watched = duration_ms(hysteresis["first"]) if "first" in hysteresis else None
        windows = re.findall(r"\[\s*(\w+)\s*\]", " ".join(self.features.values()))
        self.longest = max([duration_ms(w) // self.pane for w in windows], default=1)
        self.declared = ({m.name: m for m in self.measures}, {t.name: t for t in self.traits})
        self.windowed = {n for text in self.features.values() for n in WINDOWED.findall(text)}
        self.room = max(1, config.get("panel", {}).get("size", 20_000) // partitions)
        self.customers: dict[str, Customer] = {}
        self.clock = self.next_offset = self.level = self.active = 0
        self.counts, self.changes = Counter[str](), Counter[str]()
        self.outputs: list[Output] = []

    # --- one record -------------------------------------------------------------------

    def feed(
        self,
        offset: int,
        append_time: int,
        headers: Headers | None,
        value: bytes | None,
        key: bytes | None = None,
    ) -> None:
        record = Record(offset, append_time, headers, value, key)
        control = False
        try:
            seen = self._opened(record)
            control = seen.is_control
            if control:
                try:
                    self._control(record, seen)
                except Rejected as rejected:
                    known = rejected.reason == "model"
                    raise Rejected("model" if known else "control") from None
            else:
                self._call(record, seen)
        except Rejected as rejected:
            self.counts["control" if control else "dead_letters"] += 1
            self._letter(record, rejected.reason)
        self.next_offset = offset + 1

    def _opened(self, record: Record) -> Envelope:
        if size_of(record.key, record.headers, record.value) > LARGEST:
            raise Rejected("size")
        return envelope(record.headers, record.value)

    def _letter(self, record: Record, reason: str) -> None:
        """As it came, with the reason; cut if it is too large."""
        errors = {
            "reason": reason,
            "partition": str(self.partition),
            "offset": str(record.offset),
            "at": ms_text(record.append_time),
        }
        key, value, headers = record.key, record.value, list(record.headers or ())
        if reason == "size":
            errors["size"] = str(size_of(key, headers, value))
            key, value, headers = key and key[:1024], value and value[:MIB], []
        headers = [header for header in headers if header[0] != "\0"]
        headers += [(f"segstream.errors.{name}", text.encode()) for name, text in errors.items()]
        at = (record.offset + 1, self.clock)
        self.outputs.append(Output("dead_letters", key, value, at, reason=reason, headers=headers))

    def _control(self, record: Record, seen: Envelope) -> None:
        data = seen.body()
        if seen.type == "segstream.model":
            version, digest = data.get("version"), data.get("digest")
            if type(version) is not int or not 1 <= version < 2**63:
                raise Rejected("schema")
            if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
                raise Rejected("schema")
            if data.keys() > {"version", "digest"}:
                raise Rejected("schema")
            if version not in self.models or self.models[version]["digest"] != digest:
                raise Rejected("model")
            self.active = max(self.active, version)
        elif seen.type == "segstream.clock":
            time = instant(data.get("time"))
            if data.keys() > {"time"}:
                raise Rejected("schema")
            self._advance(min(time, record.append_time), record.offset)
        else:
            raise Rejected("control")
        self.counts["control"] += 1

    def _call(self, record: Record, seen: Envelope) -> None:
        offset, append_time = record.offset, record.append_time
        before = appended_of(record.headers)
        call, raw = read_call(
            seen,
            append_time=append_time,
            first_appended=append_time if before is None else before[1],
            default_id=f"{self.partition}-{offset}",
            measures=self.measures,
            traits=self.traits,
            money=self.money,
        )
        target = partition_of(raw, self.partitions, self.partitioner)
        if target != self.partition:
            self._forward(record, target)
            return
        time = min(call.time, append_time)
        self.counts["skewed"] += call.time > append_time
        self._advance(time, offset)
        id_hash = xxhash.xxh3_64_intdigest(call.message_id.encode(), seed=0)
        known = self.customers.get(call.customer)
        if time // self.pane <= self.clock // self.pane - self.longest:
            self.counts["late"] += 1
        elif known and id_hash in [event.id_hash for event in known.history.events[-16:]]:
            self.counts["duplicates"] += 1
        else:
            accepted = Accepted(offset, time, id_hash, call.amounts, call.traits)
            self._accept(call, accepted, known or self._birth(call.customer))

    def _forward(self, record: Record, target: int) -> None:
        """Section 2, rule 4: a call of a customer of another partition goes there."""
        key, value, headers = record.key, record.value, record.headers or ()
        hops, before = hops_of(headers), appended_of(headers)
        if hops >= MOST_HOPS or size_of(key, headers, value) > LARGEST_FORWARDED:
            raise Rejected("partition")
        self.counts["forwarded"] += 1
        names = ("segstream.hops", "segstream.appended")
        appended = ms_text(record.append_time).encode() if before is None else before[0]
        kept = [
            *(header for header in headers if header[0] not in names),
            *zip(names, (str(hops + 1).encode(), appended), strict=True),
        ]
        at = (record.offset + 1, self.clock)
        self.outputs.append(Output("events", key, value, at, headers=kept, target=target))

    # --- clock, ticks -----------------------------------------------------------------

    def _advance(self, time: int, offset: int) -> None:
        """Section 3: move the clock to max(clock, time), every minute between in order."""
        target = max(self.clock, time)
        if target - self.clock > self.period:
            self.clock = target - self.period
        for minute in range(self.clock // MINUTE + 1, target // MINUTE + 1):
            self.clock = minute * MINUTE
            due = [c for c in self.customers.values() if self._due(c, minute)]
            for customer in sorted(due, key=lambda c: c.id.encode()):
                self._tick(customer, minute, offset)
            if minute % 1440 == 0:
                self._mark(minute)
        self.clock = target

    def _due(self, customer: Customer, minute: int) -> bool:
        period = self.period // MINUTE
        if minute % period != customer.hash % period:
            return False
        return self.active > 0 or customer.level >= self.level

    def _mark(self, minute: int) -> None:
        value = {
            "partition": self.partition,
            "partitions": self.partitions,
            "day": ms_text(minute * MINUTE),
        }
        key = f"day-{self.partition}"
        self.outputs.append(Output("samples", key, value, (self.next_offset, minute * MINUTE)))

    def _tick(self, customer: Customer, minute: int, offset: int) -> None:
        at = minute * MINUTE
        ce_id = f"{self.partition}-{offset}-{minute}-{customer.hash:016x}"
        row = Row(customer, at, (self.next_offset, at), ce_id, None)
        if at - customer.last >= 2 * self.longest * self.pane:
            self._forget(row)
            return
        before = customer.decision()
        self._evaluate(row)
        if customer.decision() != before:
            customer.written = at
        if customer.level >= self.level:
            self._sample(row)

    def _sample(self, row: Row) -> None:
        raw = [self.raw(row.customer, text, row.at) for text in self.features.values()]
        value = {
            "partition": self.partition,
            "level": self.level,
            "at": ms_text(row.at),
            "features": self.features_id,
            "values": [as_written(x) for x in raw],
        }
        self.outputs.append(Output("samples", f"{row.customer.hash:016x}", value, row.position))

    def _forget(self, row: Row) -> None:
        customer = row.customer
        if customer.segment is not None:
            left = self._named(customer.segment)
            customer.sequence += 1
            self._change(row, left, None, "forgotten", None, None, None)
        if customer.level >= self.level:
            key = f"{customer.hash:016x}"
            self.outputs.append(Output("samples", key, None, row.position))
        del self.customers[customer.id]

    # --- an event ---------------------------------------------------------------------

    def born(self) -> list[int]:
        """Customers that have a State, per level 0 to 64."""
        levels = Counter(customer.level for customer in self.customers.values())
        return [levels[level] for level in range(65)]

    def _birth(self, name: str) -> Customer:
        customer = self.customers[name] = Customer(name, customer_hash(name))
        while sum(self.born()[self.level :]) > self.room:
            self.level += 1
        return customer

    def _accept(self, call: Call, event: Accepted, customer: Customer) -> None:
        evidence = self._evidence(customer, self.clock)
        self.counts["saturated"] += sum(evidence.cuts(name, event) for name in self.windowed)
        customer.history.add(event)
        self.counts["valid"] += 1
        position, ce_id = (event.offset + 1, self.clock), f"{self.partition}-{event.offset}"
        self._evaluate(Row(customer, self.clock, position, ce_id, (call.message_id, call.name)))
        customer.written = self.clock

    def _evidence(self, customer: Customer, at: int) -> Evidence:
        return Evidence(customer.history, at, self.declared, self.pane)

    # --- a row ------------------------------------------------------------------------

    def raw(self, customer: Customer, expression: str, at: int) -> float | None:
        """Raw value rounded to float32; None = missing."""
        value = Expression(expression, self._evidence(customer, at)).value()
        with np.errstate(over="ignore"):
            rounded = float(np.float32(math.nan if value is None else value))
        return rounded if math.isfinite(rounded) else None

    def scored(self, version: int, row: Row) -> tuple[list[float], dict[int, float], int]:
        """(z, distance per live segment, nearest segment) under that version."""
        model = self.models[version]
        z = []
        for spec in model["features"]:
            x = self.raw(row.customer, spec["expression"], row.at)
            value = float(spec["fill"] if x is None else x)
            if spec["transform"] == "log1p":
                value = math.log1p(max(value, 0.0))
            low, high = spec["clip"]
            value = min(max(value, low), high)
            z.append(float(np.float32((value - spec["mean"]) / spec["scale"] * spec["weight"])))
        distances = {}
        for segment in model["segments"]:
            total = 0.0
            for zj, cj in zip(z, segment["centre"], strict=True):
                total += (zj - cj) * (zj - cj)
            distances[segment["segment"]] = math.sqrt(total)
        return z, distances, min(distances, key=lambda s: (distances[s], s))

    def _evaluate(self, row: Row) -> None:
        """Section 6, hysteresis."""
        if not self.active:
            return
        customer = row.customer
        z, d, n = self.scored(self.active, row)
        s = customer.segment
        if s is None and self.watched is not None:
            if customer.pending_since is None:
                customer.pending, customer.pending_since = n, row.at
            elif row.at - customer.pending_since >= self.watched:
                self._move(row, n, None, z, d)
        elif s is None or s not in d:
            self._move(row, n, None if s is None else "retired", z, d)
        elif n == s:
            customer.pending = customer.pending_since = None
            customer.stamp = self.active
        elif d[n] <= self.clear * d[s]:
            self._move(row, n, "clear", z, d)
        elif d[n] <= self.held * d[s]:
            if customer.pending != n:
                customer.pending, customer.pending_since = n, row.at
            elif customer.pending_since is None or row.at - customer.pending_since >= self.hold:
                self._move(row, n, "held", z, d)
        else:
            customer.pending = customer.pending_since = None

    def _cause(self, row: Row) -> str:
        customer = row.customer
        if customer.segment is None:
            return "first"
        if self.scored(customer.stamp or 0, row)[2] == customer.segment:
            return "model"
        return "time" if row.event is None else "behaviour"

    def _move(
        self, row: Row, to: int, rule: str | None, z: list[float], d: dict[int, float]
    ) -> None:
        customer, cause = row.customer, self._cause(row)
        s = customer.segment
        left = None if s is None else self._named(s)
        distance = {"from": None if s not in d else round(d[s], 6), "to": round(d[to], 6)}
        reasons = self._reasons(row, s if s in d else None, to, z)
        customer.segment, customer.stamp, customer.since = to, self.active, row.at
        customer.pending = customer.pending_since = None
        customer.sequence += 1
        self._change(row, left, self._named(to), cause, rule, distance, reasons)

    def _named(self, segment: int) -> dict[str, Any]:
        """`{segment, name}` by the newest version, up to the active one, that has it."""
        for version in sorted((v for v in self.models if v <= self.active), reverse=True):
            for entry in self.models[version]["segments"]:
                if entry["segment"] == segment:
                    return {"segment": segment, "name": entry["name"]}
        raise KeyError(segment)

    def _reasons(self, row: Row, left: int | None, to: int, z: list[float]) -> list[dict[str, Any]]:
        model = self.models[self.active]
        centres = {entry["segment"]: entry["centre"] for entry in model["segments"]}
        a = [0.0] * len(z) if left is None else centres[left]
        parts = [(x - p) ** 2 - (x - q) ** 2 for x, p, q in zip(z, a, centres[to], strict=True)]
        whole = 0.0
        for part in parts:
            whole += part
        if whole <= 0:
            return []
        order = sorted(range(len(z)), key=lambda j: (-parts[j], j))
        return [
            {
                "feature": spec["name"],
                "value": as_written(self.raw(row.customer, spec["expression"], row.at)),
                "share": round(parts[j] / whole, 6),
            }
            for j, spec in [(j, model["features"][j]) for j in order if parts[j] > 0][:3]
        ]

    # --- records ----------------------------------------------------------------------

    def _change(
        self,
        row: Row,
        left: dict[str, Any] | None,
        to: dict[str, Any] | None,
        cause: str,
        rule: str | None,
        distance: dict[str, Any] | None,
        reasons: list[dict[str, Any]] | None,
    ) -> None:
        """The change, and the membership after it."""
        customer, at = row.customer, ms_text(row.at)
        common = {"customer": customer.id, "sequence": customer.sequence}
        change = {
            **common,
            "from": left,
            "to": to,
            "cause": cause,
            "rule": rule,
            "at": at,
            "event": row.event and {"id": row.event[0], "name": row.event[1]},
            "model": self.active,
            "distance": distance,
            "reasons": reasons,
        }
        member = to and {**common, **to, "since": at, "at": at, "model": self.active}
        self.changes[cause] += 1
        self.outputs.append(Output("changes", customer.id, change, row.position, row.ce_id))
        self.outputs.append(Output("memberships", customer.id, member, row.position))

    def checkpoint(self) -> dict[str, Any]:
        """Named as in Redis; `model` 0 = none; segments without customers are left out."""
        segments = Counter(c.segment for c in self.customers.values() if c.segment is not None)
        return {
            "position": (self.next_offset, self.clock),
            "model": self.active,
            "born": self.born(),
            "level": self.level,
            "counts": {name: self.counts[name] for name in OUTCOMES},
            "changes": {name: self.changes[name] for name in CAUSES},
            "customers": len(self.customers),
            "segments": {str(segment): count for segment, count in sorted(segments.items())},
        }

    def states(self) -> dict[str, dict[str, Any]]:
        """Per customer, rings as of the last writing row.

        `panes`: measure → {pane: count, minor units, or bit i for declared value i}, empty
        panes left out; `values`: measure of kind last or trait → (value, time) or None;
        `recency`: measure → time or None; `ids`: XXH3-64, oldest first.
        """
        return {name: self._state(customer) for name, customer in self.customers.items()}

    def _state(self, customer: Customer) -> dict[str, Any]:
        evidence = self._evidence(customer, customer.written)
        kept = [m.name for m in self.measures if m.kind == "last"] + [t.name for t in self.traits]
        rings = [m.name for m in self.measures if m.kind != "last"]
        return {
            "hash": customer.hash,
            "last": customer.last,
            "segment": customer.segment,
            "pending": customer.pending,
            "pending_since": customer.pending_since,
            "stamp": customer.stamp,
            "sequence": customer.sequence,
            "since": customer.since,
            "written": customer.written,
            "accepted": len(customer.history.events),
            "ids": [event.id_hash for event in customer.history.events[-16:]],
            "panes": {name: evidence.within(name, self.longest) for name in rings},
            "values": {name: evidence.newest(name) for name in kept},
            "recency": {m.name: evidence.last_time(m.name) for m in self.measures},
        }
