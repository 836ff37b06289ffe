"""Three Kafka nodes under load, restarted in turn, and killed where it hurts most.

`python -m tests.faults.cluster` (`make cluster-faults`). Killed are the leaders of everything
that a segmenter needs to get on: its group, its transactions, its models, and what the trainer
learns from. Each time all must go on without that node before it comes back.
"""

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from segstream.shell.local import Servers, local_servers
from tests.faults.scene import Scene, last, scene
from tests.integration.deployment import wait

NODES = 3
PATIENCE = 180.0
Tell = Callable[[str], None]


def goes_on(play: Scene) -> float:
    """Seconds until all that is in the log by now is computed, and told."""
    at, began = play.at, time.monotonic()
    ends = {p: at.end("customer-events", p) for p in at.partitions}

    def computed() -> bool:
        return all(at.checkpoint(p).offset >= end for p, end in ends.items())

    wait(computed, "all that is in the log is computed", PATIENCE)
    return time.monotonic() - began


def leader(play: Scene, topic: str, partition: int) -> int:
    """The node that leads a partition now."""
    found = play.at._admin.list_topics(topic, timeout=10).topics[topic]
    return int(found.partitions[partition].leader)


def complete(play: Scene) -> bool:
    """Whether every partition has all its copies in sync."""
    topics = play.at._admin.list_topics(timeout=10).topics.values()
    partitions = [p for topic in topics for p in topic.partitions.values()]
    return all(p.leader >= 0 and len(p.isrs) == len(p.replicas) for p in partitions)


def java_hash(text: str) -> int:
    """`String.hashCode`, without its sign: by it Kafka chooses coordinators."""
    number = 0
    for character in text:
        number = (31 * number + ord(character)) & 0xFFFFFFFF
    return number & 0x7FFFFFFF


def coordinator(play: Scene, topic: str, name: str) -> int:
    """The node that looks after a group or a transactional id."""
    partitions = play.at._admin.list_topics(topic, timeout=10).topics[topic].partitions
    return leader(play, topic, java_hash(name) % len(partitions))


def targets(play: Scene) -> dict[str, Callable[[], int]]:
    """What to take away → the node it is on at the moment."""
    group, topic = play.at.settings.group, play.at.topic
    return {
        "the group of segmenters": lambda: coordinator(
            play, "__consumer_offsets", group("segmenter")
        ),
        "the transactions of a segmenter": lambda: coordinator(
            play, "__transaction_state", f"{group('segmenter')}.one"
        ),
        "the transactions of the trainer": lambda: coordinator(
            play, "__transaction_state", f"{group('trainer')}.trainer"
        ),
        "events": lambda: leader(play, topic("customer-events"), 0),
        "changes": lambda: leader(play, topic("segment-changes"), 0),
        "samples": lambda: leader(play, topic("feature-samples"), 0),
        "models": lambda: leader(play, topic("segment-models"), 0),
    }


def restart_in_turn(play: Scene, servers: Servers, tell: Tell) -> None:
    """As in an upgrade: in order, one after the other."""
    for node, server in enumerate(servers.kafka):
        server.terminate()
        server.wait(30)
        servers.start_kafka(node)
        wait(lambda: complete(play), "all copies are in sync", PATIENCE)
        tell(f"node {node} restarted; caught up after {goes_on(play):.1f} s")


def kill_leaders(play: Scene, servers: Servers, tell: Tell) -> None:
    """All must go on with two nodes; then the third one comes back."""
    for what, find in targets(play).items():
        node = find()
        servers.kill_kafka(node)
        seconds = goes_on(play)
        servers.start_kafka(node)
        wait(lambda: complete(play), "all copies are in sync", PATIENCE)
        tell(f"node {node} killed, it led {what}; caught up after {seconds:.1f} s without it")


def play_all(seed: int, home: Path, tell: Tell) -> list[str]:
    """What was wrong."""
    with (
        local_servers(home / "servers", kafka_nodes=NODES) as servers,
        scene(servers, home, "cluster", seed, SEGSTREAM_REPLICATION=str(NODES)) as play,
    ):
        for process, slot in (("segmenter", "one"), ("segmenter", "two"), ("trainer", "trainer")):
            play.crew.start(process, slot)
        play.at.works("one", "two")
        play.stream.start()
        wait(lambda: play.at.end("segment-models") > 0, "a first version", PATIENCE)
        try:
            restart_in_turn(play, servers, tell)
            kill_leaders(play, servers, tell)
        except AssertionError as stuck:
            logs = [f"{slot}:\n{last(server)}" for slot, server in play.at.running.items()]
            return [str(stuck), *logs]
        tell(f"{play.stream.sent:,} records sent")
        return play.finish(PATIENCE)


def main() -> None:
    parser = argparse.ArgumentParser(description="Faults of a Kafka of three nodes")
    parser.add_argument("--seed", type=int, default=3)
    seed = parser.parse_args().seed
    print(f"seed {seed}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="segstream-cluster-"))
    problems = play_all(seed, home, lambda line: print(line, flush=True))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} violations" + f"; logs and data are in {home}" * bool(problems))
    if not problems:
        shutil.rmtree(home)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
