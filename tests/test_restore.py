"""What a partition needs after a loss, by where it stands; and an approximate new start."""

import pytest

from segstream.core.batch import Checkpoint, Position
from segstream.core.hash import customer_hash
from segstream.core.recompute import Recomputation
from segstream.core.record import Membership
from segstream.core.restore import Found, renewed
from segstream.core.step import Partition
from tests.harness import Run
from tests.streams import generate

LAYOUT = "layout"


def found(
    n: int | None, w: int | None, start: int, end: int, *, origin: int = 0, layout: str = LAYOUT
) -> Found:
    checkpoint = None if n is None else Checkpoint(n, 1_000, layout)
    published = None if w is None else Position(w, 1_000 if w else 0)
    return Found(0, checkpoint, published, origin, frozenset({layout}), start, end)


@pytest.mark.parametrize(
    ("stands", "verdict"),
    [
        (found(50, 50, 0, 50), "goes on"),
        (found(50, 50, 50, 90), "goes on"),
        (found(60, 50, 0, 90), "goes on"),  # rows without output
        (found(40, 50, 0, 90), "catches up"),
        (found(None, 50, 0, 90), "catches up"),
        (found(None, 0, 0, 0), "goes on"),  # nothing was sent yet
        (found(None, 50, 1, 90), "log too short"),
        (found(None, 50, 7, 90, origin=7), "catches up"),
        (found(40, 50, 41, 90), "log too short"),
        (found(40, 50, 70, 90), "log too short"),
        (found(40, None, 0, 90), "W is lost"),
        (found(None, None, 0, 90), "W is lost"),
        (found(91, 50, 0, 90), "log was cut"),
        (found(50, 91, 0, 90), "log was cut"),
        (found(50, 50, 0, 90, layout="other"), "other layout"),
    ],
)
def test_what_a_segmenter_would_do(stands: Found, verdict: str) -> None:
    assert stands.verdict(LAYOUT) == verdict


def test_how_far_it_has_to_go() -> None:
    assert (found(40, 50, 0, 90).again, found(40, 50, 0, 90).ahead) == (10, 50)
    assert (found(60, 50, 0, 90).again, found(60, 50, 0, 90).ahead) == (0, 30)


def test_a_new_start_is_at_w_or_at_the_beginning_of_the_log() -> None:
    assert found(None, 50, 30, 90).renewed == Position(50, 1_000)
    assert found(None, 50, 70, 90).renewed == Position(70, 1_000)


def test_segments_are_as_published_and_windows_as_computed() -> None:
    """Members of whom the log holds nothing have an empty State, and came last before it."""
    stream = generate(4)
    where = Partition(stream.partition, stream.partitions, stream.partitioner, "customer-events")
    run = Run(stream.config, stream.models, where).feed(stream.records)
    again = Recomputation(run.function, where, run.checkpoint)
    again.states = dict(run.states())
    seen, unseen = min(again.states), "customer of long ago"
    at = "2026-02-01T00:00:00.000Z"
    members = {
        name: Membership(
            customer=name, segment=9, name="x", since=at, at=at, model=77, sequence=number
        )
        for name, number in ((seen, 14), (unseen, 3))
    }
    stands = found(None, 50, 30, 90)
    new = renewed(again, members, stands, 123, panel=1)
    names = sorted(new.states)
    states = run.function.layout.unpack([new.states[name] for name in names], names)
    before = run.function.layout.unpack([run.states().get(name) for name in names], names)
    assert names == sorted({*run.states(), unseen})
    for i, name in enumerate(names):
        member = members.get(name)
        wanted = (9, member.sequence, 77, 1_769_904_000_000) if member else (0, 0, 0, 0)
        decided = ("segment", "sequence", "stamp", "since")
        assert tuple(int(states[field][i]) for field in decided) == wanted
        assert (states["pending"][i], states["pending_since"][i]) == (0, 0)
        for field in set(states.dtype.names or ()) - {*decided, "pending", "pending_since", "last"}:
            assert states[field][i].tobytes() == before[field][i].tobytes(), (name, field)
        assert states["last"][i] == (123 if name == unseen else before["last"][i])
    there = new.checkpoint
    assert (there.position, there.model, there.rebuilt_from) == (Position(50, 1_000), 77, 30)
    assert (there.customers, sum(there.born)) == (len(names), len(names))
    assert there.segments == {"9": 2}
    assert sum(there.born[there.level :]) <= 1
    period = run.function.definition.tick.minutes
    assert all(name in new.minutes[customer_hash(name) % period] for name in names)
    assert sum(map(len, new.minutes.values())) == len(names)
