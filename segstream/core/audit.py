"""What the output topics of a partition hold, held against the log, and against itself."""

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Literal, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from segstream.core.batch import Position
from segstream.core.difference import differences
from segstream.core.expression import MINUTE
from segstream.core.output import Output
from segstream.core.state import Foreign, Layout

About = Literal["checkpoint", "state", "index", "change", "membership"]
_CE_ID = re.compile(r"(\d+)-(\d+)(?:-(\d+)-[0-9a-f]{16})?", re.ASCII)


class Problem(NamedTuple):
    """Something that is not as it must be. `customer` is empty if it is about none."""

    about: About
    customer: str
    text: str


class Sample:
    """Which customers are looked at: those that are named, or a share of all, chosen by a seed."""

    def __init__(self, share: float, seed: int, named: Iterable[str] = ()) -> None:
        self.named = frozenset(named)
        self._seed, self._below = seed, int(share * 2**64)

    def __contains__(self, customer: str) -> bool:
        if self.named:
            return customer in self.named
        return xxh3_64_intdigest(customer.encode(), self._seed) < self._below


class Place(NamedTuple):
    """Where in the log a change was caused; changes of a partition are published in this order."""

    offset: int  # -1: its id is none of ours
    is_event: bool
    minute: int
    customer: bytes

    def beyond(self, position: Position) -> bool:
        """Whether it belongs to what comes after a position."""
        # A tick of the next record may still lie in the part of its ticks that is done.
        late = self.is_event or self.minute * MINUTE > position.clock
        return self.offset >= position.offset and late


class Kept(NamedTuple):
    """A record of an output topic."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]

    @property
    def customer(self) -> str:
        return (self.key or b"").decode(errors="replace")

    @property
    def body(self) -> Any:
        """The JSON value; None if there is none, or it is no JSON."""
        try:
            return None if self.value is None else msgspec.json.decode(self.value)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None

    @property
    def ce_id(self) -> str:
        return ce_id_of(self.headers)

    @property
    def standing(self) -> "Standing":
        """What it says, if it is a membership."""
        body = self.body
        return standing_of(body, body.get("sequence")) if isinstance(body, dict) else NOWHERE

    def place(self, partition: int) -> Place:
        """Where it was caused, if it is a change of this partition."""
        found = _CE_ID.fullmatch(self.ce_id)
        if found is None or int(found[1]) != partition:
            return Place(-1, False, 0, b"")
        _, offset, minute = found.groups()
        return Place(int(offset), minute is None, int(minute or 0), self.key or b"")


def ce_id_of(headers: Sequence[tuple[str, bytes | None]] | None) -> str:
    """The id of a CloudEvent in binary mode, empty if there is none."""
    found = [value for name, value in headers or () if name == "ce_id" and value is not None]
    return found[-1].decode(errors="replace") if found else ""


class Order:
    """Looks at each change of a partition in turn: log order, nothing twice."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._last = Place(-1, False, 0, b"")

    def wrong(self, change: Kept) -> str:
        """What is wrong with the next one; empty: nothing."""
        place = change.place(self._partition)
        before, self._last = self._last, max(self._last, place)
        if place.offset < 0:
            return f"change with ce_id {change.ce_id!r}: segstream did not make it"
        if place > before:
            return ""
        if place == before:
            return f"change {change.ce_id} is there twice"
        return (
            f"change {change.ce_id} comes after one of offset {before.offset}, which is later in "
            "the log: it is out of order, or there a second time"
        )


class Changes:
    """The changes of a partition as its topic holds them, beside those that the log leads to.

    Both come in log order, so neither need be kept. `whole`: none was deleted by age yet.
    """

    def __init__(self, partition: int, kept: Iterator[Kept], *, whole: bool) -> None:
        self.compared = 0
        self.later: set[str] = set()
        self._partition, self._kept, self._whole = partition, kept, whole
        self._order = Order(partition)
        self._next = next(kept, None)

    def expect(self, output: Output) -> Iterator[Problem]:
        """The next change of the log; what stands before its place in the topic is wrong."""
        wanted = Kept(output.key, output.value, output.headers)
        place = wanted.place(self._partition)
        while self._next is not None and self._next.place(self._partition) < place:
            yield self._extra(self._next)
            self._advance()
        there = self._next
        if there is None or there.place(self._partition) > place:
            if self._whole:
                yield Problem("change", wanted.customer, f"change {wanted.ce_id} is missing")
            return
        self._whole = True  # from the first one on nothing may be missing
        self._order.wrong(there)
        self.compared += 1
        for text in _change_differences(there, wanted):
            yield Problem("change", wanted.customer, f"change {wanted.ce_id}: {text}")
        self._advance()

    def go_on(self, kept: Iterator[Kept]) -> None:
        """More of the topic, behind what was given before."""
        self._kept = chain(self._kept, kept)
        if self._next is None:
            self._advance()

    def finish(self, position: Position) -> Iterator[Problem]:
        """The rest: what is not beyond the position is wrong; who moved beyond it is in `later`."""
        while (there := self._next) is not None:
            if not there.place(self._partition).beyond(position):
                yield self._extra(there)
            else:
                self.later.add(there.customer)
                if wrong := self._order.wrong(there):
                    yield Problem("change", there.customer, wrong)
            self._advance()

    def _extra(self, change: Kept) -> Problem:
        text = self._order.wrong(change) or f"change {change.ce_id} is not what the log says"
        return Problem("change", change.customer, text)

    def _advance(self) -> None:
        self._next = next(self._kept, None)


