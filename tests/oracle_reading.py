"""Section 2 of docs/semantics.md by the letter: from the bytes of one record to a call.

Second, independent implementation: it shares no code with `segstream/core` and is written
to be compared with the page, not to be fast. Times are ms since 1970 UTC.
"""

import datetime
import decimal
import json
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Headers = Sequence[tuple[str, bytes | None]]

MIB = 1_048_576
LARGEST, LARGEST_FORWARDED = 10 * MIB, 10 * MIB - 65_536
MOST_HOPS = 3
DEEPEST = 500
CE_HEADERS = ("ce_type", "ce_id", "ce_time")
CALLS = ("track", "identify", "page", "screen", "group", "alias")
SUM_MAX = Decimal(10) ** 9
LAST_MAX = Decimal(10) ** 12
UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
YEAR_1970 = datetime.date(1970, 1, 1).toordinal()
YEAR_2201 = datetime.date(2201, 1, 1).toordinal()
RFC3339 = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):?(\d\d))",
    re.ASCII,
)


class Rejected(Exception):
    """The record is a dead letter for this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Measure:
    """`values`: the declared values of kind distinct; `decimals`: of kind sum."""

    name: str
    kind: str
    events: tuple[str, ...]
    calls: tuple[str, ...]
    field: str | None
    decimals: int
    values: tuple[str, ...]
    money: bool

    def takes(self, call: str, event: str | None) -> bool:
        return (call == "track" and event in self.events) or call in self.calls


@dataclass(frozen=True)
class Trait:
    name: str
    kind: str
    field: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Money:
    """`rates`: from which instant (ms) on, currency → units of the base currency; in order."""

    field: str
    base: str
    rates: list[tuple[int, dict[str, Decimal]]]

    def rate(self, currency: Any, time: int) -> Decimal:
        if currency is None or currency == self.base:
            return Decimal(1)
        tables = [table for start, table in self.rates if start <= time]
        table = tables[-1] if tables else self.rates[0][1] if self.rates else {}
        if not isinstance(currency, str) or currency not in table:
            raise Rejected("currency")
        return table[currency]


@dataclass(frozen=True)
class Envelope:
    """`type` is None for a plain call; `id` and `time` are those of the CloudEvent.

    `data` are bytes as long as nobody has asked what they hold, otherwise a parsed value.
    """

    type: str | None
    id: str | None
    time: str | None
    data: Any

    @property
    def is_control(self) -> bool:
        return (self.type or "").startswith("segstream.")

    def body(self) -> dict[str, Any]:
        if self.data is None or isinstance(self.data, bytes):
            return parse_object(self.data)
        if not isinstance(self.data, dict):
            raise Rejected("schema")
        return self.data


@dataclass(frozen=True)
class Call:
    """One valid call on its right partition.

    `amounts`: measure that takes the call → what it adds: 1, minor units, position of a
    declared value, or a number; None if it adds nothing. `traits`: trait → value.
    """

    customer: str
    name: str
    time: int
    message_id: str
    amounts: dict[str, float | int | None]
    traits: dict[str, float | None]


def measures_of(config: Mapping[str, Any]) -> list[Measure]:
    return [
        Measure(
            name=name,
            kind=entry["kind"],
            events=tuple(entry.get("events", ())),
            calls=tuple(entry.get("calls", ())),
            field=entry.get("field"),
            decimals=entry.get("decimals", 2),
            values=tuple(entry.get("values", ())),
            money=entry.get("money", False),
        )
        for name, entry in config.get("measures", {}).items()
    ]


def money_of(config: Mapping[str, Any]) -> Money | None:
    declared = config.get("money")
    if declared is None:
        return None
    rates = []
    for day, table in sorted(declared.get("rates", {}).items()):
        start = datetime.date.fromisoformat(day).toordinal() - YEAR_1970
        exact = {currency: Decimal(repr(float(rate))) for currency, rate in table.items()}
        rates.append((start * 86_400_000, exact))
    return Money(declared.get("field", "properties.currency"), declared["base"], rates)


def traits_of(config: Mapping[str, Any]) -> list[Trait]:
    return [
        Trait(
            name=name,
            kind=entry["kind"],
            field=entry.get("field", f"traits.{name}"),
            values=tuple(entry.get("values", ())),
        )
        for name, entry in config.get("traits", {}).items()
    ]


def duration_ms(text: str) -> int:
    """`30m`, `6h`, `1d` → ms."""
    return int(text[:-1]) * UNITS_MS[text[-1]]


def murmur2(data: bytes) -> int:
    """MurmurHash2 (32 bit, seed 0x9747b28c) as in the Java client of Kafka."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = 0x9747B28C ^ len(data)
    whole = len(data) - len(data) % 4
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * m & mask
        k = (k ^ (k >> 24)) * m & mask
        h = (h * m & mask) ^ k
    if whole < len(data):
        h = (h ^ int.from_bytes(data[whole:], "little")) * m & mask
    h = (h ^ (h >> 13)) * m & mask
    return h ^ (h >> 15)


