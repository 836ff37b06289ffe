"""One partition computed again from its log, in memory, and in words what differs from it."""

import re
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heappushpop
from typing import Any, NamedTuple

import msgspec
import numpy as np
from xxhash import xxh3_64_intdigest

from segstream.core.batch import Batch, Checkpoint, Position
from segstream.core.call import ModelControl
from segstream.core.event import Decoded, Records
from segstream.core.expression import MINUTE
from segstream.core.hash import customer_hash
from segstream.core.model import Model
from segstream.core.output import Output
from segstream.core.step import Function, Outcome, Partition

TICKS = 50_000
_CE_ID = re.compile(r"(\d+)-(\d+)(?:-(\d+)-([0-9a-f]{16}))?", re.ASCII)


class Unreachable(Exception):
    """The log does not lead to this position."""


class Sample:
    """Customers chosen by a seed: those with the lowest ranks among all that were offered.

    Who drops out never comes back: whoever is chosen has been so since it was first offered.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.chosen: set[str] = set()
        self._size, self._seed = size, seed
        self._heap: list[tuple[int, str]] = []
        self._closed = False

    def wants(self, customer: str) -> bool:
        """Whether it is chosen, or would be."""
        full = len(self._heap) >= self._size
        return customer in self.chosen or not full or -self._rank(customer) > self._heap[0][0]

    def offer(self, customers: Iterable[str]) -> list[str]:
        """Choose among these as well; who dropped out for them."""
        dropped = []
        for customer in customers:
            if customer in self.chosen or not self.wants(customer):
                continue
            self.chosen.add(customer)
            entry = (-self._rank(customer), customer)
            if self._closed:
                continue
            if len(self._heap) < self._size:
                self._heap.append(entry)
                if len(self._heap) == self._size:
                    self._heap.sort()
                continue
            _, out = heappushpop(self._heap, entry)
            self.chosen.remove(out)
            dropped.append(out)
        return dropped

    def close(self) -> None:
        """Nobody drops out any more; those born from now on may join."""
        self._closed = True

    def _rank(self, customer: str) -> int:
        return xxh3_64_intdigest(customer.encode(), self._seed)


class Recomputation:
    """What a worker would have written and said, without anything being written or said.

    Holds the States of the whole partition, but what was said only of sampled customers.
    `moved`, `rejected`: offset of the record of each change and dead letter, of all customers.
    """

    def __init__(
        self, function: Function, where: Partition, start: Checkpoint, sample: Sample
    ) -> None:
        self.function, self.where, self.sample = function, where, sample
        self.checkpoint = start
        self.records = 0
        self.states: dict[str, bytes] = {}
        self.minutes: dict[int, set[str]] = {}
        self.changes: dict[str, list[Output]] = {}
        self.memberships: dict[str, list[Output]] = {}
        self.moved, self.rejected = array("q"), array("q")

    def decode(self, records: Records) -> tuple[Decoded, set[int]]:
        """Events and controls, and the versions that must be at hand for the next step."""
        decoded = self.function.decode(records, self.where)
        return decoded, {c.version for _, c in decoded.controls if isinstance(c, ModelControl)}

    def step(
        self, records: Records, decoded: Decoded, models: Mapping[int, Model], target: Position
    ) -> int:
        """Compute a batch that ends at `target` at the latest; how many whole records it took.

        All records are before `target`, or there is one, within whose ticks `target` lies.
        """
        if records.offsets[-1] < target.offset:
            batch = self.function.gather(records, decoded, self.checkpoint, models, TICKS)
        else:
            batch = self._part(records, decoded, models, target)
        people = self.function.touched(batch, self.checkpoint, self._due(batch))
        blobs = [self.states.get(customer) for customer in people]
        states = (people, blobs)
        outcome = self.function.step(batch, self.checkpoint, self.where, models, states)
        self.records += batch.size
        self._write(outcome)
        self._say(outcome.outputs, decoded.events.customers)
        return batch.size

    def _part(
        self, records: Records, decoded: Decoded, models: Mapping[int, Model], target: Position
    ) -> Batch:
        """As many minutes of the record's ticks as lead to `target`, or fewer."""
        first = self.function.gather(records, decoded, self.checkpoint, models, 0)
        wanted = (target.clock - first.end.clock) // MINUTE + 1
        if self.checkpoint.offset != target.offset or first.size or wanted < 1:
            raise Unreachable(
                f"the log leads to {_place(self.checkpoint.position)} and then to "
                f"{_place(first.end)}, not to {_place(target)}"
            )
        customers = max(1, self.checkpoint.customers + len(decoded.events.customers))
        ticks = wanted * customers // self.function.definition.tick.minutes
        batch = self.function.gather(records, decoded, self.checkpoint, models, ticks)
        return first if batch.size or batch.end > target else batch

    def _due(self, batch: Batch) -> list[str]:
        minutes = self.function.due_minutes(batch)
        return [customer for minute in minutes for customer in self.minutes.get(minute, ())]

    def _write(self, outcome: Outcome) -> None:
        self.checkpoint = outcome.checkpoint
        self.states.update(outcome.writes)
        for customer in outcome.deletes:
            del self.states[customer]
        for minute, customer in outcome.unindexed:
            self.minutes[minute].remove(customer)
        for minute, customer in outcome.indexed:
            self.minutes.setdefault(minute, set()).add(customer)

    def _say(self, outputs: list[Output], customers: list[str]) -> None:
        for dropped in self.sample.offer(customers):
            self.changes.pop(dropped, None)
            self.memberships.pop(dropped, None)
        said = {"changes": self.changes, "memberships": self.memberships}
        for output in outputs:
            if output.topic == "dead_letters":
                self.rejected.append(int(header(output.headers, "segstream.errors.offset")))
            elif output.topic in said:
                if output.topic == "changes":
                    self.moved.append(order_of(header(output.headers, "ce_id"))[0])
                customer = (output.key or b"").decode()
                if customer in self.sample.chosen:
                    said[output.topic].setdefault(customer, []).append(output)


