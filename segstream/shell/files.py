"""Reads a file as Segment Spec calls.

JSON Lines are calls as they are, byte for byte. With a mapping, CSV, JSON Lines and Parquet are
tables whose rows become calls. The name decides the format: `.jsonl`, `.ndjson` or `.csv`, each
also with `.gz` or `.xz`, and `.parquet`.

Calls come as (line, ms, raw id, value): line is the number of the line in JSON Lines without a
mapping (empty lines are skipped), else the number of the call; from 1, rising, and the same at
every reading, so a resumed replay knows them again. ms and raw id are None where the call has
none that can be used; the call is sent all the same.
"""

import csv
import gzip
import hashlib
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Annotated, Any, cast

import msgspec

from segstream.core import mapping as mappings
from segstream.core.mapping import Mapping, MappingError
from segstream.core.table import Numbered, Row, Table, raw_id

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_Opened = tuple[Table, Iterable[Row]]


class FileError(ValueError):
    """A file that cannot be read as calls."""


def load_mapping(path: Path) -> Mapping:
    """A mapping file. Raises MappingError with the path and all mistakes, one a line."""
    try:
        return mappings.parse(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise MappingError(f"{path}:\n{error}") from None


def calls(path: Path, mapping: Mapping | None = None) -> Iterator[Numbered]:
    """The file's calls in order. Raises FileError or MappingError, at the first call at the latest
    for what is wrong with the file as a whole."""
    with _explained(path):
        if mapping is None:
            yield from _as_they_are(path)
        else:
            with _table(path, mapping) as (table, rows):
                yield from table.calls(rows)


def count(path: Path, mapping: Mapping | None = None) -> int:
    """How many calls the file holds; reads it once, about three times as fast as `calls`."""
    with _explained(path):
        if mapping is None:
            with _lines(path) as file:
                return sum(1 for line in file if not line.isspace())
        with _table(path, mapping) as (table, rows):
            return table.count(rows)


def digest(path: Path, mapping: Mapping | None = None) -> str:
    """SHA-256 (hex) of the file's bytes and the mapping: equal digests mean equal calls."""
    with _explained(path), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256")
    if mapping is not None:
        found.update(b"\0" + mapping.model_dump_json().encode())
    return found.hexdigest()


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        raise FileError(f"{path}: {error}") from error
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: {error}; name its `encoding` in the mapping") from error
    except MappingError as error:
        raise MappingError(f"{path}:\n{error}") from None


def _form(path: Path) -> str:
    """The suffix that says what is in the file, without that of its compression."""
    name = path.name.lower()
    return Path(name.removesuffix(".gz").removesuffix(".xz")).suffix


def _open(path: Path) -> IO[bytes]:
    if path.name.lower().endswith(".gz"):
        return cast(IO[bytes], gzip.open(path))
    if path.name.lower().endswith(".xz"):
        return cast(IO[bytes], lzma.open(path))
    return path.open("rb")


def _lines(path: Path) -> IO[bytes]:
    path.stat()  # that it is not there is said first
    if _form(path) not in (".jsonl", ".ndjson"):
        raise FileError(f"{path}: only JSON Lines (.jsonl) can be read without a mapping")
    return _open(path)


# Calls as they are


class _Known(msgspec.Struct, rename="camel", gc=False):
    user_id: str | None = None
    anonymous_id: str | None = None
    timestamp: Annotated[datetime, msgspec.Meta(tz=True)] | None = None


_known = msgspec.json.Decoder(_Known).decode


def _as_they_are(path: Path) -> Iterator[Numbered]:
    with _lines(path) as file:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            value = line.removesuffix(b"\n")
            try:
                known = _known(value)
            except (msgspec.MsgspecError, RecursionError):
                known = _what_is_known(value)
            at = known.timestamp
            ms = None if at is None else (at - _EPOCH) // _MS
            yield number, ms, raw_id((known.user_id, known.anonymous_id)), value


def _what_is_known(value: bytes) -> _Known:
    """What can be used of a call that will be refused for something."""
    try:
        body = msgspec.json.decode(value)
    except (msgspec.MsgspecError, RecursionError):
        return _Known()
    known = _Known()
    for name in _Known.__struct_fields__ if isinstance(body, dict) else ():
        field = msgspec.structs.fields(_Known)[_Known.__struct_fields__.index(name)]
        try:
            found = msgspec.convert(body.get(field.encode_name), field.type)
        except msgspec.MsgspecError:
            continue
        setattr(known, name, found)
    return known


# Tables


@contextmanager
def _table(path: Path, mapping: Mapping) -> Iterator[_Opened]:
    form = _form(path)
    if form == ".csv":
        with _open(path) as file, TextIOWrapper(file, mapping.encoding, newline="") as text:
            yield _csv(path, text, mapping)
    elif form in (".jsonl", ".ndjson"):
        with _open(path) as file:
            yield _json_lines(path, file, mapping)
    elif form == ".parquet":
        yield _parquet(path, mapping)
    else:
        raise FileError(f"{path}: the name must end in .csv, .jsonl (also with .gz, .xz), .parquet")


def _csv(path: Path, text: Iterable[str], mapping: Mapping) -> _Opened:
    reader = csv.reader(text, delimiter=mapping.delimiter)
    columns = next(reader, [])
    table = Table(mapping, columns, lambda row: "\x1f".join(row).encode())
    repeat = [columns.index(name) for name in mapping.repeat]

    def cells() -> Iterator[Row]:
        width, above = len(columns), [""] * len(columns)
        try:
            for row in reader:
                if len(row) < width:
                    if not row:
                        continue
                    row.extend([""] * (width - len(row)))
                if repeat:
                    if not row[repeat[0]]:
                        for i in repeat:
                            row[i] = above[i]
                    above = row
                yield row
        except csv.Error as error:
            raise FileError(f"{path}: line {reader.line_num}: {error}") from error

    return table, cells()


def _json_lines(path: Path, file: Iterable[bytes], mapping: Mapping) -> _Opened:
    """The columns are those that the mapping names: a line need not have them all."""
    columns = list(dict.fromkeys(name for _, name in mapping.columns()))
    table = Table(mapping, columns, lambda row: cast(bytes, row[-1]))
    decode = msgspec.json.Decoder(dict[str, Any]).decode

    def cells() -> Iterator[Row]:
        for number, line in enumerate(file, 1):
            if line.isspace():
                continue
            try:
                get = decode(line).get
            except (msgspec.MsgspecError, RecursionError) as error:
                raise FileError(f"{path}: line {number}: {error}") from None
            yield [*map(get, columns), line.rstrip(b"\r\n")]

    return table, cells()


def _parquet(path: Path, mapping: Mapping) -> _Opened:
    try:
        import pyarrow as pa  # noqa: PLC0415 (an extra)
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise FileError(f"{path}: Parquet needs pip install 'segstream[parquet]'") from None
    encode: Callable[[Any], bytes] = msgspec.json.Encoder(enc_hook=str).encode
    try:
        file = parquet.ParquetFile(path)
    except pa.ArrowInvalid as error:
        raise FileError(f"{path}: {error}") from None

    def plain(column: Any) -> list[Any]:
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            # Python's times end at microseconds, and pyarrow refuses to cut silently.
            column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
        return cast(list[Any], column.to_pylist())

    def cells() -> Iterator[Row]:
        for batch in file.iter_batches(8192):
            yield from zip(*map(plain, batch.columns), strict=True)

    return Table(mapping, file.schema_arrow.names, encode), cells()
