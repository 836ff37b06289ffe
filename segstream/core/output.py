"""What a batch says to the world: changes, memberships, samples, dead letters, as bytes.

Structs in the shapes of `record.py`, because they are written at speed; tests hold them against
the pydantic models.
"""

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Literal

import msgspec
import numpy as np

from segstream.core import compiled
from segstream.core.batch import Ints, Position
from segstream.core.event import Headers
from segstream.core.expression import MINUTE, Floats
from segstream.core.feature import Vectors
from segstream.core.forward import UNREADABLE
from segstream.core.model import Model

Topic = Literal["changes", "memberships", "samples", "dead_letters", "events"]
Order = tuple[int, int, int, int, bytes]
"""(record, is an event, minute, is a marker, customer): the order of rows in the log."""

CHANGE_TYPE = "segstream.segment.changed.v1"
_CHANGE_TYPE = CHANGE_TYPE.encode()
REASONS = 3
KEPT_KEY, KEPT_VALUE = 1 << 10, 1 << 20
"""Bytes kept of a record that is too large."""
MOST_TEXT = 1_000
"""Bytes of a message; what is quoted in one is short, what a configuration declares may be long."""
_SHORT = MOST_TEXT // 4
"""Characters that have no more than MOST_TEXT bytes, whatever they are."""

_ERRORS = {
    name: f"segstream.errors.{name}"
    for name in ("reason", "message", "topic", "partition", "offset", "at", "size")
}

Header = tuple[str, bytes | None]
encode = msgspec.json.encode


class EventRef(msgspec.Struct, gc=False):
    id: str
    name: str


class Distance(msgspec.Struct, gc=False, rename={"from_": "from"}):
    from_: float | None
    to: float


class Reason(msgspec.Struct, gc=False):
    feature: str
    value: float  # NaN is written as null
    share: float


class Change(msgspec.Struct, gc=False, rename={"from_": "from"}):
    """`from_`, `to`: a SegmentRef as `segment_ref` writes it."""

    customer: str
    sequence: int
    from_: msgspec.Raw | None
    to: msgspec.Raw | None
    cause: str
    rule: str | None
    at: str
    event: EventRef | None
    model: int
    distance: Distance | None
    reasons: list[Reason] | None


class Membership(msgspec.Struct, gc=False):
    customer: str
    segment: int
    name: str
    since: str
    at: str
    model: int
    sequence: int


class Output(msgspec.Struct, frozen=True, gc=False):
    """A record to publish; `partition` as of customer-events (all samples go to the only one)."""

    topic: Topic
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    position: Position
    order: Order


def ms_text(ms: int) -> str:
    """`2026-11-23T06:06:00.123Z`."""
    minute, rest = divmod(ms, MINUTE)
    return f"{_minute_text(minute)}{rest // 1000:02d}.{rest % 1000:03d}Z"


def ms_texts(times: Ints) -> list[str]:
    """`ms_text` of each of many, int64 [n]."""
    texts: list[str] = np.datetime_as_string(times.astype("M8[ms]"), timezone="UTC").tolist()
    return texts


@lru_cache(4_096)
def _minute_text(minute: int) -> str:
    return f"{datetime.fromtimestamp(minute * 60, UTC):%Y-%m-%dT%H:%M:}"


# Small numbers are most of them, and the shortest text of a float32 takes a microsecond to find.
@lru_cache(1 << 14)
def number(value: float) -> float | None:
    """A raw float32 as the shortest decimal that reads back as it; None = missing. A zero has no
    sign: the cache takes both for one."""
    return None if value != value else float(str(np.float32(value))) + 0.0  # noqa: PLR0124 (NaN)


def segment_ref(segment: int, name: str) -> msgspec.Raw:
    """Id and name, as JSON: there are few, and many changes name them."""
    return msgspec.Raw(encode({"segment": segment, "name": name}))


