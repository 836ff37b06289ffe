"""Reading: the fast paths accept nothing that the authority refuses, and all read the same.

The fast paths (`event.py`: the Skimmer, where it is compiled, and msgspec; and msgspec alone) are
held against the authority (`call.py`, pydantic) on calls
with every used field broken in every way that came to mind, on damaged texts, and on what is not
text at all. `SEGSTREAM_CASES` says how many records (default 2,000, in CI 20,000).
"""

import os
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy as Some

from segstream.core.check import define
from segstream.core.event import Columns, Decoded, Reader, Records
from segstream.core.field import Fields
from tests.harness import RETAIL

CASES = int(os.environ.get("SEGSTREAM_CASES") or (20_000 if os.environ.get("CI") else 2_000))
BATCH = 10
APPENDED = 1_795_413_960_123

FULL: dict[str, Any] = {
    "money": {
        "field": "properties.currency",
        "base": "GBP",
        "rates": {"2000-01-01": {"EUR": 0.85}},
    },
    "measures": {
        "orders": {"kind": "count", "events": ["Order Completed"]},
        "views": {"kind": "count", "calls": ["page", "screen", "group"]},
        "spend": {"kind": "sum", "events": ["Order Completed"], "field": "properties.total"},
        "paid": {
            "kind": "sum",
            "events": ["Order Paid"],
            "field": "properties.total",
            "money": True,
        },
        "newest": {
            "kind": "last",
            "events": ["Order Completed", "Survey"],
            "field": "properties.total",
        },
        "channels": {
            "kind": "distinct",
            "events": ["Order Completed"],
            "calls": ["page"],
            "field": "properties.channel",
            "values": ["web", "shop", "Straße"],
        },
        "scores": {"kind": "last", "events": ["Survey"], "field": "context.app.nps score"},
        "classes": {
            "kind": "distinct",
            "events": ["Survey"],
            "field": "context.class",
            "values": ["a", "b"],
        },
    },
    "traits": {
        "country": {"kind": "choice", "values": ["DE", "FR"]},
        "age": {"kind": "number"},
        "size": {"kind": "ordinal", "values": ["S", "M"], "field": "traits.shirt.size"},
    },
    "features": {
        "orders": {"expression": "orders[7d]"},
        "spend": {"expression": "spend[7d] + paid[7d]"},
        "views": {"expression": "views[7d]"},
        "channels": {"expression": "channels[7d]"},
        "classes": {"expression": "classes[7d]"},
        "newest": {"expression": "newest + scores + age + size"},
    },
}


class Watched(Reader):
    """Counts what the fast path takes."""

    taken = 0

    def _fast(self, *arguments: Any) -> list[Columns]:
        parts = super()._fast(*arguments)
        self.taken += sum(len(part.record) for part in parts)
        return parts


class Uncompiled(Reader):
    """Without a Skimmer."""

    def __init__(self, fields: Fields) -> None:
        super().__init__(fields)
        self._skimmer = None


class Authority(Uncompiled):
    """Without a fast path."""

    def _fast(self, *arguments: Any) -> list[Columns]:
        return super()._fast(Records([], [], [], [], []), 0, np.ones(0, bool))


READERS = {
    name: (Watched(fields), Uncompiled(fields), Authority(fields))
    for name, fields in (("retail", Fields(define(RETAIL))), ("full", Fields(define(FULL))))
}

# --- what comes in --------------------------------------------------------------------------
# Texts of JSON, not values: two forms of one value, or none at all, are the point.


def quoted(text: str) -> str:
    """JSON of a text, with only what must be escaped: lone surrogates too."""
    parts = [c if " " <= c <= "\ud7ff" and c not in '"\\' else f"\\u{ord(c):04x}" for c in text]
    return '"' + "".join(parts if max(map(ord, text), default=0) < 0x10000 else [text]) + '"'


