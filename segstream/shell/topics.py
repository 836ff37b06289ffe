"""Create and check the topics of `schemas/topics.toml`, and the published positions W.

W is created here, once, and never by a worker: a worker that found none and started from the
beginning would publish everything twice.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    OFFSET_INVALID,
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicPartition,
)
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from segstream.core.batch import Position
from segstream.ports import Published, Refused
from segstream.shell.contract import Topic, topics
from segstream.shell.kafka import metadata_of, published_from
from segstream.shell.transaction import failure

SECONDS = 10.0
EVENTS = "customer-events"
STARTING = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,  # noqa: SLF001 (the client's own name for it)
)
"""What is heard of a broker that has only just come up."""
#: What is said of a topic for a moment after it was created.
YOUNG = {
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001 (the client's own name for it)
}


@dataclass(frozen=True)
class Plan:
    """What is wanted: names begin with `prefix`; `partitions` are those of customer-events."""

    prefix: str
    partitions: int
    replication: int
    group: str
    layout: str

    def name(self, topic: str) -> str:
        return self.prefix + topic

    def partitions_of(self, topic: Topic) -> int:
        return topic.partitions_for(self.partitions)


def create(kafka: Mapping[str, Any], plan: Plan) -> list[str]:
    """Create what is missing; returns what was done, in words. Existing topics are left alone."""
    admin = AdminClient(dict(kafka))
    present = _partitions(admin)
    missing = {
        plan.name(name): NewTopic(
            plan.name(name),
            num_partitions=plan.partitions_of(topic),
            replication_factor=plan.replication,
            config=topic.kafka_config(),
        )
        for name, topic in topics().items()
        if plan.name(name) not in present
    }
    for name, future in (
        admin.create_topics(list(missing.values()), operation_timeout=SECONDS).items()
        if missing
        else ()
    ):
        try:
            future.result(SECONDS)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Refused(f"topic {name} cannot be created: {error.args[0].str()}") from error
    done = [f"created {name}" for name in missing]
    return done + _create_positions(kafka, plan)


def check(kafka: Mapping[str, Any], plan: Plan) -> list[str]:
    """What differs from the plan, in words; empty: all is well."""
    admin = AdminClient(dict(kafka))
    present = _partitions(admin)
    found = []
    for name, topic in topics().items():
        full, wanted = plan.name(name), plan.partitions_of(topic)
        if full not in present:
            found.append(f"{full} is missing: run `segstream topics create`")
        elif present[full] != wanted:
            found.append(
                f"{full} has {present[full]} partitions, {wanted} are configured: set "
                f"topics.partitions = {present[full]}, or create it anew"
            )
        else:
            found += _config_differences(admin, full, topic)
    if not found:
        found = [
            f"partition {p} has no published position: run `segstream topics create`"
            if published is None
            else f"partition {p} was computed under layout {published.layout[:12]}, "
            f"configured is {plan.layout[:12]}"
            for p, published in positions(kafka, plan).items()
            if published is None or published.layout != plan.layout
        ]
    return found


def require_retention(kafka: Mapping[str, Any], topic: str, age: int) -> None:
    """Refused unless the log is kept for longer than the oldest Redis backup is old (ms).

    Such a backup is of no use: the records behind it are gone. Unavailable: Kafka does not say.
    """
    try:
        there = _config(AdminClient(dict(kafka)), topic)
    except KafkaException as error:
        raise failure(f"retention of {topic} (right: DescribeConfigs)", error.args[0]) from error
    kept, size = int(there["retention.ms"] or -1), int(there["retention.bytes"] or -1)
    promised = f"redis.oldest_backup = {_days(age)} promises that a backup of that age is of use"
    if 0 <= kept <= age:
        raise Refused(
            f"{topic} is kept for only {_days(kept)} (retention.ms = {kept}), but {promised}. Set "
            f"retention.ms above {age}, or lower redis.oldest_backup"
        )
    if size >= 0:
        raise Refused(
            f"{topic} may be cut at any age (retention.bytes = {size}), but {promised}. Set "
            "retention.bytes to -1, or redis.oldest_backup to off"
        )


def _days(ms: int) -> str:
    days = ms / 86_400_000
    return f"{days:.0f} days" if days == int(days) else f"{days:.1f} days"


def positions(kafka: Mapping[str, Any], plan: Plan) -> dict[int, Published | None]:
    """W of every partition; None where there is none."""
    consumer = Consumer({**kafka, "group.id": plan.group})
    try:
        places = [TopicPartition(plan.name(EVENTS), p) for p in range(plan.partitions)]
        answers = _patiently(lambda: consumer.committed(places, timeout=SECONDS))
    except KafkaException as error:
        raise Refused(f"group {plan.group}: {error.args[0].str()}") from error
    finally:
        consumer.close()
    for found in answers:
        if found.error is not None:  # unknown is not absent: W must not be created anew
            raise Refused(f"position of partition {found.partition}: {found.error.str()}")
    return {
        found.partition: None
        if found.offset == OFFSET_INVALID
        else published_from(found.offset, found.metadata)
        for found in answers
    }


def _patiently(ask: Callable[[], Any]) -> Any:
    """Ask again while the group's coordinator is still being found or loaded."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return ask()
        except KafkaException as error:
            if error.args[0].code() not in STARTING or time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _create_positions(kafka: Mapping[str, Any], plan: Plan) -> list[str]:
    absent = [p for p, published in positions(kafka, plan).items() if published is None]
    if not absent:
        return []
    consumer = Consumer({**kafka, "group.id": plan.group})
    try:
        starts = {p: _log_start(consumer, TopicPartition(plan.name(EVENTS), p)) for p in absent}
    finally:
        consumer.close()
    publish(kafka, plan, {p: Published(Position(s, 0), plan.layout, s) for p, s in starts.items()})
    return [f"created the position of partition {p}" for p in absent]


