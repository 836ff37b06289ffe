"""Settings → the values that the parts want; used by several commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from consumers.settings import Settings
from segstream.shell.local import local_servers
from segstream.shell.replay import Target
from segstream.shell.topics import Plan


def plan_of(settings: Settings) -> Plan:
    """The topics that these settings need."""
    return Plan(
        settings.topics.prefix,
        settings.topics.partitions,
        settings.topics.replication,
        settings.group("segmenter"),
        settings.layout,
    )


def target_of(settings: Settings) -> Target:
    """Where a replay goes."""
    return Target(
        settings.kafka,
        settings.redis.url,
        settings.namespace,
        settings.topic("customer-events"),
        settings.topic("feature-samples"),
        settings.topics.partitioner,
    )


@contextmanager
def local(settings: Settings, directory: Path, tell: Callable[[str], None]) -> Iterator[Settings]:
    """Local servers, and the settings that lead to them: without TLS or password."""
    with local_servers(directory, progress=tell) as servers:
        yield settings.model_copy(
            update={
                "kafka": {
                    **settings.kafka,
                    "bootstrap.servers": servers.bootstrap_servers,
                    "security.protocol": "plaintext",
                },
                "redis": settings.redis.model_copy(update={"url": servers.redis_url}),
            }
        )
