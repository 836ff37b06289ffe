"""One stream from beginning to end: nights become figures."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from sklearn.metrics import silhouette_score  # type: ignore[import-untyped]

from benchmarks.quality import compare
from benchmarks.quality.compare import MONTH, Floats, Ints, Truth
from benchmarks.quality.play import Night, Play
from benchmarks.quality.rivals import NightlyBatch, RiverLoop
from segstream.core.calendar import DAY, instant_ms
from segstream.core.config import Definition
from segstream.core.feature import Vectors
from segstream.core.model import Model, coordinates
from segstream.core.output import ms_text
from segstream.core.table import Numbered
from segstream.learn import Training

#: nights from one silhouette to the next, and customers it is taken of (its cost is quadratic)
SILHOUETTE_NIGHTS, SILHOUETTE_CUSTOMERS = 14, 1_500
#: mean silhouette from which on segments are clear, and rules must be good
CLEAR = 0.3
Figures = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """A stream, how it is read, and what is known of its customers. `labels`: of the truth."""

    name: str
    about: str
    definition: Definition
    training: Training
    calls: Callable[[], Iterable[Numbered]]
    truth: Truth | None = None
    labels: tuple[str, ...] = ()
    drifts: tuple[int, int] | None = None
    """ms: until when nothing has drifted, the first of which is a new persona; until when that may
    be seen"""


@dataclass
class Measured:
    """`figures`: by name, for table and JSON. `nights`: the course, a list per column."""

    figures: Figures
    nights: dict[str, list[Any]]
    shares: dict[int, list[float]]
    names: dict[int, str]


@dataclass
class _Course:
    """What the nights have given so far."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    where: dict[str, int] = field(default_factory=dict)
    labels: list[tuple[Ints, Ints, Ints, Ints]] = field(default_factory=list)

    def places(self, customers: list[str]) -> Ints:
        return np.array([self.where.setdefault(c, len(self.where)) for c in customers], np.int64)

    def by_day(self, column: int, none: int) -> Ints:
        """Column 1: emitted, 2: nearest, 3: personas; int64[days, customers]."""
        table = np.full((len(self.labels), len(self.where)), none, np.int64)
        for day, found in enumerate(self.labels):
            table[day, found[0]] = found[column]
        return table

    def column(self, name: str) -> Floats:
        found = [row[name] for row in self.rows if row.get(name) is not None]
        return np.array(found, np.float64)


def measure(
    data: DataSet, *, days: int | None = None, seed: int = 0, tell: Callable[[str], None]
) -> Measured:
    """Play a stream next to its rivals. `seed` is that of the batch and of River's loop."""
    play = Play(data.definition, data.training)
    batch, river = NightlyBatch(data.training, seed), RiverLoop(data.training.k, seed)
    course, last = _Course(), None
    # Threads cost scikit-learn more than they save, for a few thousand rows.
    with threadpoolctl.threadpool_limits(1):
        for night in play.nights(data.calls(), days):
            river.learn(night.seen)
            if night.model is None:
                continue
            course.rows.append(_night(night, last, batch, river, course, data.truth))
            last = night.model
            if len(course.rows) % 100 == 0:
                tell(f"{data.name}: {ms_text(night.at)[:10]}, {len(night.customers)} customers")
    if not course.rows:
        raise ValueError(f"{data.name}: never enough customers for a model")
    figures = {
        **_size(play, course),
        **_against_batch(course),
        **_calm(play, course),
        **(_switches(course) if data.truth is not None else {}),
        **_told(play),
        **_drift(play, data.drifts),
    }
    return Measured(figures, *_columns(course, play))


