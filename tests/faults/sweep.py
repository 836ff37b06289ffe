"""Kills and freezes at every failpoint of real processes on real servers, and the verdict.

`python -m tests.faults.sweep` (`make kill-sweep`). At each point a process is killed once, and
later twice in a row: its successor dies at the same point again. At the points around a
transaction processes are also frozen until others have taken over, and thawed. Points are played
in groups, each in a deployment of its own, whose end is held against the oracle.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from segstream.shell.local import Servers, local_servers
from tests.faults.fuse import CLOCK, KICKS, SEGMENTER, TRAINER
from tests.faults.play import PATIENCE, Fate, Play, Tell
from tests.faults.scene import scene
from tests.faults.traffic import BEAT, Sent, traffic
from tests.integration.deployment import wait

FROZEN = (
    "computed", "batch.first", "batch.produced", "batch.offsets", "batch.sent", "batch.committed",
    "write.watched", "write.sent", "written", "lazy.offsets", "claim.W", "claim.N",
    "forward.produced", "loaded",
)  # fmt: skip
FROZEN_LONG = ("batch.produced", "batch.offsets", "batch.offsets", "write.watched")
"""Until the broker has aborted the transaction by itself."""
FROZEN_TRAINER = (
    "version.fitted", "version.produced", "version.offsets", "version.committed",
    "version.announced.1", "trainer.announcing",
)  # fmt: skip
LONG_SECONDS = 24.0
"""Transaction timeout (10 s), the broker's look at it (every 10 s), and a little."""
SLOTS = ("one", "two", "three")
TRAINERS = ("trainer-a", "trainer-b")


def claims(play: Play) -> None:
    """What happens at a start, a claim, a rebalance and a graceful stop; half of the trainer."""
    play.start("segmenter", *SLOTS)
    play.start("trainer", "trainer")
    play.scene.stream.start()
    wait(lambda: play.scene.at.end("segment-models"), "a first version", PATIENCE)
    segmenter = [point for point in SEGMENTER if KICKS[point]]
    play.kills({**dealt(segmenter, SLOTS), "trainer": [*TRAINER][::2]})


def batches(play: Play) -> None:
    """What happens from poll to write; the other half of the trainer."""
    play.start("segmenter", *SLOTS)
    play.start("trainer", "trainer")
    play.scene.stream.start()
    segmenter = [point for point in SEGMENTER if not KICKS[point]]
    play.kills({**dealt(segmenter, SLOTS), "trainer": [*TRAINER][1::2]})


def freezes(play: Play) -> None:
    """Two of three segmenters at a time, and beside them the trainers."""
    play.start("segmenter", *SLOTS)
    play.start("trainer", *TRAINERS)
    play.scene.stream.start()
    with ThreadPoolExecutor(1) as thread:
        trainers = thread.submit(play.freezes_of_trainers, FROZEN_TRAINER, TRAINERS)
        play.freezes(FROZEN, SLOTS[:2])
        play.freezes(FROZEN_LONG, SLOTS[:2], LONG_SECONDS)
        trainers.result()


def clock(play: Play) -> None:
    """The wall clock in the log of silent partitions; ends with processes that leave it out."""
    play.start("segmenter", *SLOTS[:2], SEGSTREAM_CLOCK_IDLE="1s")
    play.scene.stream.start()
    play.kills(dealt([*CLOCK], SLOTS[:2]))
    play.scene.crew.end(*SLOTS[:2])
    play.start("segmenter", *SLOTS[:2], SEGSTREAM_CLOCK_IDLE="off")


def dealt(points: Sequence[str], slots: Sequence[str]) -> dict[str, Sequence[str]]:
    return {slot: points[i :: len(slots)] for i, slot in enumerate(slots)}


def played(seed: int, partitions: int) -> Iterator[list[Sent]]:
    """Months of a shop: as much as the oracle can follow."""
    return traffic(seed, partitions, arrivals=1.0)