def partition_of(raw_id: str, partitions: int, partitioner: str) -> int:
    data = raw_id.encode()
    if partitioner == "murmur2":
        return (murmur2(data) & 0x7FFFFFFF) % partitions
    if partitioner == "crc32":
        return zlib.crc32(data) % partitions
    raise ValueError(partitioner)


def _decimal(text: str) -> Decimal:
    try:
        return Decimal(text)
    except decimal.InvalidOperation:  # an exponent beyond Decimal: infinite or zero
        return Decimal(float(text))


def _integer(text: str) -> int | Decimal:
    return int(text) if len(text) < 40 else Decimal(text)


def _not_json(_: str) -> Any:
    raise Rejected("json")


def parse_object(value: bytes | None) -> dict[str, Any]:
    """A JSON object of UTF-8 text, with fractions as Decimal, so that the written text is kept."""
    value = value or b""
    try:
        parsed = json.loads(
            value.decode("utf-8"),
            parse_float=_decimal,
            parse_int=_integer,
            parse_constant=_not_json,
        )
        json.dumps(parsed, ensure_ascii=False, default=str).encode()  # no lone surrogates
    except (ValueError, RecursionError):
        raise Rejected("json") from None
    if not isinstance(parsed, dict) or depth_of(value) > DEEPEST:
        raise Rejected("json")
    return parsed


def depth_of(value: bytes) -> int:
    """Most levels of arrays and objects around any place in a JSON text; 0: not worth counting."""
    if value.count(b"[") + value.count(b"{") <= DEEPEST:
        return 0
    depth = deepest = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.)*"|[][{}]', value):
        part = found[0]
        depth += (part in b"[{") - (part in b"]}")
        deepest = max(deepest, depth)
    return deepest


def size_of(key: bytes | None, headers: Headers | None, value: bytes | None) -> int:
    """Bytes of key, value and headers, 10 more for each header."""
    size = len(key or b"") + len(value or b"")
    return size + sum(len(n.encode()) + len(v or b"") + 10 for n, v in headers or ())


def named(headers: Headers | None) -> dict[str, bytes]:
    """Headers by name: one without a value is as if it were not there; the last one counts."""
    return {name: value for name, value in headers or () if value is not None}


def hops_of(headers: Headers | None) -> int:
    """How often a record was forwarded."""
    text = named(headers).get("segstream.hops", b"")
    return int(text) if re.fullmatch(rb"[0-9]{1,9}", text) else 0


def appended_of(headers: Headers | None) -> tuple[bytes, int] | None:
    """When a forwarded record was first appended, as written and in ms; None if that is no time."""
    text = named(headers).get("segstream.appended", b"")
    try:
        return text, instant(text.decode())
    except (UnicodeDecodeError, Rejected):
        return None


def instant(text: Any) -> int:
    """RFC 3339 text → ms; 1970 to the end of 2200."""
    match = RFC3339.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise Rejected("timestamp")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    off_hour, off_minute = int(match[9] or 0), int(match[10] or 0)
    if hour > 23 or minute > 59 or second > 59 or off_hour > 23 or off_minute > 59:
        raise Rejected("timestamp")
    try:  # Python has no year 0; year 400 has the same calendar
        days = datetime.date(year or 400, month, day).toordinal()
    except ValueError:
        raise Rejected("timestamp") from None
    minutes = hour * 60 + minute - (off_hour * 60 + off_minute) * (-1 if match[8] == "-" else 1)
    # msgspec rounds a longer fraction half up to microseconds; then it is cut to milliseconds
    micros = Decimal(f"0.{match[7] or 0}").quantize(Decimal("1e-6"), decimal.ROUND_HALF_UP)
    fraction = int(micros * 1000)
    time = (days - YEAR_1970) * 86_400_000 + (minutes * 60 + second) * 1000 + fraction
    if not 0 <= time < (YEAR_2201 - YEAR_1970) * 86_400_000:
        raise Rejected("timestamp")
    return time


def envelope(headers: Headers | None, value: bytes | None) -> Envelope:
    found = named(headers)
    if "\0" in found:  # stands for headers with a name that is not UTF-8
        raise Rejected("schema")
    if "ce_type" in found:
        try:
            texts = {name: found[name].decode() for name in CE_HEADERS if name in found}
        except UnicodeDecodeError:
            raise Rejected("schema") from None
        return Envelope(texts["ce_type"], texts.get("ce_id"), texts.get("ce_time"), value)
    if not found.get("content-type", b"").lower().startswith(b"application/cloudevents"):
        return Envelope(None, None, None, value)
    event = parse_object(value)
    for name in ("specversion", "id", "source", "type"):
        if not isinstance(event.get(name), str) or not event[name]:
            raise Rejected("schema")
    if "data" not in event or not isinstance(event.get("time"), str | None):
        raise Rejected("schema")
    # Parsed data that are null are not the same as a value that is null: there is an envelope.
    data = [] if event["data"] is None else event["data"]
    return Envelope(event["type"], event["id"], event.get("time"), data)


