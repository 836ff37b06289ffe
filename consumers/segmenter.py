"""The segmenter process: customer events in, segment changes out. Scale by starting more."""

import gc
import logging
import time
from collections.abc import Callable
from contextlib import ExitStack

from consumers.settings import Settings
from segstream.core import compiled
from segstream.core.output import Topic
from segstream.core.step import Function
from segstream.ports import Ports
from segstream.shell import access, http
from segstream.shell.kafka import KafkaSink, KafkaSource
from segstream.shell.memory import tidying
from segstream.shell.metrics import SegmenterMetrics
from segstream.shell.models import Models
from segstream.shell.redis import RedisStore
from segstream.shell.redis_client import connect
from segstream.shell.topics import require_retention
from segstream.worker import Limits, Worker

log = logging.getLogger(__name__)


class WallClock:
    """The machine's clocks."""

    def wall(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def cpu(self) -> float:
        return time.thread_time()


def run(settings: Settings, stop: Callable[[], bool]) -> None:
    """Work until `stop()`. Raises Refused when a person must look."""
    metrics = SegmenterMetrics()
    port = http.serve(
        settings.metrics.port, settings.metrics.address, metrics.metrics.registry, metrics.health
    )
    # What is open is closed in any case: also when the start is refused half-way.
    with ExitStack() as opened:
        store = RedisStore(opened.enter_context(connect(settings.redis.url)), settings.namespace)
        store.check()
        access.require("segmenter", settings.kafka, settings.topics.prefix, settings.namespace)
        group = settings.group("segmenter")
        topic = settings.topic("customer-events")
        if age := settings.redis.oldest_backup_ms:
            require_retention(settings.kafka, topic, age)
        sink = KafkaSink(settings.kafka, f"{group}.{settings.slot}", outputs(settings))
        opened.callback(sink.close)
        source = KafkaSource(settings.kafka, topic, group)
        opened.callback(source.close)
        models = Models(settings.kafka, settings.topic("segment-models"), group)
        opened.callback(models.close)
        worker = Worker(
            Function(settings.definition),
            Ports(source, store, sink, models, WallClock(), metrics),
            topic,
            settings.topics.partitions,
            settings.topics.partitioner,
            Limits(
                idle_seconds=settings.clock.seconds,
                dead_share=settings.dead_letters.halt_above,
            ),
        )
        slower = "" if compiled.functions else ", without compiled code (no C compiler)"
        log.info("segmenter %s: metrics on port %d%s", settings.slot, port, slower)
        # What was made until here lives on; batches make short-lived objects by the thousand.
        gc.freeze()
        gc.set_threshold(100_000, 20, 20)
        worker.run(tidying(stop))


def outputs(settings: Settings) -> dict[Topic, str]:
    """The topic of each kind of output."""
    names: dict[Topic, str] = {
        "changes": "segment-changes",
        "memberships": "customer-segments",
        "samples": "feature-samples",
        "dead_letters": "customer-events-dlq",
        "events": "customer-events",
    }
    return {kind: settings.topic(name) for kind, name in names.items()}
