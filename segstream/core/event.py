"""Bytes → events, as columns.

A record is offered to three decoders, one after the other, until one accepts it: a Skimmer in C
(`skim.py`, where there is one), a msgspec decoder, and the authority (`call.py`, pydantic). The
first two are compiled from the configuration, know only the fields that some measure or trait
reads, and take almost every record. None accepts what the next one refuses, or reads it
differently; the authority says what is wrong, for the dead letter.
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, compress, count
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from segstream.core import call, compiled
from segstream.core.call import Call, ClockControl, Invalid, ModelControl
from segstream.core.expression import Floats
from segstream.core.field import Field, Fields
from segstream.core.forward import APPENDED, LARGEST, UNREADABLE, Place, Stray, obstacle, too_large
from segstream.core.hash import Partitioner, partitions_of
from segstream.core.json_text import skimmable, skimmable_all
from segstream.core.skim import skimmer
from segstream.core.times import NO_TIME, times_of

AT_ONCE = 1_000
"""Records that are read together: so few that what is made of them is still in the cache."""
_TELLING = ("ce_type", "content-type", APPENDED, UNREADABLE[0][0])
Control = ModelControl | ClockControl
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Headers = list[tuple[str, bytes | None]] | None


class Records(NamedTuple):
    """Consecutive records of one partition, as columns of equal length."""

    offsets: Sequence[int]
    appended: Sequence[int]  # ms, the broker's append time
    values: Sequence[bytes | None]
    headers: Sequence[Headers]
    keys: Sequence[bytes | None]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, start: int, stop: int | None = None) -> "Records":
        cut = slice(start, stop)
        return Records(
            self.offsets[cut],
            self.appended[cut],
            self.values[cut],
            self.headers[cut],
            self.keys[cut],
        )


class Reject(NamedTuple):
    """A record that is no valid event and becomes a dead letter."""

    record: int  # position among the records
    reason: str
    message: str
    size: int = 0  # if it is too large to be kept whole


class Events(NamedTuple):
    """The valid calls of some records, as columns, in record order.

    `record` int64 [n]: position among the records. `time` int64 [n]: ms, not yet clamped.
    `kind` int64 [n]: see Reading. `values` float64 [n, fields]: as read, NaN = missing.
    `code` int64 [n]: position in `customers`, the distinct customers.
    """

    record: npt.NDArray[np.int64]
    time: npt.NDArray[np.int64]
    kind: npt.NDArray[np.int64]
    values: npt.NDArray[np.float64]
    code: npt.NDArray[np.int64]
    customers: list[str]
    messages: list[bytes]  # their ids, UTF-8
    names: list[str]


class Decoded(NamedTuple):
    events: Events
    controls: list[tuple[int, Control]]  # by record index
    rejects: list[Reject]
    strays: list[Stray]


class Columns(NamedTuple):
    """Accepted calls, as columns of equal length.

    `record`, `time`, `kind`, `values` as in Events; `customer`, `message` and `name` of each call.
    """

    record: Ints
    time: Ints
    kind: Ints
    values: Floats
    customer: list[str]
    message: list[bytes]
    name: list[str]

    def where(self, mask: Bools) -> "Columns":
        return self if mask.all() else self._taken(np.flatnonzero(mask))

    def _taken(self, order: Ints) -> "Columns":
        rows = order.tolist()
        return Columns(*(_taken(column, order, rows) for column in self))

    @staticmethod
    def joined(parts: "Sequence[Columns]") -> "Columns":
        """All of them, in record order."""
        some = [part for part in parts if len(part.record)] or parts[:1]
        if len(some) == 1:
            return some[0]
        joined = Columns(*map(_joined, zip(*some, strict=True)))
        if (np.diff(joined.record) > 0).all():
            return joined
        return joined._taken(np.argsort(joined.record, kind="stable"))


class Reader:
    """Decodes records. Immutable; one per process."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self._skimmer = skimmer(fields)
        self._decode = msgspec.json.Decoder(fields.struct()).decode

    def decode(
        self,
        records: Records,
        partition: int,
        partitions: int,
        partitioner: Partitioner,
    ) -> Decoded:
        """Read records of a partition. Never raises for what a producer can send."""
        rest = _Rest([], [], _too_large(records))
        wanted = np.ones(len(records), bool)
        wanted[[reject.record for reject in rest.rejects]] = False
        parts = self._fast(records, partition, wanted)
        for part in parts:
            wanted[part.record] = False
        for i in np.flatnonzero(wanted).tolist():
            self._slow(records, i, partition, rest)
        columns = Columns.joined([*parts, *rest.columns()])
        place = Place(partition, partitions, partitioner)
        events, strays, misplaced = _placed(columns, records, place)
        controls = sorted(rest.controls, key=lambda c: c[0])
        return Decoded(events, controls, sorted(rest.rejects + misplaced), strays)

    def _fast(self, records: Records, partition: int, wanted: Bools) -> list[Columns]:
        """Decode plain calls, as columns."""
        plain = wanted
        if any(records.headers):
            plain = wanted & np.array(list(map(_is_plain, records.headers)), bool)
        parts = []
        if self._skimmer is not None:
            parts.append(self._skim(records, partition, plain))
            plain = plain.copy()
            plain[parts[0].record] = False
            if not plain.any():
                return parts
        starts = range(0, len(records), AT_ONCE) or [0]  # of nothing, one part without calls
        return parts + [self._decoded(records, start, partition, plain) for start in starts]

    def _skim(self, records: Records, partition: int, wanted: Bools) -> Columns:
        """The calls that are skimmed."""
        n = len(records)
        numbers, values = np.empty((3, n), np.int64), np.empty((n, len(self.fields)))
        texts = list(records.values)
        done, customers, messages, names = self._skimmer.read(texts, wanted, *numbers, values)
        record, time, kind = numbers[:, :done]
        untold = np.flatnonzero(time < 0)
        time[untold] = [records.appended[i] for i in record[untold].tolist()]
        messages = _messages(messages, records, partition, record)
        return Columns(record, time, kind, values[:done], customers, messages, names)

    def _decoded(self, records: Records, start: int, partition: int, wanted: Bools) -> Columns:
        """The calls among AT_ONCE records that msgspec reads, column by column.

        Only in values that can be skimmed: skipping the fields that are not read overlooks nothing
        there.
        """
        part = slice(start, start + AT_ONCE)
        candidates = _candidates(records.values[part], start, wanted[part])
        calls, done = _decode_all(self._decode, records.values, candidates)
        kinds, names, values, good = self._read(calls)
        times = _times([c.timestamp for c in calls], [records.appended[i] for i in done])
        good &= times != NO_TIME
        customers = _customers(calls)
        if not all(customers):
            good &= np.array([customer is not None for customer in customers], bool)
        record = np.array(done, np.int64)
        told = [c.messageId and c.messageId.encode() for c in calls]
        messages = _messages(told, records, partition, record)
        return Columns(record, times, kinds, values, customers, messages, names).where(good)

    def _read(self, calls: list[Any]) -> tuple[Ints, list[str], Floats, Bools]:
        """Of each call its kind, its name and what is read from it, NaN = missing; and which calls
        are not to be refused."""
        names: list[str] = [c.event for c in calls]
        # Many calls are of few sorts: each sort is looked up once.
        sorts: list[tuple[Any, str]] = list(zip(map(type, calls), names, strict=True))
        kind_of = {(s, name): self.fields.kind_of(s.TYPE, name) for s, name in set(sorts)}
        kinds = np.fromiter(map(kind_of.__getitem__, sorts), np.int64, len(calls))
        values = np.full((len(calls), len(self.fields)), np.nan)
        good = np.ones(len(calls), bool)
        for kind in set(kind_of.values()):
            if not self.fields.of_kind[kind]:
                continue
            rows = np.flatnonzero(kinds == kind)
            these = [calls[row] for row in rows.tolist()]
            for number in self.fields.of_kind[kind]:
                values[rows, number], accepted = self.fields.read(number, these)
                good[rows] &= accepted
        return kinds, names, values, good

    def _slow(self, records: Records, i: int, partition: int, rest: "_Rest") -> None:
        """Let the authority decide about one record."""
        try:
            reading = call.read(records.values[i], records.headers[i])
            if not isinstance(reading, Call):
                rest.controls.append((i, reading))
                return
            kind = self.fields.kind_of(reading.type, reading.name)
            values = [math.nan] * len(self.fields)
            for field in self.fields.of_kind[kind]:
                if (value := self._checked(field, reading.body)) is not None:
                    values[field] = value
        except Invalid as error:
            rest.rejects.append(Reject(i, error.reason, error.message))
            return
        time = records.appended[i] if reading.time is None else reading.time
        message = reading.message_id or f"{partition}-{records.offsets[i]}"
        texts = (reading.customer, message.encode(), reading.name)
        rest.calls.append((i, time, kind, values, *texts))

    def _checked(self, field: int, body: dict[str, Any]) -> float | None:
        """The value at a field's path; None if missing; Invalid if it is of the wrong kind."""
        declared = self.fields.declared[field]
        value: Any = body
        for depth, step in enumerate(declared.path):
            if value is None:
                return None
            if not isinstance(value, dict):
                place = ".".join(declared.path[:depth])
                raise Invalid("value", f"{place} = {call.shown(value)} is not an object")
            value = value.get(step)
        if value is None:
            return None
        if declared.limits is not None:
            low, high = declared.limits
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            # Judged as the float64 that counts, as the fast path does.
            if not is_number or not low <= _float(value) <= high:
                raise Invalid("value", f"{_told(declared, value)} is not {_range(low, high)}")
        number = declared.number(value)
        if number is None:
            known = ", ".join(declared.values)
            raise Invalid(declared.reason, f"{_told(declared, value)} is none of {known}")
        return number


