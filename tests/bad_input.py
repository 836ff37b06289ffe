"""Everything bad that came to mind, as records of `customer-events`: for the core and for servers.

nst/JSONTestSuite and minimaxir/big-list-of-naughty-strings lie in `data/third_party`. Each entry
says where it comes from; what must become of it, the oracle says (tests/oracle.py).
"""

import base64
import json
import tarfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.oracle_reading import DEEPEST, LARGEST, Headers, size_of
from tests.streams import FORGED, HOPS, HUGE, NO_TIMES

DATA = Path(__file__).parent / "data" / "third_party"
CONFIG_TEXT = """
money = { base = "GBP", rates = { "2000-01-01" = { EUR = 0.85 } } }

[measures.orders]
kind = "count"
events = ["Order"]

[measures.spend]
kind = "sum"
events = ["Order"]
field = "properties.total"
money = true

[measures.newest]
kind = "last"
events = ["Survey"]
field = "context.app.nps score"

[measures.channels]
kind = "distinct"
events = ["Order"]
calls = ["page"]
field = "properties.channel"
values = ["web", "shop"]

[traits.country]
kind = "choice"
values = ["DE", "FR"]

[traits.age]
kind = "number"

[features.orders]
expression = "orders[7d]"

[features.spend]
expression = "spend[7d] + newest + age"

[features.channels]
expression = "channels[7d]"
"""
CONFIG = tomllib.loads(CONFIG_TEXT)
ORDER: dict[str, Any] = {
    "type": "track",
    "event": "Order",
    "userId": "u-1",
    "properties": {"total": 12.5, "currency": "EUR", "channel": "web"},
}
IDENTIFY: dict[str, Any] = {
    "type": "identify",
    "userId": "u-1",
    "traits": {"country": "DE", "age": 35},
}
CLOUD: dict[str, Any] = {"specversion": "1.0", "id": "ce-1", "source": "/shop", "type": "call"}
BINARY: Headers = [("ce_type", b"call"), ("ce_id", b"ce-1"), ("ce_source", b"/shop")]
STRUCTURED: Headers = [("content-type", b"application/cloudevents+json")]
DIGEST = "0a" * 32
MIB = 1 << 20
JUNK: tuple[Any, ...] = (None, True, 0, -1, 1.5, "", "x", [], {}, [ORDER], {"a": 1})


class Sent(NamedTuple):
    """A record that a producer sends, and what it is."""

    what: str
    value: bytes | None
    headers: Headers = ()
    key: bytes | None = None


def text(body: object) -> bytes:
    return json.dumps(body).encode()


