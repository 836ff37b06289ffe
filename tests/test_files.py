"""Files as calls: each format, what a mapping may say, its mistakes, and the retail year."""

import csv
import gzip
import hashlib
import io
import json
import lzma
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from pyarrow import parquet

from segstream.core.mapping import Mapping, MappingError, parse
from segstream.core.table import Numbered
from segstream.shell import files
from segstream.shell.files import FileError

PRESETS = Path(files.__file__).parents[1] / "presets"
YEAR, YEAR_MAPPING = PRESETS / "retail-year.csv.xz", PRESETS / "retail-year.toml"

ORDERS = """
user_id = "customer"
group_by = "order"
timestamp = { column = "at", format = "%d.%m.%Y %H:%M", zone = "Europe/Berlin" }

[[calls]]
event = "Product Added"
when = [{ column = "order", begins = "C", not = true }]
properties = { price = { column = "price", type = "number" }, sku = "sku", shop = { value = 7 } }

[[calls]]
per = "group"
event = "Order Completed"
message_id = "order"
properties.total = { sum = ["price", "quantity"] }
"""
SHOP = """order,customer,at,sku,price,quantity
1,ann,24.12.2025 00:30,"a, b",0.10,3
1,ann,24.12.2025 00:30,c,0.20,3
C2,,24.12.2025 00:31,,-5,1
"""


def write(path: Path, text: str) -> Path:
    data = text.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data)
    elif path.suffix == ".xz":
        data = lzma.compress(data)
    path.write_bytes(data)
    return path


def bodies(found: list[Numbered]) -> list[dict[str, Any]]:
    return [json.loads(value) for _, _, _, value in found]


def test_json_lines_are_calls_byte_for_byte(tmp_path: Path) -> None:
    lines = [
        b'{"type":"track", "userId":"u","timestamp":"2026-01-01T01:00:00+01:00"}',
        b"",
        b'{"anonymousId":"x","timestamp":"2025-12-31T23:59:59.9999Z"}\r',
        b'{"userId":7,"anonymousId":"y","timestamp":"2026-01-01"}',
        b"not JSON \xff",
        b'{"userId":"' + b"x" * 257 + b'"}',
        b"[" * 100_000,
        b'{"userId":"","timestamp":null}',
    ]
    wanted = [
        (1, 1767225600000, "u", lines[0]),
        (3, 1767225599999, "x", lines[2]),
        (4, None, "y", lines[3]),
        *((n, None, None, lines[n - 1]) for n in (5, 6, 7, 8)),
    ]
    for suffix, pack in (
        (".jsonl", bytes),
        (".jsonl.gz", gzip.compress),
        (".ndjson.xz", lzma.compress),
    ):
        path = tmp_path / f"calls{suffix}"
        path.write_bytes(pack(b"\n".join(lines)))
        assert list(files.calls(path)) == wanted
        assert files.count(path) == len(wanted)


@pytest.mark.parametrize("name", ["shop.csv", "shop.csv.gz", "shop.csv.xz"])
def test_rows_and_groups_of_a_csv_file(tmp_path: Path, name: str) -> None:
    path, mapping = write(tmp_path / name, SHOP), parse(ORDERS)
    found = list(files.calls(path, mapping))
    at = int(datetime(2025, 12, 23, 23, 30, tzinfo=UTC).timestamp() * 1000)
    assert [call[:3] for call in found] == [
        (1, at, "ann"), (2, at, "ann"), (3, at, "ann"), (4, at + 60_000, None),
    ]  # fmt: skip
    first, second, order, cancelled = bodies(found)
    assert first.pop("messageId") != second["messageId"]
    assert first == {
        "type": "track",
        "event": "Product Added",
        "userId": "ann",
        "timestamp": "2025-12-23T23:30:00.000Z",
        "properties": {"price": 0.1, "sku": "a, b", "shop": 7},
    }
    assert (order["messageId"], order["properties"]) == ("1", {"total": 0.9})
    assert cancelled["properties"] == {"total": -5}
    assert "userId" not in cancelled
    assert files.count(path, mapping) == len(found)


