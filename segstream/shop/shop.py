"""The shop: its calls in the order of time, and the truth about its customers."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cached_property
from typing import NamedTuple

import numpy as np

from segstream.core.calendar import DAY
from segstream.shop.day import Circumstances, Refunds, draw, refunded, season
from segstream.shop.people import Ints, People, Stay, Stays, Truth, people, stays
from segstream.shop.persona import NAMES
from segstream.shop.text import written

_DAYS = 3  # stream of random numbers; people and switches have 1 and 2


class Day(NamedTuple):
    """All calls of a UTC day, in the order of time.

    `at`: int64 [n], ms since 1970. `who`: raw ids [n], a userId or an anonymousId. `lines`: calls
    as JSON [n], in ASCII, without an end of line.
    """

    begin: int
    at: Ints
    who: list[str]
    lines: list[str]


@dataclass(frozen=True)
class Shop:
    """A shop of `customers` that sign up by and by, over `days` UTC days from `start` on.

    hazard: switches to another persona per customer and year. new_persona: day from which on an
    eighth one comes. inflation: prices rise evenly between these days to `risen` times what they
    were, and stay. campaign: day on which 40 % of the loyal become bargain hunters. seasons:
    weekends, Christmas, summer. guests: anonymous visits per 1,000 customers and day; they are
    in no truth. None (0, False) switches each off; days are counted from 0.
    """

    seed: int = 0
    customers: int = 2_000
    days: int = 540
    start: date = date(2024, 1, 1)
    hazard: float = 0.35
    new_persona: int | None = 240
    inflation: tuple[int, int] | None = (300, 360)
    risen: float = 1.35
    campaign: int | None = 400
    seasons: bool = True
    guests: float = 0.1

    def __post_init__(self) -> None:
        """ValueError: no such shop."""
        if self.seed < 0 or self.customers < 1 or self.days < 1:
            raise ValueError("a shop needs a seed ≥ 0, a customer and a day")

    @property
    def begin(self) -> int:
        """The first midnight, ms since 1970."""
        return int(datetime.combine(self.start, time(), UTC).timestamp()) * 1_000

    # -- calls ------------------------------------------------------------------------

    def calls(self) -> Iterator[bytes]:
        """Segment calls as JSON lines, without an end of line, in the order of time."""
        for day in self.by_day():
            for line in day.lines:
                yield line.encode()

    def by_day(self) -> Iterator[Day]:
        """The same, a day at a time. Memory is needed for one day, and for refunds to come."""
        names = np.array([f"c-{n}" for n in range(self.customers)], object)
        known = np.array([f'"userId":"{name}"' for name in names], object)
        now = np.zeros(self.customers, np.int64)
        orders: defaultdict[int, list[Refunds]] = defaultdict(list)
        for number in range(self.days):
            begun = self._of_day(number)
            now[self._stays.customer[begun]] = self._stays.persona[begun]
            rng = np.random.default_rng([self.seed, _DAYS, number])
            groups, refunds = draw(rng, self._people, now, self._circumstances(number))
            if due := orders.pop(number, None):
                together = Refunds(*map(np.concatenate, zip(*due, strict=True)))
                groups.append(refunded(rng, together))
            for day in np.unique(refunds.day).tolist():
                orders[day].append(Refunds(*(column[refunds.day == day] for column in refunds)))
            most = max(int(group.who.max(initial=0)) for group in groups) + 1
            guests = [f"g-{number}-{n}" for n in range(most - self.customers)]
            who = np.concatenate([known, [f'"anonymousId":"{guest}"' for guest in guests]])
            on = self.start + timedelta(days=number)
            at, which, lines = written(groups, who, f"{self.seed}-{number}", on)
            ids = np.concatenate([names, np.array(guests, object)])[which].tolist()
            begin = self.begin + number * DAY
            yield Day(begin, begin + at, ids, lines)

    def _circumstances(self, number: int) -> Circumstances:
        prices = 1.0
        if self.inflation is not None:
            first, last = self.inflation
            prices += (self.risen - 1) * min(max((number - first) / max(last - first, 1), 0.0), 1.0)
        day = self.start + timedelta(days=number)
        busy = season(day) if self.seasons else 1.0
        return Circumstances(number, busy, prices, self.guests * self.customers / 1_000 * busy)

    # -- truth ------------------------------------------------------------------------

    def stays(self) -> list[Stay]:
        """All stays in the order of their beginnings, which are midnights.

        Who signs up on a day is there from the midnight before; calls other than those of the
        sign-up begin on the day after.
        """
        begin = (self.begin + self._stays.day * DAY).tolist()
        people, personas = self._stays.customer.tolist(), self._stays.persona.tolist()
        return [
            Stay(f"c-{n}", at, NAMES[persona])
            for at, n, persona in zip(begin, people, personas, strict=True)
        ]

    def truth_at(self, ms: int) -> Truth:
        """Everybody who has signed up by then, and which persona each is of."""
        upto = np.searchsorted(self._stays.day, (ms - self.begin) // DAY, side="right")
        begun = np.full(self.customers, -1)
        begun[self._stays.customer[:upto]] = np.arange(upto)  # the last one counts
        there = np.flatnonzero(begun >= 0)
        stay = begun[there]
        since = self.begin + self._stays.day[stay] * DAY
        return Truth([f"c-{n}" for n in there.tolist()], self._stays.persona[stay], since)

    @cached_property
    def _people(self) -> People:
        return people(self.seed, self.customers, self.new_persona)

    @cached_property
    def _stays(self) -> Stays:
        return stays(
            self.seed, self.days, self._people, self.hazard, self.new_persona, self.campaign
        )

    def _of_day(self, number: int) -> slice:
        first, last = np.searchsorted(self._stays.day, [number, number + 1])
        return slice(int(first), int(last))
