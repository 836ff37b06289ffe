"""Guards of the real ports, switched off: for tests that must see what they prevent."""

from typing import Any

from confluent_kafka import Consumer

from segstream.core.batch import Position
from segstream.shell import kafka
from segstream.shell.kafka import CONSUMER, KafkaSource

UNGUARDED = "UNGUARDED"
"""Environment variable: one of the names below."""


def instead(module: Any, name: str, value: Any) -> None:
    """Another value under a name of a module or class."""
    setattr(module, name, value)


def membership() -> None:
    """Transactions carry the metadata of no member, which Kafka lets pass."""
    poll = KafkaSource.poll

    def nobody(self: KafkaSource, limit: int, timeout: float) -> Any:
        fetched = poll(self, limit, timeout)
        return fetched._replace(metadata=fetched.metadata and self._nobody)

    instead(KafkaSource, "poll", nobody)


def stable_reading() -> None:
    """W is read past a transaction that is still open."""
    init, committed = KafkaSource.__init__, KafkaSource.committed

    def hasty(self: Any, settings: Any, topic: str, group: str) -> None:
        init(self, settings, topic, group)
        loose = {"isolation.level": "read_uncommitted", "group.id": group}
        self._hasty = Consumer({**settings, **CONSUMER, **loose})

    def at_once(self: Any, partition: int) -> Any:
        own, self._consumer = self._consumer, self._hasty
        try:
            return committed(self, partition)
        finally:
            self._consumer = own

    instead(KafkaSource, "__init__", hasty)
    instead(KafkaSource, "committed", at_once)
    instead(kafka, "OFFSET_STORED", 0)  # which the client waits for in the same way


def beyond_w() -> None:
    """What is computed again is published again, as if W were at the beginning."""
    committed = KafkaSource.committed

    def forgetful(self: KafkaSource, partition: int) -> Any:
        found = committed(self, partition)
        return found and found._replace(position=Position(found.origin, 0))

    instead(KafkaSource, "committed", forgetful)


GUARDS = {"membership": membership, "stable reading": stable_reading, "beyond W": beyond_w}
