"""The course of a stream → figures by name."""

from collections import Counter
from typing import Any

import numpy as np

from benchmarks.quality import compare
from benchmarks.quality.compare import MONTH
from benchmarks.quality.course import Course, DataSet
from benchmarks.quality.play import Play
from segstream.core.calendar import DAY, instant_ms
from segstream.core.output import ms_text

#: mean silhouette from which on segments are clear, and rules must be good
CLEAR = 0.3
Figures = dict[str, Any]


def figures_of(play: Play, course: Course, data: DataSet) -> Figures:
    """All figures of some nights."""
    return {
        **_size(play, course),
        **_against_batch(course),
        **_calm(play, course),
        **(_switches(course) if data.truth is not None else {}),
        **_told(play),
        **_drift(play, data.drifts),
    }


def _size(play: Play, course: Course) -> Figures:
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


def _months(course: Course) -> float:
    return float(course.column("customers").sum()) / MONTH


def _against_batch(course: Course) -> Figures:
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
        silhouette = course.column(f"silhouette_{name}")
        found[f"silhouette_{name}"] = float(silhouette.mean()) if len(silhouette) else None
    return found


def _calm(play: Play, course: Course) -> Figures:
    """Per customer-month. Entering and leaving are no changes here."""
    months, begin = _months(course), course.rows[0]["at"] - DAY
    moves = [m for m in play.moves if m.at >= begin]
    causes = Counter(m.cause for m in moves)
    lived = [m for m in moves if m.left and m.entered]
    found = {f"caused_{c}": causes[c] / months for c in ("behaviour", "time", "model")}
    found |= {f"number_{c}": causes[c] for c in ("first", "forgotten")}
    for name in ("model", "batch", "river"):
        found[f"relabels_{name}"] = float(course.column(f"relabels_{name}").sum()) / months
    share = found["relabels_model"] / found["relabels_batch"] if found["relabels_batch"] else None
    return {
        **found,
        "relabels_share": share,
        "changes": len(lived) / months,
        "flaps": compare.flaps(moves) / months,
        "changes_unfiltered": _unfiltered(course) / months,
    }


def _unfiltered(course: Course) -> int:
    """Changes from night to night if every customer were in its nearest segment."""
    nearest = course.by_day(2, 0)
    before, after = nearest[:-1], nearest[1:]
    return int(((before != after) & (before > 0) & (after > 0)).sum())


def _switches(course: Course) -> Figures:
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
    """When drift was told, once the longest window was full; `drifts` as in DataSet.

    By an alarm, or by a version in which a challenger won: then the segments themselves are new.
    """
    versions = play.versions.values()
    told = [d for v in versions if (d := v.drift) is not None]
    found = {at for d in told for at in (d.distance_alarm, d.share_alarm) if at is not None}
    margin = play.training.challenger_margin
    found |= {v.panel.at for v in versions if (v.quality["challenger_gap"] or 0) >= margin}
    if not told:
        return {}
    full = play.begun + play.window
    alarms = sorted(ms for at in found if (ms := instant_ms(at)) >= full)
    figures: Figures = {"drift_alarms": [ms_text(at)[:10] for at in alarms]}
    if drifts is not None:
        first, until = drifts
        figures["drift_false"] = sum(at < first for at in alarms)
        if until > first:
            days = [(at - first) / DAY for at in alarms if first <= at < until]
            figures["drift_days"] = min(days, default=(until - first) / DAY)
    return figures