def numbers(values: Vectors) -> Floats:
    """`number` of each, float64 of the same shape; NaN = missing, and null when it is written."""
    if compiled.functions is None:
        found = [math.nan if (n := number(v)) is None else n for v in values.ravel().tolist()]
        return np.array(found, np.float64).reshape(values.shape)
    told = np.empty(values.shape)
    compiled.functions.shortest(np.ascontiguousarray(values), told)
    left = np.isnan(told) & ~np.isnan(values)
    if left.any():
        told[left] = list(map(number, values[left].tolist()))
    return told


def change_headers(ce_id: bytes, source: Header, customer: bytes, at: str) -> list[Header]:
    """CloudEvents attributes of a change, binary mode. `source`: see `source_header`."""
    return [
        ("ce_specversion", b"1.0"),
        ("ce_id", ce_id),
        source,
        ("ce_type", _CHANGE_TYPE),
        ("ce_subject", customer),
        ("ce_time", at.encode()),
        ("content-type", b"application/json"),
    ]


def source_header(topic: str) -> Header:
    """The topic of the events that lead to changes."""
    return "ce_source", topic.encode()


def rounded(values: Floats) -> Floats:
    """To 6 digits behind the point, as a reader needs them; shares and distances."""
    return np.rint(values * 1e6) / 1e6


def reasons(
    model: Model, raw: Vectors, space: Vectors, left: Sequence[int], entered: Sequence[int]
) -> list[list[Reason]]:
    """Per row: features by their share in (x − left)² − (x − entered)², largest first, at most 3.

    `left`, `entered`: positions of segments in the Model; left −1: the panel mean.
    """
    z = space.astype(np.float64)
    none = np.array(left)[:, None] < 0
    start = np.where(none, 0.0, model.centres[left])
    gains = (z - start) ** 2 - (z - model.centres[entered]) ** 2
    best = np.argsort(-gains, axis=1, kind="stable")[:, :REASONS]
    first = np.take_along_axis(gains, best, axis=1)
    # One after the other: how they are added up must not depend on how many rows there are.
    total = np.cumsum(gains, axis=1)[:, -1:]
    helps = (first > 0) & (total > 0)
    shares = rounded(np.divide(first, total, out=np.zeros_like(first), where=helps))
    names = [feature.name for feature in model.record.features]
    values = numbers(np.take_along_axis(raw, best, axis=1))
    columns = (helps.sum(axis=1), best, values, shares)
    return [
        [Reason(names[j], value, share) for j, value, share in zip(places[:n], *rest, strict=False)]
        for n, places, *rest in zip(*(c.tolist() for c in columns), strict=True)
    ]


def error(name: str, text: str) -> Header:
    """One of the headers that say why a record is a dead letter."""
    return _ERRORS[name], text.encode() if len(text) <= _SHORT else _cut(text)


def dead_letter(
    *,
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    errors: list[Header],
    size: int = 0,
) -> tuple[bytes | None, bytes | None, list[Header]]:
    """The original record and what is wrong with it. `size`: if it is too large to be kept whole.

    Then only its beginning is, without headers of its own.
    """
    if size:
        said = [*errors, error("size", str(size))]
        return (key or b"")[:KEPT_KEY] or key, (value or b"")[:KEPT_VALUE] or value, said
    if not headers or headers == UNREADABLE:
        return key, value, errors
    return key, value, [*headers, *errors]


def _cut(text: str) -> bytes:
    whole = text.encode()
    if len(whole) <= MOST_TEXT:
        return whole
    return whole[: MOST_TEXT - 3].decode(errors="ignore").encode() + "…".encode()


def sample(partition: int, level: int, minute: int, features: str, vector: list[float]) -> bytes:
    """A panel customer's raw vector at a tick. `vector`: as `numbers` tells it."""
    return encode(
        {
            "partition": partition,
            "level": level,
            "at": ms_text(minute * MINUTE),
            "features": features,
            "values": vector,
        }
    )


def day_marker(partition: int, partitions: int, minute: int) -> bytes:
    """This partition's clock has passed a midnight."""
    day = ms_text(minute * MINUTE)
    return encode({"partition": partition, "partitions": partitions, "day": day})
