"""Makes the compact copy of the Online Retail year that ships with segstream.

    python scripts/compact_retail.py online-retail.csv.gz

Every row and every cell stays. The copy is small because the four cells that an invoice's rows
share are written once (`repeat` in the mapping), and constant ends are cut off: the seconds of
InvoiceDate, which are all zero, and the `.0` of CustomerID. Rows of one invoice that stand apart
within the same minute are put together, which keeps the order of time.

The same input gives the same bytes with the same liblzma. Prints SHA-256 sums.
"""

import argparse
import csv
import gzip
import hashlib
import io
import lzma
from itertools import pairwise
from pathlib import Path

TARGET = Path(__file__).parent.parent / "segstream" / "presets" / "retail-year.csv.xz"
SHARED = ["InvoiceNo", "InvoiceDate", "CustomerID", "Country"]
COLUMNS = [*SHARED, "StockCode", "Description", "UnitPrice", "Quantity"]
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "preset": 9 | lzma.PRESET_EXTREME,
        "lc": 4,
        "lp": 0,
        "pb": 0,  # text: no alignment
        "dict_size": 32 << 20,
        "nice_len": 273,
    }
]
Row = dict[str, str]


def cut(row: Row) -> Row:
    """The row without the ends that never differ."""
    date, customer = row["InvoiceDate"], row["CustomerID"]
    if not date.endswith(":00") or (customer and not customer.endswith(".0")):
        raise SystemExit(f"unexpected cells: {row}")
    return row | {"InvoiceDate": date[:-3], "CustomerID": customer.removesuffix(".0")}


def together(rows: list[Row]) -> list[Row]:
    """The rows in the order of time, with those of an invoice adjacent.

    An invoice of several minutes stands at its last row within the first minute and at its first
    row within the last, as far as one invoice does so; the check after it covers the rest.
    """
    first: dict[str, int] = {}
    for i, row in enumerate(rows):
        first.setdefault(row["InvoiceNo"], i)
    last_minute = {row["InvoiceNo"]: row["InvoiceDate"] for row in rows}

    def place(row: Row) -> tuple[str, int, int]:
        leaves = last_minute[row["InvoiceNo"]] > row["InvoiceDate"]
        enters = rows[first[row["InvoiceNo"]]]["InvoiceDate"] < row["InvoiceDate"]
        return row["InvoiceDate"], leaves - enters, first[row["InvoiceNo"]]

    ordered = sorted(rows, key=place)
    runs = sum(a["InvoiceNo"] != b["InvoiceNo"] for a, b in pairwise(ordered))
    if runs + 1 != len(first):
        raise SystemExit("some invoice could not be made adjacent within the order of time")
    return ordered


def written(rows: list[Row]) -> bytes:
    """CSV in which shared cells that equal those of the row above are empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    above: list[str] = []
    for row in rows:
        shared = [row[name] for name in SHARED]
        cells = [""] * len(SHARED) if shared == above else shared
        writer.writerow(cells + [row[name] for name in COLUMNS[len(SHARED) :]])
        above = shared
    return text.getvalue().encode()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("source", type=Path, help="online-retail.csv.gz")
    parser.add_argument("--target", type=Path, default=TARGET)
    arguments = parser.parse_args()
    raw = gzip.decompress(arguments.source.read_bytes())
    rows = [cut(row) for row in csv.DictReader(io.StringIO(raw.decode(), newline=""))]
    if any(a["InvoiceDate"] > b["InvoiceDate"] for a, b in pairwise(rows)):
        raise SystemExit("the source is not in the order of time")
    plain = written(together(rows))
    packed = lzma.compress(plain, check=lzma.CHECK_CRC64, filters=FILTERS)
    arguments.target.write_bytes(packed)
    print(f"{hashlib.sha256(raw).hexdigest()}  source, {len(rows)} rows, {len(raw)} bytes")
    print(f"{hashlib.sha256(plain).hexdigest()}  copy, {len(plain)} bytes")
    print(f"{hashlib.sha256(packed).hexdigest()}  {arguments.target.name}, {len(packed)} bytes")


if __name__ == "__main__":
    main()
