"""The topic `segment-models`: versions of the model, and names that people give to segments."""

import json
import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from pydantic import ValidationError

from segstream.core.model import Model
from segstream.core.record import ModelRecord, Rename, digest_of
from segstream.ports import Unavailable
from segstream.shell.offsets import log_ends
from segstream.shell.transaction import SECONDS, failure

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

#: an open transaction may hold back the end for as long as its timeout, and a little longer
PATIENCE = 30.0
PAUSES = (0.2, 1.0, 2.0)
"""Before a version is looked for again; a broker hears within them that it does not lead."""
NEAR = 100
"""A version so far beyond the newest one is none of the next."""
RENAME = b"rename-"
"""Begins the keys of names that people give; those of versions are numbers."""
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
    # of what was written: a version of an older release lacks fields that the record has now
    if digest_of(json.loads(value)) != record.digest:
        raise ValueError("the digest is not that of the record")
    if any(len(s.centre) != len(record.features) for s in record.segments):
        raise ValueError("a centre has not as many coordinates as there are features")
    if len({s.segment for s in record.segments}) < len(record.segments):
        raise ValueError("two segments have the same id")
    return Model(record)


def rename_from(key: bytes, value: bytes) -> Rename:
    """What people want a segment to be called. ValueError says what is wrong with the record."""
    rename = Rename.model_validate_json(value)
    if key != RENAME + b"%d" % rename.segment:
        raise ValueError(f"a name of segment {rename.segment} under another key")
    return rename


class Models(Mapping[int, ModelRecord]):
    """The versions read so far. Reads nothing until the first `refresh`.

    What is no valid version is skipped with a warning. If a version was ever written twice, the
    first one counts: versions are immutable.
    """

    def __init__(self, settings: Settings, topic: str, group: str = "segstream.reader") -> None:
        """`group`: one that this user may see. It is never joined, but the client looks for it."""
        self.topic = topic
        self._settings, self._group = settings, group
        self._consumer, self._admin = self._clients()
        self._models: dict[int, Model] = {}
        self._renames: dict[int, Rename] = {}
        self._next = -1
        self._vain: set[int] = set()

    def _clients(self) -> tuple[Consumer, AdminClient]:
        consumer = Consumer({**self._settings, **_CONSUMER, "group.id": self._group})
        return consumer, AdminClient(dict(self._settings))

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

    def renames(self) -> Mapping[int, Rename]:
        """By segment, the oldest first. After a `refresh`: what has come since, without waiting."""
        try:
            for message in self._consumer.consume(100, 0) if self._next >= 0 else ():
                self._take(message)
        except KafkaException as error:
            raise Unavailable(f"{self.topic}: {error.args[0].str()}") from error
        return dict(self._renames)

    def refresh(self) -> None:
        """Read to what is the end of the topic now. Unavailable if that takes too long.

        Then the next one reads with new clients: one that was told of no leader while a broker was
        starting may go on believing it.

        The end is that of all records, committed or not: a transaction just committed may not
        be visible for some milliseconds, and one that is still open may yet become a version.
        """
        try:
            self._read_to(self._end())
        except KafkaException as error:
            self._begin_again()
            raise Unavailable(f"{self.topic}: {error.args[0].str()}") from error
        except Unavailable:
            self._begin_again()
            raise

    def find(self, versions: Collection[int]) -> None:
        """`refresh`, again and with new clients while one of these versions is not there.

        A broker that has just been started, or has just lost the lead, may not have heard of it
        and tells of an end long past. Who names versions that never were must not hold up the
        rest: each is looked for patiently once, and only if it could be one of the next.
        """
        self.refresh()
        for pause in PAUSES:
            if not self._missing(versions):
                return
            time.sleep(pause)
            self._begin_again()
            self.refresh()
        self._vain |= self._missing(versions)

    def _missing(self, versions: Collection[int]) -> set[int]:
        """Those that are worth another look."""
        last = max(self._models, default=0) + NEAR
        return {v for v in versions if v <= last} - self._models.keys() - self._vain

    def _begin_again(self) -> None:
        self._consumer.close()
        self._consumer, self._admin = self._clients()
        if self._next >= 0:
            self._consumer.assign([TopicPartition(self.topic, 0, self._next)])

    def _end(self) -> int:
        return log_ends(self._admin, [TopicPartition(self.topic, 0)])[0]

    def _read_to(self, end: int) -> None:
        deadline = time.monotonic() + PATIENCE
        if self._next < 0:
            # A client that does not know who leads the topic looks again only after a second.
            self._consumer.list_topics(self.topic, timeout=PATIENCE)
            self._consumer.assign([TopicPartition(self.topic, 0, OFFSET_BEGINNING)])
            self._next = 0
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
        key, value = message.key(), message.value()
        try:
            if key is not None and key.startswith(RENAME):
                self._take_rename(key, value)
                return
            model = model_from(key, value)
        except ValueError as wrong:
            at = f"{self.topic} at offset {message.offset()}"
            log.warning("skipped the version in %s: %s", at, _explained(wrong))
            return
        if model.version in self._models:
            log.warning("%s has version %d again: ignored", self.topic, model.version)
        self._models.setdefault(model.version, model)

    def _take_rename(self, key: bytes, value: bytes | None) -> None:
        if value is not None:  # deleted by hand: whatever was made of it stays
            rename = rename_from(key, value)
            self._renames.pop(rename.segment, None)  # the newest goes to the end
            self._renames[rename.segment] = rename

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


def send_rename(settings: Settings, topic: str, rename: Rename) -> None:
    """Append what people want a segment to be called. Unavailable if nobody has taken it."""
    failed: list[KafkaError] = []
    producer = Producer({**settings, "enable.idempotence": True})
    producer.produce(
        topic,
        key=RENAME + b"%d" % rename.segment,
        value=rename.model_dump_json(),
        partition=0,
        on_delivery=lambda error, _: failed.append(error) if error else None,
    )
    if producer.flush(SECONDS):
        raise Unavailable(f"{topic}: not answered in {SECONDS:.0f} s")
    if failed:
        raise failure(f"topic {topic}", failed[0])


def _explained(error: ValueError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
