"""Dead letters that are sent again: which ones, as what, and how it is noted that they were.

A letter's name is `<partition>-<offset>` in the dead-letter topic. What is sent carries it in the
header `segstream.redriven`; so does the marker, a record without key and value that is appended
behind the letter in the same transaction.
"""

from collections.abc import Sequence
from typing import NamedTuple

from segstream.core.forward import HOPS, headers_of, size_of
from segstream.core.spec import Invalid, parse_time

Header = tuple[str, bytes | None]
Headers = Sequence[Header] | None

ERRORS = "segstream.errors."
REDRIVEN = "segstream.redriven"


class Origin(NamedTuple):
    """Where the record stood that became a dead letter."""

    topic: str
    partition: int
    offset: int


class Letter(NamedTuple):
    """What a dead letter says of itself. `at`: append time of its record, ms."""

    reason: str
    message: str
    at: int
    origin: Origin
    cut: bool
    failed_again: bool


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
    before, errors = _parted(headers)
    redriven = [v for name, v in before if name == REDRIVEN and v is not None]
    if not errors:
        return Marker(_text(redriven[-1])) if redriven else None
    try:
        origin = Origin(errors["topic"], int(errors["partition"]), int(errors["offset"]))
        at = parse_time(errors["at"])
    except (KeyError, ValueError, Invalid):
        return None
    if origin.partition != partition:
        return None
    return Letter(
        errors["reason"], errors.get("message", ""), at, origin, "size" in errors, bool(redriven)
    )


def resent(
    partition: int, offset: int, key: bytes | None, value: bytes | None, headers: Headers
) -> Resent:
    """The record that a letter was, as it is sent again.

    Whoever appended it first, the time of that stays; hops are counted anew.
    """
    before, errors = _parted(headers)
    kept = [h for h in before if h[0] != REDRIVEN and not h[0].startswith(ERRORS)]
    name = name_of(partition, offset)
    again = [h for h in headers_of(kept, errors["at"]) if h[0] != HOPS]
    return Resent(name, partition, key, value, [*again, (REDRIVEN, name.encode())])


def marker_headers(name: str) -> list[Header]:
    """Headers of the marker that says that this letter was sent."""
    return [(REDRIVEN, name.encode())]


def _parted(headers: Headers) -> tuple[list[Header], dict[str, str]]:
    """The headers as they came, and the errors that the segmenter put behind them, by name."""
    found = list(headers or ())
    first = f"{ERRORS}reason"
    start = max((i for i, (name, _) in enumerate(found) if name == first), default=len(found))
    errors = {n.removeprefix(ERRORS): _text(v) for n, v in found[start:] if n.startswith(ERRORS)}
    return found[:start], errors


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace")
