"""Figures as docs/quality.md, docs/quality.json and plots."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.quality.course import DataSet
from benchmarks.quality.measure import Measured

Found = Sequence[tuple[DataSet, Measured]]
VERSIONS = ("numpy", "scikit-learn", "river")


class Target(NamedTuple):
    """A figure and what it must be; `bound` None: shown only."""

    text: str
    key: str
    bound: float | None = None
    at_most: bool = True
    form: str = ".3f"

    def missed(self, figures: Mapping[str, Any]) -> bool:
        value = figures.get(self.key)
        if self.bound is None or value is None:
            return False
        return bool(value > self.bound if self.at_most else value < self.bound)

    def wanted(self) -> str:
        if self.bound is None:
            return ""
        return f"{'≤' if self.at_most else '≥'} {_shown(self.bound, self.form)}"


TARGETS = (
    Target("inertia of the model's labels ÷ nightly batch, mean", "inertia_model", 1.01),
    Target("… 95th percentile of that inertia", "inertia_model_p95", 1.03),
    Target("ARI to the truth ÷ the batch's: model's labels", "ari_share_model", 0.97, False),
    Target("… emitted labels", "ari_share_emitted"),
    Target("relabels by new versions ÷ nightly batch's", "relabels_share", 0.25),
    Target("… with cause `model`, per customer-month", "caused_model"),
    Target("changes per customer-month", "changes", 0.35),
    Target("flaps (A-B-A in 30 days) per customer-month", "flaps", 0.06),
    Target("inertia that hysteresis costs", "penalty", 0.03, form=".1%"),
    Target("switches of persona seen in 100 days", "switches_seen", 0.9, False, ".1%"),
    Target("… without hysteresis", "switches_seen_unfiltered", form=".1%"),
    Target("… by chance alone, where there was no switch", "switches_by_chance", form=".1%"),
    Target("days that hysteresis adds (medians)", "hysteresis_days", 7.0, form=".1f"),
    Target("names that are unique", "names_unique", 1.0, False, ".1%"),
    Target("segment-weeks renamed", "names_renamed", 0.07, form=".1%"),
    Target("rules: fidelity", "rules_fidelity", 0.9, False, ".2f"),
    Target("… worst recall in a version, mean", "rules_recall", 0.75, False, ".2f"),
    Target("… worst recall ever", "rules_recall_lowest", form=".2f"),
    Target("drift: false alarms", "drift_false", 0, form=".0f"),
    Target("… days until the new persona is told", "drift_days", 30, form=".0f"),
)
SIZES = (
    ("calls accepted", "events", ",.0f"),
    ("customers, at most at once", "customers", ",.0f"),
    ("customer-months", "customer_months", ",.0f"),
    ("nights compared", "nights", ",.0f"),
    ("versions of the model", "versions", ",.0f"),
    ("silhouette, ours", "silhouette_model", ".2f"),
    ("silhouette, nightly batch", "silhouette_batch", ".2f"),
)
RIVALS = (("segstream: the model", "model"), ("segstream: emitted", "emitted"),
          ("nightly batch", "batch"), ("River's loop", "river"))  # fmt: skip
METHOD = """\
Each stream is played through the real core and the real trainer, as `segstream replay --as-lived`
does, without servers: when a day has ended on the clock, the trainer gets its samples, and a
version that is due counts from then on. Figures are taken in the last millisecond of every day once
there is a model: each customer has been evaluated on that day, and the active model is as old as it
gets.

- **Nightly batch**: scikit-learn's `KMeans(n_init=10)` from scratch on all living customers, with
  the transforms of the definition, clipped at 0.5 and 99.5 % and standardised over today's
  customers. All inertias and silhouettes are taken in this space; the inertia of labels is the sum
  of squared distances to the mean of those with the same label. Its ids are carried over by the
  Hungarian method, on the customers that yesterday's model, applied to today's vectors, shares
  with today's: the assignment that relabels least.
- **Model's labels**: the nearest segment under the active version. **Emitted**: what customers
  were told, after hysteresis.
