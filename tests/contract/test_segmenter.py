"""Source and Sink: what the segmenter relies on, in memory as on a real Kafka."""

from typing import Any

import pytest

from segstream.core.batch import Position
from segstream.core.output import Output, Topic
from segstream.ports import Fetched, NotCommitted, Published, Source, Unavailable
from tests.contract.scene import LAYOUT, PARTITIONS, Scene, wait

START = Published(Position(0, 0), LAYOUT, 0)


def output(topic: Topic, partition: int, value: bytes) -> Output:
    return Output(topic, partition, b"key", value, [("h", b"1")], Position(1, 0), (0, 1, 0, 0, b""))


def to(offset: int, clock: int = 7) -> Published:
    return START._replace(position=Position(offset, clock))


def read(source: Source, partition: int, count: int) -> list[tuple[int, bytes | None]]:
    """So many records of a partition."""
    found: list[tuple[int, bytes | None]] = []

    def enough() -> bool:
        records = source.poll(100, 0.05).records.get(partition)
        if records is not None:
            found.extend(zip(records.offsets, records.values, strict=True))
        return len(found) >= count

    wait(enough, f"{count} records of partition {partition}")
    return found


def poll(source: Source, what: str, condition: Any) -> Fetched:
    """The first poll that fulfils a condition."""
    found: list[Fetched] = []

    def fulfilled() -> bool:
        found.append(source.poll(100, 0.05))
        return bool(condition(found[-1]))

    wait(fulfilled, what)
    return found[-1]


# --- reading ------------------------------------------------------------------------------------


def test_a_partition_comes_in_order_from_where_it_is_started(scene: Scene) -> None:
    scene.append(0, b"a", b"b", b"c")
    scene.append(1, b"x")
    source = scene.source()
    scene.share(source)
    source.start(0, 1)
    assert read(source, 0, 2) == [(1, b"b"), (2, b"c")]
    assert 0 in poll(source, "the end", lambda f: f.at_end).at_end
    assert source.bounds(0) == (0, 3)
    assert source.log_end(0) == 3
    scene.append(0, b"d")
    assert read(source, 0, 1) == [(3, b"d")]


@pytest.mark.parametrize("value", [None, b"", b"a"])
def test_a_record_comes_to_one_who_waits_for_it(scene: Scene, value: bytes | None) -> None:
    """Whatever is in it: the client's message without a value counts as false."""
    source = scene.source()
    scene.share(source)
    source.start(0, 0)
    poll(source, "the end", lambda f: 0 in f.at_end)
    for offset in range(3):  # one of them, at least, comes while it waits
        scene.append(0, value)
        assert read(source, 0, 1) == [(offset, value)]


def test_as_many_come_as_are_asked_for(scene: Scene) -> None:
    """More than are taken apart at once."""
    scene.append(0, *(b"%d" % number for number in range(1_300)))
    scene.append(1, *(b"%d" % number for number in range(700)))
    source = scene.source()
    scene.share(source)
    for partition in range(PARTITIONS):
        source.start(partition, 0)
    found: dict[int, list[Any]] = {0: [], 1: []}

    def all_there() -> bool:
        fetched = source.poll(900, 0.05)
        assert sum(len(records) for records in fetched.records.values()) <= 900
        for partition, records in fetched.records.items():
            found[partition] += zip(records.offsets, records.values, strict=True)
        return sum(map(len, found.values())) == 2_000

    wait(all_there, "all of them")
    for records in found.values():
        assert records == [(number, b"%d" % number) for number in range(len(records))]


def test_nothing_comes_before_a_start_or_after_a_pause(scene: Scene) -> None:
    scene.append(0, b"a", b"b")
    source = scene.source()
    (first,) = scene.share(source)
    assert not first.records
    source.start(0, 0)
    read(source, 0, 2)
    source.pause(0)
    scene.append(0, b"c")
    assert not any(source.poll(100, 0.1).records for _ in range(5))
    source.start(0, 1)
    assert read(source, 0, 2) == [(1, b"b"), (2, b"c")]


def test_a_poll_brings_so_many_records_in_all(scene: Scene) -> None:
    for partition in range(PARTITIONS):
        scene.append(partition, b"a", b"b", b"c")
    source = scene.source()
    scene.share(source)
    for partition in range(PARTITIONS):
        source.start(partition, 0)
    sizes, seen = [], 0

    def all_of_them() -> bool:
        nonlocal seen
        sizes.append(sum(len(r) for r in source.poll(2, 0.05).records.values()))
        seen += sizes[-1]
        return seen >= 6

    wait(all_of_them, "six records")
    assert max(sizes) <= 2 + 1  # Kafka's first record comes beside the others
    assert seen == 6


def test_a_member_hears_of_its_partitions_and_of_their_loss(scene: Scene) -> None:
    one = scene.source()
    assert one.poll(1, 0).metadata is None
    (first,) = scene.share(one)
    assert first.assigned == {0, 1}
    assert first.metadata is not None
    mine, theirs = scene.share(one, scene.source())
    assert mine.assigned | theirs.assigned == {0, 1}
    assert len(mine.assigned) == len(theirs.assigned) == 1
    assert mine.metadata is not None
    assert mine.metadata != first.metadata


def test_who_is_outside_the_log_is_told(scene: Scene) -> None:
    scene.append(0, b"a")
    source = scene.source()
    scene.share(source)
    source.start(0, 5)
    assert poll(source, "astray", lambda f: f.strayed).strayed == {0}


def test_the_topic_has_an_id_and_a_size(scene: Scene) -> None:
    source = scene.source()
    assert source.partitions() == PARTITIONS
    assert source.topic_id() == scene.source().topic_id() != ""


def test_w_is_where_it_was_set(scene: Scene) -> None:
    source = scene.source()
    assert [stable(source, partition) for partition in range(PARTITIONS)] == [START, START]


