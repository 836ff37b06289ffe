"""What the active trainer knows: a function of the records read and the versions published.

    records ─▶ calendar (order of time) ─▶ panel, River and drift, day by day ─▶ due? ─▶ fit

After a restart the same is built again from the two topics: samples up to the newest version's
`panel.at` fill the panel and are placed by that version, later ones are learned as before. What the
drift monitors knew then stands in the version.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np
from pydantic import ValidationError

from segstream.core.calendar import DAY, Calendar, instant_ms
from segstream.core.drift import Watch
from segstream.core.feature import Vectors
from segstream.core.model import Model
from segstream.core.output import ms_text
from segstream.core.panel import Panel, PanelSample
from segstream.core.record import DayMarker, ModelRecord, Rename, Sample
from segstream.core.rename import renamed
from segstream.learn import Training, fit

_HASH = re.compile(rb"[0-9a-f]{16}")
_MARKER = b"day-"
#: the model is made anew when the panel first reaches these multiples of `first_customers`
GROWTH = (2, 4)
#: times `maintain` after which a version is published although it says little: sizes and profiles
#: in it are those of its day
OLD = 4

_LARGEST = float(np.finfo(np.float32).max)


class Foreign(Exception):
    """A sample of another list of features: not an error after a change of configuration."""


class Clusterer(Protocol):
    """Learns customers online; see shell/river.py."""

    def __contains__(self, key: int) -> bool: ...
    def learn_customer(self, key: int, x: Sequence[float]) -> int: ...
    def place_customer(self, key: int, x: Sequence[float], segment: int) -> int: ...
    def forget_customer(self, key: int) -> bool: ...
    def labels(self) -> dict[int, int]: ...


class Placed(NamedTuple):
    """A vector in the space of the newest version, and its nearest segment there."""

    vector: list[float]
    segment: int


#: a Clusterer from centres by segment, without members
Start = Callable[[Mapping[int, Sequence[float]]], Clusterer]


class Study:
    """Reads samples, learns days, makes versions. `published`: all versions, by number."""

    def __init__(
        self, training: Training, published: Mapping[int, ModelRecord], start: Start
    ) -> None:
        self.training = training
        self.panel = Panel(len(training.features))
        self.newest = published[max(published)] if published else None
        self._start = start
        self._calendar = Calendar()
        self._published = dict(published)
        self._model: Model | None = None
        self.watch: Watch | None = None
        self._clusterer: Clusterer | None = None
        self._first: int | None = None
        self._day = self._day_before = 0  # learned last, and before that; ms
        self._most = max(
            (r.panel.customers for r in published.values() if self._fits(r)), default=0
        )

    def _fits(self, record: ModelRecord) -> bool:
        return record.features_id == self.training.features_id

    @property
    def learned_until(self) -> int:
        """Midnight (ms) up to which the newest version has learned; 0 before the first."""
        if self.newest is None or not self._fits(self.newest):
            return 0
        return instant_ms(self.newest.panel.at)

    # -- records ----------------------------------------------------------------------

    def read(self, key: bytes | None, value: bytes | None) -> None:
        """Take a record of `feature-samples`. ValueError: not one; Foreign: other features."""
        if key is not None and key.startswith(_MARKER):
            if value is not None:
                self._mark(key, DayMarker.model_validate_json(value))
        elif key is None or not _HASH.fullmatch(key):
            raise ValueError("the key is neither a hash nor a day marker's")
        elif value is None:
            self._calendar.leave(int(key, 16))
        else:
            self._sample(int(key, 16), Sample.model_validate_json(value))

    def _mark(self, key: bytes, marker: DayMarker) -> None:
        day = instant_ms(marker.day)
        if key != b"day-%d" % marker.partition or marker.partition >= marker.partitions:
            raise ValueError(f"the marker of partition {marker.partition} has another key")
        if day % DAY:
            raise ValueError(f"{marker.day} is no midnight")
        self._calendar.mark(marker.partition, marker.partitions, day)

    def _sample(self, customer: int, sample: Sample) -> None:
        if sample.features != self.training.features_id:
            raise Foreign
        if len(sample.values) != self.panel.dimensions:
            raise ValueError(f"{len(sample.values)} values, not {self.panel.dimensions}")
        if not all(v is None or -_LARGEST <= v <= _LARGEST for v in sample.values):
            raise ValueError("a value is not a finite float32")
        vector = np.array(sample.values, np.float32)  # null becomes NaN
        at = instant_ms(sample.at)
        self._calendar.sample(sample.partition, PanelSample(at, customer, vector, sample.level))

    # -- days -------------------------------------------------------------------------

    def days(self) -> list[tuple[int, list[PanelSample]]]:
        """Days that all partitions have ended, in order, with their samples; each given once."""
        return self._calendar.close()

    def learn(self, day: int, samples: list[PanelSample]) -> None:
        """Learn a day that ended at `day` (ms); days come in ascending order."""
        self._day_before, self._day = self._day, day
        if day > self.learned_until and self._clusterer is None:
            self._place_all()  # the first day after a restart
        for customer in self.panel.raise_level(max(sample.level for sample in samples)):
            if self._clusterer is not None:
                self._clusterer.forget_customer(customer)
        vectors = [sample.at for sample in samples if sample.vector is not None]
        self._first = min(filter(None, [self._first, *vectors]), default=None)
        if day <= self.learned_until:
            for sample in samples:
                self.panel.put(sample)
            return
        for sample, placed in zip(samples, self._placed(samples), strict=True):
            if self.panel.put(sample) and self._clusterer is not None:
                self._learn(self._clusterer, sample.customer, placed)
        self._look(day)

    @staticmethod
    def _learn(clusterer: Clusterer, customer: int, placed: Placed | None) -> None:
        if placed is None:
            clusterer.forget_customer(customer)
        elif customer in clusterer:
            clusterer.learn_customer(customer, placed.vector)
        else:
            # The version decides about newcomers, not centres that move. After a restart on a
            # compacted topic most are newcomers, and centres are means of the few that are not.
            clusterer.place_customer(customer, placed.vector, placed.segment)

    def _placed(self, samples: list[PanelSample]) -> list[Placed | None]:
        """Per sample; None for removals, and for all before the first version."""
        if self._model is None:
            return [None] * len(samples)
        missing = np.full(self.panel.dimensions, np.nan, np.float32)
        raw = np.stack([missing if s.vector is None else s.vector for s in samples])
        placed = _place(self._model, raw)
        return [None if s.vector is None else p for s, p in zip(samples, placed, strict=True)]

    def _look(self, day: int) -> None:
        """For drift. Not at what a restart on a compacted topic has of the panel at first."""
        if self.watch is None or self.newest is None:
            return
        if 2 * len(self.panel) >= self.newest.panel.customers:
            self.watch.look(self.panel.matrix(), day)

    def due(self, day: int) -> bool:
        """Whether a version is to be made of what was learned up to `day` (ms)."""
        customers, first = len(self.panel), self.training.first_customers
        if not self.learned_until:
            return customers >= first and self._first is not None and day - self._first >= DAY
        if day <= self.learned_until or 2 * customers < first:
            return False  # a panel that has all but gone teaches nothing
        if self._grown() or (self.watch and self.watch.calls(day, self.learned_until)):
            return True
        return self._periods(day) > self._periods(self._day_before)

    def _periods(self, day: int) -> int:
        """Whole times `maintain` from the newest version to a day."""
        return max(day - self.learned_until, 0) // (self.training.maintain_days * DAY)

    def worth_telling(self, record: ModelRecord, day: int) -> bool:
        """Whether the version made of what was learned up to `day` is to be published.

        Every version costs customers a change that they did not cause, so one that would hardly
        put anybody elsewhere is not, until the newest one has become old.
        """
        if self._model is None or record.drift is None:
            return True
        major = record.drift.reference == record.model
        alarmed = record.drift.early == record.panel.at
        old = self._periods(day) >= OLD
        return major or alarmed or old or self._moved(self._model, record) >= self.training.moved

    def _moved(self, newest: Model, record: ModelRecord) -> float:
        """Share of the panel that a version puts elsewhere than the newest one does."""
        raw = self.panel.matrix()
        before, after = (
            model.ids[model.nearest(model.distances(model.coordinates(raw)))]
            for model in (newest, Model(record))
        )
        return float(np.mean(before != after))

    def _grown(self) -> bool:
        """Whether the panel has just become large enough to start warm again."""
        customers, first = len(self.panel), self.training.first_customers
        return any(self._most < many * first <= customers for many in GROWTH)

    def _young(self, watch: Watch) -> bool:
        """Whether the reference is younger than the longest window.

        What is seen of customers grew until then whether or not they changed.
        """
        since = [instant_ms(r.panel.at) for r in self._published.values() if self._fits(r)]
        return watch.since - min(since, default=0) < self.training.window

    # -- versions ---------------------------------------------------------------------

    def fit(self, day: int) -> ModelRecord:
        """The next version, from what was learned up to `day`. Not adopted: not yet a fact."""
        held = {} if self._clusterer is None else self._clusterer.labels()
        anew = self.watch is None or self._grown() or self._young(self.watch)
        seen = None if anew or self.watch is None else self.watch.drift
        return fit(self.training, self.panel, held, self.newest, day, seen)

    def renamed(self, wishes: Mapping[int, Rename]) -> ModelRecord | None:
        """The newest version with the names that people want; None: it has them, or none is known.

        Not while the newest one is of other features: none of its segments goes on.
        """
        if self.newest is None or not self._fits(self.newest):
            return None
        at = max(self._day, instant_ms(self.newest.at))
        return renamed(self.newest, wishes, self.training.vocabulary, ms_text(at))

    def adopt(self, record: ModelRecord) -> None:
        """The version is published: go on from it, exactly as after a restart."""
        before, self.newest = self.newest, record
        self._published[record.model] = record
        if before is not None and before.panel == record.panel:
            return  # only names are new: what was learned since then goes on
        self._most = max(self._most, record.panel.customers)
        self._place_all()

    def _place_all(self) -> None:
        """River anew, its members being the panel, each where the newest version puts it."""
        if self.newest is None or not self._fits(self.newest):
            return
        self._model = model = Model(self.newest)
        self.watch = self._watch_of(self.newest)
        self._clusterer = self._start({s.segment: s.centre for s in self.newest.segments})
        customers = self.panel.customers()
        placed = _place(model, self.panel.matrix(customers))
        for customer, (vector, segment) in zip(customers, placed, strict=True):
            self._clusterer.place_customer(customer, vector, segment)

    def _watch_of(self, newest: ModelRecord) -> Watch:
        """The monitors as the version left them; new ones if their reference is not there."""
        if newest.drift is None:
            return Watch(newest)
        reference = self._published.get(newest.drift.reference)
        if reference is None or not self._fits(reference):
            return Watch(newest)
        return Watch(reference, newest.drift)


def _place(model: Model, raw: Vectors) -> list[Placed]:
    """Where the version puts raw vectors, float32[n, d]."""
    z = model.coordinates(raw)
    segments = model.ids[model.nearest(model.distances(z))].tolist()
    return [Placed(*found) for found in zip(z.tolist(), segments, strict=True)]


def explained(error: ValueError) -> str:
    """One line about what is wrong with a record."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
