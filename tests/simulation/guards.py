"""Every guard of the delivery protocol carries weight: without it, something goes wrong.

Each guard is taken away by a World in which one part does not have it; what then happens must
break the invariant that the guard is there for. Where chance would look for long, the plan says
at which calls, and which faults. A guard that refuses is tried both ways: with it, the same
mishap ends in a refusal.
"""

import re
import time
from collections.abc import Iterator
from typing import NamedTuple

from tests.simulation import unguarded
from tests.simulation.faults import Plan
from tests.simulation.schedule import outcome
from tests.simulation.world import World

SCHEDULES = 400
TWICE = r"[1-9]\d* too many|W of \d goes"
LOST = r"\b[1-9]\d* lost"
BYTES = "States of|Checkpoint of"
REST = "does not come to rest"
INSIDE = ("sink.", "store.write")


class Guard(NamedTuple):
    """`broken`: what a violation without it says (a pattern); `refuses`: what it says itself."""

    name: str
    invariant: str
    broken: str
    world: type[World]
    at: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    refuses: str = ""

    def plan(self, seed: int) -> Plan:
        return Plan.of(seed, self.at, self.kinds)


ZOMBIES = ("zombie", "pause", "rebalance")
GUARDS = [
    Guard("generation fence", "published once", TWICE, unguarded.Unfenced, INSIDE, ("zombie",)),
    Guard(
        "membership as of the poll", "published once", TWICE, unguarded.LateMembership,
        ("sink.produce", "sink.carry"), ("rebalance", "pause"),
    ),
    Guard(
        "lazy commit in a transaction", "W never goes back", TWICE, unguarded.PlainCommit,
        ("source.commit", "store.write"), ZOMBIES,
    ),
    Guard(
        "stable read of W", "published once", TWICE, unguarded.UnstableRead, ("sink.commit",),
        ("zombie", "late", "late crash"),
    ),
    Guard("W read at every claim", "published once", TWICE, unguarded.RememberedW, INSIDE),
    Guard(
        "unknown outcome: not taken as failed", "published once", TWICE, unguarded.AssumedFailed,
        ("sink.commit",), ("committed unknown",),
    ),
    Guard(
        "unknown outcome: not taken as done", "nothing lost", LOST, unguarded.AssumedDone,
        ("sink.commit",), ("aborted",),
    ),
    Guard("revoked partitions dropped", "published once", TWICE, unguarded.KeepsRevoked),
    Guard(
        "position checked in the write", "bytes are those of the log", BYTES, unguarded.NoSwap,
        INSIDE, ("rollback", "wipe", "zombie"),
    ),
    Guard(
        "position checked in the load", "published as the log says", f"{TWICE}|{LOST}",
        unguarded.UncheckedLoad, ("store.",), ("rollback", "wipe"),
    ),
    Guard("clock in W", "published once", TWICE, unguarded.NoClockInW),
    Guard(
        "clock in N", "bytes are those of the log", f"{BYTES}|{TWICE}", unguarded.NoClockInStore,
        ("store.checkpoint done", "store.load", "store.write"), ("rollback within a record",),
    ),
    Guard("published only beyond W", "published once", TWICE, unguarded.PublishesAll),
    Guard("W' only if beyond W", "W never goes back", "W of . goes", unguarded.WAlways),
    Guard("N > W: on from N", "counted once", BYTES, unguarded.BackToW),
    Guard(
        "log start", "bytes are those of the log", BYTES, unguarded.NoStartCheck,
        refuses="records in between are gone",
    ),
    Guard(
        "log end", "bytes are those of the log", BYTES, unguarded.NoEndCheck,
        refuses="records that were computed are gone",
    ),
    Guard(
        "W is not created by workers", "published once", TWICE, unguarded.WCreated,
        refuses="has no published position",
    ),
    Guard(
        "layout", "bytes are those of the log", f"{BYTES}|{TWICE}|{LOST}", unguarded.NoLayoutCheck,
        refuses="under another configuration",
    ),
    Guard("hops", "the log comes to its end", REST, unguarded.NoHopLimit),
    Guard(
        "topic id", "bytes are those of the log", BYTES, unguarded.NoTopicCheck,
        refuses="another topic that was called",
    ),
    Guard(
        "eviction policy", "bytes are those of the log", BYTES, unguarded.NoPolicyCheck,
        refuses="has maxmemory-policy",
    ),
    Guard("ring of duplicates", "counted once", BYTES, unguarded.NoRing, ("nothing",)),
]  # fmt: skip


class Seen(NamedTuple):
    """The first violation without a guard, and how many schedules that took."""

    schedules: int
    violation: str


def seen(guard: Guard) -> Seen | None:
    """Schedules without the guard until one goes wrong in the way that it prevents."""
    for number in range(SCHEDULES):
        for text in outcome(guard.plan(number), guard.world)[1]:
            if re.search(guard.broken, text):
                return Seen(number + 1, text)
    return None


def refusals(guard: Guard) -> Iterator[str]:
    """What the same mishaps lead to with the guard."""
    (mishap,) = guard.world.__bases__
    for number in range(20):
        yield from outcome(guard.plan(number), mishap)[1]


def main() -> int:
    """Prints a line per guard."""
    print(f"{'guard off':38} {'invariant':28} {'schedules':>9} {'s':>6}  first violation")
    missing = 0
    for guard in GUARDS:
        began = time.monotonic()
        found = seen(guard)
        took = time.monotonic() - began
        number, text = found or ("none", f"NOT SEEN in {SCHEDULES}")
        missing += found is None
        print(
            f"{guard.name:38} {guard.invariant:28} {number:>9} {took:6.1f}  {text[:90]}",
            flush=True,
        )
    return missing
