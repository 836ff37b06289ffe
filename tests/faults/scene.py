"""Where faults are played: processes under a supervisor, a steady stream, and the end.

The end is always the same: the stream stops, everything is caught up, all processes end by
SIGTERM, and what is in Kafka and Redis is held against the oracle.
"""

import json
import signal
import threading
import time
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

from confluent_kafka import Producer

from consumers.setup import target_of
from segstream.shell.local import Server, Servers
from segstream.shell.replay import ReplayError
from segstream.shell.replay.barrier import Barrier
from tests.faults.traffic import CONFIG, Sent, traffic
from tests.integration.deployment import Deployment, code_of, deployment, log_of, wait
from tests.integration.verdict import FORWARDED, Came, Verdict, headers_of, parsed

OURS = frozenset({0, -signal.SIGKILL})
"""How a process may end here: by SIGTERM in order, or killed by us."""
LOOK_SECONDS = 0.005
AGAIN_SECONDS = 1.0
"""From one start to the next of a process that ends by itself."""
LAST_WORDS = 2_000


class Exit(NamedTuple):
    slot: str
    code: int
    at: float  # monotonic
    said: str  # the end of its log


@dataclass
class Crew:
    """The processes of a deployment; each that ends is started again in its slot, at once."""

    at: Deployment
    exits: list[Exit] = field(default_factory=list)
    started: dict[str, float] = field(default_factory=dict)  # slot → monotonic
    _kept: dict[str, Server] = field(default_factory=dict)
    _told: set[int | None] = field(default_factory=set)  # pids of those that are ending
    _lock: threading.RLock = field(default_factory=threading.RLock)
    _over: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def start(self, process: str, slot: str, module: str = "consumers", **more: str) -> Server:
        """Start `python -m MODULE run PROCESS`, and keep it running."""
        with self._lock:
            self.started[slot] = time.monotonic()
            self._kept[slot] = self.at.start(process, slot, module=module, **more)
            return self._kept[slot]

    def slots(self) -> list[str]:
        """Of all that are kept running."""
        with self._lock:
            return [*self._kept]

    def release(self, slot: str) -> Server:
        """Supervise it no longer: it may end, and lie."""
        with self._lock:
            return self._kept.pop(slot)

    def again(self, slot: str) -> None:
        """Start a released one, and keep it running from now on."""
        with self._lock:
            self._spawn(slot, self.at.running[slot])
            self._kept[slot] = self.at.running[slot]

    def works(self, slot: str) -> bool:
        """Whether the present process of a slot has come so far as to end in order."""
        server = self.at.running[slot]
        return b"metrics on port" in server.log.read_bytes()[server._log_start :]

    def terminate(self, slot: str) -> bool:
        """SIGTERM, if the process can end in order by now: its successor could not yet.

        Once in its life: asked again, it would end at once.
        """
        with self._lock:
            pid = self.at.running[slot].pid
            if not self.works(slot) or pid in self._told:
                return False
            self._told.add(pid)
            self.signal(slot, signal.SIGTERM)
            return True

    def signal(self, slot: str, number: int) -> None:
        """To the process of a slot, if one is alive."""
        with self._lock:
            server = self.at.running[slot]
            if server.pid is not None:
                assert server._process is not None
                server._process.send_signal(number)

    def end(self, *slots: str, seconds: float = 30) -> None:
        """SIGTERM to these and no others, thawed if need be; supervise them no longer."""
        with self._lock:
            ending = {slot: self._kept.pop(slot) for slot in slots}
        for slot, server in ending.items():
            self.signal(slot, signal.SIGCONT)
            with suppress(AssertionError):  # how it ended is noted below
                wait(partial(self.works, slot), f"{slot} is there", seconds)
            if server.pid not in self._told:
                server.terminate()
        for slot, server in ending.items():
            server.wait(seconds)
            if server.pid is not None:
                server.kill()
                self.exits.append(Exit(slot, -signal.SIGTERM, time.monotonic(), last(server)))
                continue
            self._ended(slot, server)

    def stop(self) -> list[str]:
        """SIGTERM to all; what was wrong with how processes ended, from the first on."""
        self._over.set()
        self._thread.join()
        self.end(*self._kept)
        problems = [
            f"{ended.slot} ended with {ended.code}:\n{ended.said}"
            for ended in self.exits
            if ended.code not in OURS
        ]
        return problems + [
            f"{slot} said: {log_of(server)[found:][:LAST_WORDS]}"
            for slot, server in self.at.running.items()
            if (found := log_of(server).find("Traceback")) >= 0
        ]

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            with self._lock:
                for slot, server in self._kept.items():
                    if server.pid is None:
                        self._replace(slot, server)

    def _replace(self, slot: str, server: Server) -> None:
        killed = code_of(server) == -signal.SIGKILL
        if killed or time.monotonic() - self.started[slot] >= AGAIN_SECONDS:
            self._ended(slot, server)
            self._spawn(slot, server)

    def _ended(self, slot: str, server: Server) -> None:
        self.exits.append(Exit(slot, code_of(server), time.monotonic(), last(server)))

    def _spawn(self, slot: str, server: Server) -> None:
        self.started[slot] = time.monotonic()
        server.spawn()


