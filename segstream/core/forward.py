"""A call on the wrong partition, and its way to the right one.

It is produced again in the same transaction as the other outputs of its batch. Two headers travel
with it: how often that has happened, and when it was first appended, which stands in for a missing
timestamp. `segstream redrive` sends the second one too.
"""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import msgspec

from segstream.core.hash import Partitioner, partitions_of
from segstream.core.spec import Invalid, parse_time, shown

Headers = Sequence[tuple[str, bytes | None]] | None

HOPS = "segstream.hops"
APPENDED = "segstream.appended"
MOST_HOPS = 3
LARGEST = 10 << 20
"""Bytes of a record, as the topic's limit; what is larger could not be produced again whole."""
LARGEST_STRAY = LARGEST - (64 << 10)
"""Leaves room for the headers that are added, and for what a batch adds around a record."""
_HEADER_BYTES = 10
UNREADABLE = [("\0", b"")]
"""What a source says of headers with a name that is no UTF-8. No name that is read holds NUL."""
_HINT_CHARACTERS = 64


class Stray(NamedTuple):
    """A valid call on the wrong partition. `hint`: the partitioner that would explain it."""

    record: int  # position among the records
    partition: int  # where it belongs
    hint: str


class Place(NamedTuple):
    """A partition, and how producers find theirs."""

    number: int
    partitions: int
    partitioner: Partitioner

    def hint(self, raw_id: bytes) -> str:
        """The other partitioner, if it would have put this id here."""
        other: Partitioner = "crc32" if self.partitioner == "murmur2" else "murmur2"
        there = partitions_of([raw_id], self.partitions, other)[0]
        return other if there == self.number else "none"

    def misplaced(self, customer: str, expected: int) -> str:
        setting = "murmur2_random" if self.partitioner == "murmur2" else "consistent_random"
        return (
            f"customer {shown(customer)} belongs on partition {expected} of "
            f"{self.partitions}, the record is on {self.number}: key records by the raw id and set "
            f"the producer's partitioner to {self.partitioner} (librdkafka: partitioner={setting})"
        )


def obstacle(key: bytes | None, value: bytes | None, headers: Headers) -> str:
    """Why a stray cannot be forwarded; empty: it can."""
    if hops_of(headers) >= MOST_HOPS:
        return f"it was forwarded {MOST_HOPS} times already"
    if size_of(key, value, headers) > LARGEST_STRAY:
        return f"it is too large to be forwarded (more than {LARGEST_STRAY} bytes)"
    return ""


def too_large(
    keys: Sequence[bytes | None], values: Sequence[bytes | None], headers: Sequence[Headers]
) -> list[tuple[int, int]]:
    """Position and size of the records that are larger than LARGEST."""
    around = sum(size_of(None, None, h) for h in headers if h)
    if around + sum(map(len, filter(None, chain(keys, values)))) <= LARGEST:
        return []  # not even all together
    sizes = enumerate(map(size_of, keys, values, headers))
    return [(i, size) for i, size in sizes if size > LARGEST]


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """Bytes of a record."""
    around = sum(len(n.encode()) + len(v or b"") + _HEADER_BYTES for n, v in headers or ())
    return len(key or b"") + len(value or b"") + around


def hops_of(headers: Headers) -> int:
    """How often a record was forwarded before."""
    text = _last(headers, HOPS) or b""
    return int(text) if text.isdigit() and len(text) <= 9 else 0


def appended_of(headers: Headers) -> int | None:
    """ms when a record was first appended, if a header says so."""
    text = _last(headers, APPENDED)
    try:
        return None if text is None else parse_time(text.decode())
    except (Invalid, UnicodeDecodeError):
        return None


def headers_of(headers: Headers, appended: str) -> list[tuple[str, bytes | None]]:
    """Headers of the record that is produced again. `appended`: append time of this one, text."""
    kept = [(name, value) for name, value in headers or () if name not in (HOPS, APPENDED)]
    before = None if appended_of(headers) is None else _last(headers, APPENDED)
    hops = b"%d" % (hops_of(headers) + 1)
    return [*kept, (HOPS, hops), (APPENDED, before or appended.encode())]


def _last(headers: Headers, wanted: str) -> bytes | None:
    """The value of a header; of a repeated one the last counts, null is absent."""
    found = [value for name, value in headers or () if name == wanted and value is not None]
    return found[-1] if found else None


class _Library(msgspec.Struct):
    name: str


class _Context(msgspec.Struct):
    library: _Library


class _Hinting(msgspec.Struct):
    context: _Context | None = None
    data: "_Hinting | None" = None


_hinting = msgspec.json.Decoder(_Hinting).decode


def library_of(value: bytes | None) -> str:
    """Which producer library a call says it comes from (`context.library.name`), or `unknown`."""
    try:
        call = _hinting(value or b"")
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return "unknown"
    context = call.context or (call.data and call.data.context)
    name = context.library.name if context else ""
    return "".join(c for c in name if c.isprintable())[:_HINT_CHARACTERS] or "unknown"