@lru_cache
def _range(low: float, high: float) -> str:
    return f"a number from {low:g} to {high:g}"


def _told(field: Field, value: object) -> str:
    """A value with its place, for people."""
    return f"{'.'.join(field.path)} = {call.shown(value)}"


def _float(number: float) -> float:
    try:
        return float(number)
    except OverflowError:  # an integer of hundreds of digits
        return math.inf if number > 0 else -math.inf


class _Rest(NamedTuple):
    """What the authority has found. `calls`: rows of Columns."""

    calls: list[tuple[int, int, int, list[float], str, bytes, str]]
    controls: list[tuple[int, Control]]
    rejects: list[Reject]

    def columns(self) -> list[Columns]:
        """The calls as columns, if there are any."""
        if not self.calls:
            return []
        record, time, kind, values, *texts = map(list, zip(*self.calls, strict=True))
        numbers: list[Any] = [np.array(column, np.int64) for column in (record, time, kind)]
        numbers.append(np.array(values, np.float64))
        return [Columns(*numbers, *texts)]


def _placed(
    columns: Columns, records: Records, place: Place
) -> tuple[Events, list[Stray], list[Reject]]:
    """The events of this partition; strays; and what can be neither."""
    customers, code = _coded(columns.customer)
    raw_ids = _raw_ids(customers)
    expected = partitions_of(raw_ids, place.partitions, place.partitioner)
    right = expected == place.number
    strays, rejects = [], []
    if not right.all():
        for row in np.flatnonzero(~right[code]).tolist():
            record, target = int(columns.record[row]), int(expected[code[row]])
            parts = (records.keys[record], records.values[record], records.headers[record])
            if why := obstacle(*parts):
                text = f"{place.misplaced(customers[code[row]], target)}; {why}"
                rejects.append(Reject(record, "partition", text))
            else:
                strays.append(Stray(record, target, place.hint(raw_ids[code[row]])))
        columns = columns.where(right[code])
        customers = list(compress(customers, right))
        code = (np.cumsum(right) - 1)[code[right[code]]]
    numbers = (columns.record, columns.time, columns.kind, columns.values)
    events = Events(*numbers, code, customers, columns.message, columns.name)
    return events, strays, rejects


