"""Versions of the model from the topic `segment-models`: for the trainer and the segmenter."""

import json
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError

from segstream.core.model import Model
from segstream.core.record import ModelRecord, digest_of
from segstream.ports import Unavailable
from segstream.shell.offsets import log_ends

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

#: an open transaction may hold back the end for as long as its timeout, and a little longer
PATIENCE = 30.0
_EOF = KafkaError._PARTITION_EOF  # noqa: SLF001 (the client's own name for it)
_CONSUMER = {
    "isolation.level": "read_committed",
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "auto.offset.reset": "earliest",
    # A waiting read_committed fetch is not woken by a commit, only by this.
    "fetch.wait.max.ms": 10,
}


def model_from(key: bytes | None, value: bytes | None) -> Model:
    """A version, compiled for scoring. ValueError says what is wrong with the record."""
    if value is None:
        raise ValueError("versions must not be deleted")
    record = ModelRecord.model_validate_json(value)
    if key != b"%d" % record.model:
        raise ValueError(f"version {record.model} under another key")
    # of what was written: an older version knows nothing of fields that have come since
    if digest_of(json.loads(value)) != record.digest:
        raise ValueError("the digest is not that of the record")
    if any(len(s.centre) != len(record.features) for s in record.segments):
        raise ValueError("a centre has not as many coordinates as there are features")
    if len({s.segment for s in record.segments}) < len(record.segments):
        raise ValueError("two segments have the same id")
    return Model(record)


class Models(Mapping[int, ModelRecord]):
    """The versions read so far. Reads nothing until the first `refresh`.

    What is no valid version is skipped with a warning. If a version was ever written twice, the
    first one counts: versions are immutable.
    """

    def __init__(self, settings: Settings, topic: str, group: str = "segstream.reader") -> None:
        """`group`: one that this user may see. It is never joined, but the client looks for it."""
        self.topic = topic
        self._consumer = Consumer({**settings, **_CONSUMER, "group.id": group})
        self._admin = AdminClient(dict(settings))
        self._models: dict[int, Model] = {}
        self._next = -1

    def __getitem__(self, version: int) -> ModelRecord:
        return self._models[version].record

    def __iter__(self) -> Iterator[int]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def at_hand(self) -> Mapping[int, Model]:
        """The versions, compiled."""
        return self._models

    def records(self) -> Mapping[int, ModelRecord]:
        """The versions as published."""
        return dict(self)

    def refresh(self) -> None:
        """Read to what is the end of the topic now. Unavailable if that takes too long.

        The end is that of all records, committed or not: a transaction just committed may not
        be visible for some milliseconds, and one that is still open may yet become a version.
        """
        try:
            self._read_to(self._end())
        except KafkaException as error:
            raise Unavailable(f"{self.topic}: {error.args[0].str()}") from error

    def _end(self) -> int:
        return log_ends(self._admin, [TopicPartition(self.topic, 0)])[0]

    def _read_to(self, end: int) -> None:
        if self._next < 0:
            self._consumer.assign([TopicPartition(self.topic, 0, OFFSET_BEGINNING)])
            self._next = 0
        deadline = time.monotonic() + PATIENCE
        while self._next < end:
            for message in self._consumer.consume(100, 0.05):
                self._take(message)
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.topic} could be read to {self._next}, not to {end}")

    def _take(self, message: Any) -> None:
        error = message.error()
        if error is not None and error.code() != _EOF:
            if error.fatal():
                raise KafkaException(error)
            log.warning("%s: %s", self.topic, error.str())
            return
        if error is not None:  # the position, which also passes the markers of transactions
            self._next = max(self._next, message.offset())
            return
        self._next = message.offset() + 1
        try:
            model = model_from(message.key(), message.value())
        except ValueError as wrong:
            at = f"{self.topic} at offset {message.offset()}"
            log.warning("skipped the version in %s: %s", at, _explained(wrong))
            return
        if model.version in self._models:
            log.warning("%s has version %d again: ignored", self.topic, model.version)
        self._models.setdefault(model.version, model)

    def close(self) -> None:
        self._consumer.close()


def read_models(settings: Settings, topic: str) -> dict[int, ModelRecord]:
    """All versions that are published now. Unavailable if they cannot be read."""
    models = Models(settings, topic)
    try:
        models.refresh()
        return dict(models)
    finally:
        models.close()


def _explained(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
