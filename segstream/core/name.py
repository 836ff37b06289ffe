"""Names that people can say: what sets a segment apart, in the words of the configuration.

A word is a claim: the segment is on one side (low or high) of the panel mean of a feature.

1. A segment claims its two features furthest from the mean, if at least CLEAR standard deviations
   away; without any it is "average".
2. Contrast: while two segments share a name, the feature on which they differ most is added to the
   one that is truly on that side of the mean.
3. Stability: a segment keeps its name while all its claims hold (at least LOST deviations on the
   side claimed; "average": no feature beyond AVERAGE), even if other features stand out more by
   now. It gains a word only if a newcomer cannot be told from it otherwise. What a person named
   stays.

Words stand in the order of the features, so no two names differ by word order alone.
"""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

CLEAR = 0.5
LOST = 0.25
AVERAGE = 1.0
TOP = 2
PLAIN = "average"
BETWEEN = ", "

#: standardised distances from the panel mean, by segment; in feature order
Profiles = Mapping[int, Sequence[float]]


class Claim(NamedTuple):
    feature: int
    high: bool

    def strength(self, profile: Sequence[float]) -> float:
        """How far the segment is on the claimed side; negative on the other one."""
        return profile[self.feature] if self.high else -profile[self.feature]


class Vocabulary:
    """The words of each feature: (low, high). None: "low <name>"; empty: never said."""

    def __init__(self, features: Sequence[tuple[str, str | None, str | None]]) -> None:
        self._words: dict[Claim, str] = {}
        for j, (name, low, high) in enumerate(features):
            plain = name.replace("_", " ")
            self._words[Claim(j, False)] = f"low {plain}" if low is None else low
            self._words[Claim(j, True)] = f"high {plain}" if high is None else high

    def sayable(self, claim: Claim) -> bool:
        return bool(self._words[claim])

    def say(self, claims: set[Claim]) -> str:
        words = [self._words[claim] for claim in sorted(claims)]
        return BETWEEN.join(dict.fromkeys(words)) or PLAIN

    def understand(self, name: str) -> set[Claim] | None:
        """The claims that make up a name; None if it is not of this vocabulary."""
        if name == PLAIN:
            return set()
        meant = {word: claim for claim, word in reversed(self._words.items()) if word}
        words = name.split(BETWEEN)
        return {meant[word] for word in words} if all(word in meant for word in words) else None


def name_segments(
    profiles: Profiles,
    vocabulary: Vocabulary,
    known: Mapping[int, str],
    by_person: Mapping[int, str] | None = None,
) -> dict[int, str]:
    """Unique names by segment. `known`: names so far; `by_person`: names that must stay."""
    fixed = dict(by_person or {})
    kept: dict[int, set[Claim]] = {}
    claims: dict[int, set[Claim]] = {}
    for segment in sorted(profiles.keys() - fixed.keys()):
        old = vocabulary.understand(known[segment]) if segment in known else None
        if old is not None and _holds(old, profiles[segment]):
            kept[segment] = claims[segment] = old
        else:
            claims[segment] = _top(profiles[segment], vocabulary)
    _contrast(profiles, vocabulary, claims, set(kept))
    taken = set(fixed.values())
    names = fixed
    for segment in sorted(claims, key=lambda s: (s not in kept, s)):
        names[segment] = _numbered(vocabulary.say(claims[segment]), taken)
        taken.add(names[segment])
    return names


def _holds(claims: set[Claim], profile: Sequence[float]) -> bool:
    if not claims:
        return max(map(abs, profile)) < AVERAGE
    return all(claim.strength(profile) >= LOST for claim in claims)


def _top(profile: Sequence[float], vocabulary: Vocabulary) -> set[Claim]:
    sides = [Claim(j, z > 0) for j, z in enumerate(profile) if abs(z) >= CLEAR]
    sides = [claim for claim in sides if vocabulary.sayable(claim)]
    return set(sorted(sides, key=lambda claim: -claim.strength(profile))[:TOP])


def _contrast(
    profiles: Profiles,
    vocabulary: Vocabulary,
    claims: dict[int, set[Claim]],
    kept: set[int],
) -> None:
    """Add claims until no two segments say the same, as far as their profiles differ at all."""
    while True:
        same = (
            (s, t)
            for s, t in combinations(sorted(claims), 2)
            if vocabulary.say(claims[s]) == vocabulary.say(claims[t])
        )
        found = (_difference(pair, profiles, vocabulary, claims, kept) for pair in same)
        change = next((change for change in found if change), None)
        if change is None:
            return
        segment, claim = change
        claims[segment] = claims[segment] | {claim}


def _difference(
    pair: tuple[int, int],
    profiles: Profiles,
    vocabulary: Vocabulary,
    claims: Mapping[int, set[Claim]],
    kept: set[int],
) -> tuple[int, Claim] | None:
    """The claim that tells two segments apart best: for a segment not kept, if there is one."""
    s, t = pair
    options = []
    for j, (zs, zt) in enumerate(zip(profiles[s], profiles[t], strict=True)):
        for segment, claim in ((s, Claim(j, zs > zt)), (t, Claim(j, zt > zs))):
            strength = claim.strength(profiles[segment])
            says_new = vocabulary.say(claims[segment] | {claim}) != vocabulary.say(claims[segment])
            if zs != zt and strength > 0 and vocabulary.sayable(claim) and says_new:
                rank = (segment in kept, strength < LOST, -abs(zs - zt), -strength, j)
                options.append((rank, segment, claim))
    return min(options)[1:] if options else None


def _numbered(name: str, taken: set[str]) -> str:
    """Equal profiles can only be counted."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} {number}"
    return unique