def _text(value: Any, longest: int = 256) -> str:
    """1 to 256 characters that UTF-8 can carry."""
    if not isinstance(value, str) or not 1 <= len(value) <= longest:
        raise Rejected("schema")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Rejected("schema") from None
    return value


def customer_of(body: Mapping[str, Any]) -> tuple[str, str]:
    """(customer, raw id that the partitioner sees)."""
    user, anonymous = body.get("userId"), body.get("anonymousId")
    if user is not None and user != "":
        raw, prefix = user, ""
    elif anonymous is not None and anonymous != "":
        raw, prefix = anonymous, "a:"
    else:
        raise Rejected("customer")
    try:
        raw = _text(raw)
    except Rejected:
        raise Rejected("customer") from None
    if "\0" in raw:
        raise Rejected("customer")
    if not prefix and raw.startswith("a:"):
        raise Rejected("customer")
    return prefix + raw, raw


def _field(body: Mapping[str, Any], path: str) -> Any:
    found: Any = body
    for part in path.split("."):
        if found is None:
            return None
        if not isinstance(found, dict):
            raise Rejected("value")
        found = found.get(part)
    return found


def _number(value: Any, low: Decimal, high: Decimal) -> Decimal:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise Rejected("value")
    number = Decimal(repr(float(value)))  # a number is a float64, written as shortly as it can be
    if not number.is_finite() or not low <= number <= high:
        raise Rejected("value")
    return number


def _position(value: Any, declared: Sequence[str]) -> int:
    """Position among the declared values; their number for any other text."""
    return declared.index(value) if value in declared else len(declared)


def _amount(
    measure: Measure, body: Mapping[str, Any], money: Money | None, time: int
) -> float | int | None:
    """What a call at that (clamped) time adds; None if nothing."""
    if measure.kind == "count":
        return 1
    value = _field(body, measure.field or "")
    number = None
    if measure.kind == "sum" and value is not None:
        number = _number(value, Decimal(0), SUM_MAX)
    rate = Decimal(1)
    if measure.money and money is not None:  # judged even where there is no amount
        rate = money.rate(_field(body, money.field), time)
    if value is None:
        return None
    if number is not None:
        exact = decimal.Context(prec=10_000, rounding=decimal.ROUND_HALF_EVEN)
        worth = exact.multiply(number, rate)
        return int(worth.scaleb(measure.decimals, exact).to_integral_value(context=exact))
    if measure.kind == "distinct":
        position = _position(value, measure.values)
        return position if position < len(measure.values) else None
    if measure.kind == "last":
        return float(_number(value, -LAST_MAX, LAST_MAX))
    raise ValueError(measure.kind)


def _trait(trait: Trait, body: Mapping[str, Any]) -> float | None:
    value = _field(body, trait.field)
    if value is None:
        return None
    if trait.kind == "number":
        return float(_number(value, -LAST_MAX, LAST_MAX))
    return float(_position(value, trait.values))


def read_call(
    seen: Envelope,
    *,
    append_time: int,
    first_appended: int,
    default_id: str,
    measures: Sequence[Measure],
    traits: Sequence[Trait],
    money: Money | None,
) -> tuple[Call, str]:
    """The call and its raw id; the partition is checked by the caller, last.

    `first_appended` stands in for a missing time.
    """
    body = seen.body()
    kind = body.get("type")
    if kind == "alias":
        raise Rejected("alias")
    if not isinstance(kind, str) or kind not in CALLS:
        raise Rejected("schema")
    if not all(isinstance(body.get(name), str | None) for name in ("userId", "anonymousId")):
        raise Rejected("customer")
    message_id = body.get("messageId")
    if message_id is None:
        message_id = default_id if seen.id is None else seen.id
    message_id = _text(message_id)
    timestamp = body.get("timestamp")
    if timestamp is None:
        timestamp = seen.time
    time = first_appended if timestamp is None else instant(timestamp)
    event = _text(body.get("event")) if kind == "track" else None
    used = "traits" if kind in ("identify", "group") else "properties"
    for name in (used, "context"):
        if body.get(name) is not None and not isinstance(body[name], dict):
            raise Rejected("schema")
    customer, raw = customer_of(body)
    then = min(time, append_time)
    taken = [measure for measure in measures if measure.takes(kind, event)]
    amounts = {measure.name: _amount(measure, body, money, then) for measure in taken}
    values = {t.name: _trait(t, body) for t in traits} if kind == "identify" else {}
    return Call(customer, event or kind, time, message_id, amounts, values), raw