def test_the_same_rows_as_json_lines_and_parquet(tmp_path: Path) -> None:
    mapping = parse(ORDERS.replace(', format = "%d.%m.%Y %H:%M", zone = "Europe/Berlin"', ""))
    at = datetime(2025, 12, 23, 23, 30, tzinfo=UTC)
    rows: list[dict[str, Any]] = [
        {"order": 1, "customer": "ann", "at": at, "sku": "c", "price": 0.1, "quantity": 3},
        {"order": 1, "customer": "ann", "at": at, "sku": None, "price": 0.2, "quantity": 3},
        {"order": 2, "customer": None, "at": None, "sku": "d", "price": 1.0, "quantity": 1},
    ]
    table = pa.table({name: [row[name] for row in rows] for name in rows[0]})
    fine = table.set_column(2, "at", table["at"].cast(pa.timestamp("ns", "UTC")))
    parquet.write_table(fine, tmp_path / "rows.parquet", version="2.6")
    text = "\n".join(json.dumps(row | {"at": row["at"] and row["at"].isoformat()}) for row in rows)
    write(tmp_path / "rows.jsonl", text)
    of_parquet = list(files.calls(tmp_path / "rows.parquet", mapping))
    of_json = list(files.calls(tmp_path / "rows.jsonl", mapping))
    assert [call[:3] for call in of_parquet] == [call[:3] for call in of_json]
    assert [call[2] for call in of_json] == ["ann", "ann", "ann", None, None]
    for one, other in zip(bodies(of_parquet), bodies(of_json), strict=True):
        if one["event"] == "Product Added":  # the digests are those of the forms
            assert one.pop("messageId") != other.pop("messageId")
        assert one == other
    assert bodies(of_json)[2]["properties"] == {"total": 0.9}
    assert files.count(tmp_path / "rows.parquet", mapping) == 5


def test_dirt_is_passed_on(tmp_path: Path) -> None:
    text = (
        "order,customer,at,sku,price,quantity\n1,ann,soon,,cheap,1\n\n2,bob\n3,c,,s,1e999,1,more\n"
    )
    path, mapping = write(tmp_path / "dirt.csv", text), parse(ORDERS)
    found = list(files.calls(path, mapping))
    assert [(call[1], call[2]) for call in found] == [
        (None, raw) for raw in ("ann", "ann", "bob", "bob", "c", "c")
    ]
    calls = bodies(found)
    assert calls[0]["timestamp"] == "soon"
    assert calls[0]["properties"] == {"price": "cheap", "shop": 7}
    assert calls[1]["properties"] == {"total": "cheap"}
    assert calls[3]["properties"] == {"total": 0.0}
    assert calls[4]["properties"]["price"] == "1e999"


def test_a_group_ends_with_its_key_or_its_customer(tmp_path: Path) -> None:
    rows = [("1", "ann"), ("1", "bob"), ("2", "bob"), ("", "bob"), ("2", "bob"), ("2", "bob")]
    text = "".join(f"{order},{customer},,,1,1\n" for order, customer in rows)
    path = write(tmp_path / "groups.csv", SHOP.splitlines()[0] + "\n" + text)
    mapping = parse(ORDERS)
    orders = [b for b in bodies(list(files.calls(path, mapping))) if b["event"] != "Product Added"]
    assert [(b["messageId"], b["userId"], b["properties"]["total"]) for b in orders] == [
        ("1", "ann", 1), ("1", "bob", 1), ("2", "bob", 1), ("2", "bob", 2),
    ]  # fmt: skip
    assert files.count(path, mapping) == 10


def test_traits_conditions_types_and_digests(tmp_path: Path) -> None:
    mapping = parse("""
        anonymous_id = "device"
        timestamp = { column = "ms", format = "milliseconds" }
        delimiter = ";"
        [[calls]]
        type = "identify"
        when = [{ column = "plan", present = true }, { column = "kind", equals = "sign-up" }]
        [calls.traits]
        plan = "plan"
        age = { column = "age", type = "integer" }
        new = { column = "new", type = "boolean" }
        [[calls]]
        event_column = "kind"
        when = [{ column = "plan", present = false }]
        """)
    text = "device;ms;kind;plan;age;new\nd1;1500;sign-up;pro;30;TRUE\n" + "d1;2500;seen;;;\n" * 2
    found = list(files.calls(write(tmp_path / "x.csv", text), mapping))
    assert [call[:3] for call in found] == [(1, 1500, "d1"), (2, 2500, "d1"), (3, 2500, "d1")]
    first, second, third = bodies(found)
    assert first["traits"] == {"plan": "pro", "age": 30, "new": True}
    assert first["anonymousId"] == "d1"
    assert first["timestamp"] == "1970-01-01T00:00:01.500Z"
    assert second["event"] == "seen"
    assert second["messageId"] == third["messageId"]  # equal rows are duplicates