- **Relabels**: customers whom yesterday's model and today's put elsewhere, both applied to the
  same vectors; per customer-month of 30.4 days. Before hysteresis, for all rivals alike.
- **Changes** are those published, without entering (`first`) and leaving (`forgotten`). A **flap**
  is a change back into the segment just left, within 30 days.
- **Switches seen**: a customer whose persona became another is seen when it is in a segment that
  is more typical of the new one: customers who have had the new persona for 90 days spend a larger
  share of their days there than those of the old one. Who was in such a segment before is left
  out. *By chance*: the same customers 101 days earlier, when nothing had happened.
- **Rules** count in versions with a silhouette of at least 0.3; in others they are approximate.
- **Drift** is told by an alarm, or by a version in which a challenger won: then the segments
  themselves are new. It counts once the longest window is full, in brackets, too. Before anything
  has drifted it is false; then a new persona appears, on day 240 of the shop. 60 days: not before
  the next drift. In the calm shop nothing ever drifts.
- **River's loop**: raw features, `river.cluster.KMeans.learn_one` after every event, halflife 0.5;
  a missing value is 0.
- **Other data**: `make quality DATA=calls.jsonl.gz` (Segment Spec calls) or `make quality
  DATA=table.csv MAPPING=mapping.toml`; with `TRUTH=truth.csv` (three columns: customer, since and
  label, as `segstream simulate --truth` writes them), `CONFIG=segstream.toml` and `K=8` as wanted.
  Figures go to build/quality/.
- **End to end**: `tests/integration/test_quality.py` plays a smaller shop through real Kafka and
  Redis, too: the same versions and the same memberships.
