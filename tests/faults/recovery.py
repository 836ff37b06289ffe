"""How long partitions stand still when their worker dies, or leaves in order.

`python -m tests.faults.recovery` (`make recovery`). Two segmenters, and 20 records/s per
partition, each of which leads to an output. Measured per run: from the end of a worker until, of
each of its partitions, a record sent after that end has its output committed (read_committed); the
slowest of its partitions counts. Kills inside the transaction fall behind its offsets, kills
outside behind the write.
"""

import argparse
import json
import math
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from signal import SIGTERM
from typing import NamedTuple

from confluent_kafka import Consumer, TopicPartition

from segstream.shell.local import Servers, local_servers
from tests.faults.fuse import PLACE, Armed, arm, fired
from tests.faults.play import MODULE
from tests.faults.scene import Scene, scene
from tests.faults.traffic import Sent
from tests.integration.deployment import Deployment, wait

PER_SECOND = 20.0
SLOTS = ("one", "two")
INSIDE, OUTSIDE = "batch.offsets", "written"
SCENES = 4
"""At the same time, with their own topics: what is measured is mostly waiting."""


class Way(NamedTuple):
    """A way to end, and how long it may take at p99."""

    point: str  # "": by SIGTERM
    restarted: bool
    target: float  # seconds


WAYS = {
    "killed outside, restarted": Way(OUTSIDE, True, 8.0),
    "killed inside, restarted": Way(INSIDE, True, 8.0),
    "killed outside, not restarted": Way(OUTSIDE, False, 22.0),
    "killed inside, not restarted": Way(INSIDE, False, 22.0),
    "SIGTERM, not restarted": Way("", False, 1.5),
}


def probes(partitions: int) -> Iterator[list[Sent]]:
    """One record per partition that says when it was sent, and becomes a dead letter."""
    while True:
        yield [Sent(p, None, b"sent %f" % time.time(), []) for p in range(partitions)]


class Reader:
    """Notes of each partition when the newest record whose output is committed was sent."""

    def __init__(self, at: Deployment) -> None:
        topic = at.topic("customer-events-dlq")
        self._consumer = Consumer(
            {
                **at.kafka, "group.id": "recovery", "isolation.level": "read_committed",
                "enable.auto.commit": False, "fetch.wait.max.ms": 10, "log_level": 0,
            }
        )  # fmt: skip
        self._consumer.assign([TopicPartition(topic, p, 0) for p in at.partitions])
        self.seen = dict.fromkeys(at.partitions, 0.0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.is_set():
            for message in self._consumer.consume(1_000, 0.01):
                value, partition = message.value(), message.partition()
                if message.error() is None and value is not None and partition is not None:
                    self.seen[partition] = float(value.split()[1])

    def close(self) -> None:
        self._over.set()
        self._thread.join()
        self._consumer.close()


@dataclass
class Measuring:
    """Runs of one scene."""

    scene: Scene
    reader: Reader
    place: Path
    rng: random.Random

    def start(self) -> None:
        for slot in SLOTS:
            self.scene.crew.start("segmenter", slot, module=MODULE, **{PLACE: str(self.place)})
        self.scene.stream.start()

    def run(self, way: Way) -> float:
        """Seconds of one run, in steady state before and after."""
        self.scene.at.works(*SLOTS)
        self._all_newer(time.time())
        time.sleep(self.rng.uniform(0, 2))  # anywhere between two heartbeats
        slot = self.rng.choice(SLOTS)
        owned = self.scene.at.members()[slot]
        if not way.restarted:
            self.scene.crew.release(slot)
        ended = self._end(slot, way.point)
        wait(lambda: all(self.reader.seen[p] > ended for p in owned), "a committed batch", 60)
        seconds = time.time() - ended
        if not way.restarted:
            wait(lambda: self.scene.at.running[slot].pid is None, f"{slot} ends")
            self.scene.crew.again(slot)
        return seconds

    def _end(self, slot: str, point: str) -> float:
        if not point:
            now = time.time()
            self.scene.crew.signal(slot, SIGTERM)
            return now
        before = len(fired(self.place, slot))
        arm(self.place, slot, Armed(point, "kill"))
        path = self.place / f"{slot}.fired"
        wait(lambda: len(fired(self.place, slot)) > before, f"{slot} dies", 30)
        return path.stat().st_mtime

    def _all_newer(self, moment: float) -> None:
        wait(lambda: all(at > moment for at in self.reader.seen.values()), "outputs everywhere", 60)


def measured(
    servers: Servers,
    home: Path,
    number: int,
    jobs: Iterator[str],
    seed: int,
    tell: Callable[..., None],
) -> tuple[list[tuple[str, float]], list[str]]:
    """One scene takes jobs until there are none; at last everything must be as the oracle says."""
    found = []
    with scene(servers, home, f"recovery-{number}", probes(4), PER_SECOND) as made:
        place = home / f"points-{number}"
        place.mkdir()
        reader = Reader(made.at)
        run = Measuring(made, reader, place, random.Random(seed + number))
        run.start()
        for name in jobs:
            found.append((name, run.run(WAYS[name])))
            tell(f"{name}: {found[-1][1]:.2f} s")
        made.at.works(*SLOTS)
        reader.close()
        return found, made.finish()


def quantile(values: list[float], share: float) -> float:
    """The smallest value that is not exceeded by this share of all."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.faults.recovery")
    parser.add_argument("--runs", type=int, default=30, help="per way to end")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=[*WAYS])
    parser.add_argument("--scenes", type=int, default=SCENES)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    chosen = parser.parse_args()

    def tell(*text: object) -> None:
        print(*text, flush=True)

    tell(f"seed {chosen.seed}")
    jobs = [name for name in chosen.ways for _ in range(chosen.runs)]
    random.Random(chosen.seed).shuffle(jobs)
    left = iter(jobs)
    with (
        tempfile.TemporaryDirectory() as home,
        local_servers(Path(home) / "servers", progress=tell) as servers,
        ThreadPoolExecutor(chosen.scenes) as threads,
    ):
        futures = [
            threads.submit(measured, servers, Path(home), n, left, chosen.seed, tell)
            for n in range(chosen.scenes)
        ]
        results = [future.result() for future in futures]
    problems = [text for _, texts in results for text in texts]
    figures = {}
    tell(f"{'worker':32} {'runs':>5} {'p50':>7} {'p99':>7} {'most':>7} {'target':>7}")
    for name in chosen.ways:
        values = [seconds for found, _ in results for ended, seconds in found if ended == name]
        half, most = quantile(values, 0.5), quantile(values, 0.99)
        figures[name] = {
            "runs": len(values), "p50": half, "p99": most, "target": WAYS[name].target,
            "seconds": values,
        }  # fmt: skip
        tell(
            f"{name:32} {len(values):5} {half:7.2f} {most:7.2f} {max(values):7.2f} "
            f"{WAYS[name].target:7.1f}"
        )
    if chosen.json:
        chosen.json.write_text(json.dumps({"seed": chosen.seed, "ways": figures}, indent=1))
    missed = [name for name, way in figures.items() if way["p99"] > way["target"]]  # type: ignore[operator]
    for text in [*problems, *(f"slower than the target: {name}" for name in missed)]:
        tell(text)
    tell(f"recovery {'MISSED' if missed or problems else 'held'}, seed {chosen.seed}")
    return 1 if missed or problems else 0


if __name__ == "__main__":
    sys.exit(main())
