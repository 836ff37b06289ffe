"""Bytes → events, as columns.

Almost every record takes the fast path: a msgspec decoder that is compiled from the
configuration and knows only the fields that some measure or trait reads. It accepts nothing
that the authority (`call.py`, pydantic) refuses; whatever it does not accept goes to the
authority, which either accepts it after all or says what is wrong, for the dead letter.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import compress, count, repeat
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from segstream.core import call
from segstream.core.call import Call, ClockControl, Invalid, ModelControl
from segstream.core.expression import Floats
from segstream.core.field import Field, Fields
from segstream.core.forward import APPENDED, LARGEST, UNREADABLE, Place, Stray, obstacle, too_large
from segstream.core.hash import Partitioner, partitions_of

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
    messages: list[str]
    names: list[str]


class Decoded(NamedTuple):
    events: Events
    controls: list[tuple[int, Control]]  # by record index
    rejects: list[Reject]
    strays: list[Stray]


class Columns(NamedTuple):
    """Raw columns of accepted calls; `code` is the position in `customers`."""

    record: list[int]
    time: list[int]
    code: list[int]
    message: list[str]
    kind: list[int]
    name: list[str]
    values: list[Floats]  # [calls, fields] of some calls each


class Reader:
    """Decodes records. Immutable; one per process."""

    def __init__(self, fields: Fields) -> None:
        self.fields = fields
        self._decode = msgspec.json.Decoder(fields.struct()).decode

    def decode(
        self,
        records: Records,
        partition: int,
        partitions: int,
        partitioner: Partitioner,
    ) -> Decoded:
        """Read records of a partition. Never raises for what a producer can send."""
        large = _too_large(records)
        found = _Found(Columns([], [], [], [], [], [], []), {}, [], [], large)
        slow = np.ones(len(records), bool)
        slow[[reject.record for reject in large]] = False
        slow[self._fast(records, partition, found, slow)] = False
        for i in np.flatnonzero(slow).tolist():
            self._slow(records, i, partition, found)
        right, strays = found.placed(records, Place(partition, partitions, partitioner))
        return found.finished(right, strays, len(self.fields))

    def _fast(
        self, records: Records, partition: int, found: "_Found", wanted: npt.NDArray[np.bool_]
    ) -> list[int]:
        """Decode plain calls, column by column; the indices of the records that are done.

        Only what can be skimmed: skipping the fields that are not read overlooks nothing there.
        """
        done: list[int] = []
        customers: list[str] = []
        for start in range(0, len(records), AT_ONCE):
            some, who = self._skim(records, start, partition, found.columns, wanted)
            done += some
            customers += who
        # Who it is about comes last: only customers of accepted calls get a code.
        found.meet(customers)
        found.columns.code.extend(map(found.codes.__getitem__, customers))
        return done

    def _skim(
        self, records: Records, start: int, partition: int, columns: "Columns", wanted: Bools
    ) -> tuple[list[int], list[str]]:
        """The plain calls among AT_ONCE records: columns but for `code`; indices and customers."""
        short = call.MAX_DEPTH  # and so not nested too deep, whatever it is
        stop = start + AT_ONCE
        parts = zip(records.values[start:stop], records.headers[start:stop], strict=True)
        candidates = [
            i
            for i, (value, headers) in enumerate(parts, start)
            if value
            and ((len(value) <= short and value.isascii()) or call.skimmable(value))
            and (not headers or _is_plain(headers))
        ]
        if not wanted[start:stop].all():
            candidates = [i for i in candidates if wanted[i]]
        calls, done = _decode_all(self._decode, records.values, candidates)
        times = _times([c.timestamp for c in calls], [records.appended[i] for i in done])
        customers = _customers(calls)
        good = np.array([customer is not None for customer in customers], bool)
        good &= (times >= call.EARLIEST_MS) & (times < call.END_MS)
        if not good.all():
            calls, done, customers = _kept(good, calls, done, customers)
            times = times[good]
        kinds, names = self._kinds(calls)
        values, good = self._values(np.array(kinds, np.int64), calls)
        if not good.all():
            calls, done, customers, kinds, names = _kept(good, calls, done, customers, kinds, names)
            times, values = times[good], values[good]
        columns.record.extend(done)
        columns.time.extend(times.tolist())
        columns.message.extend(
            c.messageId or f"{partition}-{records.offsets[i]}"
            for c, i in zip(calls, done, strict=True)
        )
        columns.kind.extend(kinds)
        columns.name.extend(names)
        columns.values.append(values)
        return done, customers

    def _kinds(self, calls: list[Any]) -> tuple[list[int], list[str]]:
        """The kind and the name of each call."""
        tracks, others = self.fields.tracks, self.fields.others
        names = [c.event if c.TYPE == "track" else c.TYPE for c in calls]
        kinds = [
            (tracks if c.TYPE == "track" else others).get(name, 0)
            for c, name in zip(calls, names, strict=True)
        ]
        return kinds, names

    def _values(self, kinds: Ints, calls: list[Any]) -> tuple[Floats, Bools]:
        """What is read from each call, NaN = missing; which calls are not to be refused."""
        values = np.full((len(calls), len(self.fields)), np.nan)
        good = np.ones(len(calls), bool)
        for kind, numbers in enumerate(self.fields.of_kind):
            if not numbers:
                continue
            rows = np.flatnonzero(kinds == kind)
            these = [calls[row] for row in rows.tolist()]
            for field in numbers:
                get, number = self.fields.getters[field], self.fields.declared[field].number
                read = [math.nan if (v := get(c)) is None else number(v) for c in these]
                good[rows] &= np.array([value is not None for value in read], bool)
                values[rows, field] = np.array(read, np.float64)  # None: NaN
        return values, good

    def _slow(self, records: Records, i: int, partition: int, found: "_Found") -> None:
        """Let the authority decide about one record."""
        try:
            reading = call.read(records.values[i], records.headers[i])
            if not isinstance(reading, Call):
                found.controls.append((i, reading))
                return
            known = self.fields.tracks if reading.type == "track" else self.fields.others
            kind = known.get(reading.name, 0)
            values = [math.nan] * len(self.fields)
            for field in self.fields.of_kind[kind]:
                if (value := self._checked(field, reading.body)) is not None:
                    values[field] = value
        except Invalid as error:
            found.rejects.append(Reject(i, error.reason, error.message))
            return
        time = records.appended[i] if reading.time is None else reading.time
        message = reading.message_id or f"{partition}-{records.offsets[i]}"
        code = found.code(reading.customer, reading.raw_id)
        found.add(i, time, code, message, kind, reading.name, np.array([values]))

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


class _Found(NamedTuple):
    """What reading has found so far. `codes`: customer → position; `raw_ids` by position."""

    columns: Columns
    codes: dict[str, int]
    raw_ids: list[bytes]
    controls: list[tuple[int, Control]]
    rejects: list[Reject]

    def meet(self, customers: Iterable[str]) -> None:
        """Give the first customers of all their codes."""
        self.codes.update(zip(dict.fromkeys(customers), count(), strict=False))
        self.raw_ids.extend(map(str.encode, map(str.removeprefix, self.codes, repeat("a:"))))

    def code(self, customer: str, raw_id: str) -> int:
        """The code of a customer, a new one if it is the first time."""
        code = self.codes.setdefault(customer, len(self.codes))
        if code == len(self.raw_ids):
            self.raw_ids.append(raw_id.encode())
        return code

    def add(
        self,
        record: int,
        time: int,
        code: int,
        message: str,
        kind: int,
        name: str,
        values: Floats,
    ) -> None:
        columns = self.columns
        columns.record.append(record)
        columns.time.append(time)
        columns.code.append(code)
        columns.message.append(message)
        columns.kind.append(kind)
        columns.name.append(name)
        columns.values.append(values)

    def placed(self, records: Records, place: Place) -> tuple[npt.NDArray[np.bool_], list[Stray]]:
        """Which of the columns are on their partition, and the strays; the rest is rejected."""
        expected = partitions_of(self.raw_ids, place.partitions, place.partitioner)
        code = np.array(self.columns.code, np.int64)
        right = (expected == place.number)[code]
        customers, strays = list(self.codes), []
        for row in np.flatnonzero(~right).tolist():
            record, target = self.columns.record[row], int(expected[code[row]])
            parts = (records.keys[record], records.values[record], records.headers[record])
            if why := obstacle(*parts):
                text = f"{place.misplaced(customers[code[row]], target)}; {why}"
                self.rejects.append(Reject(record, "partition", text))
            else:
                strays.append(Stray(record, target, place.hint(self.raw_ids[code[row]])))
        return right, sorted(strays)

    def finished(self, right: npt.NDArray[np.bool_], strays: list[Stray], fields: int) -> Decoded:
        """Columns in record order, without the records of other partitions."""
        columns = self.columns
        record = np.array(columns.record, np.int64)
        code = np.array(columns.code, np.int64)
        values = np.concatenate([np.empty((0, fields)), *columns.values])
        customers = list(self.codes)
        # The slow path appends behind the fast one; record order is restored here, once.
        order = np.flatnonzero(right)
        order = order[np.argsort(record[order], kind="stable")]
        if len(order) < len(record):
            kept, code[order] = np.unique(code[order], return_inverse=True)
            customers = [customers[c] for c in kept.tolist()]
        rows = order.tolist()
        events = Events(
            record[order],
            np.array(columns.time, np.int64)[order],
            np.array(columns.kind, np.int64)[order],
            values[order],
            code[order],
            customers,
            [columns.message[row] for row in rows],
            [columns.name[row] for row in rows],
        )
        controls = sorted(self.controls, key=lambda c: c[0])
        return Decoded(events, controls, sorted(self.rejects), strays)


def _too_large(records: Records) -> list[Reject]:
    """Records that could not be produced again whole; nothing in them is read."""
    text = f"at most {LARGEST} bytes (key, value and headers) are read; only the beginning is kept"
    return [
        Reject(i, "size", f"the record has {size} bytes: {text}", size)
        for i, size in too_large(records.keys, records.values, records.headers)
    ]


def _kept(good: Bools, *columns: list[Any]) -> Iterator[list[Any]]:
    return (list(compress(column, good)) for column in columns)


def _times(moments: list[datetime | None], appended: list[int]) -> Ints:
    """Times in ms, int64 [n]: `call.ms_of` for all at once; the append time where there is none."""
    seconds = np.array([math.nan if m is None else m.timestamp() for m in moments])
    missing = np.isnan(seconds)
    times = np.rint(np.where(missing, 0.0, seconds) * 1e6).astype(np.int64) // 1000
    return np.where(missing, np.array(appended, np.int64), times)


def _customers(calls: list[Any]) -> list[Any]:
    """Who each call is about; None: the authority must look."""
    users = [c.userId for c in calls]
    if None not in users:
        # A search in one text tells almost always that there is nothing to look for.
        text = "\n".join(dict.fromkeys(users))
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