WORDS = st.sampled_from(
    [
        "web",
        "DE",
        "S",
        "a",
        "EUR",
        "GBP",
        "",
        "Order",
        "Straße",
        "日本",
        "x" * 257,
        "nul\0",
        "\ud800",
    ]
)
TEXTS = st.one_of(WORDS, st.text(max_size=5)).map(quoted)
NUMBERS = st.one_of(
    st.sampled_from(
        [
            "0",
            "-0",
            "1",
            "49.90",
            "1e9",
            "1E9",
            "1000000000",
            "1000000000.01",
            "1000000000.00000000000000001",
            "-0.01",
            "-1e-400",
            "1e-400",
            "1e400",
            "-1e400",
            "NaN",
            "Infinity",
            "-Infinity",
            "1.",
            "01",
            "+1",
            ".5",
            "1e",
            "0x1",
            "1e12",
            "-1e12",
            "1000000000000.5",
            "1000000000000.00001",
            "9007199254740993",
            "12345678901234567890",
            "0.1e1",
            "2.675",
            "1_000",
        ]
    ),
    st.sampled_from(["1" * 300, "-" + "9" * 400, "0." + "1" * 400, "1e99999999999999999999"]),
    st.floats().map(repr),
    st.integers(-(10**13), 10**13).map(str),
)
ATOMS = st.one_of(NUMBERS, TEXTS, st.sampled_from(["null", "true", "false", "[]", "{}"]))
NAMES = ["total", "channel", "currency", "app", "nps score", "class", "country", "age", "shirt"]


def objects(fields: Some[str]) -> Some[str]:
    """An object with some of the names that are read, perhaps twice, and others."""
    names = st.one_of(st.sampled_from([*NAMES, "size"]).map(quoted), TEXTS)
    pairs = st.lists(st.tuples(names, fields), max_size=4)
    return pairs.map(lambda found: "{" + ",".join(f"{n}:{v}" for n, v in found) + "}")


JUNK = st.recursive(
    ATOMS,
    lambda inner: objects(inner) | st.lists(inner, max_size=3).map(lambda v: f"[{','.join(v)}]"),
    max_leaves=6,
)


SOUND = st.recursive(
    st.one_of(
        st.floats(allow_nan=False, allow_infinity=False).map(repr),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5).map(quoted),
        st.sampled_from(["null", "true", "[]", "{}", "1e400", "12345678901234567890"]),
    ),
    lambda inner: st.lists(inner, max_size=3).map(lambda v: f"[{','.join(v)}]"),
    max_leaves=4,
)