# -- what topics hold ------------------------------------------------------------------


class Kept(NamedTuple):
    """A record of an output topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def ce_id(self) -> str:
        return header(self.headers, "ce_id")

    @property
    def body(self) -> Any:
        """The JSON value; None if there is none, or it is no JSON."""
        try:
            return None if self.value is None else msgspec.json.decode(self.value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None


def header(headers: Sequence[tuple[str, bytes | None]] | None, name: str) -> str:
    """The text of a header, empty if there is none."""
    found = [value for key, value in headers or () if key == name and value is not None]
    return found[-1].decode(errors="replace") if found else ""


Order = tuple[int, int, int]
"""(offset, is an event, minute): the order of changes in the log, but for ticks of one minute."""


def order_of(ce_id: str) -> Order:
    """The place of a change in the log; (-1, 0, 0) if its id is none of ours."""
    found = _CE_ID.fullmatch(ce_id)
    if found is None:
        return (-1, 0, 0)
    _, offset, minute, _ = found.groups()
    return int(offset), int(minute is None), int(minute or 0)


def beyond(order: Order, position: Position) -> bool:
    """Whether a change belongs to what comes after a position."""
    offset, is_event, minute = order
    # A tick after the position's offset may still lie in the run of ticks that it stopped in.
    return offset >= position.offset and (bool(is_event) or minute * MINUTE > position.clock)


class Ordered:
    """Holds each change of a partition against the one before it: log order, no id twice."""

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.offsets = array("q")
        self.first: tuple[Order, bytes] | None = None
        self._last: tuple[Order, bytes] = ((-1, 0, 0), b"")

    def problem(self, change: Kept) -> str | None:
        """What is wrong with the next change."""
        order = order_of(change.ce_id)
        if order[0] < 0 or int(change.ce_id.partition("-")[0]) != self.partition:
            return f"a change has the ce_id {change.ce_id!r}, which segstream did not make"
        self.offsets.append(order[0])
        place = (order, change.key or b"")
        self.first = self.first or place
        before, self._last = self._last, max(self._last, place)
        if place > before:
            return None
        if place == before:
            return f"the change with ce_id {change.ce_id} is there twice"
        return f"the change with ce_id {change.ce_id} comes after one that is later in the log"


# -- in words --------------------------------------------------------------------------


def differences(there: Any, wanted: Any, path: str = "") -> Iterator[str]:
    """Where two JSON values differ."""
    if isinstance(there, dict) and isinstance(wanted, dict):
        for key in sorted(there.keys() | wanted.keys()):
            inner = f"{path}.{key}" if path else str(key)
            yield from differences(there.get(key), wanted.get(key), inner)
    elif isinstance(there, list) and isinstance(wanted, list) and len(there) == len(wanted):
        for i, (left, right) in enumerate(zip(there, wanted, strict=True)):
            yield from differences(left, right, f"{path}[{i}]")
    elif there != wanted:
        yield f"{path or 'the value'} is {_short(there)}, the log says {_short(wanted)}"


def checkpoint_differences(there: Checkpoint, wanted: Checkpoint) -> list[str]:
    """Field by field."""
    return list(differences(msgspec.to_builtins(there), msgspec.to_builtins(wanted)))


def state_differences(
    function: Function, there: bytes | None, wanted: bytes | None
) -> Iterator[str]:
    """Field by field, and measure by measure within the rings."""
    if there is None or wanted is None:
        if there is not wanted:
            has = "no State, the log says one" if there is None else "a State, the log says none"
            yield f"Redis has {has}"
        return
    layout = function.layout
    if len(there) != len(wanted):
        yield f"the State has {len(there)} bytes, not {len(wanted)}"
        return
    left, right = (np.frombuffer(blob, layout.dtype)[0] for blob in (there, wanted))
    rows = {
        "counts": layout.counts,
        "sums": layout.sums,
        "bits": layout.bits,
        "seen": layout.recencies,
        "lasts": layout.lasts,
        "lasts_at": layout.lasts,
    }
    for field in layout.dtype.names or ():
        if left[field].tobytes() == right[field].tobytes():
            continue
        if field not in rows:
            yield from differences(left[field].tolist(), right[field].tolist(), field)
            continue
        for i, measure in enumerate(rows[field]):
            ours, theirs = (state[field][i].tolist() for state in (left, right))
            yield from differences(ours, theirs, f"{field} of {measure}")


def change_differences(
    there: Sequence[Kept], wanted: Sequence[Output], *, at_least: int
) -> Iterator[str]:
    """A customer's changes by id; only the first `at_least` of those wanted must be there yet."""
    by_id = {header(output.headers, "ce_id"): output for output in wanted}
    for change in there:
        output = by_id.get(change.ce_id)
        if output is None:
            yield f"the change with ce_id {change.ce_id!r} is not what the log says"
            continue
        plain = msgspec.json.decode(output.value or b"null")
        texts = list(differences(change.body, plain))
        texts += differences(dict(change.headers), dict(output.headers), "headers")
        yield from (f"change {change.ce_id}: {text}" for text in texts)
    present = {change.ce_id for change in there}
    for ce_id in list(by_id)[:at_least]:
        if ce_id not in present:
            yield f"the change with ce_id {ce_id} is missing"