def _coded(ids: list[str]) -> tuple[list[str], Ints]:
    """The distinct ids, and the position of each among them, int64 [n]."""
    if compiled.functions is not None:
        code = np.empty(len(ids), np.int64)
        return compiled.functions.coded(ids, code), code
    codes = dict(zip(dict.fromkeys(ids), count(), strict=False))
    return list(codes), np.fromiter(map(codes.__getitem__, ids), np.int64, len(ids))


def _raw_ids(customers: Sequence[str]) -> list[bytes]:
    """The ids that decide the partitions: without the `a:` of anonymous customers."""
    if not customers:
        return []
    text = "\0".join(customers).encode()  # no id has a NUL
    ids = text.split(b"\0")
    return [i.removeprefix(b"a:") for i in ids] if b"a:" in text else ids


def _too_large(records: Records) -> list[Reject]:
    """Records that could not be produced again whole; nothing in them is read."""
    text = f"at most {LARGEST} bytes (key, value and headers) are read; only the beginning is kept"
    return [
        Reject(i, "size", f"the record has {size} bytes: {text}", size)
        for i, size in too_large(records.keys, records.values, records.headers)
    ]


def _taken(column: Any, order: Ints, rows: list[int]) -> Any:
    return [column[row] for row in rows] if isinstance(column, list) else column[order]