class Stream:
    """Sends one beat after the other from a thread of its own."""

    def __init__(self, at: Deployment, beats: Iterator[list[Sent]], per_second: float) -> None:
        self._topic, self._beats, self._pause = at.topic("customer-events"), beats, 1 / per_second
        self._producer = Producer({**at.kafka, "enable.idempotence": True, "log_level": 0})
        self._failed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self.forged: dict[int, list[Came]] = defaultdict(list)
        """By partition, what claims to have been forwarded."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No more beats; returns when Kafka has all that was sent."""
        self._over.set()
        self._thread.join()
        assert self._producer.flush(60) == 0, "Kafka does not take the stream"
        assert not self._failed, self._failed[:3]

    def beat(self) -> None:
        """One beat, now: for those who do not want the thread."""
        for partition, key, value, headers in next(self._beats):
            self._producer.produce(
                self._topic, value, key, partition,
                headers=cast(Any, [*headers]), on_delivery=self._delivered,
            )  # fmt: skip
            self.sent += 1
            if [name for name, _ in headers[-2:]] == FORWARDED:
                self.forged[partition].append((key, value, tuple(headers)))
        self._producer.poll(0)

    def _run(self) -> None:
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self.beat()
            due = max(due + self._pause, time.monotonic())

    def _delivered(self, error: Any, _: object) -> None:
        if error is not None:
            self._failed.append(str(error))


@dataclass
class Scene:
    """A deployment, who works in it, and what comes in."""

    at: Deployment
    crew: Crew
    stream: Stream
    config: str

    def finish(self, patience: float = 60) -> list[str]:
        """Stop the stream, wait until all is caught up, end all, judge; all that is wrong."""
        try:
            self.settle(patience)
        except (AssertionError, ReplayError) as stuck:
            return [f"not caught up: {stuck}", *self.crew.stop()]
        return [*self.crew.stop(), *self.judge()]

    def settle(self, patience: float = 60) -> None:
        """Stop the stream; return once segmenters and trainers have done all that it asks.

        The trainers end with it: one that starts again announces its newest version again.
        """
        self.stream.stop()
        if trainers := [slot for slot in self.crew.slots() if self._trains(slot)]:
            barrier = Barrier(target_of(self.at.settings), len(self.at.partitions), patience)
            try:
                barrier.wait("the end", lambda: False)
            finally:
                barrier.close()
            self.crew.end(*trainers)
        wait(self.at.caught_up, "N at the ends of the log", patience)

    def _trains(self, slot: str) -> bool:
        return "trainer" in self.at.running[slot]._command

    def judge(self) -> list[str]:
        """All processes have ended: W at N, and everything as the oracle says."""
        behind = [
            f"partition {p}: W {self.at.published(p)} is not N {self.at.checkpoint(p).position}"
            for p in self.at.partitions
            if self.at.published(p) != self.at.checkpoint(p).position
        ]
        verdict = Verdict(self.at, tomllib.loads(self.config), self.stream.forged)
        return [*behind, *unlike_once(self.at), *verdict.differences()]


def unlike_once(at: Deployment) -> list[str]:
    """What was published twice or out of order: by ids, sequences and offsets alone."""
    found = []
    for p in at.partitions:
        stood = -1
        for message in at.read("customer-events-dlq", p):
            offset = int(headers_of(message)["segstream.errors.offset"])
            if offset <= stood:
                found.append(f"partition {p}: published twice: dead letter of offset {offset}")
            stood = max(stood, offset)
        ids: set[bytes] = set()
        stands: dict[str, int] = {}
        for message in at.read("segment-changes", p):
            name, change = headers_of(message)["ce_id"], parsed(message)
            if name in ids:
                found.append(f"partition {p}: published twice: change {name!r}")
            ids.add(name)
            customer, number = change["customer"], change["sequence"]
            if number != stands.get(customer, 0) + 1:
                found.append(
                    f"partition {p}: out of order: {json.dumps(change)} after sequence "
                    f"{stands.get(customer)}"
                )
            stands[customer] = 0 if change["to"] is None else number
    return found


def last(server: Server) -> str:
    return log_of(server)[-LAST_WORDS:]


@contextmanager
def scene(
    servers: Servers,
    directory: Path,
    name: str,
    beats: Iterable[list[Sent]] | int,
    per_second: float = 4.0,
    config: str = CONFIG,
    **more: str,
) -> Iterator[Scene]:
    """Topics exist, nobody works yet, and the stream is still. `beats`: or a seed of `traffic`.

    `more`: environment variables of all processes.
    """
    with deployment(servers, directory, name, config, **more) as at:
        at.create()
        found = traffic(beats, len(at.partitions)) if isinstance(beats, int) else iter(beats)
        crew = Crew(at)
        try:
            yield Scene(at, crew, Stream(at, found, per_second), config)
        finally:
            crew._over.set()
            crew._thread.join()
