"""Failpoints by name, and how they are armed: a file per slot, looked at whenever one is passed.

So the next point can be armed while a process works. Each fire is noted in another file before it
happens.
"""

import json
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

PLACE = "FAILPOINTS"
"""Environment variable: the directory of those files."""
Action = Literal["kill", "freeze"]
Kick = Literal["", "kill", "term", "rebalance"]
"""What leads a process to a point if its daily work does not: its own end, or another's."""

IN_TRANSACTION = ("begun", "first", "produced", "offsets", "sent", "committed")
SEGMENTER: dict[str, Kick] = {
    "start.fenced": "kill",  # the predecessor's transaction is ended, no member of the group yet
    "assigned": "kill",
    "claim.W": "kill",
    "claim.N": "kill",
    "claim.announced": "kill",
    "claim.started": "kill",
    "revoked": "rebalance",
    "polled": "",
    "models.read": "",
    "due": "",
    "loaded": "",
    "computed": "",
    **{f"batch.{where}": "" for where in IN_TRANSACTION},
    "batch.third": "",
    "forward.produced": "",
    "forward.committed": "",
    "write.watched": "",
    "write.sent": "",  # the reply is never read
    "written": "",
    "lazy.before": "",
    **{f"lazy.{where}": "" for where in IN_TRANSACTION if where not in ("first", "produced")},
    "stop.polled": "term",
    "stop.followed": "term",
    "stop.left": "term",
    "stop.closed": "term",
}
CLOCK: dict[str, Kick] = {"clock.before": "", "clock.after": ""}
"""Of a segmenter on silent partitions."""
TRAINER: dict[str, Kick] = {
    "trainer.polled": "",
    "trainer.settled": "kill",
    "trainer.refreshed": "kill",
    "trainer.announcing": "kill",
    "trainer.announced.1": "kill",  # the log of one partition has it, the others do not
    "trainer.announced": "kill",
    "version.fitted": "",
    **{f"version.{where}": "" for where in IN_TRANSACTION if where != "first"},
    "version.announcing": "",
    "version.announced.1": "",
    "version.announced.3": "",
    "version.announced": "",
    "handling": "",
    "handled": "",
    "trainer.left": "term",
}
KICKS = {**SEGMENTER, **CLOCK, **TRAINER}


class Armed(NamedTuple):
    """What is to happen at a point, how many times, after having been passed `skip` times."""

    point: str
    action: Action
    times: int = 1
    skip: int = 0


def arm(place: Path, slot: str, armed: Armed) -> None:
    """From now on, for the process of a slot and those that follow it there."""
    part = place / f"{slot}.part"
    part.write_text(json.dumps(armed))
    part.replace(place / f"{slot}.armed")


def fired(place: Path, slot: str) -> list[str]:
    """All that has happened in a slot: points, in order."""
    path = place / f"{slot}.fired"
    return path.read_text().splitlines() if path.exists() else []


@dataclass
class Fuse:
    """Of this process."""

    place: Path
    slot: str
    passed: int = 0
    kind: str = "batch"  # of the transaction
    topics: list[str] = field(default_factory=list)  # of what was produced in it
    announcing: str = "trainer"
    told: int | None = None  # partitions that an announcement has reached

    def armed(self, point: str) -> Armed | None:
        path = self.place / f"{self.slot}.armed"
        if not path.exists():
            return None
        armed = Armed(*json.loads(path.read_text()))
        return armed if armed.point == point else None

    def hit(self, point: str) -> None:
        """A point is passed, or not."""
        if (armed := self.armed(point)) is None:
            return
        self.passed += 1
        if self.passed > armed.skip:
            self.fire(armed)

    def fire(self, armed: Armed) -> None:
        self.passed = 0
        if armed.times > 1:
            arm(self.place, self.slot, armed._replace(times=armed.times - 1, skip=0))
        else:
            (self.place / f"{self.slot}.armed").unlink()
        with (self.place / f"{self.slot}.fired").open("a") as file:
            file.write(f"{armed.point}\n")
        os.kill(os.getpid(), signal.SIGKILL if armed.action == "kill" else signal.SIGSTOP)
        time.sleep(0.01)  # not a step further before the signal is there
