"""`python -m tests.simulation --schedules 100000` looks for violations, on all cores.

`--seed N` runs one schedule again, shortens it if it fails, and prints its trace.
`guards` takes the protections away, one at a time, and prints what goes wrong without each.
"""

import argparse
import sys
import time
from collections import Counter

from tests.simulation import guards
from tests.simulation.faults import Plan
from tests.simulation.schedule import outcome, run_all, shrunk, twice
from tests.simulation.world import World


def sweep(first: int, count: int) -> int:
    """Prints violations as they are found, then the sum."""
    began, wrong, injected = time.monotonic(), 0, Counter[str]()
    for found in run_all(first, count):
        injected.update(found.injected)
        wrong += len(found.wrong)
        for seed, texts in found.wrong.items():
            print(f"seed {seed}: {'; '.join(texts)}", flush=True)
            print(f"  again: python -m tests.simulation --seed {seed}", flush=True)
    took = time.monotonic() - began
    print(f"seeds {first} to {first + count - 1}: {wrong} violations")
    print(f"{count / took:.1f} schedules per second (each run twice), {took:.0f} s")
    print("injected: " + ", ".join(f"{kind} {n}" for kind, n in injected.most_common()))
    return wrong


def again(seed: int) -> int:
    """One schedule, shortened if it fails, with its trace."""
    plan = Plan.of(seed)
    _, wrong = twice(plan)
    if wrong:
        plan = shrunk(plan, lambda shorter: bool(outcome(shorter)[1]))
    world = World(plan)
    world.told = []
    world.told.append(f"seed {seed}, {len(plan.faults)} faults, {len(world.coming)} records")
    try:
        world.run()
    finally:
        print("\n".join(world.told))
        print(f"trace {world.trace:08x}: {'; '.join(wrong) or 'no violation'}")
    return len(wrong)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("what", nargs="?", choices=["guards"])
    parser.add_argument("--schedules", type=int, default=2_000, help="how many (default 2,000)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--seed", type=int, help="run only this one, and show it")
    chosen = parser.parse_args()
    if chosen.what == "guards":
        return guards.main()
    if chosen.seed is not None:
        return again(chosen.seed)
    return sweep(chosen.first, chosen.schedules)


if __name__ == "__main__":
    sys.exit(min(1, main()))
