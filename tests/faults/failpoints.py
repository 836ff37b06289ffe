"""The real processes with named points between any two effects, at which they die or freeze.

`python -m tests.faults.failpoints run segmenter` is `python -m consumers run segmenter` with its
ports and the client's transactional calls wrapped; the product knows nothing of it.
"""

import os
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial, wraps
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

import consumers.segmenter
from consumers.cli import main
from segstream.shell import kafka_trainer, transaction
from segstream.shell.kafka import KafkaSink, KafkaSource
from segstream.shell.kafka_trainer import KafkaPress, KafkaSamples
from segstream.shell.models import Models
from segstream.shell.redis import RedisStore
from segstream.worker import Limits
from tests.faults.fuse import PLACE, Fuse
from tests.faults.unguarded import GUARDS, UNGUARDED, instead

AT_MOST_SENT = 0.006
"""Seconds between the call of commit and the end; a commit takes about as long."""


def around(owner: type, method: str, before: Any = None, after: Any = None) -> None:
    """Call `before(*arguments)` and `after(result, *arguments)` around a method."""
    inner = getattr(owner, method)

    @wraps(inner)
    def outer(self: Any, *arguments: Any, **named: Any) -> Any:
        if before is not None:
            before(*arguments, **named)
        result = inner(self, *arguments, **named)
        if after is not None:
            after(result, *arguments, **named)
        return result

    setattr(owner, method, outer)


def passing(fuse: Fuse, point: str, when: Callable[..., Any] = lambda *_, **__: True) -> Any:
    """A function that passes the point if its arguments say so."""

    def pass_(*arguments: Any, **named: Any) -> None:
        if when(*arguments, **named):
            fuse.hit(point)

    return pass_


def transactional(fuse: Fuse) -> type[Producer]:
    """The client's producer with points between its calls."""

    class Transactional(Producer):
        def init_transactions(self, *timeout: Any) -> None:
            super().init_transactions(*timeout)
            fuse.hit("start.fenced")

        def begin_transaction(self, *timeout: Any) -> None:
            super().begin_transaction(*timeout)
            fuse.topics.clear()
            fuse.hit(f"{fuse.kind}.begun")

        def produce(self, topic: str, *arguments: Any, **named: Any) -> None:
            super().produce(topic, *arguments, **named)
            fuse.topics.append(topic)
            if len(fuse.topics) in (1, 3):
                self.flush(10)  # or they would not have left this process
                fuse.hit(f"{fuse.kind}.{'first' if len(fuse.topics) == 1 else 'third'}")

        def send_offsets_to_transaction(self, *arguments: Any) -> None:
            if fuse.topics:
                if fuse.armed(f"{fuse.kind}.produced"):
                    self.flush(10)
                fuse.hit(f"{fuse.kind}.produced")
            self._forwarding("forward.produced")
            super().send_offsets_to_transaction(*arguments)
            fuse.hit(f"{fuse.kind}.offsets")

        def commit_transaction(self, *timeout: Any) -> None:
            commit = partial(super().commit_transaction, *timeout)
            if fuse.armed(f"{fuse.kind}.sent"):
                with ThreadPoolExecutor(1) as thread:
                    committing = thread.submit(commit)
                    time.sleep(random.uniform(0, AT_MOST_SENT))
                    fuse.hit(f"{fuse.kind}.sent")
                    committing.result()
            else:
                commit()
            fuse.hit(f"{fuse.kind}.committed")
            self._forwarding("forward.committed")

        def _forwarding(self, point: str) -> None:
            if any(topic.endswith("customer-events") for topic in fuse.topics):
                fuse.hit(point)

    return Transactional


def wrap_segmenter(fuse: Fuse) -> None:
    at = partial(passing, fuse)

    def publishing(outputs: list[Any], *_: Any) -> None:
        fuse.kind = "batch" if outputs else "lazy"
        fuse.hit("computed" if outputs else "lazy.before")

    def polled(fetched: Any, limit: int, *_: Any) -> None:
        if limit == 0:  # the last one
            fuse.hit("stop.polled")
        if fetched.assigned:
            fuse.hit("assigned")
        if fetched.records:
            fuse.hit("polled")

    around(KafkaSource, "poll", after=polled)
    around(KafkaSource, "_on_revoke", after=at("revoked"))
    around(KafkaSource, "committed", after=at("claim.W"))
    around(KafkaSource, "start", after=at("claim.started"))
    around(KafkaSource, "close", before=at("stop.followed"), after=at("stop.left"))
    around(RedisStore, "checkpoint", after=at("claim.N"))
    around(RedisStore, "announce", after=at("claim.announced"))
    around(RedisStore, "due", after=at("due"))
    around(RedisStore, "load", after=at("loaded"))
    around(RedisStore, "write", after=at("written", lambda written, *_: written))
    around(Models, "refresh", after=at("models.read"))
    around(KafkaSink, "publish", before=publishing)
    around(KafkaSink, "append_clock", before=at("clock.before"), after=at("clock.after"))
    around(KafkaSink, "close", after=at("stop.closed"))
    wrap_write(fuse)
    # As often as the short life of these processes asks for.
    instead(consumers.segmenter, "Limits", partial(Limits, lazy_seconds=1.0))


def wrap_write(fuse: Fuse) -> None:
    """Points before and behind the sending of EXEC, whose reply comes later."""
    from redis.connection import AbstractConnection  # noqa: PLC0415

    def writes(chunks: Any, *_: Any, **__: Any) -> bool:
        sent = chunks if isinstance(chunks, bytes) else b"".join(chunks)
        return b"MSET" in sent and b"EXEC" in sent

    around(
        AbstractConnection,
        "send_packed_command",
        before=passing(fuse, "write.watched", writes),
        after=passing(fuse, "write.sent", lambda _, *sent, **__: writes(*sent)),
    )


def wrap_trainer(fuse: Fuse) -> None:
    at = partial(passing, fuse)

    def publishing(*_: Any) -> None:
        fuse.kind = fuse.announcing = "version"
        fuse.hit("version.fitted")

    def announcing(*_: Any) -> None:
        fuse.told = 0
        fuse.hit(f"{fuse.announcing}.announcing")

    def announced(*_: Any) -> None:
        fuse.hit(f"{fuse.announcing}.announced")
        fuse.told, fuse.announcing = None, "trainer"

    class Control(Producer):
        def produce(self, *arguments: Any, **named: Any) -> None:
            super().produce(*arguments, **named)
            if fuse.told is not None:
                fuse.told += 1
                self.flush(10)
                fuse.hit(f"{fuse.announcing}.announced.{fuse.told}")

    around(KafkaSamples, "poll", after=at("trainer.polled", lambda polled, *_: polled.records))
    around(KafkaSamples, "settle", after=at("trainer.settled"))
    around(KafkaSamples, "handled", before=at("handling"), after=at("handled"))
    around(KafkaSamples, "close", after=at("trainer.left"))
    around(Models, "refresh", after=at("trainer.refreshed"))
    around(KafkaPress, "publish", before=publishing)
    around(KafkaPress, "announce", before=announcing, after=announced)
    instead(kafka_trainer, "Producer", Control)


if __name__ == "__main__":
    here = Fuse(Path(os.environ[PLACE]), os.environ["SEGSTREAM_SLOT"])
    instead(transaction, "Producer", transactional(here))
    if guard := os.environ.get(UNGUARDED):
        GUARDS[guard]()
    wrap_segmenter(here)
    wrap_trainer(here)
    main()