"""


def _shown(value: float | None, form: str) -> str:
    if value is None:
        return "–"
    return format(value, form).replace("%", " %")


def page(found: Found, when: str, command: str) -> str:
    """docs/quality.md."""
    head = " | ".join(data.name for data, _ in found)
    line = "|---|" + "---:|" * (len(found) + 1)
    rows = [f"| {t.text} | {t.wanted()} | {_cells(t, found)} |" for t in TARGETS]
    sizes = [
        f"| {text} | | {' | '.join(_shown(m.figures.get(key), form) for _, m in found)} |"
        for text, key, form in SIZES
    ]
    parts = [
        "# How good the segments are\n",
        f"Written by `{command}` on {when}; do not edit. A figure in bold misses its target.",
        "In brackets: from the first model on, while the windows of a shop without a past are",
        "still filling; before them: from the day on which the longest window is full.",
        "All figures: [quality.json](quality.json).\n",
        f"| figure | target | {head} |\n{line}",
        *rows,
        "",
        *_missed(found),
        "\n## What was played\n",
        *[f"- **{data.name}**: {data.about}; k = {data.training.k}." for data, _ in found],
        f"\n| | | {head} |\n{line}",
        *sizes,
        "\n## Beside others\n",
        "Means over the nights once the longest window is full; relabels and changes per",
        "customer-month.\n",
        *[_rivals(data, measured) for data, measured in found],
        "## Over time\n",
        *[f"![{data.name}](quality/{data.name}.png)\n" for data, _ in found],
        "## Method\n",
        METHOD,
    ]
    return "\n".join(parts)


def _cells(target: Target, found: Found) -> str:
    cells = []
    for _, measured in found:
        text, early = (
            f"**{text}**" if target.missed(figures) else text
            for figures in (measured.figures, measured.early)
            for text in (_shown(figures.get(target.key), target.form),)
        )
        cells.append(text if text == early else f"{text} ({early})")
    return " | ".join(cells)


def missed(found: Found) -> list[str]:
    """What misses its target, in words."""
    lines = []
    for data, measured in found:
        both = (("", measured.figures), (" from the first model on", measured.early))
        for target in TARGETS:
            late, early = (target.missed(figures) for _, figures in both)
            for when, figures in both[:1] if late else both[1:] if early else ():
                value = _shown(figures[target.key], target.form)
                what = target.text.removeprefix("… ")
                lines.append(f"{data.name}: {what} is {value}{when}, wanted {target.wanted()}")
    return lines


def _missed(found: Found) -> list[str]:
    lines = missed(found)
    if not lines:
        return ["Nothing that was measured misses its target."]
    head = f"**{len(lines)} figures miss their targets**, or did while windows were filling:\n"
    return [head, *[f"- {line}" for line in lines]]


def _rivals(data: DataSet, measured: Measured) -> str:
    f = measured.figures
    rows = []
    for text, key in RIVALS:
        inertia = 1.0 if key == "batch" else f[f"inertia_{key}"]
        cells = [
            _shown(inertia, ".3f"),
            _shown(1.0 if key == "batch" else f[f"ari_batch_{key}"], ".2f"),
            _shown(f[f"ari_truth_{key}"], ".3f"),
            _shown(f["caused_model"] if key == "emitted" else f[f"relabels_{key}"], ".2f"),
            _shown({"emitted": f["changes"], "model": f["changes_unfiltered"]}.get(key), ".2f"),
        ]
        rows.append(f"| {text} | {' | '.join(cells)} |")
    head = f"| {data.name} | inertia | ARI to batch | ARI to truth | relabels | changes |"
    return "\n".join([head, "|---|---:|---:|---:|---:|---:|", *rows, ""])


def write(found: Found, docs: Path, command: str, arguments: Mapping[str, Any]) -> None:
    """quality.md, quality.json and quality/*.png in a folder."""
    when = datetime.now(UTC)
    folder = docs / "quality"
    folder.mkdir(parents=True, exist_ok=True)
    for data, measured in found:
        plot(data, measured, folder / f"{data.name}.png")
    everything = {
        "date": when.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "arguments": dict(arguments),
        "versions": {name: version(name) for name in VERSIONS},
        "targets": [t._asdict() for t in TARGETS if t.bound is not None],
        "missed": missed(found),
        "data": {
            data.name: {
                "about": data.about,
                "k": data.training.k,
                "figures": measured.figures,
                "from_the_first_model_on": measured.early,
            }
            for data, measured in found
        },
    }
    (docs / "quality.json").write_text(json.dumps(_rounded(everything), indent=1) + "\n")
    (docs / "quality.md").write_text(page(found, f"{when:%Y-%m-%d}", command))


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(v) for key, v in value.items()}
    if isinstance(value, list):
        return [_rounded(v) for v in value]
    return round(value, 6) if isinstance(value, float) else value


def plot(data: DataSet, measured: Measured, path: Path) -> None:
    """Inertia, relabels and shares of the segments over time."""
    import matplotlib as mpl  # noqa: PLC0415 (a second to import)

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    nights = measured.nights
    days = np.array(nights["at"], "datetime64[ms]").astype("datetime64[D]")
    figure, (top, middle, bottom) = plt.subplots(3, 1, figsize=(8, 8), sharex=True)
    for name in ("river", "emitted", "model"):
        top.plot(days, nights[f"inertia_{name}"], label=name, lw=1)
    top.axhline(1.0, color="black", lw=0.5)
    ours = np.array(nights["inertia_emitted"])
    top.set_ylim(0.98, max(1.1, float(np.quantile(ours, 0.98)) * 1.05))
    top.set_ylabel("inertia ÷ nightly batch")
    top.set_title(data.name)
    for name in ("river", "batch", "model"):
        each = np.array(nights[f"relabels_{name}"]) / np.array(nights["customers"])
        middle.plot(days, np.cumsum(each), label=name, lw=1)
    middle.set_ylabel("relabels per customer, sum")
    names = [f"{s}: {measured.names[s]}" for s in measured.shares]
    bottom.stackplot(days, list(measured.shares.values()), labels=names)
    bottom.set_ylabel("share of customers")
    bottom.set_ylim(0, 1)
    top.legend(fontsize=7)
    middle.legend(fontsize=7)
    bottom.legend(fontsize=6, loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=80, metadata={"Software": ""})
    plt.close(figure)
