"""Random but reproducible streams of one partition, for property tests against tests/oracle.py.

A stream stays where docs/semantics.md says what happens. With `disputed=True` it also holds
records whose reading the page leaves open (which of two reasons, how strict a text form).
"""

import datetime
import json
import re
from dataclasses import dataclass
from random import Random
from typing import Any, Literal

from tests.oracle import Record
from tests.oracle_reading import LARGEST, LARGEST_FORWARDED, Headers, partition_of, size_of
from tests.streams_config import Shape, random_models, random_shape

SECOND, MINUTE, HOUR, DAY = 1_000, 60_000, 3_600_000, 86_400_000
START = 1_772_323_200_000  # 2026-03-01T00:00:00Z
EVENTS = ("Order Completed", "Order Completed", "Product Viewed", "Survey Answered", "Bestellt ✓")
AMOUNTS = ("1e9", "1000000000", "0", "1e-7", "2.675", "0.125", "1.005", "19.995", "49", "250.50")
WRONG_SUMS = ('"12"', "true", "-0.01", "1000000000.01", "1e400", "[]", "12345678901234567890", "{}")
WRONG_NUMBERS = ('"12"', "false", "1e13", "-1000000000001", "1e999", "[1]")
WRONG_CURRENCIES: tuple[Any, ...] = ("XXX", "", "usd", 7, True, ["EUR"], {})
BAD_VALUES = (None, b"", b"{", b"[1]", b'"text"', b"\xff\xfe", b'{"type":"track",}', b"null")
HOPS: tuple[bytes | None, ...] = (
    b"0", b"1", b"2", b"3", b"003", b"999999999", b"1234567890", b"-1", b"1.0", b"", b"\xff",
    "٣".encode(), None,
)  # fmt: skip
HUGE = ("1e400", "1" + "0" * 400, str(2**63), str(2**63 - 1), str(2**31), "-1", "1.0", "1e0")
NO_TIMES = (b"", b"noon", b"\xff", b"1969-12-31T23:59:59Z", b"2201-01-01T00:00:00Z", None)
FORGED = (
    ("segstream.errors.reason", b"json"), ("segstream.errors.size", b"7"),
    ("segstream.errors.at", None), ("segstream.redriven", b"true"), ("ce_id", b"unread"),
    ("", b""), ("Größe", b"\0"),
)  # fmt: skip
ODD_IDS = ("Zoë", "日本-7", "用户", "😀", "x y", "ü" * 256, "a", "A:1")


Partitioner = Literal["murmur2", "crc32"]


@dataclass(frozen=True)
class Stream:
    seed: int
    config: dict[str, Any]
    partition: int
    partitions: int
    partitioner: Partitioner
    models: dict[int, dict[str, Any]]
    records: list[Record]


class Raw(str):
    """Text that goes into the JSON as it is."""


def _json(value: Any) -> bytes:
    raws: list[str] = []

    def mark(found: Any) -> Any:
        if isinstance(found, Raw):
            raws.append(str(found))
            return f"@{len(raws) - 1}@"
        if isinstance(found, dict):
            return {name: mark(inner) for name, inner in found.items()}
        return found

    text = json.dumps(mark(value), ensure_ascii=False)
    return re.sub(r'"@(\d+)@"', lambda m: raws[int(m[1])], text).encode()


