"""Puts interleaved samples back into the order of time, one UTC day at a time.

Samples of P partitions arrive in one topic in no fixed order. Each partition marks the midnights
that its clock passes; a day is closed when all partitions have passed its end, and what is learned
then is the same for every order of arrival. Days without samples are not closed at all.

A partition that is more than LAG days behind the furthest does not hold the rest: what it sends
for closed days is learned with the next day that closes. One that has never marked a day counts as
standing at the first mark seen.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from segstream.core.hash import level_of
from segstream.core.panel import PanelSample

DAY = 86_400_000
LAG = 2
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@lru_cache(4_096)
def instant_ms(text: str) -> int:
    """ms since 1970 of an ISO 8601 text with an offset; ValueError if there is no such instant."""
    found = datetime.fromisoformat(text)
    if found.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC, such as Z or +01:00")
    return (found - _EPOCH) // timedelta(milliseconds=1)


def midnight_after(at: int) -> int:
    """The end of the day that `at` (ms) belongs to; a midnight ends the day before it."""
    return -(-at // DAY) * DAY


def _in_time(sample: PanelSample) -> tuple[int, int, bool]:
    return sample.at, sample.customer, sample.vector is None


class Calendar:
    """Samples that wait for their day to close."""

    def __init__(self) -> None:
        self.closed = 0
        self._marked: dict[int, int] = {}
        self._first = 0
        self._partitions = 0
        self._waiting: list[PanelSample] = []
        #: customer → (partition, at) of its last sample, to date its removal
        self._last: dict[int, tuple[int, int]] = {}
        self._leaving: dict[int, list[tuple[int, int]]] = {}
        self._level = 0

    def sample(self, partition: int, sample: PanelSample) -> None:
        """A panel customer's vector arrived."""
        self._waiting.append(sample)
        self._last[sample.customer] = (partition, sample.at)

    def leave(self, customer: int) -> None:
        """A customer was removed. That record has no time: its partition's next marker dates it.

        A removal of a customer without any sample here removes nothing.
        """
        if customer in self._last:
            partition, at = self._last.pop(customer)
            self._leaving.setdefault(partition, []).append((customer, at))

    def mark(self, partition: int, partitions: int, day: int) -> None:
        """A partition's clock has passed the midnight `day` (ms)."""
        self._partitions = partitions
        self._first = self._first or day
        self._marked[partition] = max(day, self._marked.get(partition, 0))
        for customer, last in self._leaving.pop(partition, []):
            # The partition marks every midnight it walks over, so the removal belongs to this
            # day. It goes before whatever the customer, born again, sends later that day.
            at = max(last, day - DAY + 1)
            self._waiting.append(PanelSample(at, customer, None))

    def watermark(self) -> int:
        """The last midnight (ms) that all partitions have passed, laggards aside; 0 = none yet."""
        bound = max(self._marked.values(), default=0) - LAG * DAY
        if len(self._marked) < self._partitions and self._first >= bound:
            return 0
        days = [self._marked.get(p, 0) for p in range(self._partitions)]
        return min((day for day in days if day >= bound), default=0)

    def close(self) -> list[tuple[int, list[PanelSample]]]:
        """The days that can be learned now, in order: (their end, their samples in order)."""
        until = self.watermark()
        days: dict[int, list[PanelSample]] = {}
        still: list[PanelSample] = []
        for sample in self._waiting:
            day = max(midnight_after(sample.at), self.closed + DAY)
            (days.setdefault(day, []) if day <= until else still).append(sample)
        self._waiting = still
        if days:
            self.closed = max(days)
            self._shrink(max(sample.level for samples in days.values() for sample in samples))
        return [(day, sorted(days[day], key=_in_time)) for day in sorted(days)]

    def _shrink(self, level: int) -> None:
        if level > self._level:
            self._level = level
            self._last = {c: last for c, last in self._last.items() if level_of(c) >= level}
