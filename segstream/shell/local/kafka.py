"""How Kafka is told to be small, quick to start, and otherwise itself."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from segstream.shell.local.children import Family, Server
from segstream.shell.local.plan import HOST, Plan

JVM_FLAGS = (
    "-XX:-UsePerfData", "-Djava.awt.headless=true",
    "-Dlog4j2.configurationFile=log4j2.properties",
)  # fmt: skip
QUICK = ("-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
"""Small, and soon up; in the long run dearer: at 2,000 events/s Kafka needed 268 µs of CPU for
each, and 168 with LASTING (ten minutes of `make bench`)."""
LASTING = (
    "-Xmx6g", "-Xms6g", "-XX:MetaspaceSize=96m", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35", "-XX:G1HeapRegionSize=16M",
    "-XX:MinMetaspaceFreeRatio=50", "-XX:MaxMetaspaceFreeRatio=80",
    "-XX:+ExplicitGCInvokesConcurrent",
)  # fmt: skip
"""As Kafka's documentation advises for production (Operations, Java version): for those who
measure. With the 1 GB of its start script the broker stands still for 30 to 45 ms every 1.4 s, at
2,000 events/s on one core."""
# To standard output, which is the server's log file.
LOG4J = {
    "status": "error",
    "appender.out.type": "Console",
    "appender.out.name": "out",
    "appender.out.layout.type": "PatternLayout",
    "appender.out.layout.pattern": "%d{ISO8601} %-5p %c{1}: %m%n",
    "rootLogger.level": "warn",
    "rootLogger.appenderRef.out.ref": "out",
}
SETTINGS = {
    "process.roles": "broker,controller",
    "controller.listener.names": "CONTROLLER",
    "log.dirs": "data",  # relative: an absolute path may hold characters that this file cannot
    "auto.create.topics.enable": "false",
    "group.initial.rebalance.delay.ms": "0",
    "log.retention.ms": "-1",
    "message.max.bytes": str(12 << 20),
    "replica.fetch.max.bytes": str(12 << 20),
    "offsets.topic.num.partitions": "8",
    "transaction.state.log.num.partitions": "8",
    "share.coordinator.state.topic.num.partitions": "1",
    "log.cleaner.dedupe.buffer.size": str(32 << 20),  # of the heap; the default takes a third of it
    # A node that was killed may come back only after its session has ended.
    "broker.session.timeout.ms": "5000",
    "broker.heartbeat.interval.ms": "1000",
}


def start_kafka(
    family: Family, plan: Plan, jvm: Sequence[str], config: Mapping[str, str]
) -> list[Server]:
    """Start all nodes, without waiting until they serve."""
    homes = {
        family.directory / f"kafka-{node}": {**_settings(plan, node), **config}
        for node in range(len(plan.kafka))
    }
    _format(family, plan, jvm, homes)
    family.tell(f"Kafka: starting {len(homes)} node(s)")
    servers = []
    for node, (home, settings) in enumerate(homes.items()):
        _write_settings(home, settings)
        ready = partial(_kafka_answers, plan, node)
        command = [*jvm, "kafka.Kafka", "server.properties"]
        servers.append(Server(home.name, family, home, command, ready))
        servers[-1].spawn()
    return servers


def _format(
    family: Family, plan: Plan, jvm: Sequence[str], homes: Mapping[Path, Mapping[str, str]]
) -> None:
    """Prepare the storage of new nodes, aside: what bears the final name is complete."""
    # One word, for an id may begin with a dash.
    tool = [*jvm, "kafka.tools.StorageTool", "format", f"--cluster-id={plan.cluster_id}"]
    jobs = []
    for home, settings in homes.items():
        if home.exists():
            continue
        part = home.with_suffix(".part")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        _write_settings(part, settings)
        command = [*tool, "-c", "server.properties"]
        jobs.append((Server(f"{home.name}-format", family, part, command), part, home))
    if jobs:
        family.tell("Kafka: preparing its storage")
    for job, _, _ in jobs:
        job.spawn()
    for job, part, home in jobs:
        job.wait_success()
        part.rename(home)


def _settings(plan: Plan, node: int) -> dict[str, str]:
    # Voters by configuration, not by `format --standalone`: that would write the controllers'
    # ports into the data, and a restart could not move to others.
    broker, controller = plan.kafka[node]
    voters = [f"{i}@{HOST}:{port}" for i, (_, port) in enumerate(plan.kafka)]
    copies, in_sync = ("3", "2") if len(voters) == 3 else ("1", "1")
    return SETTINGS | {
        "node.id": str(node),
        "listeners": f"PLAINTEXT://{HOST}:{broker},CONTROLLER://{HOST}:{controller}",
        "controller.quorum.voters": ",".join(voters),
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


def _write_settings(home: Path, settings: Mapping[str, str]) -> None:
    for name, values in (("server.properties", settings), ("log4j2.properties", LOG4J)):
        lines = (f"{key}={value}\n" for key, value in values.items())
        (home / name).write_text("".join(lines), "ascii")


def _kafka_answers(plan: Plan, node: int, _: int) -> bool:
    port = plan.kafka[node][0]
    try:
        # First a plain look: the client would wait longer and longer between its own.
        socket.create_connection((HOST, port), timeout=1).close()
        client = AdminClient({"bootstrap.servers": f"{HOST}:{port}", "log_level": 0})
        cluster = client.list_topics(timeout=2)
    except (OSError, KafkaException):
        return False
    return cluster.cluster_id == plan.cluster_id and node in cluster.brokers
