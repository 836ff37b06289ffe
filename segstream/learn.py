"""From the panel to a version of the model.

`fit` is a function of the training settings, the panel, the segment in which River holds each
customer, and the parent version: the same four give the same bytes.

First version: k-means++ (best of TRIES). Later ones keep what people know:

1. Re-scale: fills, clips, means and scales are measured anew on today's panel; the centres are
   expressed in the new space as the means of River's members.
2. Lloyd from there. A centre that ends without members is retired, and one with a new id takes
   its place where the panel is served worst.
3. A challenger (k-means++, best of TRIES) takes over only if its inertia is lower by
   the margin; ids then go to the clusters that hold most of their members (Hungarian method).

An id is never used again. With bounds instead of a fixed k, core/choice.py says how many there are;
when that changes, the challenger takes over in any case. Such a version, the first one and those of
a panel that has grown are *major*: what came before is no measure for drift any more.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment  # type: ignore[import-untyped]

from segstream.core import choice, drift, expression, kmeans, lifecycle
from segstream.core.calendar import instant_ms
from segstream.core.feature import Vectors
from segstream.core.model import Space
from segstream.core.name import Vocabulary, name_segments
from segstream.core.output import ms_text, number
from segstream.core.panel import Panel
from segstream.core.record import (
    Choice,
    Drift,
    ModelRecord,
    ModelSegment,
    Retired,
    Rules,
)
from segstream.core.record import Panel as PanelRecord
from segstream.rules import segment_rules
from segstream.space import TrainedFeature, fit_space

TRIES = 10

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Training:
    """What is learned, and when it is published. `features_id` names the list in samples.

    `bounds`: the number of segments is chosen within (fewest, most); None: it is `k`. `moved`: the
    share of the panel that a version must put elsewhere than the one before, to be published.
    """

    features: tuple[TrainedFeature, ...]
    features_id: str
    k: int = 6
    bounds: tuple[int, int] | None = None
    first_customers: int = 500
    maintain_days: int = 7
    moved: float = 0.02
    challenger_margin: float = 0.02
    seed: int = 0

    @property
    def vocabulary(self) -> Vocabulary:
        return Vocabulary([(f.name, f.low, f.high) for f in self.features])

    @property
    def window(self) -> int:
        """The longest window of a feature, ms."""
        found = (t for f in self.features for t in expression.terms(expression.parse(f.expression)))
        return max((t.length for t in found if isinstance(t, expression.Window)), default=0)


class Found(NamedTuple):
    """A partition of the panel with ids; `gap`: by how much the challenger was better.

    `anew`: the centres do not come from the parent's.
    """

    partition: kmeans.Partition
    ids: list[int]
    gap: float | None
    anew: bool

    @property
    def segments(self) -> Labels:
        """The id of each customer's segment."""
        return np.array(self.ids)[self.partition.labels]


def fit(
    training: Training,
    panel: Panel,
    held: Mapping[int, int],
    parent: ModelRecord | None,
    at: int,
    seen: Drift | None = None,
) -> ModelRecord:
    """The next version, sealed. `held`: segment of each customer in River (empty: start anew).

    `seen`: what the drift monitors know; None: this version is their next reference. ValueError if
    the panel is empty.
    """
    customers = panel.customers()
    if not customers:
        raise ValueError("no customers to learn from")
    raw = panel.matrix(customers)
    features = fit_space(training.features, raw)
    z = Space(features).coordinates(raw)
    before = np.array([held.get(customer, 0) for customer in customers])
    version = 1 if parent is None else parent.model + 1
    chosen = _choice(training, z, parent, at, version)
    k = training.k if chosen is None else chosen.k
    rng = np.random.default_rng([training.seed, version])
    found = _find(training, k, z, before, parent, rng)
    # by the customers' hashes, so that next week's rules are learned from the same people
    held_out = np.array([customer % 10 < 3 for customer in customers])
    rules = segment_rules(raw, found.segments, features, held_out)
    return ModelRecord(
        model=version,
        parent=None if parent is None else parent.model,
        kind="centres",
        at=ms_text(at),
        features=features,
        features_id=training.features_id,
        segments=_segments(training, found, raw, rules, before, parent),
        retired=_retired(found, before, parent),
        panel=PanelRecord(customers=len(customers), level=panel.level, at=ms_text(at)),
        quality=_quality(z, found),
        choice=chosen,
        drift=_drift(seen, parent, version, at, major=found.anew),
    ).sealed()


def _choice(
    training: Training, z: Vectors, parent: ModelRecord | None, at: int, version: int
) -> Choice | None:
    """Draws of its own: a fixed k gives the same version whether or not others are tried."""
    if training.bounds is None:
        return None
    before = None
    if parent is not None:
        # The scores of other features say nothing; how many segments people know does.
        same = parent.choice is not None and parent.features_id == training.features_id
        known = parent.choice or Choice(k=len(parent.segments), scores=[], changes=[])
        before = known if same else known.model_copy(update={"scores": []})
    rng = np.random.default_rng([training.seed, version, 1])
    return choice.choose(z, training.bounds, before, at, rng)


def _drift(
    seen: Drift | None,
    parent: ModelRecord | None,
    version: int,
    at: int,
    *,
    major: bool,
) -> Drift:
    if seen is None or parent is None:
        return Drift(reference=version)
    early = drift.last_alarm(seen) > instant_ms(parent.panel.at)
    return drift.passed_on(seen, version, at, major=major, early=early)


