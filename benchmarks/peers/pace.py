"""Latency at a steady rate: from the moment a call was due to the moment a reader has its change.

Without coordinated omission: when the sender or the servers are late, the calls' clocks run on.
"""

import json
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from benchmarks.peers.job import Change
from benchmarks.peers.stand import Run
from benchmarks.traffic import PARTITIONS

READER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "fetch.wait.max.ms": 10,  # a commit does not wake a waiting fetch of a read_committed reader
    "fetch.queue.backoff.ms": 5,
    "log_level": 2,
}


class Reader:
    """All changes of a topic from its beginning, and when each has arrived (monotonic seconds)."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        self.changes: list[Change] = []
        self.arrived: list[float] = []
        self._consumer = Consumer({**READER, "bootstrap.servers": bootstrap, "group.id": group})
        places = [TopicPartition(topic, p, OFFSET_BEGINNING) for p in range(PARTITIONS)]
        self._consumer.assign(places)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._read, name="reader")
        self._thread.start()

    def _read(self) -> None:
        while not self._ended.is_set():
            for message in self._consumer.consume(1_000, 0.01):
                if message.error() is None:
                    self.arrived.append(time.monotonic())
                    self.changes.append(change_of(json.loads(message.value() or b"")))
        self._consumer.close()

    def wait(self, number: int, seconds: float) -> None:
        """Until so many are there, or time is up."""
        deadline = time.monotonic() + seconds
        while len(self.changes) < number and time.monotonic() < deadline:
            time.sleep(0.05)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()


def change_of(record: Mapping[str, Any]) -> Change:
    """Of a peer's record, or of segstream's, which says more."""
    if "cause" in record:
        left = record["from"] and record["from"]["segment"]
        return Change(record["customer"], left, record["to"]["segment"], record["event"]["id"])
    return Change(record["customer"], record["from"], record["to"], record["event"])


def send(run: Run, records: Sequence[tuple[int, bytes, bytes]], rate: float) -> list[float]:
    """Send at a rate per second; when each was due (monotonic seconds)."""
    producer = run.on.producer(**{"linger.ms": 0})
    began = time.monotonic() + 0.1
    due = [began + number / rate for number in range(len(records))]
    for moment, (partition, key, value) in zip(due, records, strict=True):
        while (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, 0.001))
        producer.produce(run.input, value, key, partition)
        producer.poll(0)
    producer.flush(60)
    return due
