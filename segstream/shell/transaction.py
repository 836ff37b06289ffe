"""Transactions on Apache Kafka: all of it or nothing, and what to do when nobody knows.

Every call ends in time. After a failure the producer is either back before the transaction, or
replaced by a new one under the same id, which ends what the old one left open. One that was fenced
is replaced only when it is asked to go on: its successor may be at work.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from queue import Empty, Queue
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from segstream.ports import NotCommitted, Refused, Unavailable

log = logging.getLogger(__name__)

Settings = Mapping[str, Any]

SECONDS = 10.0
"""Patience with the coordinator; the transaction itself times out after as long."""
SLACK = 5.0
PRODUCER = {
    "linger.ms": 0,
    # With the default of 100 ms each transaction behind another one would wait as long.
    "retry.backoff.ms": 1,
    "retry.backoff.max.ms": 10,
    "enable.idempotence": True,
    "compression.type": "lz4",
    # Above the largest dead letter; what a topic takes is its own setting.
    "message.max.bytes": 12 << 20,
}
FENCED, FATAL = KafkaError._FENCED, KafkaError._FATAL  # noqa: SLF001 (the client's own names)
DENIED = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED: "Read or Write on the topic",
    KafkaError.GROUP_AUTHORIZATION_FAILED: "Read on the group",
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: "Write on a topic",
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: "Write on the transactional-id",
}
"""Rights do not come by waiting. What is missing is known before: see `shell/access.py`."""
REJECTED = {
    KafkaError._AUTHENTICATION,  # noqa: SLF001 (the client's own names)
    KafkaError._SSL,  # noqa: SLF001
    KafkaError.SASL_AUTHENTICATION_FAILED,
}
"""Credentials and certificates do not get better by trying again."""


class Fenced(NotCommitted):
    """Another producer has started under the same id, or Kafka had waited for this one too long."""


def failure(what: str, error: KafkaError) -> Exception:
    """What an error of Kafka means for a process: Unavailable passes, Refused does not."""
    if error.code() in DENIED:
        return Refused(
            f"Kafka does not allow this user: {what}: {error.str()}. Grant {DENIED[error.code()]}: "
            "`segstream rights` prints the commands"
        )
    return Unavailable(f"{what}: {error.str()}")


class Transactions:
    """A transactional producer under a stable id. The producer is made when it is first needed."""

    def __init__(self, settings: Settings, transactional_id: str) -> None:
        self._settings = {
            **settings,
            **PRODUCER,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": int(SECONDS * 1000),
            "delivery.report.only.error": True,
            "on_delivery": self._undelivered,
            "error_cb": _note_error,
        }
        self._producer: Producer | None = None
        self._failed: KafkaError | None = None
        self._failed_on = ""

    def start(self) -> None:
        """End what a predecessor under the same id has left open, and fence it."""
        if self._producer is None:
            self._producer = self._fresh()

    def commit(
        self,
        fill: Callable[[Producer], None],
        offsets: Sequence[TopicPartition] = (),
        metadata: Any = None,
    ) -> None:
        """What `fill` produces and the offsets, in one transaction.

        NotCommitted if it was refused or its outcome is unknown (Fenced: perhaps because of a
        successor); Unavailable if transactions cannot start; Refused if it can never succeed.
        """
        self.start()
        self._failed = None
        try:
            with _fatal_as_itself(self._producer):
                self._transaction(self._producer, fill, offsets, metadata)
        except KafkaException as error:
            why, *where = error.args
            if where:
                self._failed, self._failed_on = why, where[0]
            raise self._recovered(why) from error
        except TimeoutError as error:
            log.warning("the client did not come back from a transaction; it is replaced")
            self._producer = None
            self.start()
            raise NotCommitted("not committed: no answer") from error

    def _transaction(
        self,
        producer: Any,
        fill: Callable[[Producer], None],
        offsets: Sequence[TopicPartition],
        metadata: Any,
    ) -> None:
        producer.begin_transaction()
        fill(producer)
        if offsets:
            send = producer.send_offsets_to_transaction
            within(SECONDS + SLACK, lambda: send(list(offsets), metadata, SECONDS))
        producer.commit_transaction(SECONDS)

    def _fresh(self) -> Producer:
        producer = Producer(self._settings)
        try:
            producer.init_transactions(3 * SECONDS)
        except KafkaException as error:
            name = self._settings["transactional.id"]
            raise failure(f"transactional-id {name} cannot start", error.args[0]) from error
        return producer

    def _recovered(self, error: KafkaError) -> NotCommitted:
        """Abort where that is possible; otherwise only a new producer knows where it stands."""
        log.info("transaction failed: %s", error.str())
        failed, self._producer = self._producer, None
        last = error
        if failed is not None and error.txn_requires_abort():
            try:
                with _fatal_as_itself(failed):
                    failed.abort_transaction(SECONDS)
                self._producer = failed
            except KafkaException as again:
                last = again.args[0]
                log.info("abort failed: %s", last.str())
        self._refuse(error)
        if last.code() == FENCED:
            text = "another worker uses the same slot, or this one was away too long"
            return Fenced(f"not committed: {text}")
        # At once: an unknown outcome ends now, instead of when the transaction times out.
        self.start()
        return NotCommitted(f"not committed: {error.str()}")

    def _refuse(self, error: KafkaError) -> None:
        """Refused if repeating it cannot help."""
        failed = self._failed
        if failed is not None and failed.code() == KafkaError.MSG_SIZE_TOO_LARGE:
            raise Refused(
                "Kafka does not take a record of this size: a topic's max.message.bytes is below "
                "that of the contract. `segstream topics check` names it"
            )
        for found in (failed, error):
            if found is not None and found.code() in DENIED:
                raise failure(f"not committed: {self._failed_on}", found)

    def _undelivered(self, error: KafkaError | None, message: Any) -> None:
        if self._failed is None and error is not None:
            self._failed, self._failed_on = error, f"topic {message.topic()}"


def within(seconds: float, call: Callable[[], object]) -> None:
    """The call, or TimeoutError: then it is left to itself, with all that it holds.

    For calls whose own timeout does not hold: while the group's coordinator is away, librdkafka
    may never come back from `send_offsets_to_transaction` (its issue 5456).
    """
    raised: Queue[Exception | None] = Queue()

    def run() -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 (raised again by the caller)
            # Its traceback would hold this frame, and so the queue, the call and its producer.
            raised.put(error.with_traceback(None))
        else:
            raised.put(None)

    # A daemon: the process must be able to end without it.
    threading.Thread(target=run, name="transaction", daemon=True).start()
    try:
        error = raised.get(timeout=seconds)
    except Empty:
        raise TimeoutError from None
    try:
        if error is not None:
            raise error
    finally:
        del error  # it holds this frame, and nothing else would let go of the producer


@contextmanager
def _fatal_as_itself(producer: Any) -> Iterator[None]:
    """Raise a fatal error of the client as the KafkaException that it is.

    `produce` says only that there is one. And the client (2.16.1, `error_cb` in confluent_kafka.c)
    leaves it pending while it goes on to call `on_delivery`: Python ends whatever is called then
    with a SystemError, or, when it has optimised the call, loses the error, and the client's own
    call ends with one.
    """
    try:
        yield
    except (SystemError, KafkaException) as error:
        if isinstance(error, SystemError) or error.args[0].code() == FATAL:
            # What is fatal stays so, and is told before anything else is done.
            producer.abort_transaction(SECONDS)
        raise


def _note_error(error: KafkaError) -> None:
    log.warning("Kafka: %s", error.str())


def produce(
    producer: Producer,
    topic: str,
    value: bytes | str | None,
    key: bytes | str | None,
    partition: int,
    headers: Any = None,
) -> None:
    """`Producer.produce`, waiting while the client's queue is full.

    KafkaException: (error, where). Metadata may tell of a missing right before anything is sent.
    """
    while True:
        try:
            # All by place: to find them by name takes the client longer than the rest of it.
            producer.produce(topic, value, key, partition, None, None, 0, headers)
            return
        except BufferError:
            producer.poll(0.1)
        except KafkaException as error:
            raise KafkaException(error.args[0], f"topic {topic}") from error
