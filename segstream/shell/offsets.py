"""Where logs begin and end, as the brokers know it now."""

import time
from collections.abc import Sequence
from typing import Any

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

SECONDS = 10.0
"""Within which it is asked again, …"""
PATIENCE = 3.0
"""… each time with as much patience."""
PAUSE = 0.1
LASTING = {KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError.TOPIC_AUTHORIZATION_FAILED}
"""What does not pass by asking again."""


def log_starts(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset of the first record that is kept, of each. KafkaException if nobody can tell."""
    return _offsets(admin, places, OffsetSpec.earliest())  # type: ignore[no-untyped-call]


def log_ends(admin: AdminClient, places: Sequence[TopicPartition]) -> list[int]:
    """Offset behind the last record, committed or not, of each. KafkaException as above."""
    return _offsets(admin, places, OffsetSpec.latest())  # type: ignore[no-untyped-call]


def _offsets(admin: AdminClient, places: Sequence[TopicPartition], which: Any) -> list[int]:
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            return _asked(admin, places, which)
        except KafkaException as error:
            if error.args[0].code() in LASTING or time.monotonic() > deadline:
                raise
        # When a leader has died, or has come back, the client left alone would go on asking the
        # one that it knows for a quarter of an hour. And one that has just come back may not have
        # heard yet what its clients already know: that it leads, and under which epoch.
        for topic in {place.topic for place in places}:
            told = admin.list_topics(topic, timeout=SECONDS).topics[topic].error
            if told is not None and told.code() in LASTING:
                raise KafkaException(told)
        time.sleep(PAUSE)


def _asked(admin: AdminClient, places: Sequence[TopicPartition], which: Any) -> list[int]:
    futures = admin.list_offsets(
        dict.fromkeys(places, which),
        isolation_level=IsolationLevel.READ_UNCOMMITTED,
        request_timeout=PATIENCE,
    )
    return [int(futures[place].result().offset) for place in places]