def everything() -> list[Sent]:
    """The whole corpus, but for records of 10 MiB (`large`)."""
    parts = (
        json_suite(),
        naughty(),
        shapes(),
        numbers(),
        encodings(),
        deep(MIB // 4),
        envelopes(),
        controls(),
        notes(),
    )
    return [sent for part in parts for sent in part]


# --- sets of others -------------------------------------------------------------------------


def suite() -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each file of JSONTestSuite: y… must parse, n… must not, i… may."""
    with tarfile.open(DATA / "json-test-suite.tar.gz") as files:
        for member in files.getmembers():
            if member.name.endswith(".json"):
                handle = files.extractfile(member)
                assert handle is not None
                yield Path(member.name).name, handle.read()


def places(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """A JSON text as the value, as the properties, and as values that are read or not."""
    yield "value", raw
    yield "unread", b'{"type":"page","userId":"u-1","unread":' + raw + b"}"
    yield "properties", b'{"type":"track","event":"Order","userId":"u-1","properties":' + raw + b"}"
    for name in ("total", "channel", "currency"):
        inside = b'{"total":1,"%s":' % name.encode() + raw + b"}"
        yield name, b'{"type":"track","event":"Order","userId":"u-1","properties":' + inside + b"}"


def json_suite() -> Iterator[Sent]:
    for name, raw in suite():
        for place, value in places(raw):
            yield Sent(f"{name} as {place}", value)
        yield Sent(f"{name} in binary CloudEvents", raw, BINARY)
        event = b'{"specversion":"1.0","id":"i","source":"s","type":"t","data":' + raw + b"}"
        yield Sent(f"{name} in structured CloudEvents", event, STRUCTURED)


def strings() -> list[bytes]:
    """The naughty strings; some are cut within a character."""
    encoded: list[str] = json.loads((DATA / "naughty-strings.base64.json").read_text())
    return [base64.b64decode(entry) for entry in encoded]


def naughty() -> Iterator[Sent]:
    for number, raw in enumerate(strings()):
        string, what = raw.decode(errors="replace"), f"naughty string {number} as "
        order = {**ORDER, "userId": f"u-{number}"}
        yield Sent(what + "value", raw)
        yield Sent(what + "key", text(order), key=raw)
        for name in ("userId", "messageId", "event", "timestamp", "type", "properties", string):
            body = {**order, name: string}
            yield Sent(what + name, json.dumps(body, ensure_ascii=number % 2 == 0).encode())
        yield Sent(what + "anonymousId", text({"type": "page", "anonymousId": string}))
        for name in ("total", "channel", "currency", string):
            yield Sent(what + name, text({**order, "properties": {"total": 1, name: string}}))
        for name in ("country", "age", string):
            yield Sent(what + name, text({**IDENTIFY, "traits": {name: string}}))
        for header in ("ce_type", "ce_id", "ce_time", "ce_source", "content-type", "trace"):
            others = () if header == "ce_type" else BINARY
            yield Sent(what + header, text(order), [*others, (header, raw)])
        if "\0" not in string:
            yield Sent(what + "header name", text(order), [(string, raw)])
        for name in ("id", "time", "type", "source", "specversion", "data"):
            event = {**CLOUD, "data": order, name: string}
            yield Sent(what + f"CloudEvents {name}", text(event), STRUCTURED)


# --- values ---------------------------------------------------------------------------------


def shapes() -> Iterator[Sent]:
    """Tombstones, wrong types in every field, twice the same field, nobody, another's key."""
    for value in (None, b"", b" ", b"null", b"true", b"7", b'"text"', b"[]", b"{}", b"{}{}", b"\0"):
        yield Sent(f"value {value!r}", value)
    for name in (
        "type",
        "userId",
        "anonymousId",
        "messageId",
        "timestamp",
        "event",
        "properties",
        "context",
        "unread",
    ):
        for value in JUNK:
            yield Sent(f"{name} is {value!r}", text({**ORDER, name: value}))
    for name in ("total", "currency", "channel"):
        for value in JUNK:
            yield Sent(
                f"{name} is {value!r}", text({**ORDER, "properties": {"total": 1, name: value}})
            )
    for name in ("country", "age"):
        for value in JUNK:
            yield Sent(f"{name} is {value!r}", text({**IDENTIFY, "traits": {name: value}}))
    for value in JUNK:
        body = {"type": "track", "event": "Survey", "userId": "u-1", "context": {"app": value}}
        yield Sent(f"app is {value!r}", text(body))
    twice = text(ORDER)[:-1]
    for more in (
        b'"userId":"u-2"',
        b'"userId":7',
        b'"type":"page"',
        b'"properties":{"total":-1}',
        b'"properties":{"total":1,"total":2}',
        b'"event":""',
        b'"userId":null',
    ):
        yield Sent(f"twice: {more!r}", twice + b"," + more + b"}")
    yield Sent("alias", text({"type": "alias", "userId": "u-1", "previousId": "u-0"}))
    yield Sent("nobody", text({"type": "page"}))
    yield Sent("no key", text(ORDER))
    yield Sent("the key of another", text(ORDER), key=b"u-2")
    yield Sent("a visitor like a customer", text({**ORDER, "userId": "a:u-1"}))
    yield Sent("a long id", text({**ORDER, "userId": "\N{PILE OF POO}" * 257}))


def numbers() -> Iterator[Sent]:
    """Beyond float64 and int64, not numbers at all, and digits enough to be slow."""
    nines = "9" * 5_000
    for number in (
        "NaN",
        "Infinity",
        "-Infinity",
        "1e400",
        "-1e400",
        "1e-400",
        "1e99999999999999",
        "-0",
        "-0.0",
        "1E9",
        "1000000000.0000001",
        "1000000000.01",
        "1e9",
        "01",
        "+1",
        ".5",
        "1.",
        "0x10",
        "1_000",
        "9" * 4_299,
        "9" * 4_301,
        nines,
        f"-{nines}",
        f"0.{nines}",
        f"{nines}.5",
        f"1e{nines}",
        f"0e{nines}",
        "1e-" + nines,
        "9007199254740993",
        "18446744073709551616",
        "9" * 309,
        "9" * 256,
        "9" * 257,
        "9" * MIB,
    ):
        for place, value in places(number.encode()):
            yield Sent(f"{number[:20]} ({len(number)}) as {place}", value)
        yield Sent(
            f"{number[:20]} as version",
            b'{"version":%s,"digest":"%s"}' % (number.encode(), DIGEST.encode()),
            control("model"),
        )


def encodings() -> Iterator[Sent]:
    """Text that is not UTF-8, lone surrogates, NUL, BOM."""
    plain = json.dumps({**ORDER, "unread": "ü"}, ensure_ascii=False)
    for code in ("utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1", "utf-7"):
        yield Sent(code, plain.encode(code))
    bad = (
        b"\xff",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\xe2\x82",
        b"\0",
        b"\x1f",
        b"\\ud800",
        b"\\udc00\\ud800",
        b"\\u0000",
        b"\\ud83d\\ude00",
        b"\\x",
        b"\\u12",
        b"\x7f",
    )
    for raw in bad:
        for place, value in places(b'"' + raw + b'"'):
            yield Sent(f"text {raw!r} as {place}", value)
        for name in (b"userId", b"messageId", b"event", b"\\u0075serId", raw):
            yield Sent(
                f"text {raw!r} as {name!r}",
                b'{"type":"track","event":"Order","userId":"u-1","' + name + b'":"' + raw + b'"}',
            )
        yield Sent(f"text {raw!r} around", raw + text(ORDER) + raw)


def deep(most: int) -> Iterator[Sent]:
    """Nested up to and beyond the limit, in every place; up to `most` bytes of small objects."""
    for levels in (DEEPEST - 2, DEEPEST - 1, DEEPEST, DEEPEST + 1, 990, 2_000, 100_000):
        for opened, closed in ((b"[", b"]"), (b'{"a":', b"}")):
            for core, end in ((b'"[{"', closed * levels), (b"", b"")):
                raw = opened * levels + core + end
                for place, value in places(raw):
                    yield Sent(f"{levels} x {opened!r}{' open' * (not end)} as {place}", value)
                data = text({**CLOUD, "data": "@"}).replace(b'"@"', raw)
                yield Sent(f"{levels} x {opened!r} as data", data, STRUCTURED)
                yield Sent(f"{levels} x {opened!r} in binary", raw, BINARY)
    for small in (b"{},", b"[],", b'"",', b"1e1,", b"999,"):
        raw = b"[" + small * (most // len(small) - 60) + b"0]"
        for place, value in places(raw):
            yield Sent(f"many {small!r} as {place}", value)


def large() -> Iterator[Sent]:
    """At and above the limits of a record, good ones too; what is above must be compressed."""
    head = text({**ORDER, "unread": "@"})
    forms: list[tuple[str, bytes, Headers]] = [
        ("order", head, ()),
        ("order in CloudEvents", head, BINARY),
        ("order with an id missing", head.replace(b"userId", b"userIt"), ()),
        ("no JSON", head[:-1], ()),
    ]
    for what, body, headers in forms:
        for size in (LARGEST - 70_000, LARGEST, LARGEST + 1):
            room = size - size_of(b"u-1", headers, body) + 1
            value = body.replace(b"@", b"x" * room)
            yield Sent(f"{what} of {size} bytes", value, headers, b"u-1")
    yield Sent("a long key", text(ORDER), (), b"k" * (LARGEST - 1_000))
    yield Sent("a long header", text(ORDER), [("trace", b"h" * (LARGEST - 1_000))])
    yield Sent("garbage", b"\xff" * (LARGEST - 1_000))
    for small in (b"{},", b"1e1,", b"9"):
        raw = b"[" + small * ((LARGEST - 1_000) // len(small)) + b"0]"
        yield Sent(f"many {small!r}", b'{"type":"page","userId":"u-1","properties":' + raw + b"}")
        yield Sent(
            f"many {small!r} unread", b'{"type":"page","userId":"u-1","unread":' + raw + b"}"
        )


# --- around the value -----------------------------------------------------------------------


def envelopes() -> Iterator[Sent]:
    """CloudEvents with attributes that are wrong, missing, null or repeated."""
    wrong: tuple[bytes | None, ...] = (None, b"", b"\xff", b"\0", b"x" * 300, "日本".encode())
    for name in ("ce_type", "ce_id", "ce_time", "ce_source", "ce_specversion", "content-type"):
        for value in wrong:
            yield Sent(f"{name} is {value!r}", text(ORDER), [*BINARY, (name, value)])
            yield Sent(f"{name} alone is {value!r}", text(ORDER), [(name, value)])
            yield Sent(f"{name} was {value!r}", text(ORDER), [(name, value), *BINARY])
    for kind in (
        b"APPLICATION/CloudEvents+JSON",
        b"application/cloudevents-batch+json",
        b"application/cloudevents+avro",
        b"application/json",
        b"text/plain",
    ):
        for body in (ORDER, {**CLOUD, "data": ORDER}, [{**CLOUD, "data": ORDER}]):
            yield Sent(f"{kind!r}", text(body), [("content-type", kind)])
    for name in CLOUD:
        for odd in JUNK:
            yield Sent(f"{name} is {odd!r}", text({**CLOUD, "data": ORDER, name: odd}), STRUCTURED)
        rest = {n: v for n, v in CLOUD.items() if n != name}
        yield Sent(f"without {name}", text({**rest, "data": ORDER}), STRUCTURED)
    for data in (None, 7, "text", [], {}, [ORDER], {"data": ORDER}, {**CLOUD, "data": ORDER}):
        yield Sent(f"data is {data!r}", text({**CLOUD, "data": data}), STRUCTURED)
    yield Sent("without data", text(CLOUD), STRUCTURED)
    yield Sent("data_base64", text({**CLOUD, "data_base64": "e30="}), STRUCTURED)
    for time in ("noon", "", None, 7, "2026-01-01T00:00:00Z", "9999-12-31T23:59:59Z"):
        yield Sent(f"time is {time!r}", text({**CLOUD, "data": ORDER, "time": time}), STRUCTURED)
    yield Sent("thousands of headers", text(ORDER), [(f"h-{i}", b"v") for i in range(5_000)])
    yield Sent("one header thousands of times", text(ORDER), [("ce_type", b"call")] * 5_000)


def control(kind: str) -> Headers:
    return [("ce_type", f"segstream.{kind}".encode()), ("ce_id", b"c")]


def controls() -> Iterator[Sent]:
    """Forged events of segstream itself."""
    versions = (*HUGE, "1", "2", "0", "true", "null", '"1"', str(10**4000), str(2**53), "[1]")
    for version in versions:
        data = b'{"version":%s,"digest":"%s"}' % (version.encode(), DIGEST.encode())
        yield Sent(f"model {version[:25]}", data, control("model"))
        event = text({**CLOUD, "type": "segstream.model", "data": "@"}).replace(b'"@"', data)
        yield Sent(f"model {version[:25]}, structured", event, STRUCTURED)
    for digest in ("", "0" * 63, "G" * 64, DIGEST.upper(), None, 7):
        yield Sent(f"digest {digest!r}", text({"version": 1, "digest": digest}), control("model"))
    times: tuple[Any, ...] = (
        "9999-12-31T23:59:59Z",
        "2200-12-31T23:59:59Z",
        "2201-01-01T00:00:00Z",
        "0001-01-01T00:00:00Z",
        "1970-01-01T00:00:00Z",
        "noon",
        "",
        None,
        7,
        {},
    )
    for time in times:
        yield Sent(f"clock {time!r}", text({"time": time}), control("clock"))
    for kind in ("", "erase", "model.v2", "clock ", "Model", "\N{SNOWMAN}", "x" * 10_000):
        yield Sent(f"control {kind[:20]!r}", text(ORDER), control(kind))
    for value in (
        None,
        b"",
        b"\xff",
        b"[]",
        b"{",
        b"null",
        text({}),
        text({"time": "", "more": 1}),
    ):
        for kind in ("model", "clock"):
            yield Sent(f"{kind} {value!r}", value, control(kind))
    yield Sent(
        "clock, id not UTF-8", text({"time": "noon"}), [*control("clock"), ("ce_id", b"\xff")]
    )
    for wrong in JUNK:
        clock = {**CLOUD, "type": "segstream.clock", "data": wrong}
        yield Sent(f"clock data {wrong!r}", text(clock), STRUCTURED)


def notes() -> Iterator[Sent]:
    """Headers that only segstream itself should write, on calls with and without a fault."""
    found: list[tuple[str, bytes | None]] = [
        *(("segstream.hops", hops) for hops in HOPS),
        *(("segstream.appended", time) for time in NO_TIMES),
        ("segstream.appended", b"2999-01-01T00:00:00Z"),
        ("segstream.appended", b"2026-01-01T00:00:00Z"),
        ("segstream.redriven", b"\xff"),
        *FORGED,
    ]
    for header in found:
        for value in (text(ORDER), text({**ORDER, "userId": "u-2"}), b"{"):
            yield Sent(f"header {header!r}", value, [header])
            yield Sent(
                f"header {header!r} twice", value, [header, ("segstream.hops", b"1"), header]
            )
    ours: Headers = [("segstream.errors.reason", b"json"), ("segstream.errors.size", b"9")]
    yield Sent("as from the dead letters", b"{", ours)