def _find(
    training: Training,
    k: int,
    z: Vectors,
    before: Labels,
    parent: ModelRecord | None,
    rng: np.random.Generator,
) -> Found:
    issued = _issued(parent)
    if parent is None or not before.any():
        found, _ = kmeans.complete(z, kmeans.best_of(z, k, TRIES, rng), k)
        return _named(z, found, [0] * len(found.centres), issued, None, anew=True)
    live = sorted(set(before.tolist()) - {0})
    known = before > 0
    centres, _ = kmeans.means(z[known], np.searchsorted(live, before[known]), len(live))
    found, origin = kmeans.complete(z, kmeans.lloyd(z, centres), k)
    other_k = training.bounds is not None and len(parent.segments) != k
    fresh = kmeans.best_of(z, k, TRIES, rng)
    challenger, _ = kmeans.complete(z, fresh, k)
    gap = 1 - challenger.inertia / found.inertia if found.inertia else 0.0
    if other_k or gap >= training.challenger_margin or len(found.centres) > k:
        ids = overlap(before, challenger.labels)
        return _named(z, challenger, ids, issued, gap, anew=True)
    ids = [live[i] if i >= 0 else 0 for i in origin]
    return _named(z, found, ids, issued, gap, anew=len(found.centres) != len(parent.segments))


def overlap(before: Labels, after: Labels) -> list[int]:
    """Old id for each new cluster by the Hungarian method on shared members; 0 = none.

    `before`: old ids, 0 = unknown; `after`: index of the new cluster.
    """
    old = sorted(set(before.tolist()) - {0})
    new = int(after.max()) + 1
    shared = np.zeros((len(old), new), np.int64)
    known = before > 0
    np.add.at(shared, (np.searchsorted(old, before[known]), after[known]), 1)
    ids = [0] * new
    for row, column in zip(*linear_sum_assignment(shared, maximize=True), strict=True):
        if shared[row, column]:
            ids[column] = old[row]
    return ids


def _issued(parent: ModelRecord | None) -> int:
    """The highest id ever given out."""
    if parent is None:
        return 0
    live = [s.segment for s in parent.segments]
    return max(live + [r.segment for r in parent.retired])


def _named(
    z: Vectors,
    found: kmeans.Partition,
    ids: list[int],
    issued: int,
    gap: float | None,
    *,
    anew: bool,
) -> Found:
    """Give new ids (for 0), the largest cluster first, and put the centres in ascending order.

    Ties of distance go to the lowest index, so this order makes them go to the lowest id.
    """
    sizes = np.bincount(found.labels, minlength=len(ids))
    for i in sorted(range(len(ids)), key=lambda i: (-int(sizes[i]), i)):
        if ids[i] == 0:
            issued += 1
            ids[i] = issued
    order = np.argsort(ids)
    centres = found.centres[order]
    labels = kmeans.squares(z, centres).argmin(axis=1)
    return Found(found._replace(centres=centres, labels=labels), sorted(ids), gap, anew)


def _segments(
    training: Training,
    found: Found,
    raw: Vectors,
    rules: Mapping[int, Rules],
    before: Labels,
    parent: ModelRecord | None,
) -> list[ModelSegment]:
    weights = np.array([f.weight for f in training.features])
    profiles = {
        segment: (centre / weights).tolist()
        for segment, centre in zip(found.ids, found.partition.centres, strict=True)
    }
    known = {s.segment: s for s in (parent.segments if parent else [])}
    people = {i: known[i].name for i in found.ids if i in known and known[i].named_by == "person"}
    names = name_segments(
        profiles, training.vocabulary, {i: s.name for i, s in known.items()}, people
    )
    fates = lifecycle.fates(before, found.segments, known.keys())
    segments = []
    for i, segment in enumerate(found.ids):
        members = found.partition.labels == i
        segments.append(
            ModelSegment(
                segment=segment,
                name=names[segment],
                named_by="person" if segment in people else "profile",
                centre=found.partition.centres[i].tolist(),
                size=int(members.sum()),
                share=round(float(members.mean()), 6),
                profile=_profile(training, raw[members], np.median),
                means=_profile(training, raw[members], np.mean),
                effects={
                    f.name: round(z, 6)
                    for f, z in zip(training.features, profiles[segment], strict=True)
                },
                rules=rules.get(segment),
                fate=fates.get(segment),
            )
        )
    return segments


def _profile(
    training: Training, raw: Vectors, middle: Callable[[npt.NDArray[np.float64]], np.floating]
) -> dict[str, float | None]:
    """Median or mean raw value per feature; null if all are missing."""
    profile: dict[str, float | None] = {}
    for j, feature in enumerate(training.features):
        known = raw[~np.isnan(raw[:, j]), j].astype(np.float64)
        profile[feature.name] = number(middle(known)) if len(known) else None
    return profile


def _retired(found: Found, before: Labels, parent: ModelRecord | None) -> list[Retired]:
    """All ids ever retired; the heir of a new one is where most of its members are now."""
    if parent is None:
        return []
    retired = list(parent.retired)
    retired += [
        lifecycle.retire(segment, before, found.segments)
        for segment in parent.segments
        if segment.segment not in found.ids
    ]
    return sorted(retired, key=lambda r: r.segment)


def _quality(z: Vectors, found: Found) -> dict[str, float | None]:
    partition = found.partition
    silhouette = kmeans.silhouette(z, partition.centres)
    return {
        "inertia": round(partition.inertia / len(z), 6),
        "silhouette": None if silhouette is None else round(silhouette, 6),
        "challenger_gap": None if found.gap is None else round(found.gap, 6),
    }
