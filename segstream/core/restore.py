"""What is left of a partition after a loss, what that allows, and an approximate new start.

An approximate new start is for a log that does not reach back to where Redis stands. Windows come
from what the log still holds; segments, their numbers and since when come from the memberships
that were published. So readers see no gap and no repetition: only what happens next may be other
than it would have been. `docs/operations.md` says what is lost.
"""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from segstream.core.batch import Checkpoint, Position
from segstream.core.hash import level_of
from segstream.core.recompute import Recomputation
from segstream.core.record import Membership
from segstream.core.spec import parse_time

Verdict = Literal[
    "goes on", "catches up", "log too short", "W is lost", "log was cut", "other layout"
]


class Found(NamedTuple):
    """Where a partition stands. `checkpoint` None: Redis has none. `published` None: no W."""

    partition: int
    checkpoint: Checkpoint | None
    published: Position | None
    origin: int  # offset where the States begin, as W says
    layouts: frozenset[str]  # of Redis and Kafka
    start: int  # of the log
    end: int

    @property
    def stands(self) -> Position:
        """N."""
        return Position(self.origin, 0) if self.checkpoint is None else self.checkpoint.position

    @property
    def again(self) -> int:
        """Offsets from N to W, which are computed silently."""
        return max(0, (self.published or self.stands).offset - self.stands.offset)

    @property
    def ahead(self) -> int:
        """Offsets from N to the end of the log."""
        return max(0, self.end - self.stands.offset)

    def verdict(self, layout: str) -> Verdict:
        """What a segmenter with this layout would do."""
        if self.layouts - {layout}:
            return "other layout"
        if self.published is None:
            return "W is lost"
        if self.stands.offset < self.start:
            return "log too short"
        if max(self.stands.offset, self.published.offset) > self.end:
            return "log was cut"
        return "catches up" if self.stands < self.published else "goes on"

    @property
    def renewed(self) -> Position:
        """Where an approximate new start stands: at W, or where the log begins if that is later."""
        published = self.published or Position(0, 0)
        return Position(max(published.offset, self.start), published.clock)


class Renewed(NamedTuple):
    """A partition as an approximate new start leaves it."""

    checkpoint: Checkpoint
    states: dict[str, bytes]
    minutes: dict[int, list[str]]


def renewed(
    again: Recomputation,
    memberships: Mapping[str, Membership],
    found: Found,
    latest: int,
    panel: int,
) -> Renewed:
    """Windows as computed from the log, segments as published.

    `latest`: when members of whom the log holds nothing can have come last, ms. `panel`: how many
    panel customers a partition has at most.
    """
    layout, period = again.function.layout, again.function.definition.tick.minutes
    names = sorted(again.states.keys() | memberships.keys())
    states = layout.unpack([again.states.get(name) for name in names], names)
    unseen = [i for i, name in enumerate(names) if name not in again.states]
    states["last"][unseen] = latest
    for name in ("pending", "pending_since"):
        states[name] = 0
    there = [memberships.get(name) for name in names]
    states["segment"] = [m.segment if m else 0 for m in there]
    states["sequence"] = [m.sequence if m else 0 for m in there]
    states["stamp"] = [m.model if m else 0 for m in there]
    states["since"] = [parse_time(m.since) if m else 0 for m in there]
    hashes = states["hash"].tolist()
    born = np.bincount([level_of(h) for h in hashes], minlength=65).tolist()
    level = again.checkpoint.level
    while sum(born[level:]) > panel and level < 64:
        level += 1
    minutes: dict[int, list[str]] = {}
    for name, hash64 in zip(names, hashes, strict=True):
        minutes.setdefault(hash64 % period, []).append(name)
    checkpoint = msgspec.structs.replace(
        again.checkpoint,
        offset=found.renewed.offset,
        clock=found.renewed.clock,
        model=max(again.checkpoint.model, *(m.model for m in memberships.values()), 0),
        level=level,
        born=tuple(born),
        customers=len(names),
        segments=_numbers(memberships),
        rebuilt_from=found.start,
    )
    return Renewed(checkpoint, dict(zip(names, layout.pack(states), strict=True)), minutes)


def _numbers(memberships: Mapping[str, Membership]) -> dict[str, int]:
    found: dict[str, int] = {}
    for membership in memberships.values():
        found[str(membership.segment)] = found.get(str(membership.segment), 0) + 1
    return found
