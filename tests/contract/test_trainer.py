"""Samples, Versions, Press and Models: what trainer and segmenter rely on."""

from typing import Any

import pytest

from segstream.core.call import ModelControl
from segstream.core.call import read as read_call
from segstream.core.record import ModelRecord, Rename
from segstream.ports import NotCommitted
from segstream.ports.trainer import Polled, Samples
from tests.contract.scene import PARTITIONS, Scene, wait
from tests.simulation.traffic import setting

RECORD: ModelRecord = setting(0).models[1].sealed()  # with all fields, as they are written


def drained(samples: Samples, count: int) -> list[Polled]:
    """Polls until so many records have come under one claim."""
    polls: list[Polled] = []

    def enough() -> bool:
        polls.append(samples.poll(0.05))
        mine = [p for p in polls if p.claim == polls[-1].claim is not None]
        return sum(len(p.records) for p in mine) >= count

    wait(enough, f"{count} samples")
    return [p for p in polls if p.claim == polls[-1].claim]


def records(polls: list[Polled]) -> list[Any]:
    return [record for polled in polls for record in polled.records]


def test_each_claim_begins_with_the_first_sample(scene: Scene) -> None:
    scene.add_sample(b"a", b"1")
    scene.add_sample(b"b", b"2")
    samples = scene.samples()
    scene.own(samples)
    samples.restart()
    first = drained(samples, 2)
    assert records(first) == [(b"a", b"1"), (b"b", b"2")]
    assert first[-1].fence is not None
    samples.settle()
    samples.handled()
    scene.add_sample(b"c", b"3")
    assert records(drained(samples, 1))[-1] == (b"c", b"3")
    samples.restart()
    again = drained(samples, 3)
    assert records(again) == [(b"a", b"1"), (b"b", b"2"), (b"c", b"3")]
    assert again[-1].claim != first[-1].claim


def test_one_owns_the_samples_and_the_others_stand_by(scene: Scene) -> None:
    one = scene.samples()
    scene.own(one)
    two = scene.samples()

    def owners() -> int:
        return sum(samples.poll(0.05).claim is not None for samples in (one, two))

    wait(lambda: owners() == 1, "a single owner")
    assert [owners() for _ in range(5)] == [1] * 5


def test_a_version_is_published_whole_and_announced_everywhere(scene: Scene) -> None:
    samples, press = scene.samples(), scene.press("a")
    versions, models = scene.versions(), scene.models()
    scene.own(samples)
    polled = samples.poll(0.05)
    versions.refresh()
    models.refresh()
    assert not versions.records()
    assert not models.at_hand()
    press.publish(RECORD, polled.fence)
    assert not models.at_hand()  # as of the last refresh
    versions.refresh()
    models.refresh()
    assert versions.records() == {1: RECORD}
    assert models.at_hand()[1].record == RECORD
    press.announce(RECORD)
    source = scene.source()
    scene.share(source)
    heard: dict[int, Any] = {}
    for partition in range(PARTITIONS):
        source.start(partition, 0)

    def everywhere() -> bool:
        for partition, found in source.poll(10, 0.05).records.items():
            heard[partition] = read_call(found.values[0], found.headers[0])
        return len(heard) == PARTITIONS

    wait(everywhere, "announcements")
    assert heard == dict.fromkeys(range(PARTITIONS), ModelControl(1, RECORD.digest))


def test_names_by_people_come_beside_the_versions(scene: Scene) -> None:
    samples, press, versions, models = (
        scene.samples(),
        scene.press("a"),
        scene.versions(),
        scene.models(),
    )
    scene.own(samples)
    versions.refresh()
    assert not versions.renames()
    press.publish(RECORD, samples.poll(0.05).fence)
    first, second, third = (
        Rename(segment=segment, name=name, at=RECORD.at)
        for segment, name in ((1, "Friends"), (2, "Strangers"), (1, None))
    )
    scene.add_rename(first)
    scene.add_rename(second)
    wait(lambda: list(versions.renames().values()) == [first, second], "names")
    scene.add_rename(third)  # the newest of a segment, and the last of all
    wait(lambda: list(versions.renames().values()) == [second, third], "a newer name")
    again = scene.versions()
    again.refresh()
    models.refresh()
    assert list(again.renames().values()) == [second, third]
    assert again.records() == {1: RECORD}
    assert list(models.at_hand()) == [1]


def test_who_owned_the_samples_before_cannot_publish(scene: Scene) -> None:
    one = scene.samples()
    scene.own(one)
    fence = one.poll(0.05).fence
    press, versions = scene.press("a"), scene.versions()
    scene.leave(one)
    two = scene.samples()
    scene.own(two)
    with pytest.raises(NotCommitted):
        press.publish(RECORD, fence)
    versions.refresh()
    assert not versions.records()
    scene.press("b").publish(RECORD, two.poll(0.05).fence)
    versions.refresh()
    assert versions.records() == {1: RECORD}
