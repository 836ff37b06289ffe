"""What became of the segments between two versions, by the members that they share.

After MONIC (Spiliopoulou et al. 2006, doi 10.1145/1150402.1150491). The overlap of an older
segment with a newer one is the share of the older one's members that are in the newer one now.

- An older segment *splits* if at least two parts of PART or more hold COVERED of its members.
- A newer segment is *merged* if it holds at least STAYED of each of several older ones.
- It *survives* if it keeps the id and STAYED of the members; with fewer it has *shifted*.
- What has a new id and is no part of a split is *born*; an id without a successor is *retired*.

Members are those that the online model held before and the new version holds now, on the same
vectors: what customers do themselves is not counted here.
"""

from collections.abc import Mapping, Set

import numpy as np
import numpy.typing as npt

from segstream.core.record import Fate, ModelSegment, Retired

STAYED = 0.5
PART = 0.25
COVERED = 0.8
#: a share below this is not worth telling
TOLD = 0.05

Labels = npt.NDArray[np.int64]
Shares = dict[int, float]


def fates(before: Labels, after: Labels, known: Set[int]) -> dict[int, Fate]:
    """Fate of every segment in `after`.

    `before`, `after`: older and newer id of each customer, 0 in `before` = unknown; `known`: ids
    of the parent version.
    """
    parts = {int(old): _shares(after[before == old]) for old in np.unique(before[before > 0])}
    split = {old for old, shares in parts.items() if splits(shares)}
    found = {}
    for new in np.unique(after).tolist():
        here = {old: shares[new] for old, shares in parts.items() if new in shares}
        came = _shares(before[after == new])
        came.pop(0, None)
        kind = _kind(new, here, split, known)
        found[new] = Fate.model_validate(
            {"kind": kind, "parents": _worth_telling(came), "overlaps": _worth_telling(here)}
        )
    return found


def _kind(new: int, here: Shares, split: Set[int], known: Set[int]) -> str:
    if sum(share >= STAYED for share in here.values()) >= 2:
        return "merged"
    # A segment that keeps its own id is no part of another one that happens to fall apart.
    origins = {new} if new in known else here.keys()
    if any(old in split and here.get(old, 0) >= PART for old in origins):
        return "split"
    if new in known:
        return "survived" if here.get(new, 0) >= STAYED else "shifted"
    return "born"


def splits(shares: Shares) -> bool:
    """Whether these shares of a segment's members, by where they are now, make it a split."""
    parts = [share for share in shares.values() if share >= PART]
    return len(parts) >= 2 and sum(parts) >= COVERED - 1e-9


def retire(segment: ModelSegment, before: Labels, after: Labels) -> Retired:
    """The record of a segment whose id has no successor; its heir took most of the members."""
    parts = _shares(after[before == segment.segment])
    told = _worth_telling(parts)
    heir = min(parts, key=lambda s: (-parts[s], s)) if parts else None
    return Retired(segment=segment.segment, name=segment.name, heir=heir, overlaps=told)


def _shares(ids: Labels) -> Shares:
    values, counts = np.unique(ids, return_counts=True)
    return {int(v): float(c / len(ids)) for v, c in zip(values, counts, strict=True)}


def _worth_telling(shares: Shares) -> list[tuple[int, float]]:
    """Largest first."""
    told = [(i, round(share, 6)) for i, share in shares.items() if share >= TOLD]
    return sorted(told, key=lambda pair: (-pair[1], pair[0]))


# -- in words -----------------------------------------------------------------------------


def told(segment: ModelSegment, names: Mapping[int, str] | None = None) -> str:
    """The fate for people: "survived (93 % of its members stayed)". `names` of older segments.

    Empty if the version does not tell.
    """
    if segment.fate is None:
        return ""
    fate, names = segment.fate, names or {}
    overlaps = dict(fate.overlaps)
    stayed = overlaps.get(segment.segment)
    match fate.kind:
        case "survived" | "split" if stayed is not None:
            return f"{fate.kind} ({_percent(stayed)} of its members stayed)"
        case "shifted" if fate.overlaps or fate.parents:
            return f"shifted (only {_percent(stayed or 0)} of its members stayed)"
        case "split" if fate.overlaps:
            origin, share = next(pair for pair in fate.overlaps if pair[1] >= PART)
            return f"split off from {_called(origin, names)} ({_percent(share)} of its members)"
        case "merged":
            whole = [pair for pair in fate.overlaps if pair[1] >= STAYED]
            return f"merged from {_listed(whole, names)}" if whole else "merged"
        case "born" if fate.parents:
            return f"born ({_from(fate.parents, names)})"
    return fate.kind


def told_retired(retired: Retired, names: Mapping[int, str] | None = None) -> str:
    """The end of a segment for people: "absorbed by recent (71 % of its members)"."""
    names = names or {}
    shares = dict(retired.overlaps)
    if not shares:
        return "ended" if retired.heir is None else f"ended in {_called(retired.heir, names)}"
    if splits(shares):
        parts = [pair for pair in retired.overlaps if pair[1] >= PART]
        return f"split into {_listed(parts, names)}"
    first, share = retired.overlaps[0]
    if share >= STAYED:
        return f"absorbed by {_called(first, names)} ({_percent(share)} of its members)"
    return f"dissolved (most, {_percent(share)}, into {_called(first, names)})"


def _from(parents: list[tuple[int, float]], names: Mapping[int, str]) -> str:
    first, share = parents[0]
    return f"{_percent(share)} of its members come from {_called(first, names)}"


def _listed(pairs: list[tuple[int, float]], names: Mapping[int, str]) -> str:
    return " and ".join(f"{_called(i, names)} ({_percent(share)})" for i, share in pairs)


def _called(segment: int, names: Mapping[int, str]) -> str:
    return names.get(segment, f"segment {segment}")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
