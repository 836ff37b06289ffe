"""Runs schedules: each twice, and what fails is made as short as it can be."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from multiprocessing import get_context
from typing import NamedTuple

from segstream.shell.local.tether import die_with_parent
from tests.simulation.faults import Plan
from tests.simulation.verdict import violations
from tests.simulation.world import World

CHUNK = 50


@contextmanager
def silence() -> Iterator[None]:
    """Thousands of schedules would fill pages with what is meant to go wrong."""
    log = logging.getLogger("segstream")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        log.setLevel(level)


class Found(NamedTuple):
    """What some schedules led to: violations by seed, and how often each fault was injected."""

    wrong: dict[int, list[str]]
    injected: Counter[str]


def outcome(plan: Plan, world: type[World] = World) -> tuple[World, list[str]]:
    """One schedule, once. To fall over the damage is to see it."""
    there = world(plan)
    try:
        with silence():
            there.run()
        return there, violations(there)
    except Exception as error:  # noqa: BLE001 (whatever it is, the seed must be told)
        return there, [f"{type(error).__name__}: {error}"]


def twice(plan: Plan) -> tuple[World, list[str]]:
    """One schedule, two times: the second must be the first again, to the last call."""
    first, wrong = outcome(plan)
    second = World(plan)
    with silence(), suppress(Exception):  # it is in `wrong` already
        second.run()
    if first.trace != second.trace:
        wrong.append(f"another trace the second time: {first.trace:08x}, {second.trace:08x}")
    return first, wrong


def run(seeds: Iterable[int]) -> Found:
    found = Found({}, Counter())
    for seed in seeds:
        world, wrong = twice(Plan.of(seed))
        found.injected.update(world.injected)
        if wrong:
            found.wrong[seed] = wrong
    return found


def run_all(first: int, count: int) -> Iterator[Found]:
    """On all cores."""
    chunks = [
        range(at, min(at + CHUNK, first + count)) for at in range(first, first + count, CHUNK)
    ]
    context = get_context("spawn")
    with ProcessPoolExecutor(os.cpu_count(), context, initializer=die_with_parent) as pool:
        yield from pool.map(run, chunks)


def shrunk(plan: Plan, fails: Callable[[Plan], bool]) -> Plan:
    """Fewest faults, then fewest records, that still fail (delta debugging)."""
    size = len(plan.faults) // 2
    while size:
        at = 0
        while at < len(plan.faults):
            shorter = replace(plan, faults=plan.faults[:at] + plan.faults[at + size :])
            if fails(shorter):
                plan = shorter
            else:
                at += size
        size //= 2
    records = len(World(plan).coming)
    step = records // 2
    while step:
        shorter = replace(plan, records=records - step)
        if records > step and fails(shorter):
            plan, records = shorter, records - step
        else:
            step //= 2
    return plan
