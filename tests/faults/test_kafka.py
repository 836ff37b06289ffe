"""The one broker is killed and started again, under those who read and those who publish."""

import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from segstream.ports import NotCommitted, Unavailable
from segstream.shell import offsets
from segstream.shell.kafka import KafkaSource
from segstream.shell.local import Servers
from segstream.shell.models import Models
from segstream.shell.transaction import Fenced, Transactions
from tests.faults.scene import scene
from tests.integration.deployment import deployment, wait
from tests.test_rename import PLAIN

SEED = 6
KILLS = 1


def test_models_are_read_when_the_broker_has_come_back(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """It leads again, under another epoch: whoever asks it for the log's end must learn that."""
    with deployment(servers, tmp_path, unique("kafka")) as at:
        at.create()
        models = Models(at.kafka, at.topic("segment-models"))
        models.refresh()
        servers.kill_kafka(0)
        servers.start_kafka(0)
        models.refresh()
        models.close()


def test_a_version_is_found_although_an_end_is_told_that_is_long_past(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that has lost the lead may not have heard of it yet."""
    asked: list[int] = []

    def log_ends(*arguments: Any) -> list[int]:
        asked.append(1)
        return [0] if len(asked) == 1 else offsets.log_ends(*arguments)

    monkeypatch.setattr("segstream.shell.models.log_ends", log_ends)
    with deployment(servers, tmp_path, unique("kafka")) as at:
        at.create()
        topic, producer = at.topic("segment-models"), Producer(at.kafka)
        producer.produce(topic, PLAIN.model_dump_json(by_alias=True), key=str(PLAIN.model))
        assert producer.flush(30) == 0
        models = Models(at.kafka, topic)
        models.find([PLAIN.model])
        assert PLAIN.model in models
        assert len(asked) == 2
        for _ in range(3):  # whoever names what never was is not waited for each time
            models.find([PLAIN.model, 99, 999_999])
        assert len(asked) == 2 + 4 + 1 + 1
        models.close()


def starts(source: KafkaSource, offset: int) -> bool:
    """Whether partition 0 is read from there on now."""
    try:
        source.start(0, offset)
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_a_partition_that_the_client_has_given_up_is_read_again(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path, protocol: str
) -> None:
    """The log is cut, and the first fetch was faster than the pause: out of range, for good."""
    with deployment(servers, tmp_path, unique("kafka")) as at:
        at.create()
        for value in (b"a", b"b", b"c"):
            at.send(0, value)
        place = TopicPartition(at.topic("customer-events"), 0, 2)
        at._admin.delete_records([place])[place].result(10)
        settings = {**at.kafka, "group.protocol": protocol, "log_level": 0}
        source = KafkaSource(settings, place.topic, at.settings.group("segmenter"))
        wait(lambda: 0 in source.poll(10, 0.05).assigned, "it is assigned")
        wait(lambda: starts(source, 0), "it reads what is no more, as if paused too late")
        wait(lambda: 0 in source.poll(10, 0.05).strayed, "it is out of range")
        assert not starts(source, 2)
        wait(lambda: 0 in source.poll(10, 0.05).assigned, "it is assigned again")
        wait(lambda: starts(source, 2), "it reads what is there")
        found = wait(lambda: source.poll(10, 0.05).records.get(0), "a record")
        assert found is not None
        assert (found.offsets, found.values) == ([2], [b"c"])
        source.close()


def test_a_transaction_ends_although_the_broker_dies_within(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """The client may never come back from it, not even when the broker does."""
    with deployment(servers, tmp_path, unique("kafka")) as at:
        at.create()
        topic = at.topic("customer-events")
        consumer = Consumer({**at.kafka, "group.id": unique("group")})
        metadata, places = consumer.consumer_group_metadata(), [TopicPartition(topic, 0, 1)]
        transactions = Transactions(at.kafka, unique("slot"))
        transactions.start()
        back = threading.Timer(3, servers.start_kafka, [0])

        def dies(producer: Producer) -> None:
            producer.produce(topic, b"first", partition=0)
            servers.kill_kafka(0)
            back.start()

        with suppress(NotCommitted):
            transactions.commit(dies, places, metadata)
        back.join()
        transactions.commit(lambda p: p.produce(topic, b"then", partition=0), places, metadata)
        # The markers may still be on their way: the broker has only just come back.
        wait(lambda: bool(at.read("customer-events", 0)), "what was committed is seen")
        assert at.read("customer-events", 0)[-1].value() == b"then"
        consumer.close()


@pytest.mark.parametrize("records", [1, 300])
def test_a_fenced_transaction_says_so_even_amid_delivery_reports(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path, records: int
) -> None:
    """The client leaves its fatal error pending while it reports what was not delivered, or loses
    it; and `produce` says only that there is one."""
    with deployment(servers, tmp_path, unique("kafka")) as at:
        at.create()
        topic, slot = at.topic("customer-events"), unique("slot")
        frozen, successor = Transactions(at.kafka, slot), Transactions(at.kafka, slot)

        def freezes(producer: Producer) -> None:
            producer.produce(topic, b"first", partition=0)
            producer.flush(10)
            successor.start()
            for _ in range(records):
                producer.produce(topic, b"too late", partition=0)
            try:
                producer.flush(10)
            except SystemError:
                raise SystemError("returned NULL without setting an exception") from None

        with pytest.raises(Fenced, match="another worker uses the same slot"):
            frozen.commit(freezes)
        frozen.commit(lambda producer: producer.produce(topic, b"asked to go on", partition=0))
        assert [record.value() for record in at.read("customer-events", 0)] == [b"asked to go on"]


def test_a_broker_that_dies_and_comes_back(
    servers: Servers, unique: Callable[[str], str], tmp_path: Path
) -> None:
    """Whatever was in the air, and whoever leads now: all go on, to the next version and beyond."""
    print(f"seed {SEED}")
    with scene(servers, tmp_path, unique("kafka"), SEED) as play:
        at, crew = play.at, play.crew
        for process, slot in (("segmenter", "one"), ("segmenter", "two"), ("trainer", "trainer")):
            crew.start(process, slot)
        at.works("one", "two")
        play.stream.start()
        wait(lambda: at.end("segment-models") > 0, "a first version")
        for _ in range(KILLS):
            versions = at.end("segment-models")
            servers.kill_kafka(0)
            servers.start_kafka(0)
            wait(lambda: at.end("segment-models") > versions, "another version", 60)  # noqa: B023
            behind = {p: at.end("customer-events", p) for p in at.partitions}
            wait(
                lambda: all(at.checkpoint(p).offset >= end for p, end in behind.items()),  # noqa: B023
                "all that was sent is computed",
            )
        assert play.finish() == []
