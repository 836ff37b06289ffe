"""Where logs begin and end, as the brokers know it now."""

from collections.abc import Sequence
from typing import Any

from confluent_kafka import IsolationLevel, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

SECONDS = 10.0
FIRST_SECONDS = 3.0


def log_starts(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset of the first record that is kept, of each. KafkaException if nobody can tell."""
    return _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def log_ends(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset behind the last record, committed or not, of each. KafkaException as above."""
    return _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], which: Any) -> list[int]:
    try:
        return _asked(admin, places, which, FIRST_SECONDS)
    except KafkaException:
        # When a leader has died, or has come back, the client left alone would go on asking the
        # one that it knows for a quarter of an hour.
        for topic in {place.topic for place in places}:
            admin.list_topics(topic, timeout=SECONDS)
        return _asked(admin, places, which, SECONDS)


def _asked(
    admin: AdminClient, places: Sequence[TopicPartition], which: Any, seconds: float
) -> list[int]:
    futures = admin.list_offsets(
        dict.fromkeys(places, which),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=seconds,
    )
    return [int(futures[place].result().offset) for place in places]