def live(seed: int, partitions: int) -> Iterator[list[Sent]]:
    """Traffic of now, for tests that let the wall clock in."""
    return traffic(seed, partitions, lambda _: time.time_ns() // 1_000_000 - BEAT)


class Group(NamedTuple):
    play: Callable[[Play], None]
    beats: Callable[[int, int], Iterator[list[Sent]]] = played
    per_second: float = 3.0


GROUPS = {
    "claims": Group(claims),
    "batches": Group(batches),
    "freezes": Group(freezes),
    "clock": Group(clock, live, 0.25),
}


class Result(NamedTuple):
    problems: list[str]
    wanted: Counter[Fate]
    tally: Counter[Fate]


def run(servers: Servers, home: Path, name: str, seed: int, tell: Tell) -> Result:
    """Play a group to its end, whatever happens, and judge it."""
    group, began = GROUPS[name], time.monotonic()

    def told(text: str) -> None:
        tell(f"{time.monotonic() - began:5.0f} s  {name}: {text}")

    beats = group.beats(seed, 4)
    with scene(servers, home, f"sweep-{name}", beats, group.per_second) as made:
        play = Play(made, home / f"points-{name}", random.Random(seed), told)
        try:
            group.play(play)
            problems = []
        except Exception as error:  # noqa: BLE001 (the other groups go on, and this one is judged)
            problems = [f"{type(error).__name__}: {error}"]
        told(f"played, {made.stream.sent} records; waiting for the end")
        problems += made.finish()
        told("; ".join(problems)[:2_000] or "as the oracle says")
    return Result(problems, play.wanted, play.tally)


def table(results: Mapping[str, Result]) -> list[str]:
    lines = [f"{'failpoint':22} {'kills':>5} {'freezes':>7} {'fired':>10}  verdict"]
    for name, result in results.items():
        found = len(result.problems)
        verdict = f"{found} problems" if found else "0 lost, 0 doubled, 0 wrong"
        for point in dict.fromkeys(fate.point for fate in result.wanted):
            kills, frozen = (result.tally[Fate(point, action)] for action in ("kill", "freeze"))
            wanted = sum(n for fate, n in result.wanted.items() if fate.point == point)
            fires = f"{kills + frozen:4} of {wanted:3}"
            lines.append(f"{point:22} {kills:5} {frozen:7} {fires}  {name}: {verdict}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.faults.sweep")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--groups", nargs="*", choices=GROUPS, default=[*GROUPS])
    parser.add_argument("--at-once", type=int, default=2, help="groups played at the same time")
    chosen = parser.parse_args()

    def tell(text: str) -> None:
        print(text, flush=True)

    tell(f"seed {chosen.seed}")
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as home,
        local_servers(Path(home) / "servers", progress=tell) as servers,
        ThreadPoolExecutor(chosen.at_once) as threads,
    ):
        futures = {
            name: threads.submit(run, servers, Path(home), name, chosen.seed, tell)
            for name in chosen.groups
        }
        results = {name: future.result() for name, future in futures.items()}
    print(*table(results), sep="\n")
    known = {fate.point for result in results.values() for fate, n in result.tally.items() if n}
    missing = KICKS.keys() - known if chosen.groups == [*GROUPS] else set()
    short = [f for r in results.values() for f, n in r.wanted.items() if r.tally[f] < n]
    problems = [f"{name}: {text}" for name, r in results.items() for text in r.problems]
    for text in [*problems, *(f"never fired: {p}" for p in sorted(missing)), *map(str, short)]:
        print(text)
    fires = sum(sum(r.tally.values()) for r in results.values())
    good = not (problems or missing or short)
    print(
        f"kill-sweep {'held' if good else 'VIOLATED'}: {len(known)} failpoints fired {fires} "
        f"times, {len(problems)} problems, seed {chosen.seed}, {time.monotonic() - began:.0f} s"
    )
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
