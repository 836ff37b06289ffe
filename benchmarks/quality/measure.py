"""One stream from beginning to end, a night at a time, next to its rivals."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import threadpoolctl  # type: ignore[import-untyped]
from sklearn.metrics import silhouette_score  # type: ignore[import-untyped]

from benchmarks.quality import compare
from benchmarks.quality.compare import Ints, Truth
from benchmarks.quality.course import Course, DataSet
from benchmarks.quality.figures import Figures, figures_of
from benchmarks.quality.play import Night, Play, Unusable
from benchmarks.quality.rivals import NightlyBatch, RiverLoop
from segstream.core.feature import Vectors
from segstream.core.model import Model, Space
from segstream.core.output import ms_text

#: nights from one silhouette to the next, and customers it is taken of (its cost is quadratic)
SILHOUETTE_NIGHTS, SILHOUETTE_CUSTOMERS = 14, 1_500


@dataclass
class Measured:
    """`figures` by name, once the longest window has filled; `early`: from the first model on.

    `nights`: the course from the first model on, a list per column.
    """

    figures: Figures
    early: Figures
    nights: dict[str, list[Any]]
    shares: dict[int, list[float]]
    names: dict[int, str]


def measure(
    data: DataSet, *, days: int | None = None, seed: int = 0, tell: Callable[[str], None]
) -> Measured:
    """Play a stream next to its rivals. `seed` is that of the batch and of River's loop."""
    play = Play(data.definition, data.training)
    batch, river = NightlyBatch(data.training, seed), RiverLoop(data.training.k, seed)
    course, last = Course(), None
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
        raise Unusable(f"{data.name}: never enough customers for a model")
    settled = course.since(play.begun + play.window)
    figures, early = (figures_of(play, some, data) for some in (settled, course))
    return Measured(figures, early, *_columns(course, play))


def _night(
    night: Night,
    last: Model | None,
    batch: NightlyBatch,
    river: RiverLoop,
    course: Course,
    truth: Truth | None,
) -> dict[str, Any]:
    """The figures of a night. Inertia is that of partitions, in the batch's space."""
    model, raw = night.model, night.raw
    if model is None:
        raise AssertionError("no model yet")
    fitted, relabelled = batch.fit(raw)
    z = Space(fitted.space).coordinates(raw)
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


def _columns(
    course: Course, play: Play
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
