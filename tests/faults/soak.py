"""Mixed faults on real servers, for as long as you like, and then the verdict.

`python -m tests.faults.soak --minutes 30 --seed N` (`make soak`). Three segmenters and two
trainers work on a steady stream through proxies before Redis and Kafka. Processes and servers are
killed, frozen and cut off, Redis is wiped and set back to older copies. Every few minutes there is
a truce in which everything must be caught up and no change repeated or out of order; at the end
all is held against the oracle. One segmenter and one trainer are never killed, only hindered: how
their memory grows is the last thing that is said.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis

from segstream.shell.local import LocalUnavailable, Servers, local_servers
from tests.faults import backup
from tests.faults.memory import WARM_SECONDS, Growth, Memory, resident, threads
from tests.faults.plan import Fault, faults
from tests.faults.proxy import HOST, Proxy
from tests.faults.scene import Scene, last, scene, unlike_once
from tests.faults.traffic import CONFIG, traffic
from tests.integration.deployment import wait

TRUCE_SECONDS = 300.0
PATIENCE = 120.0
ARRIVALS = 1.5
"""Of customers per beat: about 35 records per second, at a beat per second."""
BEATS_BEFORE = 2_500
"""Sent at once at the beginning: when Redis is wiped, clients then fetch as much ahead as they ever
will. With a short log each wipe would need more memory than the one before."""
RESTARTS_BEFORE = 20
"""Of Kafka. Its client library holds more after each of the first ones, most when one of its calls
never comes back; measured over 60 restarts: +8 to +12 MiB over the first 40, then no more."""
SETTINGS = CONFIG.replace('maintain = "3d"', 'maintain = "14d"')
"""Versions are kept for ever: about one per minute."""
ALWAYS = ("steady", "trainer-a")
FLAT_MIB_PER_HOUR = 20.0
SERVERS_AWAY = ("Redis: ", "transactions cannot start", "Kafka", "Broker")
"""What a process says that could not start because a server was down."""
Tell = Callable[[str], None]


@dataclass
class Soak:
    """A scene behind proxies, and what can be done to it."""

    servers: Servers
    scene: Scene
    redis: Proxy
    kafka: Proxy
    home: Path
    tell: Tell
    tally: Counter[str] = field(default_factory=Counter)
    copies: int = 0

    def __post_init__(self) -> None:
        self.crew, self.at = self.scene.crew, self.scene.at
        self.acts: dict[str, Callable[[Fault], object]] = {
            "worker killed": lambda f: self.crew.signal(str(f.whom[0]), signal.SIGKILL),
            "worker frozen": lambda f: self.freeze(str(f.whom[0]), f.lasts),
            "worker stopped": lambda f: self.crew.terminate(str(f.whom[0])),
            "worker joins and leaves": self.join_and_leave,
            "trainer killed": lambda f: self.crew.signal("trainer-b", signal.SIGKILL),
            "trainer frozen": lambda f: self.freeze("trainer-a", f.lasts),
            "redis killed": self.kill_redis,
            "redis copied": lambda f: self.copy(),
            "redis restored": lambda f: backup.bring_back(self.servers, self.kept),
            "redis wiped": lambda f: self.wipe(),
            "redis full": self.fill,
            "redis replies lost": lambda f: self.lose(self.redis, f),
            "redis slow": lambda f: self.slow(self.redis, f),
            "redis cut": lambda f: self.cut(self.redis, f),
            "redis deaf": lambda f: self.deafen(self.redis, f),
            "kafka killed": self.kill_kafka,
            "kafka replies lost": lambda f: self.lose(self.kafka, f),
            "kafka slow": lambda f: self.slow(self.kafka, f),
            "kafka cut": lambda f: self.cut(self.kafka, f),
            "kafka deaf": lambda f: self.deafen(self.kafka, f),
        }

    @property
    def kept(self) -> Path:
        return self.home / f"copy-{self.copies}"

    def begin(self) -> None:
        """Everybody works on a model."""
        url = f"redis://{HOST}:{self.redis.port}/0"
        for slot in ("steady", "one", "two"):
            self.crew.start("segmenter", slot, SEGSTREAM_REDIS_URL=url)
        for slot in ("trainer-a", "trainer-b"):
            self.crew.start("trainer", slot)
        self.at.works("steady", "one", "two")
        self.at.works("trainer-a", "trainer-b", process="trainer")
        for _ in range(BEATS_BEFORE):
            self.scene.stream.beat()
        self.scene.stream.start()
        wait(lambda: self.at.end("segment-models") > 0, "a first version", PATIENCE)
        wait(self.at.caught_up, "all that was sent before is computed", PATIENCE)
        self.tell(f"     begin: {self.held()}")
        for _ in range(RESTARTS_BEFORE):
            self.kill_kafka(Fault(0, 0.0, "kafka killed", 1.0, ()))
            time.sleep(3)
        self.tell(f"     after {RESTARTS_BEFORE} restarts of Kafka: {self.held()}")
        self.wipe()
        self.copy()

    def play(self, fault: Fault) -> None:
        self.tell(str(fault))
        self.acts[fault.kind](fault)
        self.tally[fault.kind] += 1

    def truce(self) -> list[str]:
        """All that is in the log by now must be computed soon, and nothing told twice."""
        ends = {p: self.at.end("customer-events", p) for p in self.at.partitions}
        began = time.monotonic()

        def computed() -> bool:
            return all(self.at.checkpoint(p).offset >= ends[p] for p in self.at.partitions)

        try:
            wait(computed, "all that is in the log is computed", PATIENCE)
        except AssertionError as error:
            stands = {p: (self.at.checkpoint(p).offset, ends[p]) for p in self.at.partitions}
            logs = [f"{slot}:\n{last(server)}" for slot, server in self.at.running.items()]
            return [f"{error}: {stands}", *logs]
        self.tell(f"     truce: caught up after {time.monotonic() - began:.1f} s; {self.held()}")
        return unlike_once(self.at)

    def held(self) -> str:
        """Memory and threads of those that are never killed."""
        found = {slot: self.at.running[slot].pid for slot in ALWAYS}
        return ", ".join(
            f"{slot} {resident(pid) >> 20} MiB, {threads(pid)} threads"
            for slot, pid in found.items()
            if pid is not None
        )

    # -- processes --------------------------------------------------------------------

    def freeze(self, slot: str, seconds: float) -> None:
        self.crew.signal(slot, signal.SIGSTOP)
        time.sleep(seconds)
        self.crew.signal(slot, signal.SIGCONT)

    def join_and_leave(self, fault: Fault) -> None:
        url = f"redis://{HOST}:{self.redis.port}/0"
        self.crew.start("segmenter", "guest", SEGSTREAM_REDIS_URL=url)
        time.sleep(fault.lasts)
        guest = self.crew.release("guest")
        guest.terminate()
        guest.wait(30)

    # -- Redis ------------------------------------------------------------------------

    def kill_redis(self, fault: Fault) -> None:
        self.servers.kill_redis()
        time.sleep(fault.lasts)
        self.servers.start_redis()

    def copy(self) -> None:
        self.copies += 1
        backup.keep(self.servers, self.kept)

    def wipe(self) -> None:
        with Redis.from_url(self.servers.redis_url) as redis:
            redis.flushall()

    def fill(self, fault: Fault) -> None:
        with Redis.from_url(self.servers.redis_url) as redis:
            redis.config_set("maxmemory", "1mb")
            time.sleep(fault.lasts)
            redis.config_set("maxmemory", 0)

    def kill_kafka(self, fault: Fault) -> None:
        self.servers.kill_kafka(0)
        time.sleep(fault.lasts)
        try:
            self.servers.start_kafka(0)
        except LocalUnavailable:  # a busy machine: it is still starting
            self.servers.start_kafka(0)

    # -- the network ------------------------------------------------------------------

    def lose(self, proxy: Proxy, fault: Fault) -> None:
        for word in fault.whom:
            assert isinstance(word, bytes)
            proxy.lose(word)

    def slow(self, proxy: Proxy, fault: Fault) -> None:
        proxy.delay = 0.1
        time.sleep(fault.lasts)
        proxy.delay = 0.0

    def cut(self, proxy: Proxy, fault: Fault) -> None:
        proxy.refusing = True
        proxy.cut()
        time.sleep(fault.lasts)
        proxy.refusing = False

    def deafen(self, proxy: Proxy, fault: Fault) -> None:
        proxy.deaf = {"up"} if fault.whom == ("up",) else {"down"}
        time.sleep(fault.lasts)
        proxy.deaf = set()
        proxy.cut()  # what was swallowed in between is missing


@contextmanager
def proxied(home: Path) -> Iterator[tuple[Servers, Proxy, Proxy]]:
    """Servers, Kafka advertising the proxy before it, and the proxies before Redis and Kafka."""
    with Proxy() as redis, Proxy() as kafka:
        advertised = {"advertised.listeners": f"PLAINTEXT://{HOST}:{kafka.port}"}
        with local_servers(home, kafka_config=advertised) as servers:
            redis.target = port_of(servers.redis_url)
            kafka.target = port_of(servers.bootstrap_servers)
            yield servers, redis, kafka


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2].partition("/")[0])


def soak(minutes: float, seed: int, home: Path, tell: Tell) -> list[str]:
    """Play it; what was wrong."""
    beats = traffic(seed, 4, arrivals=ARRIVALS)
    with (
        proxied(home / "servers") as (servers, redis, kafka),
        scene(servers, home, "soak", beats, per_second=1.0, config=SETTINGS) as made,
    ):
        play = Soak(servers, made, redis, kafka, home, tell)
        play.begin()
        with Memory(lambda: pids(play)) as memory:
            problems = under_fire(play, minutes, seed)
        records = sum(made.at.end("customer-events", p) for p in made.at.partitions)
        began = time.monotonic()
        problems += [p for p in made.finish(PATIENCE) if not excused(p)]
        tell(f"judged {records:,} records in {time.monotonic() - began:.0f} s")
    for kind, number in sorted(play.tally.items()):
        tell(f"{number:6} {kind}")
    tell(f"{play.tally.total():6} faults in all")
    growths = memory.growths(min(WARM_SECONDS, 60 * minutes / 4))
    for found in growths:
        tell(str(found))
    return problems + grown(growths)


def under_fire(play: Soak, minutes: float, seed: int) -> list[str]:
    """Fault after fault until time is up; the last truce is the end."""
    end = time.monotonic() + 60 * minutes
    truce = time.monotonic() + TRUCE_SECONDS
    for fault in faults(seed):
        time.sleep(fault.wait)
        now = time.monotonic()
        if now >= min(truce, end):
            truce = now + TRUCE_SECONDS
            if (problems := play.truce()) or now >= end:
                return problems
        play.play(fault)
    raise AssertionError("faults never end")


def pids(play: Soak) -> dict[str, int | None]:
    ours = {slot: server.pid for slot, server in [*play.at.running.items()]}
    return ours | {"kafka": play.servers.kafka[0].pid, "valkey": play.servers.redis.pid}


def excused(problem: str) -> bool:
    """A process may end when it is started while a server is away: its supervisor tries again."""
    return " ended with 1:" in problem and any(word in problem for word in SERVERS_AWAY)


def grown(growths: list[Growth]) -> list[str]:
    """Who of those that were never killed holds more and more."""
    names = {growth.name for growth in growths}
    return [
        f"how the memory of {name} grows is unknown" for name in ALWAYS if name not in names
    ] + [
        f"memory grows: {growth}"
        for growth in growths
        if growth.name in ALWAYS and growth.slope - 2 * growth.error > FLAT_MIB_PER_HOUR
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Mixed faults on real servers")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}", flush=True)
    home = Path(tempfile.mkdtemp(prefix="segstream-soak-"))
    problems = soak(chosen.minutes, chosen.seed, home, lambda line: print(line, flush=True))
    for problem in problems:
        print(problem)
    print(f"{len(problems)} violations" + f"; logs and data are in {home}" * bool(problems))
    if not problems:
        shutil.rmtree(home)
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