class Standing(NamedTuple):
    """The segment a customer is in (0: none), and the number of the change that led there."""

    segment: int
    sequence: int

    def __str__(self) -> str:
        return f"segment {self.segment} by change {self.sequence}" if self.segment else "no segment"


NOWHERE = Standing(0, 0)


class Chain:
    """What the changes of a partition say of themselves, without the log.

    `latest`: where each customer stands after its last change; `before`: after the last one that
    is not beyond `position`. `whole`: none was deleted by age yet.
    """

    def __init__(self, partition: int, position: Position, *, whole: bool) -> None:
        self.latest: dict[str, Standing] = {}
        self.before: dict[str, Standing] = {}
        self.compared = 0
        self._partition, self._position, self._whole = partition, position, whole
        self._order = Order(partition)

    def take(self, change: Kept) -> Iterator[Problem]:
        """The next one of the topic."""
        self.compared += 1
        customer = change.customer
        if wrong := self._order.wrong(change):
            yield Problem("change", customer, wrong)
            return
        body = change.body
        if not isinstance(body, dict) or not {"from", "to", "sequence"} <= body.keys():
            yield Problem("change", customer, f"change {change.ce_id}: its value is no change")
            return
        last = self.latest.get(customer, NOWHERE if self._whole else None)
        if last is not None:
            texts = differences(
                {"sequence": body["sequence"], "from": _segment(body["from"])},
                {"sequence": last.sequence + 1, "from": last.segment or None},
            )
            for text in texts:
                said = text.replace("the log says", "after the one before it should be")
                yield Problem("change", customer, f"change {change.ce_id}: {said}")
        self.latest[customer] = standing_of(body["to"], body["sequence"])
        if not change.place(self._partition).beyond(self._position):
            self.before[customer] = self.latest[customer]


def standing_of(to: Any, sequence: Any) -> Standing:
    """What a change or a membership says: `to` has a segment, or is null."""
    segment = _segment(to)
    return Standing(segment, sequence) if segment else NOWHERE


def standing_of_state(layout: Layout, blob: bytes | None) -> Standing:
    """What a State says."""
    try:
        state: Any = layout.unpack([blob], [""])[0]
    except Foreign:
        return NOWHERE
    segment = int(state["segment"])
    return Standing(segment, int(state["sequence"])) if segment else NOWHERE


def membership_differences(there: Kept | None, wanted: bytes | None) -> Iterator[str]:
    """The last membership of a customer in the topic against that of the log (None: none)."""
    value = None if there is None else there.value
    if value == wanted:
        return
    if value is None or wanted is None:
        yield "has no membership" if value is None else "has a membership, the log says none"
        return
    yield from _body_differences(Kept(None, value, ()), Kept(None, wanted, ()))


def _change_differences(there: Kept, wanted: Kept) -> Iterator[str]:
    if there.value != wanted.value:
        yield from _body_differences(there, wanted)
    if list(there.headers) != list(wanted.headers):
        left, right = ({n: v or b"" for n, v in k.headers} for k in (there, wanted))
        if left.pop("ce_subject", b"") != right.pop("ce_subject", b""):
            yield "ce_subject names another customer"
        yield from differences(left, right) if left != right else ("its headers are others",)


def _body_differences(there: Kept, wanted: Kept) -> Iterator[str]:
    left, right = there.body, wanted.body
    if not isinstance(left, dict):
        yield "its value is no JSON object"
        return
    if left.pop("customer", None) != right.pop("customer"):
        yield "it names another customer"
    yield from differences(left, right) if left != right else ()


def _segment(part: Any) -> Any:
    return part.get("segment") if isinstance(part, dict) else part
