"""Store: a compare-and-set of positions, and reads that come with the position they belong to."""

from collections.abc import Sequence

import pytest

from segstream.core.batch import Checkpoint, Position
from segstream.core.step import Outcome
from segstream.ports import Announced, Refused, Write
from tests.contract.scene import LAYOUT, Scene


def outcome(
    offset: int,
    writes: Sequence[tuple[str, bytes]] = (),
    *,
    deletes: Sequence[str] = (),
    indexed: Sequence[tuple[int, str]] = (),
    unindexed: Sequence[tuple[int, str]] = (),
    clock: int = 0,
) -> Outcome:
    checkpoint = Checkpoint(offset, clock, LAYOUT, customers=offset)
    return Outcome(checkpoint, dict(writes), [*deletes], [*indexed], [*unindexed], [], {})


def test_nothing_is_there_at_first(scene: Scene) -> None:
    store = scene.store()
    assert store.checkpoint(0) is None
    assert store.load({0: ["u"]})[0] == (None, [None])
    assert store.due(0, [1, 2]) == (None, [])
    assert store.announced() is None


def test_a_batch_is_written_whole_and_read_with_its_position(scene: Scene) -> None:
    store = scene.store()
    first = outcome(3, [("ü", b"\0u"), ("v", b"v")], indexed=[(5, "ü"), (7, "v"), (5, "w")])
    assert store.write([Write(0, None, first)])
    assert store.checkpoint(0) == first.checkpoint
    assert store.load({0: ["v", "nobody", "ü"]})[0] == (first.checkpoint, [b"v", None, b"\0u"])
    there, customers = store.due(0, [5, 6, 7])
    assert (there, sorted(customers)) == (first.checkpoint, ["v", "w", "ü"])
    assert store.checkpoint(1) is None
    second = outcome(4, [("v", b"v2")], deletes=["ü"], unindexed=[(5, "ü")])
    assert store.write([Write(0, Position(3, 0), second)])
    assert store.load({0: ["ü", "v"]})[0] == (second.checkpoint, [None, b"v2"])
    assert store.due(0, [5]) == (second.checkpoint, ["w"])


def test_a_write_from_another_position_does_nothing(scene: Scene) -> None:
    store = scene.store()
    assert not store.write([Write(0, Position(1, 0), outcome(2))])  # nothing was ever written
    assert store.write([Write(0, None, outcome(3, [("u", b"1")], clock=8))])
    for base in (None, Position(2, 8), Position(3, 7), Position(4, 0)):
        assert not store.write([Write(0, base, outcome(9, [("u", b"2")], deletes=["u"]))])
    assert store.load({0: ["u"]})[0] == (outcome(3, clock=8).checkpoint, [b"1"])


def test_a_write_that_happened_already_is_done(scene: Scene) -> None:
    """Its reply was lost."""
    store = scene.store()
    again = outcome(3, [("u", b"1")], indexed=[(1, "u")])
    assert store.write([Write(0, None, again)])
    assert store.write([Write(0, None, again)])
    assert store.write([Write(0, Position(1, 1), again)])
    assert store.load({0: ["u"]})[0] == (again.checkpoint, [b"1"])


def test_several_partitions_are_written_and_loaded_at_once(scene: Scene) -> None:
    store = scene.store()
    writes = [Write(p, None, outcome(p + 1, [("u", b"%d" % p)])) for p in range(3)]
    assert store.write(writes) == {0, 1, 2}
    assert store.load({2: ["u"], 0: ["v", "u"], 7: ["u"], 1: []}) == {
        2: (writes[2].outcome.checkpoint, [b"2"]),
        0: (writes[0].outcome.checkpoint, [None, b"0"]),
        7: (None, [None]),
        1: (writes[1].outcome.checkpoint, []),
    }
    assert store.load({}) == {}
    assert store.write([]) == set()


def test_of_several_only_those_that_stand_elsewhere_are_left_out(scene: Scene) -> None:
    store = scene.store()
    first = [Write(p, None, outcome(3, [("u", b"first")])) for p in range(4)]
    assert store.write(first) == {0, 1, 2, 3}
    second = outcome(5, [("u", b"second")], deletes=["v"], indexed=[(1, "u")])
    bases = [Position(3, 0), Position(3, 1), Position(3, 0), None]
    writes = [Write(p, base, second) for p, base in enumerate(bases)]
    writes[2] = first[2]  # its reply was lost
    assert store.write(writes) == {0, 2}
    loaded = store.load({p: ["u"] for p in range(4)})
    assert [blobs for _, blobs in loaded.values()] == [[b"second"], *[[b"first"]] * 3]
    assert [store.due(p, [1])[1] for p in range(4)] == [["u"], [], [], []]


def test_what_is_not_there_can_be_deleted(scene: Scene) -> None:
    store = scene.store()
    assert store.write([Write(0, None, outcome(1, deletes=["u"], unindexed=[(1, "u")]))])
    assert store.due(0, [1]) == (outcome(1).checkpoint, [])


def test_readers_are_told_where_they_are(scene: Scene) -> None:
    store = scene.store()
    here = Announced(2, "crc32", LAYOUT, "an id")
    store.announce(here)
    assert store.announced() == here


def test_a_store_that_may_throw_states_away_is_refused(scene: Scene) -> None:
    scene.store().check()
    with pytest.raises(Refused, match="maxmemory-policy allkeys-lru"):
        scene.evicting_store().check()
