"""The trainer process: feature samples in, versions of the model out. One works, others wait."""

import logging
from collections.abc import Callable
from contextlib import ExitStack

from consumers.settings import Settings
from segstream.core.expression import parse_duration
from segstream.learn import Training
from segstream.shell import access, http
from segstream.shell.kafka_trainer import KafkaPress, KafkaSamples
from segstream.shell.memory import tidying
from segstream.shell.metrics import TrainerMetrics
from segstream.shell.models import Models
from segstream.shell.river import CustomerKMeans
from segstream.space import TrainedFeature
from segstream.trainer import Ports, Trainer

log = logging.getLogger(__name__)


def training_of(settings: Settings) -> Training:
    """What is to be learned, from the declared features."""
    columns, learned = settings.definition.columns(), settings.training
    return Training(
        tuple(
            TrainedFeature(name, f.expression, f.transform, f.fill, f.weight, f.low, f.high, f.clip)
            for name, f in columns.items()
        ),
        settings.definition.features_id(),
        k=learned.fewest if isinstance(learned.segments, str) else learned.segments,
        bounds=learned.bounds,
        first_customers=learned.first_customers,
        moved=learned.moved,
        maintain_days=parse_duration(learned.maintain) // parse_duration("1d"),
        challenger_margin=learned.challenger,
        seed=learned.seed,
    )


def run(settings: Settings, stop: Callable[[], bool]) -> None:
    """Work until `stop()`."""
    metrics = TrainerMetrics()
    port = http.serve(
        settings.metrics.port, settings.metrics.address, metrics.metrics.registry, metrics.health
    )
    access.require("trainer", settings.kafka, settings.topics.prefix, settings.namespace)
    group = settings.group("trainer")
    topic = settings.topic("segment-models")
    # What is open is closed in any case: also when the start is refused half-way.
    with ExitStack() as opened:
        press = KafkaPress(
            settings.kafka,
            f"{group}.{settings.slot}",
            topic,
            settings.topic("customer-events"),
        )
        opened.callback(press.close)
        press.start()
        samples = KafkaSamples(settings.kafka, settings.topic("feature-samples"), group)
        opened.callback(samples.close)
        models = Models(settings.kafka, topic, group)
        opened.callback(models.close)
        ports = Ports(samples, models, press, CustomerKMeans, metrics)
        log.info("trainer %s: metrics on port %d", settings.slot, port)
        Trainer(training_of(settings), ports).run(tidying(stop))