def mostly(good: Some[str], bad: Some[str] = JUNK, odds: int = 12) -> Some[str]:
    # not at an end of the range: Hypothesis is fond of these
    return st.integers(0, odds).flatmap(lambda n: bad if n == odds // 2 else good)


def fields(name: str) -> Some[str]:
    """Properties, traits or a context: right values mostly, in any order, any of them missing."""
    money = st.sampled_from(["49.90", "0", "1e9", "12", "1E2", "0.005"])
    good: dict[str, dict[str, Some[str]]] = {
        "properties": {
            "total": mostly(money, NUMBERS),
            "channel": mostly(st.sampled_from(['"web"', '"Straße"', '"fax"', "null"])),
            "currency": mostly(st.sampled_from(['"GBP"', '"EUR"', "null"])),
        },
        "traits": {
            "country": mostly(st.sampled_from(['"DE"', '"FR"', '"IT"', "null"])),
            "age": mostly(st.sampled_from(["35", "35.5", "-1e12"]), NUMBERS),
            "shirt": mostly(st.sampled_from(['{"size":"M"}', '{"size":"?"}', "{}", "null"])),
        },
        "context": {
            "app": mostly(st.sampled_from(['{"nps score":9}', '{"nps score":null}', "{}", "null"])),
            "class": mostly(st.sampled_from(['"a"', '"z"', "null", "7"])),
        },
    }
    some = [st.one_of(st.none(), value.map(lambda v, n=n: f"{quoted(n)}:{v}"))  # type: ignore[misc]
            for n, value in good[name].items()]  # fmt: skip
    return st.tuples(*some).map(lambda found: "{" + ",".join(filter(None, found)) + "}")


TIMES = st.one_of(
    st.datetimes().map(lambda at: at.isoformat() + "Z"),
    st.builds(
        "{}-{}-{}{}{}:{}:{}{}{}".format,
        st.sampled_from(["2026", "1970", "1969", "2200", "2201", "0000", "9999", "2024", "226"]),
        st.sampled_from(["01", "02", "12", "00", "13", "1"]),
        st.sampled_from(["01", "29", "30", "31", "00", "32"]),
        st.sampled_from("Tt _"),
        st.sampled_from(["00", "23", "24"]),
        st.sampled_from(["00", "59", "60"]),
        st.sampled_from(["00", "59", "60"]),
        st.sampled_from(["", ".", ".1", ".999", ".9999995", ".0009994", ".123456789012"]),
        st.sampled_from(["Z", "z", "", "+00:00", "-00:00", "+0100", "-23:59", "+24:00", "+01"]),
    ),
).map(quoted)
GOOD_TIMES = st.sampled_from(
    ['"2026-11-23T06:06:00.123Z"', '"2026-11-23 06:06:00+0100"', '"1970-01-01T00:00:00Z"', "null"]
)
IDS = st.sampled_from(["u-1", "u-2", "a", "A:1", "😀", "x" * 256, "a:1"]).map(quoted)


@st.composite
def calls(draw: st.DrawFn) -> str:
    """The JSON text of a call: usually valid but for one or two places."""
    kind = draw(st.sampled_from(["track", "track", "track", "identify", "page", "screen", "group"]))
    event = mostly(st.sampled_from(['"Order Completed"', '"Order Paid"', '"Survey"', '"Other"']))
    parts = {
        "type": draw(mostly(st.just(quoted(kind)), TEXTS | st.just('"alias"'), 30)),
        "userId": draw(mostly(IDS, JUNK | TEXTS)),
        "anonymousId": draw(mostly(IDS | st.just("null"), JUNK | TEXTS)),
        "messageId": draw(mostly(st.sampled_from(['"m-1"', "null"]), JUNK | TEXTS, 20)),
        "timestamp": draw(mostly(GOOD_TIMES, TIMES | JUNK, 4)),
        "event": draw(event if kind == "track" else SOUND),
        "context": draw(mostly(fields("context"), JUNK, 20)),
    }
    for name in ("properties", "traits"):
        used = (name == "traits") == (kind in ("identify", "group"))
        parts[name] = draw(mostly(fields(name) if used else SOUND, JUNK, 20))
    parts["unread"] = draw(mostly(SOUND))
    written = [f"{quoted(name)}:{value}" for name, value in parts.items() if draw(KEPT[name])]
    if draw(st.integers(0, 20)) == 10 and written:  # a key twice: the last one counts
        written.append(f"{quoted(draw(st.sampled_from(list(parts))))}:{draw(JUNK | IDS)}")
    if draw(st.booleans()):
        written.reverse()
    return "{" + draw(st.sampled_from([",", ", ", ",\n"])).join(written) + "}"


KEPT = dict.fromkeys(
    ["userId", "anonymousId", "messageId", "timestamp", "context", "properties", "traits"],
    st.integers(0, 6).map(lambda n: n != 3),
) | dict.fromkeys(["type", "event", "unread"], st.integers(0, 20).map(lambda n: n != 10))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A call's bytes with a cut, or some bytes replaced, put in or nested."""
    value = draw(calls()).encode(errors="replace")
    at = draw(st.integers(0, max(0, len(value) - 1)))
    match draw(st.sampled_from(["cut", "replace", "insert", "nest", "behind"])):
        case "cut":
            return value[:at]
        case "replace":
            return value[:at] + bytes([draw(st.integers(0, 255))]) + value[at + 1 :]
        case "insert":
            return value[:at] + draw(st.binary(min_size=1, max_size=3)) + value[at:]
        case "nest":
            depth = draw(st.sampled_from([10, 400, 500, 501, 900, 2_000, 100_000]))
            opened = draw(st.sampled_from([b"[", b'{"a":']))
            closed = b"]" if opened == b"[" else b"}"
            filled = b"" if opened == b"[" else b"0"
            return b'{"deep":' + opened * depth + filled + closed * depth + b"," + value[1:]
        case _:
            return value + draw(st.sampled_from([b" ", b"\n", b"x", b"{}", b"\0", b"\xef\xbb\xbf"]))


VALUES = st.integers(0, 9).flatmap(
    lambda n: st.one_of(st.none(), st.binary(max_size=20)) if n == 4
    else damaged() if n == 6
    else calls().map(lambda text: text.encode(errors="replace"))
)  # fmt: skip
HEADERS = st.sampled_from(
    [None, None, None, None, [], [("trace", b"\xff")], [("content-type", b"application/json")]]
)

# --- the fast path and the authority --------------------------------------------------------


def assert_equal(found: Decoded, wanted: Decoded) -> None:
    """All columns, by the customer that a code stands for; controls and rejects with messages."""
    mine, theirs = found.events, wanted.events
    for name in ("record", "time", "kind", "values"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(theirs, name), name)
    assert [mine.customers[c] for c in mine.code] == [theirs.customers[c] for c in theirs.code]
    assert sorted(mine.customers) == sorted(theirs.customers)
    assert (mine.messages, mine.names) == (theirs.messages, theirs.names)
    assert (found.controls, found.rejects) == (wanted.controls, wanted.rejects)


def assert_read_alike(reader: str, values: list[bytes | None], headers: list[Any]) -> None:
    *fast, authority = READERS[reader]
    numbers = range(7, 7 + len(values))
    records = Records(
        list(numbers), [APPENDED] * len(values), values, headers, [None] * len(values)
    )
    for partitions in (1, 3):
        arguments = (records, 0, partitions, "murmur2")
        wanted = authority.decode(*arguments)  # type: ignore[arg-type]
        for one in fast:
            assert_equal(one.decode(*arguments), wanted)  # type: ignore[arg-type]


def test_the_fast_path_accepts_what_the_authority_accepts_and_reads_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("segstream.core.event.AT_ONCE", 4)  # and so in more than one piece
    monkeypatch.setattr("segstream.core.times.FEW", 1)
    total: Counter[str] = Counter()
    before = READERS["full"][0].taken

    @settings(max_examples=CASES // BATCH, suppress_health_check=list(HealthCheck))
    @given(
        st.lists(st.tuples(VALUES, HEADERS), min_size=BATCH, max_size=BATCH),
        st.sampled_from(["full", "full", "full", "retail"]),
    )
    def check(records: list[tuple[bytes | None, Any]], reader: str) -> None:
        total[reader] += len(records)
        assert_read_alike(reader, [v for v, _ in records], [h for _, h in records])

    check()
    assert total.total() >= CASES * 0.9
    taken = READERS["full"][0].taken - before
    # Both partition counts are read: every record comes twice.
    assert 0.2 < taken / (2 * total["full"]) < 0.9, "the fast path must be taken, and not always"


def test_a_measure_may_read_what_its_calls_do_not_declare() -> None:
    """Of `identify` the specification knows no properties; who measures them gets them."""
    body = {**FULL, "measures": {**FULL["measures"]}}
    of_calls = {"kind": "last", "calls": ["identify"], "field": "properties.total"}
    body["measures"]["newest"] = of_calls
    fields = Fields(define(body))
    READERS["calls"] = (Watched(fields), Uncompiled(fields), Authority(fields))
    for properties in ('{"total":5}', '{"total":"5"}', "5", "null", "{}"):
        value = f'{{"type":"identify","userId":"u","properties":{properties}}}'.encode()
        assert_read_alike("calls", [value], [None])


@pytest.mark.parametrize(
    "again",
    [
        *('"properties":{}', '"properties":null', '"properties":{"total":7}', '"messageId":null'),
        *('"userId":null,"anonymousId":"a"', '"timestamp":null', '"event":"Other"', '"type":null'),
    ],
)
def test_of_a_name_told_twice_the_last_one_counts(again: str) -> None:
    call = '"type":"track","userId":"u","messageId":"m","event":"Order Completed"'
    fields = '"timestamp":"2026-11-23T06:06:00.123Z","properties":{"total":5,"channel":"web"}'
    assert_read_alike("full", [f"{{{call},{fields},{again}}}".encode()], [None])


TRACK = '{{"type":"track","userId":"u","event":"{}","properties":{{{}}}}}'


@pytest.mark.parametrize("event", ["Order Completed", "Order Paid", "Survey"])
@pytest.mark.parametrize(
    "number",
    [
        *("0", "-0", "-0.0", "1e9", "1000000000.01", "-1e-400", "1e-400", "1e400", "1e12", "-1e12"),
        *("0.005", "true"),
        *("1000000000.00000000000000001", "1000000000000.00001", "-0.00000001", "1" * 400),
        *('"1"', "null", "[]", "{}", "NaN", "01", "1.", "9007199254740993", "1e99999999999999999"),
    ],
)
def test_numbers_at_the_bounds(event: str, number: str) -> None:
    """A number is read as a float64, and judged as such, on both ways."""
    value = TRACK.format(event, f'"total":{number}').encode()
    assert_read_alike("full", [value], [None])


@given(st.text(max_size=300))
@example("\0")
@example("a:")
@example("")
@example("x" * 257)
def test_any_text_as_an_id(text: str) -> None:
    for name in ("userId", "anonymousId", "messageId", "event"):
        body = {"type": '"track"', "userId": '"u"', "event": '"Survey"', name: quoted(text)}
        if name == "anonymousId":
            del body["userId"]
        value = "{" + ",".join(f'"{n}":{v}' for n, v in body.items()) + "}"
        assert_read_alike("full", [value.encode(errors="replace")], [None])