def test_w_is_absent_after_the_group_was_deleted(scene: Scene) -> None:
    scene.delete_group()
    assert stable(scene.source(), 1) is None


def stable(source: Source, partition: int) -> Published | None:
    """W; a young coordinator may not know at once."""
    return wait(lambda: _stable(source, partition), "a coordinator")[0]  # type: ignore[no-any-return]


def _stable(source: Source, partition: int) -> list[Published | None]:
    try:
        return [source.committed(partition)]
    except Unavailable:
        return []


# --- transactions ---------------------------------------------------------------------------------


def test_outputs_and_w_are_one_transaction(scene: Scene) -> None:
    source, sink = scene.source(), scene.sink("a")
    (member,) = scene.share(source)
    outputs = [
        output("changes", 1, b"change"),
        output("memberships", 0, b"member"),
        output("samples", 1, b"sample"),
        output("dead_letters", 1, b"letter"),
        output("events", 1, b"forwarded"),
    ]
    sink.publish(outputs, {0: to(3), 1: to(4, 9)}, member.metadata)
    assert source.committed(0) == to(3)
    assert source.committed(1) == to(4, 9)
    assert scene.published("changes") == [(1, b"key", b"change")]
    assert scene.published("memberships") == [(0, b"key", b"member")]
    assert scene.published("samples") == [(0, b"key", b"sample")]
    assert scene.published("dead_letters") == [(1, b"key", b"letter")]
    assert scene.published("events") == [(1, b"key", b"forwarded")]


def test_w_alone_can_be_moved(scene: Scene) -> None:
    source, sink = scene.source(), scene.sink("a")
    (member,) = scene.share(source)
    sink.publish([], {1: to(2)}, member.metadata)
    assert (source.committed(0), source.committed(1)) == (START, to(2))


def test_who_was_a_member_before_is_refused_and_can_go_on_as_one_now(scene: Scene) -> None:
    one, sink = scene.source(), scene.sink("a")
    (before,) = scene.share(one)
    now, _ = scene.share(one, scene.source())
    with pytest.raises(NotCommitted):
        sink.publish([output("changes", 0, b"zombie")], {0: to(1)}, before.metadata)
    assert one.committed(0) == START
    assert scene.published("changes") == []
    sink.publish([output("changes", 0, b"member")], {0: to(1)}, now.metadata)
    assert scene.published("changes") == [(0, b"key", b"member")]


def test_nobody_asks_a_member_which_partitions_it_owns(scene: Scene) -> None:
    """So the worker itself must forget what is revoked."""
    one, two, sink = scene.source(), scene.source(), scene.sink("a")
    now, _ = scene.share(one, two)
    (other,) = {0, 1} - now.assigned
    sink.publish([], {other: to(1)}, now.metadata)
    assert one.committed(other) == to(1)


def test_w_waits_for_the_end_of_an_open_transaction(scene: Scene) -> None:
    source = scene.source()
    (member,) = scene.share(source)
    left = scene.open("a", [], {0: to(1)}, member.metadata)
    with pytest.raises(Unavailable):
        source.committed(0)
    assert source.committed(1) == START
    left.commit()
    assert wait(lambda: stable(source, 0) == to(1), "the new W")
    scene.open("a", [], {0: to(2)}, member.metadata).abort()
    assert stable(source, 0) == to(1)


def test_who_carries_offsets_already_can_commit_after_losing_the_partition(scene: Scene) -> None:
    one = scene.source()
    (member,) = scene.share(one)
    left = scene.open("a", [output("changes", 0, b"late")], {0: to(1)}, member.metadata)
    two = scene.source()
    scene.share(one, two)
    with pytest.raises(Unavailable):
        two.committed(0)
    left.commit()
    assert stable(two, 0) == to(1)
    assert scene.published("changes") == [(0, b"key", b"late")]


def test_a_new_sink_of_a_slot_ends_what_the_former_left_open(scene: Scene) -> None:
    source = scene.source()
    (member,) = scene.share(source)
    scene.open("a", [output("changes", 0, b"lost")], {0: to(1)}, member.metadata)
    other = scene.open("b", [], {1: to(1)}, member.metadata)
    scene.sink("a")
    assert stable(source, 0) == START
    assert scene.published("changes") == []
    other.commit()
    assert stable(source, 1) == to(1)


def test_readers_wait_before_an_open_transaction_and_pass_an_aborted_one(scene: Scene) -> None:
    source = scene.source()
    (member,) = scene.share(source)
    scene.append(0, b"before")
    lost = scene.open("a", [output("events", 0, b"lost")], {}, member.metadata)
    scene.append(0, b"behind")
    source.start(0, 0)
    assert read(source, 0, 1) == [(0, b"before")]
    assert not any(source.poll(100, 0.1).records for _ in range(5))
    lost.abort()
    assert read(source, 0, 1) == [(2, b"behind")]
    kept = scene.open("a", [output("events", 0, b"kept")], {}, member.metadata)
    kept.commit()
    # each end of a transaction has taken an offset, too
    assert read(source, 0, 1) == [(4, b"kept")]
    assert 0 in poll(source, "the end", lambda f: f.at_end).at_end
    assert source.bounds(0) == (0, 6)


def test_a_clock_record_is_a_control_event(scene: Scene) -> None:
    source, sink = scene.source(), scene.sink("a")
    scene.share(source)
    sink.append_clock(1, 1_772_323_200_000)
    source.start(1, 0)
    records = poll(source, "a clock record", lambda f: f.records).records[1]
    assert records.values == [b'{"time":"2026-03-01T00:00:00.000Z"}']
    assert ("ce_type", b"segstream.clock") in (records.headers[0] or [])
    assert records.appended[0] > 0