def _joined(columns: tuple[Any, ...]) -> Any:
    if isinstance(columns[0], list):
        return list(chain.from_iterable(columns))
    return np.concatenate(columns)


def _candidates(values: Sequence[bytes | None], start: int, wanted: Bools) -> list[int]:
    """Which of the wanted records, counted from `start` on, can be skimmed."""
    easy = skimmable_all(values)
    if easy and wanted.all():
        return list(range(start, start + len(values)))
    return [
        i
        for i, (value, want) in enumerate(zip(values, wanted.tolist(), strict=True), start)
        if want and value and (easy or skimmable(value))
    ]


def _messages(told: list[Any], records: Records, partition: int, record: Ints) -> list[bytes]:
    """The message ids of some records; where none is told, partition and offset stand in."""
    if all(told):
        return told
    places = (b"%d-%d" % (partition, records.offsets[i]) for i in record.tolist())
    return [message or place for message, place in zip(told, places, strict=True)]


def _times(texts: list[Any], appended: list[int]) -> Ints:
    """Times in ms, int64 [n]: the append time where none is told; NO_TIME where it is none."""
    if all(texts):
        return times_of(texts)
    times = np.array(appended, np.int64)
    told = [i for i, text in enumerate(texts) if text is not None]
    times[told] = times_of([texts[i] for i in told])
    return times


def _customers(calls: list[Any]) -> list[Any]:
    """Who each call is about; None: the authority must look."""
    users = [c.userId for c in calls]
    if all(users):
        # A search in one text tells almost always that there is nothing to look for.
        text = "\n".join(users)
        if "\0" not in text and "\na:" not in text and not text.startswith("a:"):
            return users
    return [_customer(c.userId, c.anonymousId) for c in calls]


def _customer(user: str | None, anonymous: str | None) -> str | None:
    if user is None:
        return None if anonymous is None or "\0" in anonymous else f"a:{anonymous}"
    return None if "\0" in user or user.startswith("a:") else user


def _is_plain(headers: Headers) -> bool:
    """No header tells anything: the value is a call as it is."""
    return not headers or not any(name in _TELLING for name, _ in headers)


def _decode_all(
    decode: Callable[[Any], Any], values: Sequence[bytes | None], candidates: list[int]
) -> tuple[list[Any], list[int]]:
    """Decode in one C loop, resumed behind each value that is refused."""
    calls: list[Any] = []
    kept: list[int] = []
    at = 0
    rest = map(decode, map(values.__getitem__, candidates))
    while at < len(candidates):
        before = len(calls)
        try:  # noqa: SIM105 (`suppress` costs, and this is the loop of bad input)
            calls.extend(rest)
        except (msgspec.MsgspecError, RecursionError, ValueError):
            pass
        done = len(calls) - before
        kept += candidates[at : at + done]
        at += done + 1
    return calls, kept