def test_all_mistakes_of_a_mapping_are_named_at_once() -> None:
    with pytest.raises(MappingError) as caught:
        parse("""
            user = "customer"
            timestamp = { column = "at", format = "%H:%M", zone = "UTC" }
            [[calls]]
            type = "track"
            properties.total = { sum = ["a"], abs = "very" }
            [[calls]]
            type = "page"
            event = "Home"
            [[calls]]
            event = "Bought"
            when = [{ column = "a" }]
            properties.price = { column = "p", value = 1 }
            """)
    told = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in told] == [
        "timestamp", "calls.0.properties.total.abs", "calls.1", "calls.2.when.0",
        "calls.2.properties.price", "user",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("Europe/Berlin", "Berlin"), "timestamp: zone 'Berlin'"),
        (("%d.%m.%Y", "%Q"), "timestamp: format"),
        (('user_id = "customer"', ""), "mapping: give user_id or anonymous_id"),
        (('group_by = "order"', ""), "mapping: per = 'group' needs group_by"),
        (('user_id = "customer"', "user_id = "), "not TOML"),
        (('user_id = "customer"', 'user_id = "customer"\nencoding = "x"'), "mapping: encoding 'x'"),
        (('{ column = "price", type = "number" }', '{ sum = ["price"] }'), "calls.0: a sum"),
    ],
)
def test_mistakes_of_a_mapping(change: tuple[str, str], told: str) -> None:
    assert change[0] in ORDERS
    with pytest.raises(MappingError) as caught:
        parse(ORDERS.replace(*change))
    assert str(caught.value).startswith(told)


def test_columns_that_are_not_there_are_named_at_once(tmp_path: Path) -> None:
    path = write(tmp_path / "shop.csv", "order,customer,at\n")
    with pytest.raises(MappingError) as caught:
        list(files.calls(path, parse(ORDERS)))
    told = str(caught.value)
    for key in ("calls.0.properties.price: no column 'price'", "calls.1.properties.total.sum"):
        assert key in told
    assert str(path) in told
    assert told.endswith("columns are: order, customer, at")


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("x.csv", b"", "no column"),
        ("x.txt", b"", "must end in"),
        ("x.csv.gz", b"no", "x.csv.gz"),
        ("x.csv.xz", b"no", "x.csv.xz"),
        ("x.parquet", b"no", "x.parquet"),
        ("x.jsonl", b"[]", "line 1"),
        ("x.csv", SHOP.encode() + b"\xff", "encoding"),
        ("x.csv", SHOP.encode() + b"x" * 200_000, "line 5"),
        ("absent/x.csv", None, "No such file"),
    ],
)
def test_files_that_cannot_be_read(
    tmp_path: Path, name: str, data: bytes | None, told: str
) -> None:
    path = tmp_path / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises((FileError, MappingError), match=told):
        list(files.calls(path, parse(ORDERS)))


def test_a_table_without_a_mapping_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "x.csv", SHOP)
    for read in (lambda: list(files.calls(path)), lambda: files.count(path)):
        with pytest.raises(FileError, match="without a mapping"):
            read()


def test_the_digest_is_that_of_file_and_mapping(tmp_path: Path) -> None:
    path = write(tmp_path / "x.jsonl", "{}\n")
    mapping = parse(ORDERS)
    assert files.digest(path) == hashlib.sha256(b"{}\n").hexdigest()
    assert files.digest(path, mapping) != files.digest(path)
    assert files.digest(path, mapping) == files.digest(path, parse("# a comment\n" + ORDERS))
    assert files.digest(path, mapping) != files.digest(path, parse(ORDERS.replace("sku", "SKU")))


# The retail year


class Properties(msgspec.Struct, frozen=True):
    total: float = 0.0


class Known(msgspec.Struct, rename="camel"):
    """What the tests look at."""

    event: str
    message_id: str
    user_id: str | None = None
    properties: Properties = Properties()


