"""What stands in a peer's log: the past of those who come, the counted calls, the paced ones."""

from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np

from benchmarks.peers.job import Change, Job, Oracle
from benchmarks.peers.model import only
from benchmarks.traffic import START_MS, People, Traffic, live

RATE = 1_000_000
"""Calls per second of event time: all live calls fall into one minute, in which nobody's tick is
due, so that time alone moves no one."""

Record = tuple[int, bytes, bytes]


class Contents(NamedTuple):
    """Calls in the order of sending; a slow peer gets fewer of the same."""

    past: Traffic
    counted: Traffic
    paced: Traffic

    @property
    def before(self) -> int:
        """How many calls are in the log when the peer starts."""
        return len(self.past) + len(self.counted)

    def records(self) -> Iterator[Record]:
        """(partition, key, value) of all but the paced calls."""
        return chain(self.past.records(), self.counted.records())


class Expected(NamedTuple):
    """What must come out."""

    changes: list[Change]
    before: int  # of them before the paced calls
    on_a_border: set[str]


def contents(who: People, past: Traffic, counted: int, paced: int) -> Contents:
    """Of the past, only that of customers who come at all; the clock stands still from the start.

    The first call of a partition is its latest, as in `history`.
    """
    first = len(past)
    coming = live(who, counted + paced, first=first, rate=RATE)
    kept = only(past, np.isin(past.customer, coming.customer))
    kept.time[np.unique(kept.partition, return_index=True)[1]] = START_MS
    return Contents(kept, only(coming, slice(counted)), only(coming, slice(counted, None)))


def expected(job: Job, what: Contents) -> Expected:
    """By the oracle."""
    oracle = Oracle(job)
    changes = list(oracle.feed(what.records()))
    before = len(changes)
    changes += oracle.feed(what.paced.records())
    return Expected(changes, before, oracle.on_a_border)