def publish(kafka: Mapping[str, Any], plan: Plan, wanted: Mapping[int, Published]) -> None:
    """Set W of some partitions; Kafka takes it only while the group is empty."""
    admin = AdminClient(dict(kafka))
    places = [
        TopicPartition(plan.name(EVENTS), p, published.position.offset, metadata_of(published))
        for p, published in wanted.items()
    ]

    def ask() -> None:
        # Not a consumer's `commit`: it has no time limit, and may wait for a minute.
        asked = ConsumerGroupTopicPartitions(plan.group, places)
        (future,) = admin.alter_consumer_group_offsets(
            [asked], request_timeout=SECONDS / 2
        ).values()
        for place in future.result().topic_partitions:
            if place.error is not None:
                raise KafkaException(place.error)

    try:
        _patiently(ask)
    except KafkaException as error:
        if error.args[0].code() == KafkaError.UNKNOWN_MEMBER_ID:  # it has members, and we are none
            raise Refused(
                f"positions of group {plan.group} cannot be set while segmenters are at work: stop "
                "all of this namespace first"
            ) from error
        raise failure(f"positions of group {plan.group}", error.args[0]) from error


def _log_start(consumer: Consumer, place: TopicPartition) -> int:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            start, _ = consumer.get_watermark_offsets(place, timeout=SECONDS)
            return int(start)
        except KafkaException as error:
            if error.args[0].code() not in YOUNG or time.monotonic() > deadline:
                raise
        time.sleep(0.05)


def _partitions(admin: AdminClient) -> dict[str, int]:
    try:
        found = admin.list_topics(timeout=SECONDS).topics
    except KafkaException as error:
        raise Refused(f"Kafka cannot be reached: {error.args[0].str()}") from error
    return {name: len(topic.partitions) for name, topic in found.items() if topic.error is None}


def _config(admin: AdminClient, name: str) -> dict[str, str | None]:
    resource = ConfigResource(ResourceType.TOPIC, name)
    (future,) = admin.describe_configs([resource], request_timeout=SECONDS).values()
    return {key: entry.value for key, entry in future.result().items()}


def _config_differences(admin: AdminClient, name: str, topic: Topic) -> list[str]:
    there = _config(admin, name)
    return [
        f"{name}: {key} is {there.get(key)}, the contract says {value}"
        for key, value in topic.kafka_config().items()
        if there.get(key) != value
    ]
