"""Names that people give: a wish per segment, and the version that fulfils them.

A wish is a record of its own and stays: it is compared with the newest version again and again, so
it does not matter who saw it first, or whether a trainer died meanwhile. The version that fulfils
it has the same centres: nobody moves, and only names are other ones.
"""

from collections.abc import Mapping

from segstream.core.name import Vocabulary, name_segments
from segstream.core.record import ModelRecord, Rename


class Unfit(Exception):
    """A name that cannot be given; says why, for people."""


def check(
    newest: ModelRecord, segment: int, name: str | None, wishes: Mapping[int, Rename]
) -> None:
    """Whether the newest version could take this name (None: that of its profile); else Unfit.

    `wishes`: those of other segments may not be fulfilled yet.
    """
    names = {s.segment: s.name for s in newest.segments}
    if segment not in names:
        there = ", ".join(f"{i} ({text})" for i, text in sorted(names.items()))
        gone = next((r for r in newest.retired if r.segment == segment), None)
        why = f"there is no segment {segment}" if gone is None else f"segment {segment} is retired"
        if gone is not None and gone.heir in names:
            why += f", most of its members are in {gone.heir}"
        raise Unfit(f"{why}; there are: {there}")
    if name is None:
        return
    for other, taken in names.items():
        wish = wishes.get(other)
        wanted = taken if wish is None or wish.name is None else wish.name
        if other != segment and name.casefold() in (taken.casefold(), wanted.casefold()):
            raise Unfit(f"segment {other} has the name {name!r}, and names belong to one only")


def renamed(
    newest: ModelRecord, wishes: Mapping[int, Rename], words: Vocabulary, at: str
) -> ModelRecord | None:
    """The next version, sealed; None if the newest one is as people want it.

    `wishes`: the newest of each segment, the oldest first. Of two that want the same name the
    older one has it, and the other segment keeps what it has. Wishes for segments that are not
    there (any more) are nothing. Names from profiles are made as at a refit: they stay, but for
    one that a person gave to another segment (and, rarely, one whose claims hold only just).
    """
    before = {s.segment: s.name for s in newest.segments if s.named_by == "person"}
    people = _granted(newest, wishes, before)
    if people == before:
        return None
    weights = [f.weight for f in newest.features]
    profiles = {
        s.segment: [z / w for z, w in zip(s.centre, weights, strict=True)] for s in newest.segments
    }
    known = {s.segment: s.name for s in newest.segments if s.named_by == "profile"}
    names = name_segments(profiles, words, known, people)
    segments = [
        s.model_copy(
            update={
                "name": names[s.segment],
                "named_by": "person" if s.segment in people else "profile",
            }
        )
        for s in newest.segments
    ]
    following = {"model": newest.model + 1, "parent": newest.model, "at": at}
    return newest.model_copy(update={**following, "segments": segments}).sealed()


def _granted(
    newest: ModelRecord, wishes: Mapping[int, Rename], before: Mapping[int, str]
) -> dict[int, str]:
    """Names by people, by segment."""
    live = {s.segment for s in newest.segments}
    people = {segment: name for segment, name in before.items() if segment not in wishes}
    for segment, wish in wishes.items():
        if segment not in live or wish.name is None:
            continue
        wanted = [wish.name, before.get(segment)]
        free = (name for name in wanted if name is not None and name not in people.values())
        if (name := next(free, None)) is not None:
            people[segment] = name
    return people
