"""Faults in a scene: kills and freezes at failpoints, and when they have happened."""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGCONT, SIGKILL
from typing import NamedTuple

from tests.faults.fuse import KICKS, PLACE, Action, Armed, Kick, arm, fired
from tests.faults.scene import Scene
from tests.integration.deployment import wait

MODULE = "tests.faults.failpoints"
PATIENCE = 90.0
KICK_AGAIN = 12.0
Tell = Callable[[str], None]


class Fate(NamedTuple):
    point: str
    action: Action


@dataclass
class Play:
    """Faults in one scene."""

    scene: Scene
    place: Path
    rng: random.Random
    tell: Tell
    tally: Counter[Fate] = field(default_factory=Counter)
    wanted: Counter[Fate] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.place.mkdir()

    def start(self, process: str, *slots: str, **more: str) -> None:
        for slot in slots:
            more |= {PLACE: str(self.place)}
            self.scene.crew.start(process, slot, module=MODULE, **more)

    def kills(self, points: Mapping[str, Sequence[str]], times: Sequence[int] = (1, 2)) -> None:
        """Slot → points: each slot goes through its own, once each and then twice in a row."""
        with ThreadPoolExecutor(len(points)) as threads:
            futures = [threads.submit(self._kills, slot, points[slot], times) for slot in points]
            for future in futures:
                future.result()

    def _kills(self, slot: str, points: Sequence[str], often: Sequence[int]) -> None:
        for times in often:
            for point in points:
                skip = self.rng.randrange(3) if point.startswith("batch") else 0
                self.happens(slot, Armed(point, "kill", times, skip))

    def happens(self, slot: str, armed: Armed) -> None:
        """Arm, and wait until it has fired as often as asked."""
        fate = Fate(armed.point, armed.action)
        self.wanted[fate] += armed.times
        before = len(fired(self.place, slot))
        arm(self.place, slot, armed)
        now = kicked = time.monotonic()
        deadline, kicked = now + PATIENCE, now - KICK_AGAIN
        while (done := len(fired(self.place, slot)) - before) < armed.times:
            now = time.monotonic()
            assert now < deadline, f"{slot} did not come to {armed}: {done} times only"
            if now - kicked >= KICK_AGAIN and self._kick(slot, KICKS[armed.point]):
                kicked = now
            time.sleep(0.05)
        self.tally[fate] += done
        self.tell(f"{slot}: {armed.point}, {armed.action} × {armed.times}")

    def _kick(self, slot: str, kick: Kick) -> bool:
        """Make it come to a point; False if it must have come up before that."""
        if kick == "kill":
            self.scene.crew.signal(slot, SIGKILL)
            return True
        if not kick:
            return True
        process = "trainer" if slot.startswith("trainer") else "segmenter"
        members = self.scene.at.members(process).keys()
        if slot not in members:
            return False
        if kick == "term":
            return self.scene.crew.terminate(slot)  # the group may still know its predecessor
        others = sorted(members - {slot})
        if others:
            self.scene.crew.signal(self.rng.choice(others), SIGKILL)
        return bool(others)

    def freezes(self, points: Sequence[str], slots: Sequence[str], seconds: float = 0) -> None:
        """Freeze as many at a time as there are slots until others own all, and thaw them."""
        for start in range(0, len(points), len(slots)):
            here = dict(zip(slots, points[start:], strict=False))
            with ThreadPoolExecutor(len(here)) as threads:
                futures = [
                    threads.submit(self.happens, slot, Armed(point, "freeze"))
                    for slot, point in here.items()
                ]
                for future in futures:
                    future.result()
            self._others_own(here.keys())
            time.sleep(max(1.5, seconds))
            for slot in here:
                self.scene.crew.signal(slot, SIGCONT)
            self._back(*here)

    def freezes_of_trainers(self, points: Sequence[str], slots: Sequence[str]) -> None:
        """Freeze the one that works until the other one does."""
        for point in points:
            # All of them: whoever joins may take over from the one that was chosen.
            self.scene.at.works(*slots, process="trainer")
            (slot,) = [s for s, owned in self.scene.at.members("trainer").items() if owned]
            self.happens(slot, Armed(point, "freeze"))
            self._others_own({slot}, "trainer")
            time.sleep(2.5)
            self.scene.crew.signal(slot, SIGCONT)
            self._back(slot, process="trainer")

    def _others_own(self, frozen: object, process: str = "segmenter") -> None:
        def taken() -> bool:
            members = self.scene.at.members(process)
            return bool(members) and not (members.keys() & set(frozen))  # type: ignore[call-overload]

        wait(taken, f"others take over from {frozen}", 40)

    def _back(self, *slots: str, process: str = "segmenter") -> None:
        wait(lambda: set(slots) <= self.scene.at.members(process).keys(), f"{slots}: back", 40)