@dataclass
class Year:
    """What one reading of the retail year finds."""

    lines: int = 0
    first: int = 0
    last: int = 0
    in_order: bool = True
    events: Counter[str] = field(default_factory=Counter)
    of_nobody: Counter[str] = field(default_factory=Counter)
    #: messageIds of lines, with repeats; of invoices, with their totals
    added: list[str] = field(default_factory=list)
    totals: dict[str, float] = field(default_factory=dict)


@cache
def year() -> Year:
    found, decode = Year(), msgspec.json.Decoder(Known).decode
    for line, ms, raw, value in files.calls(YEAR, year_mapping()):
        call = decode(value)
        assert (line, raw, ms is None) == (found.lines + 1, call.user_id, False)
        found.lines, found.first = line, found.first or ms or 0
        found.in_order &= (ms or 0) >= found.last
        found.last = ms or 0
        found.events[call.event] += 1
        found.of_nobody[call.event] += raw is None
        if call.event == "Product Added":
            found.added.append(call.message_id)
        else:
            found.totals[call.message_id] = call.properties.total
    return found


def year_mapping() -> Mapping:
    return files.load_mapping(YEAR_MAPPING)


@cache
def source_rows() -> list[list[str]]:
    """The source file's rows, header first, made from the copy without anything of segstream."""
    with lzma.open(YEAR, "rt", encoding="utf-8", newline="") as text:
        rows = list(csv.reader(text))
    for row, above in zip(rows[1:], rows, strict=False):
        if not row[0]:
            row[:4] = above[:4]
        else:
            row[1] += ":00"
            row[2] += ".0" if row[2] else ""
    apart = [i for i, row in enumerate(rows) if row[0] in ("542806", "C542805")]
    begin = apart[0]
    rows[begin : begin + 6] = rows[begin + 2 : begin + 6] + rows[begin : begin + 2]
    # InvoiceNo, InvoiceDate, CustomerID, Country, StockCode, Description, UnitPrice, Quantity
    return [[row[i] for i in (0, 4, 5, 7, 1, 6, 2, 3)] for row in rows]


def test_the_retail_year_holds_its_source_byte_for_byte() -> None:
    """The licence file names what was changed: undoing just that gives the source."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(source_rows())
    found = hashlib.sha256(text.getvalue().encode()).hexdigest()
    assert found == "c35975c40d0e1e105090fbb11188a409393055f873841bd012915475fc84e69f"


def test_the_retail_year() -> None:
    assert YEAR.stat().st_size < 1_700_000
    found = year()
    assert found.lines == files.count(YEAR, year_mapping()) == 558_521
    assert found.in_order
    assert found.first == datetime(2010, 12, 1, 8, 26, tzinfo=UTC).timestamp() * 1000
    assert found.last == datetime(2011, 12, 9, 12, 50, tzinfo=UTC).timestamp() * 1000
    assert found.events == {
        "Product Added": 532_621, "Order Completed": 22_064, "Order Refunded": 3_836,
    }  # fmt: skip
    assert found.of_nobody == {
        "Product Added": 134_697, "Order Completed": 3_528, "Order Refunded": 182,
    }  # fmt: skip
    # 5,268 rows of the source repeat another exactly; 37 of them are of cancellations.
    assert len(found.added) - len(set(found.added)) == 5_231
    assert len(found.totals) == 25_900
    negative = {invoice for invoice, total in found.totals.items() if total < 0}
    assert negative == {"A563186", "A563187"}
    assert not set(found.added) & set(found.totals)


def test_the_retail_calls_are_those_of_the_source() -> None:
    rows = source_rows()[1:]
    lines = [tuple(row) for row in rows if not row[0].startswith("C")]
    totals: dict[str, Decimal] = {}
    for invoice, _, _, quantity, _, price, *_ in rows:
        totals[invoice] = totals.get(invoice, Decimal(0)) + Decimal(quantity) * Decimal(price)
    found = year()
    assert len(found.added) == len(lines)
    assert len(set(found.added)) == len(set(lines))
    assert found.totals.keys() == totals.keys()
    for invoice, total in totals.items():
        wanted = abs(total) if invoice.startswith("C") else total
        assert Decimal(repr(found.totals[invoice])) == wanted