def sequence_gaps(changes: Sequence[Kept], *, complete: bool) -> Iterator[str]:
    """Each change goes on where the one before it ended. `complete`: none was deleted by age."""
    before: Any = {"to": None, "sequence": 0} if complete else None
    for change in changes:
        body = change.body
        if not isinstance(body, dict) or not {"from", "to", "sequence"} <= body.keys():
            yield f"the change with ce_id {change.ce_id!r} has a value that is no change"
            continue
        if before is not None:
            number = 1 if before["to"] is None else before["sequence"] + 1
            yield from (
                f"change {change.ce_id}, held against the one before: {text}"
                for text in differences(
                    {"sequence": body["sequence"], "from": _segment(body["from"])},
                    {"sequence": number, "from": _segment(before["to"])},
                )
            )
        before = body


class Standing(NamedTuple):
    """Segment (0 = none) and number of the last change."""

    segment: int
    sequence: int

    def __str__(self) -> str:
        return f"segment {self.segment} by change {self.sequence}" if self.segment else "no segment"


NOWHERE = Standing(0, 0)


def standing_of_state(function: Function, blob: bytes | None) -> Standing:
    """What a State says."""
    if blob is None or len(blob) != function.layout.dtype.itemsize:
        return NOWHERE
    state: Any = np.frombuffer(blob, function.layout.dtype)[0]
    segment = int(state["segment"])
    return Standing(segment, int(state["sequence"])) if segment else NOWHERE


def standing_of(body: Any) -> Standing:
    """What a change or a membership says."""
    try:
        segment = body["to"]["segment"] if "to" in body else body["segment"]
        return Standing(int(segment), int(body["sequence"]))
    except (TypeError, KeyError, ValueError):
        return NOWHERE


def shown(customer: str, *, plainly: bool) -> str:
    """How a customer is named to people."""
    return repr(customer) if plainly else f"{customer_hash(customer):016x}"


def _segment(part: Any) -> Any:
    return part.get("segment") if isinstance(part, dict) else part


def _place(position: Position) -> str:
    return f"offset {position.offset}, clock {position.clock}"


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def places(offsets: array[int], first: int) -> array[int]:
    """Those from an offset on; `offsets` in ascending order."""
    return offsets[bisect_left(offsets, first) :]
