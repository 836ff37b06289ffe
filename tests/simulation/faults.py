"""What can go wrong at a step, and plans of it: lists that can be shortened and run again."""

from dataclasses import dataclass
from functools import cached_property
from random import Random
from typing import NamedTuple

from segstream.ports import NotCommitted, Unavailable


class Crash(BaseException):
    """The process is no more. Not an Exception: nobody may catch it."""


class Violation(Exception):
    """Something that must never be."""


#: Calls of each port, and how they fail if their server cannot be reached.
PORTS: dict[str, dict[str, type[Exception] | None]] = {
    "source": {
        "poll": Unavailable,
        "committed": Unavailable,
        "topic_id": Unavailable,
        "partitions": Unavailable,
        "bounds": Unavailable,
        "log_end": Unavailable,
        "start": Unavailable,
        "pause": None,
    },
    "store": dict.fromkeys(
        ("check", "announced", "announce", "checkpoint", "due", "load", "write"), Unavailable
    ),
    "sink": {"publish": NotCommitted, "append_clock": None},
    "models": {"at_hand": None, "refresh": Unavailable, "find": Unavailable},
    "samples": {"poll": Unavailable, "settle": Unavailable, "restart": None, "handled": None},
    "versions": {"refresh": Unavailable, "records": None, "renames": Unavailable},
    "press": {"publish": NotCommitted, "announce": Unavailable},
}

ANYWHERE = (
    "crash",
    "pause",
    "zombie",  # paused, and its partitions go to others
    "zombie",
    "rebalance",
    "rollback",
    "rollback within a record",  # to the same offset, at another clock
    "wipe",
    "time",  # more of it than a transaction may take
)
COMMIT = ("aborted", "committed unknown", "late", "late crash")


EFFECTS = ("sink.produce", "sink.carry", "sink.commit", "press.", "store.write")


class Fault(NamedTuple):
    """At the `step`-th call (before or after it), or the `step`-th that has an effect."""

    step: int
    effect: bool
    draw: int  # decides which of the possible kinds, and what else is to be chosen


@dataclass(frozen=True)
class Plan:
    """A schedule is a function of its plan. `at`, `kinds`: only these calls and faults."""

    seed: int
    faults: tuple[Fault, ...]
    records: int = 10**6  # of the traffic
    at: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    trained: bool = False  # real trainers make the versions
    rich: bool = False  # streams as in the tests against the oracle

    @cached_property
    def steps(self) -> dict[tuple[bool, int], Fault]:
        return {(fault.effect, fault.step): fault for fault in self.faults}

    @staticmethod
    def of(seed: int, at: tuple[str, ...] = (), kinds: tuple[str, ...] = ()) -> "Plan":
        """Up to 20 faults, close together or far apart; every fourth plan has trainers."""
        rng = Random(f"faults {seed}")
        faults = []
        for effect, longest in (
            (False, rng.choice([1, 2, 5] if at else [5, 15, 40])),
            (True, rng.choice([2, 6])),
        ):
            step = 0
            for _ in range(rng.randint(2, 10)):
                step += rng.randint(1, longest)
                faults.append(Fault(step, effect, rng.randrange(2**32)))
        trained, rich = seed % 4 == 3 and not at, seed % 10 == 8
        return Plan(seed, tuple(faults), at=at, kinds=kinds, trained=trained, rich=rich)

    def possible(self, point: str, failure: type[Exception] | None) -> list[str]:
        """Kinds of faults at a point."""
        found = [*ANYWHERE]
        if failure is not None:
            found += ["fails", "fails"]
        if point in ("sink.commit", "press.commit"):
            found += COMMIT * 2
        return [kind for kind in found if not self.kinds or kind in self.kinds]
