"""Dead letters that are sent again: which ones, as what, and how it is noted that they were.

A letter's name is `<partition>-<offset>` in the dead-letter topic. What is sent carries it in the
header `segstream.redriven`; so does the marker, a record without key and value that is appended to
the letter's partition in the same transaction. It stands behind the letter, and so is kept longer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segstream.core.forward import HOPS, LARGEST_STRAY, headers_of, size_of
from segstream.core.spec import Invalid, parse_time

Header = tuple[str, bytes | None]
Headers = Sequence[Header] | None

ERRORS = "segstream.errors."
REDRIVEN = "segstream.redriven"
MOST_RECORDS, MOST_BYTES = 500, 4 << 20
"""Of one transaction; a record that is larger has one of its own."""


class Origin(NamedTuple):
    """Where the record stood that became a dead letter."""

    topic: str
    partition: int
    offset: int


class Letter(NamedTuple):
    """What a dead letter says of itself.

    `at`: append time of its record, ms. `cut`: only its beginning was kept. `before`: the name of
    the letter that its record was sent again from; None if it came from a producer.
    """

    reason: str
    message: str
    at: int
    origin: Origin
    cut: bool
    before: str | None


class Marker(NamedTuple):
    """The letter of this name was sent again."""

    name: str


class Filter(NamedTuple):
    """Which letters are meant; empty or None: all. Times in ms, `until` is not included."""

    reasons: frozenset[str] = frozenset()
    since: int | None = None
    until: int | None = None
    partitions: frozenset[int] = frozenset()

    def takes(self, letter: Letter) -> bool:
        return (
            (not self.reasons or letter.reason in self.reasons)
            and (not self.partitions or letter.origin.partition in self.partitions)
            and (self.since is None or letter.at >= self.since)
            and (self.until is None or letter.at < self.until)
        )


class Place(NamedTuple):
    """Of a letter, the oldest record first."""

    at: int
    partition: int
    offset: int
    reason: str

    @property
    def name(self) -> str:
        return name_of(self.partition, self.offset)


@dataclass
class Tally:
    """Letters of one reason. Times are append times of their records, ms."""

    letters: int = 0
    oldest: int = 0
    newest: int = 0
    example: str = ""
    failed_again: int = 0
    sent_before: int = 0
    to_send: int = 0

    def add(self, letter: Letter) -> None:
        self.oldest = min(self.oldest, letter.at) if self.letters else letter.at
        self.newest = max(self.newest, letter.at)
        self.letters += 1
        self.failed_again += letter.before is not None
        self.example = letter.message


class Survey:
    """What the topic holds of the letters that are wanted.

    `to_send`: empty until it is settled. `too_large`: where the originals of letters stand that
    cannot be sent, because they are cut or have no room for more headers. `unknown`: how many
    records segstream did not write.
    """

    def __init__(self, wanted: Filter) -> None:
        self._wanted = wanted
        self._whole: list[Place] = []
        self._marked: set[str] = set()
        self._failed: set[str] = set()
        self.tallies: dict[str, Tally] = {}
        self.to_send: list[Place] = []
        self.too_large: list[Origin] = []
        self.unknown = 0

    def note(self, partition: int, offset: int, headers: Headers, size: int) -> None:
        """Take a record of the topic in; `size` in bytes."""
        found = read(partition, headers)
        if isinstance(found, Marker):
            self._marked.add(found.name)
        elif found is None:
            self.unknown += 1
        else:
            if found.before is not None:
                self._failed.add(found.before)
            if self._wanted.takes(found):
                self._take(found, Place(found.at, partition, offset, found.reason), size)

    def _take(self, letter: Letter, place: Place, size: int) -> None:
        self.tallies.setdefault(letter.reason, Tally()).add(letter)
        if letter.cut or size > LARGEST_STRAY:
            self.too_large.append(letter.origin)
        else:
            self._whole.append(place)

    def settle(self, *, again: bool, limit: int | None) -> None:
        """Once all records are noted: leave out what was sent, and what is beyond the limit.

        `again`: what was sent is sent once more, unless it has failed: then it is another letter
        by now, and that one stands for it. The limit leaves out the newest.
        """
        left = []
        for place in sorted(self._whole):
            self.tallies[place.reason].sent_before += place.name in self._marked
            if place.name not in self._marked or (again and place.name not in self._failed):
                left.append(place)
        self.to_send = left[:limit]
        for place in self.to_send:
            self.tallies[place.reason].to_send += 1


class Resent(NamedTuple):
    """A record for `customer-events`, on the partition it came from."""

    name: str
    partition: int
    key: bytes | None
    value: bytes | None
    headers: list[Header]

    @property
    def size(self) -> int:
        return size_of(self.key, self.value, self.headers)


def name_of(partition: int, offset: int) -> str:
    """How a letter is called."""
    return f"{partition}-{offset}"


def read(partition: int, headers: Headers) -> Letter | Marker | None:
    """What a record of the dead-letter topic is; None: nothing that segstream wrote."""
    came, errors = _parted(headers)
    redriven = [_text(value) for name, value in came if name == REDRIVEN and value is not None]
    before = redriven[-1] if redriven else None
    if not errors:
        return None if before is None else Marker(before)
    try:
        origin = Origin(errors["topic"], int(errors["partition"]), int(errors["offset"]))
        at = parse_time(errors["at"])
    except (KeyError, ValueError, Invalid):
        return None
    if origin.partition != partition:
        return None
    message = errors.get("message", "")
    return Letter(errors["reason"], message, at, origin, "size" in errors, before)


def resent(
    partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Resent:
    """The record that a letter was, as it is sent again.

    When it was first appended goes with it, as when a call is forwarded; hops are counted anew.
    """
    came, errors = _parted(headers)
    name = name_of(partition, offset)
    kept = [h for h in headers_of(came, errors["at"]) if h[0] not in (HOPS, REDRIVEN)]
    return Resent(name, partition, key, value, [*kept, *marker_headers(name)])


def marker_headers(name: str) -> list[Header]:
    """Headers of the marker that says that this letter was sent."""
    return [(REDRIVEN, name.encode())]


def batches(records: Iterable[Resent], most: int = MOST_RECORDS) -> Iterator[list[Resent]]:
    """The records in the order they come, for one transaction each."""
    batch, size = list[Resent](), 0
    for record in records:
        if batch and (len(batch) == most or size + record.size > MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += record.size
    if batch:
        yield batch


def _parted(headers: Headers) -> tuple[list[Header], dict[str, str]]:
    """The headers as they came, and the errors that the segmenter put behind them, by name.

    A producer may have written such headers too, but ours stand behind them.
    """
    found = list(headers or ())
    first = f"{ERRORS}reason"
    start = max((i for i, (name, _) in enumerate(found) if name == first), default=len(found))
    errors = {n.removeprefix(ERRORS): _text(v) for n, v in found[start:] if n.startswith(ERRORS)}
    return found[:start], errors


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
