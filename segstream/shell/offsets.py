"""Where logs begin and end, as the brokers know it now."""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

SECONDS = 10.0
MOVED = {
    KafkaError.FENCED_LEADER_EPOCH,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError._NOENT,  # noqa: SLF001 (the client's own name: it knows no leader at all)
}
"""What is said to a client that knows a partition's former leader."""


def log_starts(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset of the first record that is kept, of each. KafkaException if nobody can tell."""
    return _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def log_ends(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset behind the last record, committed or not, of each. KafkaException as above."""
    return _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], which: Any) -> list[int]:
    try:
        return _asked(admin, places, which)
    except KafkaException as error:
        if error.args[0].code() not in MOVED:
            raise
        # Left alone, the client would go on asking the former leader for a quarter of an hour.
        for topic in {place.topic for place in places}:
            admin.list_topics(topic, timeout=SECONDS)
        return _asked(admin, places, which)


def _asked(admin: AdminClient, places: Sequence[TopicPartition], which: Any) -> list[int]:
    futures = admin.list_offsets(
        dict.fromkeys(places, which),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=SECONDS,
    )
    return [int(futures[place].result().offset) for place in places]