def text_of(rng: Random, time: int) -> str:
    """One of the RFC 3339 forms of an instant."""
    form = rng.choice(["z", "z", "z", "offset", "micro", "short"])
    zone = datetime.timezone(datetime.timedelta(minutes=rng.choice([-570, 60, 120, 345])))
    at = datetime.datetime.fromtimestamp(time // 1000, datetime.UTC)
    fraction = f".{time % 1000:03}"
    if form == "offset":
        local = at.astimezone(zone).isoformat(timespec="seconds")
        return f"{local[:19]}{fraction}{local[19:]}"
    if form == "short" and time % 1000 == 0:
        fraction = ""
    return f"{at:%Y-%m-%dT%H:%M:%S}{fraction}{'999' if form == 'micro' else ''}Z"


@dataclass(frozen=True)
class Setting:
    """What all partitions of a topic share."""

    partitions: int
    partitioner: Partitioner
    shape: Shape
    models: dict[int, dict[str, Any]]


def random_setting(rng: Random, partitions: int) -> Setting:
    partitioner: Partitioner = rng.choice(["murmur2", "murmur2", "crc32"])
    shape = random_shape(rng, partitions)
    return Setting(partitions, partitioner, shape, random_models(rng, shape.config))


class _Writer:
    """The state of one stream while it is written: `now` is the append time."""

    def __init__(self, seed: int, setting: Setting, partition: int, *, disputed: bool) -> None:
        self.seed, self.rng = seed, Random(seed)
        rng = self.rng
        self.disputed = disputed
        self.partition, self.partitions = partition, setting.partitions
        self.partitioner = setting.partitioner
        self.shape, self.models = setting.shape, setting.models
        self.users = self._ids(rng.randint(2, 6), right=True)
        self.visitors = self._ids(rng.randint(1, 2), right=True)
        self.strangers = self._ids(2, right=False) if self.partitions > 1 else []
        self.now = START + rng.choice([0, rng.randrange(DAY)])
        self.offset = rng.choice([0, 17])
        self.records: list[Record] = []
        self.bodies: list[dict[str, Any]] = []
        self.active = 0
        self.pace = self.shape.longest // rng.choice([16, 60, 200])

    def _ids(self, count: int, *, right: bool) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            odd = self.rng.random() < 0.3
            name = self.rng.choice(ODD_IDS) if odd else f"u-{self.rng.randrange(10_000)}"
            hit = partition_of(name, self.partitions, self.partitioner) == self.partition
            if hit == right and name not in found:
                found.append(name)
        return found

    def write(
        self, headers: Headers | None, value: bytes | None, key: bytes | None = b"ignored"
    ) -> None:
        """Append a record; now and then its headers and key say what they have no say in."""
        rng = self.rng
        if rng.random() < 0.2:
            headers = [*(headers or []), *self.notes()]
        key = rng.choice([key, key, None, b"", b"\xff"])
        self.records.append(Record(self.offset, self.now, headers, value, key))
        self.offset += 1 if self.rng.random() < 0.9 else self.rng.randint(2, 5)

    def notes(self) -> list[tuple[str, bytes | None]]:
        """Headers that only segstream itself should write."""
        rng = self.rng
        found: list[tuple[str, bytes | None]] = []
        for _ in range(rng.choice([1, 1, 2, 3])):
            time = text_of(rng, self.event_time()).encode()
            found += [
                rng.choice([
                    ("segstream.hops", rng.choice(HOPS)),
                    ("segstream.appended", rng.choice([time, time, rng.choice(NO_TIMES)])),
                    rng.choice(FORGED),
                ])
            ]  # fmt: skip
        return found

    # --- time -------------------------------------------------------------------------

    def pass_time(self) -> None:
        rng, span = self.rng, self.shape.longest
        draw = rng.random()
        if draw < 0.35:
            self.now += rng.choice([0, rng.randrange(SECOND), rng.randrange(MINUTE)])
        elif draw < 0.93:
            self.now += rng.randrange(self.pace)
        elif draw < 0.96:
            self.now += -self.now % rng.choice([DAY, HOUR, self.shape.period])
        elif draw < 0.985:
            self.now += rng.randrange(self.shape.period * 2)
        elif draw < 0.995:
            self.now += rng.randrange(span)
        else:
            self.now += span + rng.randrange(3 * span)

    def event_time(self) -> int:
        rng, span = self.rng, self.shape.longest
        draw = rng.random()
        if draw < 0.65:
            return self.now - rng.choice([0, 0, rng.randrange(MINUTE)])
        if draw < 0.7:
            return self.now - self.now % rng.choice([DAY, HOUR, MINUTE])
        if draw < 0.85:
            return self.now - rng.randrange(span)
        if draw < 0.92:
            return self.now - span + rng.randrange(-span, span // 4)
        return self.now + rng.choice([1, rng.randrange(HOUR), rng.randrange(40 * DAY)])

    # --- calls ------------------------------------------------------------------------

    def body(self) -> dict[str, Any]:
        rng = self.rng
        kind = rng.choices(["track", "page", "screen", "identify", "group"], [12, 2, 1, 3, 1])[0]
        body: dict[str, Any] = {"type": kind, "extra": {"ignored": [1, None]}}
        if rng.random() < 0.8:
            body["userId"] = rng.choice(self.users)
            if rng.random() < 0.3:
                body["anonymousId"] = "device"
        else:
            body["anonymousId"] = rng.choice(self.visitors)
            if rng.random() < 0.3:
                body["userId"] = rng.choice([None, ""])
        if rng.random() < 0.8:
            body["messageId"] = f"msg-{rng.randrange(10**6)}"
        elif rng.random() < 0.5:
            body["messageId"] = None
        if rng.random() < 0.85:
            body["timestamp"] = text_of(rng, self.event_time())
        if kind == "track":
            body["event"] = rng.choice(EVENTS)
        if rng.random() < 0.92:
            body["traits" if kind in ("identify", "group") else "properties"] = self.fields(kind)
        return body

    def fields(self, kind: str) -> dict[str, Any]:
        rng = self.rng
        number = str(rng.choice([0, 7, -3.25, 9, 1e12, 42, 0.1]))
        if kind in ("identify", "group"):
            size = rng.choice(["S", "M", "L", "XXL", None])
            fields = {
                "country": rng.choice(["DE", "FR", "日本", "", None]),
                "age": rng.choice([Raw(number), 18, 35.5, None]),
                "shirt": rng.choice([{"size": size}, {}, None, {"size": "M"}]),
            }
        else:
            usual = Raw(f"{rng.uniform(1, 400):.3f}")
            fields = {
                "total": rng.choice([usual, usual, usual, Raw(rng.choice(AMOUNTS)), None]),
                "currency": rng.choice(["EUR", "USD", "JPY", "USD", None]),
                "channel": rng.choice(["web", "shop", "app", "Straße", "fax", None]),
                "score": rng.choice([Raw(number), rng.randint(0, 10), None]),
            }
        return {name: value for name, value in fields.items() if rng.random() < 0.85}

    def send(self, body: dict[str, Any]) -> None:
        """Plain, binary or structured; CloudEvents attributes may stand in for fields."""
        rng, form = self.rng, self.rng.choice(["plain", "plain", "plain", "binary", "structured"])
        if form == "plain":
            self.write(rng.choice([None, [], [("trace", b"\xff")]]), _json(body))
            return
        event: dict[str, Any] = {
            "specversion": "1.0",
            "id": f"ce-{rng.randrange(10**6)}",
            "source": "/shop",
            "type": "com.example.call",
        }
        if rng.random() < 0.6:
            event["time"] = text_of(rng, self.event_time())
        if form == "binary":
            headers = [(f"ce_{name}", text.encode()) for name, text in event.items()]
            self.write([*headers, ("content-type", b"application/json")], _json(body))
        else:
            kind = b"application/cloudevents+json; charset=UTF-8"
            self.write([("content-type", kind)], _json({**event, "data": body}))

    def call(self) -> None:
        body = self.body()
        self.bodies.append(body)
        self.send(body)

    def duplicate(self) -> None:
        """Mostly of the last records of all customers, sometimes from far back."""
        back = self.rng.choice([1, 3, 10, 40, 120])
        body = dict(self.rng.choice(self.bodies[-back:]))
        if self.rng.random() < 0.3:
            body["timestamp"] = text_of(self.rng, self.event_time())
        self.send(body)

    # --- strays, large records --------------------------------------------------------

    def stray(self) -> None:
        """A call of a customer of another partition, perhaps not for the first time."""
        rng, stranger = self.rng, self.rng.choice(self.strangers)
        name = rng.choice(["userId", "userId", "anonymousId"])
        body = {**self.body(), "userId": None, name: stranger}
        if rng.random() < 0.3:
            body.pop("userId" if name != "userId" else "messageId", None)
        self.send(body)

    def large(self) -> None:
        """Just at or above a limit, filled up with something that is not read."""
        rng, body = self.rng, {"type": "page", "userId": self.users[0]}
        most = LARGEST
        if self.strangers and rng.random() < 0.5:
            body["userId"], most = self.strangers[0], LARGEST_FORWARDED
        key = rng.choice([None, b"k", b"k" * 2_000])
        headers = rng.choice(
            [None, [("trace", b"1"), ("größe", None)], [("h" * 70, b"v" * 70)] * 9]
        )
        above = rng.choice([0, 0, 1, 1, 70_000])
        value = _json({**body, "unread": "@"})
        room = most + above - size_of(key, headers, value)
        value = value.replace(b"@", rng.choice([b"x", b" "]) * (room + 1))
        self.records.append(Record(self.offset, self.now, headers, value, key))
        self.offset += 1

    # --- dead letters -----------------------------------------------------------------

    def broken(self) -> None:
        """One rule broken, all others kept."""
        rng, body = self.rng, {**self.body(), "userId": self.users[0], "messageId": "m"}
        order = {"type": "track", "event": "Order Completed"}
        survey = {"type": "track", "event": "Survey Answered"}
        fields = {name: value for name, value in body.items() if name not in ("userId", "type")}
        fields.pop("anonymousId", None)
        changes: list[dict[str, Any]] = [
            {**body, "userId": "a:1"},
            {**body, "userId": "", "anonymousId": None},
            {**fields, "type": body["type"]},
            {**body, "type": "alias", "previousId": "old"},
            {**body, "type": rng.choice(["purchase", "", None, 7])},
            {**body, "userId": rng.choice([7, ["u"], {}, True])},
            {**body, "timestamp": rng.choice(["2026-03-01T00:00:00", "today", "", 7, True])},
            {**body, "timestamp": rng.choice(["1969-12-31T23:59:59Z", "2203-01-01T00:00:00Z"])},
            {**body, "messageId": rng.choice(["", "m" * 257, 7, [], False])},
            {**body, "type": "track", "event": rng.choice(["", "e" * 257, None, 7])},
            {**body, **order, "properties": {"total": Raw(rng.choice(WRONG_SUMS))}},
            {**body, **order, "properties": {"total": 1, "currency": rng.choice(WRONG_CURRENCIES)}},
            {**body, **survey, "properties": {"score": Raw(rng.choice(WRONG_NUMBERS))}},
            {**body, "type": "identify", "traits": {"age": Raw(rng.choice(WRONG_NUMBERS))}},
        ]
        if rng.random() < 0.25:
            self.write(None, rng.choice(BAD_VALUES))
        elif rng.random() < 0.1:
            kind = ("content-type", b"application/cloudevents+json")
            event: dict[str, Any] = {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}
            event[rng.choice(list(event))] = ""
            self.write([kind], _json({**event, "data": body}))
        else:
            self.send(rng.choice(changes))

    def arguable(self) -> None:
        """Two rules at once, or a form about which the page is silent."""
        rng, body = self.rng, {**self.body(), "userId": self.users[0]}
        order = {"type": "track", "event": "Order Completed"}
        at = text_of(rng, self.now)
        identify = {"type": "identify", "traits": {"country": Raw(rng.choice(["7", "true", "[]"]))}}
        changes: list[dict[str, Any]] = [
            {**body, "userId": "x" * 257},
            {**body, "userId": "nul\0"},
            {**body, "userId": Raw('"\\ud800"')},
            {**body, "unread": Raw('"\\udc00\\ud800"')},
            {**body, "unread": Raw("[" * (deep := rng.choice([400, 499, 500, 990])) + "]" * deep)},
            {**body, "userId": "u", "anonymousId": 7},
            {"type": "alias", "previousId": "old"},
            {**body, "timestamp": at.replace("T", " ")},
            {**body, "timestamp": at.replace("T", "t").replace("Z", "z")},
            {**body, "timestamp": "2200-12-31T23:59:59Z"},
            {**body, "timestamp": "2016-12-31T23:59:60Z"},
            {**body, "timestamp": "2026-02-30T00:00:00Z"},
            {**body, **order, "properties": {"total": Raw("NaN")}},
            {**body, **order, "properties": {"channel": Raw(rng.choice(["7", "true", "{}"]))}},
            {**body, **order, "properties": Raw(rng.choice(["7", '"x"', "[]"]))},
            {**body, **identify},
            {**body, "type": "identify", "traits": {"shirt": "M"}},
            {**body, "context": "web"},
        ]
        self.send(rng.choice(changes))

    # --- control ----------------------------------------------------------------------

    def control(self, kind: str, data: Any) -> None:
        source = b"/segstream"
        headers = [("ce_specversion", b"1.0"), ("ce_id", b"c"), ("ce_source", source)]
        headers += [("ce_type", kind.encode()), ("content-type", b"application/json")]
        if self.rng.random() < 0.9:
            self.write(headers, data if isinstance(data, bytes) else _json(data))
        elif not isinstance(data, bytes):
            event = {"specversion": "1.0", "id": "c", "source": "/segstream", "type": kind}
            content = ("content-type", b"application/cloudevents+json")
            self.write([content], _json({**event, "data": data}))

    def activate(self, progress: float) -> None:
        """Mostly the version of this part of the stream; also older and repeated ones."""
        rng, versions = self.rng, sorted(self.models)
        due = versions[min(int(progress * len(versions)), len(versions) - 1)]
        version = due if rng.random() < 0.8 else rng.choice(versions)
        self.active = max(self.active, version)
        data = {"version": version, "digest": self.models[version]["digest"]}
        self.control("segstream.model", data)

    def clock(self) -> None:
        rng = self.rng
        time = self.now + rng.choice([0, 0, 0, -DAY, HOUR, 30 * DAY, -rng.randrange(HOUR)])
        for _ in range(rng.choice([1, 1, 2])):
            self.control("segstream.clock", {"time": text_of(rng, time)})

    def wrong_control(self) -> None:
        rng, newest = self.rng, max(self.models)
        digest, lie = self.models[newest]["digest"], "0" * 64
        open_or_new = self.disputed or newest > self.active
        kind, data = rng.choice(
            [
                ("model", {"version": newest + 7, "digest": digest}),
                ("model", {"version": newest if open_or_new else newest + 1, "digest": lie}),
                ("model", {"version": 0, "digest": digest}),
                ("model", {"version": "1", "digest": digest}),
                ("model", {"version": newest}),
                ("model", {"version": Raw(rng.choice(HUGE)), "digest": digest}),
                ("model", {"version": newest, "digest": digest, "more": 1}),
                ("model", b"{"),
                ("clock", {}),
                ("clock", {"time": "noon"}),
                ("clock", b"[]"),
                ("erase", {"customer": "u"}),
            ]
        )
        self.control(f"segstream.{kind}", data)

    # --- the whole --------------------------------------------------------------------

    def run(self, length: int, large: int = -1) -> Stream:
        """`large`: which record is a large one."""
        rng = self.rng
        first_model = rng.choice([0.02, 0.2, 0.5])
        for index in range(length):
            self.pass_time()
            if index == large:
                self.large()
            progress, draw = index / length, rng.random()
            if draw < 0.03 and progress > first_model:
                self.activate(progress)
            elif draw < 0.05:
                self.clock()
            elif draw < 0.06:
                self.wrong_control()
            elif draw < 0.11:
                self.arguable() if self.disputed and rng.random() < 0.5 else self.broken()
            elif draw < 0.19 and self.bodies:
                self.duplicate()
            elif draw < 0.24 and self.strangers:
                self.stray()
            else:
                self.call()
        return Stream(
            seed=self.seed,
            config=self.shape.config,
            partition=self.partition,
            partitions=self.partitions,
            partitioner=self.partitioner,
            models=self.models,
            records=self.records,
        )


def generate(seed: int, *, disputed: bool = False) -> Stream:
    """The stream of this seed: 50 to 400 records of one partition, now and then one of 10 MiB."""
    rng = Random(seed)
    setting = random_setting(rng, rng.choice([1, 2, 3, 4]))
    partition = rng.randrange(setting.partitions)
    length = rng.randint(50, 400)
    large = rng.randrange(8 * length)
    return _Writer(seed, setting, partition, disputed=disputed).run(length, large)


def generate_topic(seed: int, partitions: int, longest: int) -> list[Stream]:
    """The streams of all partitions of one topic, each of up to `longest` records."""
    rng = Random(seed)
    setting = random_setting(rng, partitions)
    return [
        _Writer(rng.randrange(2**32), setting, p, disputed=False).run(rng.randint(1, longest))
        for p in range(partitions)
    ]
