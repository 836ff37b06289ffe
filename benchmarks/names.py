"""How often segments are renamed, by four rules: `python -m benchmarks.names [--seeds 20]`.

And how far the sentences about segments may be believed, on the preset's year.

Two sequences of weekly profiles: the preset's year (the panel of each week, fitted from the week
before, as the trainer does) and made-up ones: segments whose profiles go their own slow ways and
are seen through noise. A renamed segment-week is a segment that had another name a week before.
"""

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import pairwise
from random import Random
from statistics import mean

from segstream.core.calendar import instant_ms
from segstream.core.model import Model
from segstream.core.name import Vocabulary, name_segments
from segstream.core.record import ModelRecord
from segstream.learn import fit
from segstream.rules import FIDELITY, RECALL
from tests import retail

Profiles = dict[int, list[float]]
Names = dict[int, str]
Weeks = Sequence[Profiles]

WORDS = retail.TRAINING.vocabulary
SHARE, PATIENCE = 0.2, 4


def retail_year() -> Iterator[ModelRecord]:
    """The version of each week from February to December 2011."""
    record, held = None, dict[int, int]()
    day = date(2011, 2, 1)
    while day <= date(2011, 12, 6):
        panel = retail.panel(day.isoformat())
        record = fit(retail.TRAINING, panel, held, record, instant_ms(f"{day}T00:00:00Z"))
        model, customers = Model(record), panel.customers()
        near = model.nearest(model.distances(model.coordinates(panel.matrix(customers))))
        held = dict(zip(customers, model.ids[near].tolist(), strict=True))
        yield record
        day += timedelta(days=7)


def made_up(seed: int, drift: float, noise: float, weeks: int = 52) -> Iterator[Profiles]:
    """Six segments whose true profiles walk by `drift` a week, seen through `noise`."""
    rng = Random(f"names {seed}")
    true = {i: [rng.gauss(0, 1) for _ in retail.FEATURES] for i in range(1, 7)}
    for _ in range(weeks):
        true = {i: [z + rng.gauss(0, drift) for z in p] for i, p in true.items()}
        yield {i: [z + rng.gauss(0, noise) for z in p] for i, p in true.items()}


# -- rules ----------------------------------------------------------------------------


def anew(weeks: Weeks, words: Vocabulary) -> list[Names]:
    """Without a memory."""
    return [name_segments(profiles, words, {}) for profiles in weeks]


def while_true(weeks: Weeks, words: Vocabulary) -> list[Names]:
    """As the trainer does: a name stays while its claims hold."""
    found: list[Names] = [{}]
    for profiles in weeks:
        found.append(name_segments(profiles, words, found[-1]))
    return found[1:]


def smoothed(weeks: Weeks, words: Vocabulary) -> list[Names]:
    """While true of the profile smoothed over weeks."""
    return while_true(list(_smooth(weeks)), words)


def patient(weeks: Weeks, words: Vocabulary) -> list[Names]:
    """Smoothed; and a name made anew must differ from the present one for four weeks."""
    found: list[Names] = [{}]
    differs: dict[int, int] = {}
    for profiles in _smooth(weeks):
        fresh = name_segments(profiles, words, {})
        before = found[-1]
        kept = {i: before[i] for i in profiles if i in before}
        differs = {i: (differs.get(i, 0) + 1) if fresh[i] != n else 0 for i, n in kept.items()}
        stay = {i: name for i, name in kept.items() if differs[i] < PATIENCE}
        found.append(name_segments(profiles, words, {}, stay))
    return found[1:]


def _smooth(weeks: Weeks) -> Iterator[Profiles]:
    now: Profiles = {}
    for profiles in weeks:
        now = {
            i: [(1 - SHARE) * old + SHARE * z for old, z in zip(now.get(i, p), p, strict=True)]
            for i, p in profiles.items()
        }
        yield now


RULES: Mapping[str, Callable[[Weeks, Vocabulary], list[Names]]] = {
    "anew each week": anew,
    "while true": while_true,
    "while true, smoothed": smoothed,
    "smoothed, 4 weeks": patient,
}


# -- figures --------------------------------------------------------------------------


def figures(weeks: Weeks, names: Sequence[Names]) -> tuple[int, int, int, int, int]:
    """Segment-weeks with a week before, renamed ones; weeks with equal names; claims, false ones.

    A claim is false if the segment lies on the other side of the panel's mean.
    """
    seen = renamed = doubles = claims = false = 0
    for before, after in pairwise(names):
        seen += sum(i in before for i in after)
        renamed += sum(i in before and before[i] != name for i, name in after.items())
    for profiles, now in zip(weeks, names, strict=True):
        doubles += len(set(now.values())) < len(now)
        for i, name in now.items():
            said = WORDS.understand(name.rstrip(" 23456")) or set()
            claims += len(said)
            false += sum(claim.strength(profiles[i]) <= 0 for claim in said)
    return seen, renamed, doubles, claims, false


def table(title: str, sequences: Sequence[Weeks]) -> None:
    print(f"\n{title}\n")
    print("| rule | segment-weeks | renamed | weeks with equal names | false claims |")
    print("|---|---|---|---|---|")
    for name, rule in RULES.items():
        each = [figures(weeks, rule(weeks, WORDS)) for weeks in sequences]
        seen, renamed, doubles, claims, false = (sum(column) for column in zip(*each, strict=True))
        print(f"| {name} | {seen:,} | {renamed / seen:.1%} | {doubles} | {false / claims:.1%} |")


def sentences(versions: Sequence[ModelRecord]) -> None:
    print("\nSentences about segments, the year of the preset retail\n")
    print(
        "| silhouette | versions | fidelity, mean (least) | worst recall, mean (least) | ", end=""
    )
    print("met | covers | precision | words |")
    print("|---" * 8 + "|")
    for name, low, high in (("below 0.45", 0, 0.45), ("0.45 or more", 0.45, 1)):
        chosen = [v for v in versions if low <= (v.quality["silhouette"] or 0) < high]
        each = [[s.rules for s in v.segments if s.rules] for v in chosen]
        faith = [rules[0].fidelity for rules in each]
        worst = [min(rule.recall for rule in rules) for rules in each]
        met = sum(f >= FIDELITY and w >= RECALL for f, w in zip(faith, worst, strict=True))
        said = [rule for rules in each for rule in rules]
        print(
            f"| {name} | {len(chosen)} | {mean(faith):.3f} ({min(faith):.3f}) "
            f"| {mean(worst):.3f} ({min(worst):.3f}) | {met} "
            f"| {mean(rule.covers or 0 for rule in said):.2f} "
            f"| {mean(rule.precision or 0 for rule in said):.2f} "
            f"| {mean(len(rule.text.split()) for rule in said):.0f} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.names", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="of the made-up sequences")
    chosen = parser.parse_args()
    versions = list(retail_year())
    sentences(versions)
    weeks = [{s.segment: list(s.effects.values()) for s in v.segments} for v in versions]
    table("The year of the preset retail", [weeks])
    for drift, noise in ((0.0, 0.05), (0.0, 0.15), (0.05, 0.05), (0.05, 0.15), (0.1, 0.3)):
        seen = [list(made_up(seed, drift, noise)) for seed in range(chosen.seeds)]
        table(f"Made up: drift {drift} a week, noise {noise}", seen)


if __name__ == "__main__":
    main()