def _night(
    night: Night,
    last: Model | None,
    batch: NightlyBatch,
    river: RiverLoop,
    course: _Course,
    truth: Truth | None,
) -> dict[str, Any]:
    """The figures of a night. Inertia is that of partitions, in the batch's space."""
    model, raw = night.model, night.raw
    if model is None:
        raise AssertionError("no model yet")
    fitted, relabelled = batch.fit(raw)
    z = coordinates(raw, fitted.space)
    nearest, (by_river, river_relabelled) = _nearest(model, raw), river.labels(raw)
    ours = {"batch": fitted.labels(raw), "model": nearest, "river": by_river}
    ours["emitted"] = np.where(night.emitted > 0, night.emitted, nearest)  # newcomers of today
    personas = np.full(len(raw), -1, np.int64)
    if truth is not None:
        personas = compare.truth_at(truth, night.customers, night.at)
    course.labels.append((course.places(night.customers), night.emitted, nearest, personas))
    moved = last is not None and last.version != model.version
    row: dict[str, Any] = {
        "at": night.at,
        "customers": len(raw),
        "version": model.version,
        "relabels_batch": relabelled,
        "relabels_river": river_relabelled,
        "relabels_model": int((_nearest(last, raw) != nearest).sum()) if moved and last else 0,
        "shares": dict(Counter(ours["emitted"].tolist())),
    }
    best = compare.inertia(z, ours["batch"])
    for name in ("model", "emitted", "river"):
        row[f"inertia_{name}"] = compare.inertia(z, ours[name]) / best if best else 1.0
        row[f"ari_batch_{name}"] = compare.adjusted_rand(ours["batch"], ours[name])
    known = personas >= 0
    if known.any():
        for name, labels in ours.items():
            row[f"ari_truth_{name}"] = compare.adjusted_rand(personas[known], labels[known])
    if len(course.rows) % SILHOUETTE_NIGHTS == 0:
        row |= {f"silhouette_{n}": _silhouette(z, ours[n]) for n in ("batch", "model")}
    return row


def _nearest(model: Model, raw: Vectors) -> Ints:
    space = model.coordinates(raw)
    return np.asarray(model.ids[model.nearest(model.distances(space))])


