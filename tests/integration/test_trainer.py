"""The trainer on a real Kafka: transactions, fencing, the end of the topic, takeover."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, cast

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from segstream.core.call import ModelControl, read
from segstream.core.record import ModelRecord, Rename
from segstream.ports import NotCommitted, Unavailable
from segstream.shell.kafka_trainer import Fence, KafkaPress, KafkaSamples
from segstream.shell.local import Servers
from segstream.shell.models import Models, read_models, send_rename
from segstream.shell.river import CustomerKMeans
from segstream.testing.trainer import Notes
from segstream.trainer import Ports, Trainer
from tests.test_trainer import PARTITIONS, TRAINING, Message, interleaved, lives, trained

DAYS = 12
Unique = Callable[[str], str]


class Place(NamedTuple):
    """Topics of one test."""

    kafka: dict[str, Any]
    name: str

    @property
    def samples(self) -> str:
        return f"{self.name}.samples"

    @property
    def models(self) -> str:
        return f"{self.name}.models"

    @property
    def events(self) -> str:
        return f"{self.name}.events"

    @property
    def group(self) -> str:
        return f"{self.name}.trainer"

    def consumer(self, **more: Any) -> Consumer:
        return Consumer({**self.kafka, "group.id": self.group, **more})

    def end(self, topic: str, partition: int = 0) -> int:
        consumer = self.consumer()
        try:
            return consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)[1]
        finally:
            consumer.close()

    def committed(self) -> int:
        consumer = self.consumer()
        try:
            return consumer.committed([TopicPartition(self.samples, 0)], timeout=10)[0].offset
        finally:
            consumer.close()

    def sends(self, messages: list[Message]) -> None:
        """As the segmenter does: in transactions, whose markers take offsets, too."""
        producer = Producer({**self.kafka, "transactional.id": f"{self.name}.segmenter"})
        producer.init_transactions(30)
        for start in range(0, len(messages), 100):
            producer.begin_transaction()
            for key, value in messages[start : start + 100]:
                producer.produce(self.samples, key=key, value=value)
            producer.commit_transaction(30)

    def announcements(self, partition: int) -> list[int]:
        """Versions named by the control events of one partition of events."""
        end, found = self.end(self.events, partition), list[int]()
        consumer = self.consumer()
        consumer.assign([TopicPartition(self.events, partition, 0)])
        while len(found) < end:
            for message in consumer.consume(100, 0.2):
                control = read(message.value(), cast(Any, message.headers()))
                assert isinstance(control, ModelControl)
                found.append(control.version)
        consumer.close()
        return found


class Member:
    """A trainer with real ports."""

    def __init__(self, place: Place, slot: str) -> None:
        self.notes = Notes()
        # Members are sorted by their ids, which begin like this: the first one has the partition.
        named = {**place.kafka, "client.id": slot}
        self.samples = KafkaSamples(named, place.samples, place.group)
        self.models = Models(place.kafka, place.models)
        self.press = KafkaPress(place.kafka, f"{place.group}.{slot}", place.models, place.events)
        ports = Ports(self.samples, self.models, self.press, CustomerKMeans, self.notes)
        self.trainer = Trainer(TRAINING, ports)

    def work(self, until: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < deadline, "took too long"
            self.trainer.turn()

    def owns(self) -> Fence:
        """Poll until there are records: the fence of that moment."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            polled = self.samples.poll(0.2)
            if isinstance(polled.fence, Fence) and polled.records:
                return polled.fence
        raise AssertionError("the partition was not assigned")

    def close(self) -> None:
        self.samples.close()
        self.models.close()
        self.press.close()


@pytest.fixture
def place(servers: Servers, unique: Unique) -> Place:
    place = Place({"bootstrap.servers": servers.bootstrap_servers}, unique("trainer"))
    admin = AdminClient(place.kafka)
    compact = {"cleanup.policy": "compact"}
    topics = [
        NewTopic(place.samples, 1, 1, config=compact),
        NewTopic(place.models, 1, 1, config=compact),
        NewTopic(place.events, PARTITIONS, 1),
    ]
    for made in admin.create_topics(topics).values():
        made.result(30)
    return place


@pytest.fixture
def join(place: Place) -> Iterator[Callable[[str], Member]]:
    members: list[Member] = []

    def make(slot: str) -> Member:
        members.append(Member(place, slot))
        return members[-1]

    yield make
    for member in members:
        member.close()


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return interleaved(lives(DAYS), 0)


@pytest.fixture(scope="module")
def versions(messages: list[Message]) -> dict[int, ModelRecord]:
    """As made in memory."""
    return trained(messages).versions


Join = Callable[[str], Member]


def test_makes_the_same_versions_as_in_memory(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord]
) -> None:
    place.sends(messages)
    end = place.end(place.samples)
    member = join("a")
    member.work(lambda: member.notes.versions == [*versions])
    # committed = end of the topic, although the last offset is that of a transaction's marker
    member.work(lambda: place.committed() == end)
    assert read_models(place.kafka, place.models) == versions
    for partition in range(PARTITIONS):
        assert place.announcements(partition) == [*versions]


def test_a_successor_goes_on(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord]
) -> None:
    half = len(messages) // 2
    place.sends(messages[:half])
    first = join("a")
    first.work(lambda: place.committed() == place.end(place.samples))
    assert first.notes.versions == [1]
    standby = join("b")
    for _ in range(5):
        standby.trainer.turn()
    assert standby.notes.claims == []
    first.samples.close()
    began = time.monotonic()
    standby.work(lambda: standby.notes.claims != [])
    assert time.monotonic() - began < 6
    place.sends(messages[half:])
    standby.work(lambda: standby.notes.versions == [2])
    assert read_models(place.kafka, place.models) == versions
    assert place.announcements(0) == [1, 1, 2]


