"""Whether customers have become others than the segments were made for.

The model learns, and learning hides drift. So the panel is looked at from a frozen *reference*,
the last version that was truly new: the first after warm-up, a challenger that won, another k.

- *Distances*: daily mean distance of the panel to the reference's nearest centres, tested by
  Page-Hinkley (Page 1954; as `river.drift.PageHinkley`, both directions). Customers in a new place.
- *Shares*: population stability index of the segments' shares against the reference's. Customers
  who move between known places.

An alarm is for people, and makes the next version come early. What changes the segments is the
challenger alone. All that the monitors know is a `Drift`, which every version carries: a successor
goes on from there.
"""

import numpy as np

from segstream.core.calendar import DAY, instant_ms
from segstream.core.expression import Floats
from segstream.core.feature import Vectors
from segstream.core.model import Model
from segstream.core.output import ms_text
from segstream.core.record import Drift, Instant, ModelRecord

DELTA = 0.04
THRESHOLD = 0.5
FORGETTING = 0.9999
SETTLED = 21
"""Days before a test, or shares against a new reference, may alarm."""
SHIFTED, BACK = 0.25, 0.1
"""PSI at which shares alarm, and below which they may alarm again."""
APART = 7 * DAY
"""At most one early version in this time."""
STANDS = 7 * DAY
"""For so long is an alarm shown."""


def psi(expected: Floats, found: Floats) -> float:
    """Population stability index of two lists of shares; below 0.1 is usually called stable.

    Shares below a thousandth count as one: an empty segment must not make it infinite.
    """
    a, b = np.maximum(expected, 1e-3), np.maximum(found, 1e-3)
    return float(np.sum((b - a) * np.log(b / a)))


class Watch:
    """The monitors of one reference. `drift`: what they know, up to the last day looked at."""

    def __init__(self, reference: ModelRecord, drift: Drift | None = None) -> None:
        self.drift = Drift(reference=reference.model) if drift is None else drift
        self._model = Model(reference)
        self.since = instant_ms(reference.panel.at)
        shares = {s.segment: s.share for s in reference.segments}
        self._shares = np.array([shares[i] for i in self._model.ids.tolist()])

    def look(self, raw: Vectors, day: int) -> None:
        """Take the panel (raw vectors, float32[n, d]) as it is when a day ends, at `day` (ms)."""
        if not len(raw):
            return
        distances = self._model.distances(self._model.coordinates(raw))
        nearest = self._model.nearest(distances)
        shares = np.bincount(nearest, minlength=len(self._shares)) / len(raw)
        drift = by_distance(self.drift, float(distances.min(axis=1).mean()), ms_text(day))
        if day - self.since >= SETTLED * DAY:
            drift = by_shares(drift, psi(self._shares, shares), ms_text(day))
        self.drift = drift

    def calls(self, day: int, since: int) -> bool:
        """Whether a version is to come early: an alarm after `since`, and none lately (ms)."""
        alarm, early = last_alarm(self.drift), self.drift.early
        return alarm > since and (early is None or day - instant_ms(early) >= APART)


def last_alarm(drift: Drift) -> int:
    """When the monitors last alarmed (ms); 0 = never."""
    alarms = (drift.distance_alarm, drift.share_alarm)
    return max((instant_ms(at) for at in alarms if at is not None), default=0)


def by_distance(drift: Drift, distance: float, day: Instant) -> Drift:
    """One day of Page-Hinkley; an alarm begins the test anew, on the same reference."""
    days = drift.days + 1
    mean = drift.mean + (distance - drift.mean) / days
    beyond = distance - mean
    rise = FORGETTING * drift.rise + beyond - DELTA
    fall = FORGETTING * drift.fall + beyond + DELTA
    lowest = min(drift.lowest, rise) if drift.days else rise
    highest = max(drift.highest, fall) if drift.days else fall
    if days >= SETTLED and max(rise - lowest, highest - fall) > THRESHOLD:
        begun = dict.fromkeys(("mean", "rise", "fall", "lowest", "highest"), 0.0)
        return drift.model_copy(
            update={**begun, "days": 0, "distance": distance, "distance_alarm": day}
        )
    return drift.model_copy(
        update={
            "days": days,
            "mean": mean,
            "rise": rise,
            "fall": fall,
            "lowest": lowest,
            "highest": highest,
            "distance": distance,
        }
    )


def by_shares(drift: Drift, found: float, day: Instant) -> Drift:
    """One day of the shares: alarms on the way up, and again only after they were back."""
    alarms = found >= SHIFTED and not drift.shifted
    shifted = alarms or (drift.shifted and found >= BACK)
    alarm = day if alarms else drift.share_alarm
    return drift.model_copy(update={"psi": found, "shifted": shifted, "share_alarm": alarm})


def passed_on(before: Drift, version: int, at: int, *, major: bool, early: bool) -> Drift:
    """What version `version` carries: `major`: it is the reference now; `early`: see `calls`."""
    drift = before
    if major:
        alarms = {"distance_alarm": before.distance_alarm, "share_alarm": before.share_alarm}
        drift = Drift(reference=version, early=before.early, **alarms)
    return drift.model_copy(update={"early": ms_text(at)}) if early else drift