def _silhouette(z: Vectors, labels: Ints) -> float | None:
    step = -(-len(z) // SILHOUETTE_CUSTOMERS)
    some = labels[::step]
    return float(silhouette_score(z[::step], some)) if len(set(some.tolist())) > 1 else None


# --- figures --------------------------------------------------------------------------------


def _size(play: Play, course: _Course) -> Figures:
    rows = course.rows
    return {
        "events": play.events,
        "refused": play.refused,
        "customers": int(max(row["customers"] for row in rows)),
        "nights": len(rows),
        "customer_months": _months(course),
        "versions": len(play.versions),
        "first_night": ms_text(rows[0]["at"])[:10],
        "last_night": ms_text(rows[-1]["at"])[:10],
    }


def _months(course: _Course) -> float:
    return float(course.column("customers").sum()) / MONTH


def _against_batch(course: _Course) -> Figures:
    found: Figures = {}
    for name in ("model", "emitted", "river"):
        ratio = course.column(f"inertia_{name}")
        found[f"inertia_{name}"] = float(ratio.mean())
        found[f"inertia_{name}_p95"] = float(np.quantile(ratio, 0.95))
        found[f"ari_batch_{name}"] = float(course.column(f"ari_batch_{name}").mean())
    found["penalty"] = float(
        (course.column("inertia_emitted") / course.column("inertia_model")).mean() - 1
    )
    for name in ("batch", "model", "emitted", "river"):
        truth = course.column(f"ari_truth_{name}")
        found[f"ari_truth_{name}"] = float(truth.mean()) if len(truth) else None
    if found["ari_truth_batch"]:
        for name in ("model", "emitted"):
            found[f"ari_share_{name}"] = found[f"ari_truth_{name}"] / found["ari_truth_batch"]
    for name in ("batch", "model"):
        found[f"silhouette_{name}"] = float(course.column(f"silhouette_{name}").mean())
    return found


def _calm(play: Play, course: _Course) -> Figures:
    """Per customer-month since the first model. Entering and leaving are no changes here."""
    months, begin = _months(course), course.rows[0]["at"] - DAY
    causes = Counter(m.cause for m in play.moves)
    lived = [m for m in play.moves if m.at >= begin and m.left and m.entered]
    found = {f"caused_{c}": causes[c] / months for c in ("behaviour", "time", "model")}
    found |= {f"number_{c}": causes[c] for c in ("first", "forgotten")}
    for name in ("model", "batch", "river"):
        found[f"relabels_{name}"] = float(course.column(f"relabels_{name}").sum()) / months
    share = found["relabels_model"] / found["relabels_batch"] if found["relabels_batch"] else None
    return {
        **found,
        "relabels_share": share,
        "changes": len(lived) / months,
        "flaps": compare.flaps(play.moves) / months,
        "changes_unfiltered": _unfiltered(course) / months,
    }


def _unfiltered(course: _Course) -> int:
    """Changes from night to night if every customer were in its nearest segment."""
    nearest = course.by_day(2, 0)
    before, after = nearest[:-1], nearest[1:]
    return int(((before != after) & (before > 0) & (after > 0)).sum())


def _switches(course: _Course) -> Figures:
    emitted, nearest, personas = (course.by_day(i, n) for i, n in ((1, 0), (2, 0), (3, -1)))
    shares = compare.typical(emitted, personas)
    known = compare.switches(personas)
    seen = compare.detect(emitted, known, shares)
    plain = compare.detect(nearest, known, shares)
    chance = compare.detect(emitted, known, shares, shift=-compare.SEEN_DAYS - 1)
    return {
        "switches": int(seen.counted.sum()),
        "switches_already": int((seen.days == 0).sum()),
        "switches_seen": seen.share,
        "switches_seen_unfiltered": plain.share,
        "switches_by_chance": chance.share,
        "switch_days": float(np.median(seen.days[seen.counted])) if seen.counted.any() else None,
        "hysteresis_days": compare.delay(seen, plain),
    }


def _told(play: Play) -> Figures:
    """Names and rules of the versions; None where no version says anything."""
    versions = [play.versions[v] for v in sorted(play.versions)]
    names = [{s.segment: s.name for s in v.segments} for v in versions]
    changed, possible = compare.renamed(names)
    clear = [v for v in versions if (v.quality.get("silhouette") or 0) >= CLEAR]
    rules = [of for v in clear if (of := [s.rules for s in v.segments if s.rules is not None])]
    fidelity = [min(r.fidelity for r in of) for of in rules]
    recall = [min(r.recall for r in of) for of in rules]
    return {
        "names_unique": compare.unique_share(names),
        "names_renamed": changed / possible if possible else 0.0,
        "versions_clear": len(clear),
        "rules_fidelity": float(np.mean(fidelity)) if rules else None,
        "rules_fidelity_lowest": min(fidelity, default=None),
        "rules_recall": float(np.mean(recall)) if rules else None,
        "rules_recall_lowest": min(recall, default=None),
    }


def _drift(play: Play, drifts: tuple[int, int] | None) -> Figures:
    """Alarms of the drift monitors; `drifts` as in DataSet."""
    told = [d for v in play.versions.values() if (d := getattr(v, "drift", None)) is not None]
    found = {at for d in told for at in (d.distance_alarm, d.share_alarm) if at is not None}
    if not told:
        return {}
    alarms = sorted(map(instant_ms, found))
    figures: Figures = {"drift_alarms": [ms_text(at)[:10] for at in alarms]}
    if drifts is not None:
        first, until = drifts
        days = [(at - first) / DAY for at in alarms if first <= at < until]
        figures["drift_false"] = sum(at < first for at in alarms)
        figures["drift_days"] = min(days, default=(until - first) / DAY)
    return figures


def _columns(
    course: _Course, play: Play
) -> tuple[dict[str, list[Any]], dict[int, list[float]], dict[int, str]]:
    """The course for plots: columns of the nights, share of each segment, latest names."""
    keys = [key for key in course.rows[0] if key not in ("shares", "at")]
    nights = {key: [row.get(key) for row in course.rows] for key in ["at", *keys]}
    segments = sorted({s for row in course.rows for s in row["shares"]})
    shares = {
        s: [row["shares"].get(s, 0) / row["customers"] for row in course.rows] for s in segments
    }
    names: dict[int, str] = {}
    for version in sorted(play.versions):
        names |= {s.segment: s.name for s in play.versions[version].segments}
    return nights, shares, names