def test_a_former_owner_is_refused(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord]
) -> None:
    place.sends(messages)
    former = join("a")
    fence = former.owns()
    standby = join("b")
    former.samples.close()
    with pytest.raises(NotCommitted):
        former.press.publish(versions[1], fence)
    assert read_models(place.kafka, place.models) == {}
    standby.work(lambda: standby.notes.versions == [*versions])
    with pytest.raises(NotCommitted):
        former.press.publish(versions[1], fence)
    assert read_models(place.kafka, place.models) == versions


def test_a_new_owner_waits_for_an_open_publication(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord]
) -> None:
    """The former owner stops between its offset and its commit, and commits after all."""
    place.sends(messages)
    former = join("a")
    fence = former.owns()
    producer = former.press._transactions._fresh()
    producer.begin_transaction()
    producer.produce(place.models, key="1", value=versions[1].model_dump_json(by_alias=True))
    producer.send_offsets_to_transaction([fence.before], fence.metadata, 10)
    former.samples.close()
    standby = join("b")
    threading.Timer(3, lambda: producer.commit_transaction(10)).start()
    standby.work(lambda: standby.notes.versions == [2])
    assert standby.notes.claims == [1]
    assert read_models(place.kafka, place.models) == versions


@pytest.mark.parametrize("commits", [True, False])
def test_models_are_read_past_open_transactions(
    place: Place, versions: dict[int, ModelRecord], commits: bool
) -> None:
    producer = Producer({**place.kafka, "transactional.id": f"{place.name}.open"})
    producer.init_transactions(30)
    producer.begin_transaction()
    producer.produce(place.models, key="1", value=versions[1].model_dump_json(by_alias=True))
    producer.flush(10)
    models = Models(place.kafka, place.models)
    with ThreadPoolExecutor() as pool:
        reading = pool.submit(models.refresh)
        time.sleep(1)
        assert not reading.done()
        (producer.commit_transaction if commits else producer.abort_transaction)(10)
        reading.result(10)
    assert models == ({1: versions[1]} if commits else {})
    models.refresh()  # nothing new: returns at once
    models.close()


def test_bad_versions_are_skipped_with_a_warning(
    place: Place, versions: dict[int, ModelRecord], caplog: pytest.LogCaptureFixture
) -> None:
    good = versions[1].model_dump_json(by_alias=True)
    bad: list[tuple[str | None, str | None]] = [
        ("1", "not json"),
        ("2", good),
        ("1", None),
        ("1", good.replace('"size":', '"size":1')),
        ("1", good.replace('"centre":[', '"centre":[0.5,')),
        ("1", good.replace('"expression":"recency(orders)"', '"expression":"recency("')),
    ]
    producer = Producer(place.kafka)
    for key, value in [*bad, ("1", good), ("1", versions[2].model_dump_json(by_alias=True))]:
        producer.produce(place.models, key=key, value=value)
    producer.flush(10)
    assert read_models(place.kafka, place.models) == {1: versions[1]}
    assert caplog.text.count("skipped the version") == len(bad) + 1


def test_a_name_by_a_person_becomes_a_version(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    place.sends(messages)
    member = join("a")
    member.work(lambda: member.notes.versions == [*versions])
    newest = versions[max(versions)]
    rename = Rename(segment=newest.segments[0].segment, name="Friends", at=newest.at)
    send_rename(place.kafka, place.models, rename)
    following = newest.model + 1
    member.work(lambda: member.notes.versions == [*versions, following])
    found = read_models(place.kafka, place.models)
    assert {v: found[v] for v in versions} == versions
    assert found[following].segments[0].name == "Friends"
    assert [s.centre for s in found[following].segments] == [s.centre for s in newest.segments]
    assert place.announcements(0)[-1] == following
    member.samples.close()
    successor = join("b")
    successor.work(lambda: successor.notes.claims == [following])
    for _ in range(5):
        successor.trainer.turn()
    assert successor.notes.versions == []
    send_rename(place.kafka, place.models, rename.model_copy(update={"name": None}))
    successor.work(lambda: successor.notes.versions == [following + 1])
    assert "skipped" not in caplog.text


def test_models_that_cannot_be_read_are_unavailable(place: Place) -> None:
    with pytest.raises(Unavailable, match="nowhere"):
        read_models(place.kafka, "nowhere")


def test_a_press_that_cannot_announce_says_so(
    place: Place, versions: dict[int, ModelRecord]
) -> None:
    press = KafkaPress(place.kafka, "x", place.models, f"{place.name}.missing")
    with pytest.raises((Unavailable, KafkaException)):
        press.announce(versions[1])


TRAINER = """
import sys
from tests.integration.test_trainer import Member, Place
member = Member(Place({"bootstrap.servers": sys.argv[1]}, sys.argv[2]), "a")
member.work(lambda: member.notes.claims != [])
print("active", flush=True)
member.work(lambda: False)
"""


def test_a_standby_takes_over_from_a_killed_trainer(
    place: Place, join: Join, messages: list[Message], versions: dict[int, ModelRecord]
) -> None:
    place.sends(messages)
    arguments = [place.kafka["bootstrap.servers"], place.name]
    active = subprocess.Popen(
        [sys.executable, "-c", TRAINER, *arguments], stdout=subprocess.PIPE, text=True
    )
    with active:
        assert active.stdout is not None
        assert active.stdout.readline() == "active\n"
        standby = join("b")
        for _ in range(5):
            standby.trainer.turn()
        assert standby.notes.claims == []
        active.kill()
        began = time.monotonic()
        standby.work(lambda: standby.notes.claims != [])
    assert time.monotonic() - began < 12  # a session of 6 s, and a heartbeat to notice
    standby.work(lambda: read_models(place.kafka, place.models) == versions)
